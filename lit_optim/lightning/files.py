"""Checkpoint files that are whole or not there: written beside, made durable, then put in place."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lit_optim.errors import UsageError
from lit_optim.system import sync_directory

LOG = logging.getLogger("lit_optim")

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
TORCHS_WRITER = "inline_container.cc"
#: Beside a checkpoint: the sums of what it may hold.
SUMS = ".sha256"


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint so that a crash or a full disk leaves the one before it.

    It is written into a temporary file in the same directory, forced to the disk, and renamed. The
    sums beside it are written before that and name both the old and the new content, so that they
    are right at every moment. `last.ckpt` leaves what it was as `previous.ckpt`.
    """

    def save_checkpoint(  # noqa: D102
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            digest = _written(temporary, checkpoint)
            _note_sums(target, [*known_sums(target), digest])
            if target.name == LAST and target.exists():
                _note_sums(target.with_name(PREVIOUS), known_sums(target))
                os.replace(target, target.with_name(PREVIOUS))
            os.replace(temporary, target)
            sync_directory(target.parent)
            _note_sums(target, [digest])
        except OSError as error:
            _remove_leftovers(target)
            LOG.warning(f"checkpoint {target} is not written: {error.strerror or error}")


def _remove_leftovers(target: Path) -> None:
    """What was not finished, by this process or one that was killed."""
    for old in target.parent.glob(f".{target.name}.*tmp"):
        old.unlink(missing_ok=True)


def _written(path: Path, checkpoint: dict[str, Any]) -> str:
    with path.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # what torch makes of a write that fails
            if TORCHS_WRITER not in str(error):
                raise
            raise OSError(errno.ENOSPC, "the disk took only a part of it") from error
        file.flush()
        os.fsync(file.fileno())
    return sum_of(path)


def _note_sums(target: Path, sums: list[str]) -> None:
    beside = target.with_name(target.name + SUMS)
    temporary = beside.with_name(f".{beside.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(sums, file)
        file.flush()
        os.fsync(file.fileno())
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
        sums = json.loads(path.with_name(path.name + SUMS).read_text("utf-8"))
    except (OSError, ValueError):
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
    known = [directory / LAST, directory / PREVIOUS]
    yield from (path for path in known if path.exists())
    others = [path for path in directory.glob("*.ckpt") if path not in known]
    yield from sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)
