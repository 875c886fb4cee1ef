"""Writes checkpoint files atomically and durably, and checks them before they are loaded."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lit_optim.checkpoints.plain import NotPlain, keep_plain, to_plain_values
from lit_optim.errors import TrainingFailed, UsageError, first_line
from lit_optim.lightning_classes import LightningDataModule, LightningModule, TorchCheckpointIO
from lit_optim.runs.layout import LAST_CHECKPOINT, PREVIOUS_CHECKPOINT
from lit_optim.system import replace_file, sync_directory
from lit_optim.temporary import remove_leftovers, temporary_beside
from lit_optim.untrusted import Unreadable, read_json

LOG = logging.getLogger("lit_optim")

TORCH_WRITER_FILE = "inline_container.cc"
#: The suffix of the file with the checksums that a checkpoint may have.
CHECKSUM_SUFFIX = ".sha256"
#: The keys of the hyperparameters of module and data, and those of the class that held them. A
#: resumed run does not need them.
CLASS_KEY_BY_HPARAMS_KEY = {
    kind.CHECKPOINT_HYPER_PARAMS_KEY: kind.CHECKPOINT_HYPER_PARAMS_TYPE
    for kind in (LightningModule, LightningDataModule)
}
#: The errors of a full disk, also from an fsync.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint so that a crash or a full disk leaves the previous one intact.

    A checkpoint is written into a temporary file in the same directory, synced to the disk, and
    renamed. The file with its checksums is written before and holds those of the old and the new
    content, so that it is valid at every moment. The previous `last.ckpt` becomes `previous.ckpt`.

    A checkpoint holds plain values only, numpy's numbers as Python's and paths as text, so that
    torch loads it without running code. The first checkpoint of each name is loaded as a check
    before it replaces another. If the file system cannot sync, a warning says so once.
    """

    def __init__(self) -> None:
        super().__init__()
        #: The number of checkpoints written.
        self.written = 0
        #: Why the newest could not be written.
        self.failure: str | None = None
        self._verified: set[Path] = set()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        target = Path(path)
        temporary = temporary_beside(target)
        try:
            content = _to_plain_checkpoint(checkpoint)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not self._verified:
                remove_leftovers(target.parent)
            digest = _write(temporary, content)
            self._check(temporary, target)
            before = read_sums(target)  # none of a content that was copied here without them
            _write_sums(target, [*before, digest] if before or not target.exists() else [])
            previous = target.with_name(PREVIOUS_CHECKPOINT)
            is_rotated = target.name == LAST_CHECKPOINT and target.exists()
            if is_rotated:
                kept = read_sums(previous)
                is_known = bool(before) and (bool(kept) or not previous.exists())
                _write_sums(previous, [*kept, *before] if is_known else [], durable=False)
                replace_file(target, previous)
            replace_file(temporary, target)
            _sync(lambda: sync_directory(target.parent))
            _write_sums(target, [digest], durable=False)
            if is_rotated:
                _write_sums(previous, before, durable=False)
            self.written, self.failure = self.written + 1, None
        except OSError as error:
            self.failure = str(error.strerror or error)
            LOG.warning(f"checkpoint {target} was not written: {self.failure}")
        except NotPlain as error:
            raise TrainingFailed(
                f"checkpoint {target.name} could not be read back: {error}; keep plain values and "
                "tensors there"
            ) from error
        finally:
            for left in (temporary, temporary_beside(_sums_path(target))):
                with contextlib.suppress(OSError):
                    left.unlink(missing_ok=True)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint and its checksums; anything but a file stays."""
        for file in (Path(path), _sums_path(Path(path))):
            if file.is_file():
                file.unlink(missing_ok=True)

    def _check(self, written: Path, target: Path) -> None:
        if target in self._verified:
            return
        try:
            torch.load(written, map_location="meta", weights_only=True, mmap=True)
        except Exception as error:
            raise TrainingFailed(
                f"checkpoint {target.name} cannot be read back: {first_line(error)}"
            ) from error
        self._verified.add(target)


def _to_plain_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a checkpoint to plain values, without hyperparameters that cannot be converted.

    Raises:
        NotPlain: a value that a resumed run needs cannot be converted.
    """
    content = dict(checkpoint)
    for key, key_of_class in CLASS_KEY_BY_HPARAMS_KEY.items():
        content.pop(key_of_class, None)
        if isinstance(content.get(key), Mapping):
            content[key], _ = keep_plain(content[key])
    return {key: to_plain_values(value, (key,)) for key, value in content.items()}


def _write(path: Path, checkpoint: dict[str, Any]) -> str:
    with path.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # torch's error for a failed write
            if TORCH_WRITER_FILE not in str(error):
                raise
            raise OSError(errno.ENOSPC, "the disk took only a part of it") from error
        file.flush()
        _sync(lambda: os.fsync(file.fileno()))
    return sha256(path)


def _sync(sync: Callable[[], None]) -> None:
    """Sync to the disk, or warn if the file system cannot.

    Raises:
        OSError: the disk is full.
    """
    try:
        sync()
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        _warn_once(
            f"checkpoints cannot be synced to the disk here ({error.strerror or error}): they are "
            "written, but the newest may be lost if the machine goes down"
        )


@cache
def _warn_once(line: str) -> None:
    LOG.warning(line)


def _sums_path(target: Path) -> Path:
    return target.with_name(target.name + CHECKSUM_SUFFIX)


def _write_sums(target: Path, sums: list[str], durable: bool = True) -> None:
    """Write the checksums of a checkpoint.

    Args:
        target: the checkpoint.
        sums: those of every content that it may have.
        durable: whether they must be on the disk before what follows: those before them would
            refuse the new content. Else a machine that goes down may lose them, no more.
    """
    sums_path = _sums_path(target)
    temporary = temporary_beside(sums_path)
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(sums, file)
        file.flush()
        if durable:
            _sync(lambda: os.fsync(file.fileno()))
    replace_file(temporary, sums_path)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(
            hashlib, "file_digest"
        ) else _digest(file.read)  # fmt: skip


def _digest(read: Callable[[int], bytes]) -> str:
    digest = hashlib.sha256()  # Python 3.10 has no file_digest
    while block := read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def read_sums(path: Path) -> list[str]:
    """Return the checksums recorded for a checkpoint; none if there are none."""
    try:
        sums = read_json(_sums_path(path))
    except Unreadable:
        return []
    return [str(digest) for digest in sums] if isinstance(sums, list) else []


def find_damage(path: Path) -> str | None:
    """Return why a checkpoint cannot be used; None if it is whole."""
    if not path.is_file():
        return "is not there"
    if path.stat().st_size == 0:
        return "is empty"
    sums = read_sums(path)
    if sums and sha256(path) not in sums:
        return "is not what was written (its checksum differs)"
    try:
        torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except Exception as error:  # any error of a broken archive
        return f"cannot be read ({type(error).__name__})"
    return None


def find_newest_intact(directory: Path) -> Path:
    """Return the newest whole checkpoint of a run, with a warning for each damaged one.

    Raises:
        UsageError: there is none.
    """
    for path in _candidates(directory):
        damage = find_damage(path)
        if damage is None:
            return path
        LOG.warning(f"checkpoint {path} {damage}; the one before it is used")
    raise UsageError(f"resume: {directory} has no checkpoint that can be read")


def _candidates(directory: Path) -> Iterator[Path]:
    known = [directory / LAST_CHECKPOINT, directory / PREVIOUS_CHECKPOINT]
    yield from (path for path in known if path.exists())
    other = [path for path in directory.glob("*.ckpt") if path not in known]
    yield from sorted(other, key=lambda path: path.stat().st_mtime, reverse=True)
