"""Writes checkpoint files atomically and durably, and checks them before they are loaded."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lit_optim.checkpoints.background import Job, Writing, serialize, sync
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


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint so that a crash or a full disk leaves the previous one intact.

    A checkpoint is written into a temporary file in the same directory, synced to the disk, and
    renamed. The file with its checksums is written before and holds those of the old and the new
    content, so that it is valid at every moment. The previous `last.ckpt` becomes `previous.ckpt`.

    A checkpoint holds plain values only, numpy's numbers as Python's and paths as text, so that
    torch loads it without running code. The first checkpoint of each name is loaded as a check
    before it replaces another. If the file system cannot sync, a warning says so once.

    Within `in_background` the later ones are only serialized, and then written in the same way by a
    thread, while the training goes on: a disk takes longer to sync than a small model to train.
    Whatever has to do with checkpoints waits for it, and so do a fork and the end of the program.
    """

    def __init__(self) -> None:
        super().__init__()
        self._written = 0
        self._failure: str | None = None
        self._verified: set[Path] = set()
        self._jobs: list[Job] | None = None  # within `in_background`
        self._writing = Writing()

    @property
    def written(self) -> int:
        """The number of checkpoints written."""
        self._writing.wait()
        return self._written

    @property
    def failure(self) -> str | None:
        """Why the newest could not be written."""
        self._writing.wait()
        return self._failure

    @contextlib.contextmanager
    def in_background(self) -> Iterator[None]:
        """Let a thread write what is saved, in its order, when this context is left."""
        self.settle()
        self._jobs = []
        try:
            yield
        finally:
            jobs, self._jobs = self._jobs, None
            if jobs:
                self._writing.begin(jobs, self._put)

    def has_checked(self, path: Any) -> bool:
        """Whether a checkpoint of this name has been written and loaded, as a check."""
        return Path(path) in self._verified

    def is_waiting(self, path: Any) -> bool:
        """Whether a checkpoint has been saved, but a thread is still to write it."""
        return any(job.target == Path(path) for job in self._jobs or ())

    def repeat(self, path: Any, as_path: Any) -> bool:
        """Save the checkpoint of `path`, which waits, as another one; False if it does not."""
        target = Path(as_path)
        if not self.is_waiting(path) or not self.has_checked(target):
            return False
        jobs = self._jobs or []
        jobs.append(Job(target, jobs[-1].content))
        return True

    def settle(self) -> list[Path]:
        """Wait for the thread; returns the checkpoints of its that could not be written."""
        return self._writing.settle()

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        self._writing.wait()
        return super().load_checkpoint(path, *args, **kwargs)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        target = Path(path)
        try:
            content = _to_plain_checkpoint(checkpoint)
            if self._jobs is not None and self.has_checked(target):
                self._jobs.append(Job(target, serialize(content)))
                return
            self._writing.wait()
            self._put(target, partial(_write, checkpoint=content))
        except NotPlain as error:
            raise TrainingFailed(
                f"checkpoint {target.name} could not be read back: {error}; keep plain values and "
                "tensors there"
            ) from error

    def _put(self, target: Path, write: Callable[[Path], str]) -> bool:
        """Write a checkpoint; returns whether that was possible.

        Args:
            target: where.
            write: writes the content into a file, syncs it and returns its checksum.
        """
        temporary = temporary_beside(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not self._verified:
                remove_leftovers(target.parent)
            digest = write(temporary)
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
            sync(lambda: sync_directory(target.parent))
            _write_sums(target, [digest], durable=False)
            if is_rotated:
                _write_sums(previous, before, durable=False)
            self._written, self._failure = self._written + 1, None
            return True
        except OSError as error:
            self._failure = str(error.strerror or error)
        finally:
            for left in (temporary, temporary_beside(_sums_path(target))):
                with contextlib.suppress(OSError):
                    left.unlink(missing_ok=True)
        # the disk has room for this again, if the log of the run is on it
        LOG.warning(f"checkpoint {target} was not written: {self._failure}")
        return False

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint and its checksums; anything but a file stays."""
        self._writing.wait()
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
        sync(lambda: os.fsync(file.fileno()))
    return sha256(path)


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
            sync(lambda: os.fsync(file.fileno()))
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
    if is_inflated(path):
        return "is larger in memory than in its file, as no checkpoint of torch is"
    try:
        torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except Exception as error:  # any error of a broken archive
        return f"cannot be read ({type(error).__name__})"
    return None


def is_inflated(path: Path) -> bool:
    """Whether an archive has compressed entries or shared ones, which take any amount of memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile):
        return False  # no archive: torch refuses it, or loads it as one of its older files
    is_stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    return not is_stored or sum(entry.file_size for entry in entries) > path.stat().st_size


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
    yield from sorted(other, key=_time_of, reverse=True)


def _time_of(path: Path) -> float:
    """When a file was changed; 0 of one that is gone, or of a link that leads nowhere."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0
