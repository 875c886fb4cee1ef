"""Checkpoint files that are whole or not there: written beside, made durable, then put in place."""

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
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningDataModule, LightningModule

from lit_optim.checkpoints.plain import NotPlain, keep_plain, to_plain_values
from lit_optim.errors import TrainingFailed, UsageError, first_line
from lit_optim.runs.layout import LAST_CHECKPOINT, PREVIOUS_CHECKPOINT
from lit_optim.system import sync_directory
from lit_optim.temporary import remove_leftovers, temporary_beside
from lit_optim.untrusted import Unreadable, read_json

LOG = logging.getLogger("lit_optim")

TORCHS_WRITER = "inline_container.cc"
#: Beside a checkpoint: the sums of what it may hold.
SUMS = ".sha256"
#: Where a checkpoint keeps what module and data were made with, and the class that held it. They
#: are not needed to resume.
HPARAMS = {
    kind.CHECKPOINT_HYPER_PARAMS_KEY: kind.CHECKPOINT_HYPER_PARAMS_TYPE
    for kind in (LightningModule, LightningDataModule)
}
#: What says that a file is not written, also by an fsync.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint so that a crash or a full disk leaves the one before it.

    It is written into a temporary file in the same directory, forced to the disk, and renamed. The
    sums beside it are written before that and name both the old and the new content, so that they
    are right at every moment. `last.ckpt` leaves what it was as `previous.ckpt`.

    It holds plain values only, numbers of numpy as Python's and paths as text, so that torch reads
    it back without running code; the first one of each name is read back before it counts. Where
    a file system cannot force anything to the disk, that is said once, and it is written all the
    same.
    """

    def __init__(self) -> None:
        super().__init__()
        #: How many have been written.
        self.written = 0
        #: Why the newest one has not been.
        self.failure: str | None = None
        self._read_back: set[Path] = set()

    def save_checkpoint(  # noqa: D102
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        target = Path(path)
        temporary = temporary_beside(target)
        try:
            content = _plain(checkpoint)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not self._read_back:
                remove_leftovers(target.parent)
            digest = _write(temporary, content)
            self._check(temporary, target)
            _note_sums(target, [*known_sums(target), digest])
            if target.name == LAST_CHECKPOINT and target.exists():
                _note_sums(target.with_name(PREVIOUS_CHECKPOINT), known_sums(target))
                os.replace(target, target.with_name(PREVIOUS_CHECKPOINT))
            os.replace(temporary, target)
            _force(lambda: sync_directory(target.parent))
            _note_sums(target, [digest])
            self.written += 1
        except OSError as error:
            self.failure = str(error.strerror or error)
            LOG.warning(f"checkpoint {target} is not written: {self.failure}")
        except NotPlain as error:
            raise TrainingFailed(
                f"checkpoint {target.name} could not be read back: {error}; keep plain values and "
                "tensors there"
            ) from error
        finally:
            for left in (temporary, temporary_beside(_sums_of(target))):
                with contextlib.suppress(OSError):
                    left.unlink(missing_ok=True)

    def _check(self, written: Path, target: Path) -> None:
        if target in self._read_back:
            return
        try:
            torch.load(written, map_location="meta", weights_only=True, mmap=True)
        except Exception as error:
            raise TrainingFailed(
                f"checkpoint {target.name} cannot be read back: {first_line(error)}"
            ) from error
        self._read_back.add(target)


def _plain(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint that can be read back, without hyperparameters that cannot.

    Raises:
        NotPlain: something that a resumed run would need.
    """
    content = dict(checkpoint)
    for key, key_of_class in HPARAMS.items():
        content.pop(key_of_class, None)
        if isinstance(content.get(key), Mapping):
            content[key], _ = keep_plain(content[key])
    return {key: to_plain_values(value, (key,)) for key, value in content.items()}


def _write(path: Path, checkpoint: dict[str, Any]) -> str:
    with path.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # what torch makes of a write that fails
            if TORCHS_WRITER not in str(error):
                raise
            raise OSError(errno.ENOSPC, "the disk took only a part of it") from error
        file.flush()
        _force(lambda: os.fsync(file.fileno()))
    return sum_of(path)


def _force(sync: Callable[[], None]) -> None:
    """Force something to the disk, where that can be done; what is written is written anyway.

    Raises:
        OSError: there is no space for it.
    """
    try:
        sync()
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        _say_once(
            f"checkpoints cannot be forced to the disk here ({error.strerror or error}): they are "
            "written, but the newest may be lost if the machine goes down"
        )


@cache
def _say_once(line: str) -> None:
    LOG.warning(line)


def _sums_of(target: Path) -> Path:
    return target.with_name(target.name + SUMS)


def _note_sums(target: Path, sums: list[str]) -> None:
    beside = _sums_of(target)
    temporary = temporary_beside(beside)
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(sums, file)
        file.flush()
        _force(lambda: os.fsync(file.fileno()))
    os.replace(temporary, beside)


def sum_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(
            hashlib, "file_digest"
        ) else _digest(file.read)  # fmt: skip


def _digest(read: Callable[[int], bytes]) -> str:
    digest = hashlib.sha256()  # Python 3.10 has no file_digest
    while block := read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def known_sums(path: Path) -> list[str]:
    """The sums that stand beside a checkpoint; none where it has none."""
    try:
        sums = read_json(_sums_of(path))
    except Unreadable:
        return []
    return [str(one) for one in sums] if isinstance(sums, list) else []


def refusal(path: Path) -> str | None:
    """Why a checkpoint cannot be trusted; None if it is whole."""
    if not path.is_file():
        return "is not there"
    if path.stat().st_size == 0:
        return "is empty"
    sums = known_sums(path)
    if sums and sum_of(path) not in sums:
        return "is not what was written (its checksum differs)"
    try:
        torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except Exception as error:  # whatever a broken archive brings about
        return f"cannot be read ({type(error).__name__})"
    return None


def newest_good(directory: Path) -> Path:
    """The newest checkpoint of a run that is whole; each that is not is told in a line.

    Raises:
        UsageError: there is none.
    """
    for path in _candidates(directory):
        why_not = refusal(path)
        if why_not is None:
            return path
        LOG.warning(f"checkpoint {path} {why_not}; the one before it is taken")
    raise UsageError(f"resume: {directory} has no checkpoint that can be read")


def _candidates(directory: Path) -> Iterator[Path]:
    known = [directory / LAST_CHECKPOINT, directory / PREVIOUS_CHECKPOINT]
    yield from (path for path in known if path.exists())
    others = [path for path in directory.glob("*.ckpt") if path not in known]
    yield from sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)
