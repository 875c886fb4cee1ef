"""Reads the validations of a run from TensorBoard's event files, without torch."""

from __future__ import annotations

import math
import os
import re
import stat
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lit_optim.errors import first_line
from lit_optim.results.data import History

PREFIX = "events.out.tfevents."
#: Larger files hold more than curves.
MAX_BYTES = 64 << 20
#: For all metrics at all steps; more would fill the memory.
MAX_NUMBERS = 5_000_000
#: The reader's word for a file whose last record is being written.
TRUNCATED = "truncated"
#: Tags of validation metrics where the result does not name them, and of the lr.
METRIC, LR = re.compile(r"val(id\w*)?[/_.]"), re.compile(r"lr([/_-]|$)")


def has_events(entries: Iterable[os.DirEntry[str]]) -> bool:
    """Whether a directory holds event files."""
    return any(entry.name.startswith(PREFIX) and _is_file(entry) for entry in entries)


def _is_file(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        return stat.S_ISREG(entry.stat().st_mode)
    return False


def read_events(run_dir: Path, metrics: Iterable[str], notes: list[str]) -> History:
    """Read the validations of a run; the seconds and evaluations are unknown.

    Args:
        run_dir: of the run.
        metrics: the names of its validation metrics; if there are none, their tags tell.
        notes: gets a line for each file that cannot be read to its end.
    """
    with suppress(OSError), os.scandir(run_dir) as found:
        entries = [entry for entry in found if entry.name.startswith(PREFIX) and _is_file(entry)]
        paths = [entry.path for entry in sorted(entries, key=_age)]
        tags = _read_scalars(paths, notes)
        wanted = [tag for tag in tags if tag in set(metrics)]
        wanted = wanted or [tag for tag in tags if METRIC.match(tag)]
        steps = {step for tag in wanted for step in tags[tag]}
        if len(wanted) * len(steps) > MAX_NUMBERS:
            kept = max(1, MAX_NUMBERS // len(steps))
            notes.append(f"{run_dir}: has {len(wanted):,} metrics; the first {kept:,} are used")
            wanted = wanted[:kept]
        return _history(tags, wanted)
    return History()


def _age(entry: os.DirEntry[str]) -> tuple[float, str]:
    """By the time in the name, so that a resumed run's later values replace the earlier."""
    found = re.match(r"\d+", entry.name.removeprefix(PREFIX))
    return float(found[0]) if found else 0.0, entry.name


def _read_scalars(paths: Sequence[str], notes: list[str]) -> dict[str, dict[int, float]]:
    """The values of each tag by step; a file begins where it replaces earlier ones."""
    tags: dict[str, dict[int, float]] = {}
    for path in paths:
        fresh: dict[str, dict[int, float]] = {}
        try:
            if os.path.getsize(path) > MAX_BYTES:
                notes.append(f"left out: {path}: has more than {MAX_BYTES:,} bytes")
                continue
            for step, tag, value in _scalars(path):
                fresh.setdefault(tag, {})[step] = value
        except Exception as error:  # of the reader: a checksum, a message of another kind
            if TRUNCATED not in str(error):
                notes.append(f"{path}: damaged, what is before that is used: {first_line(error)}")
        for tag, values in fresh.items():
            first = min(values)
            kept = {step: old for step, old in tags.get(tag, {}).items() if step < first}
            tags[tag] = kept | values
    return tags


def _scalars(path: str) -> Iterable[tuple[int, str, float]]:
    # of TensorBoard's own, also where TensorFlow is installed, which takes long to import
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.errors import OutOfRangeError
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    reader = PyRecordReader_New(path)
    while True:
        try:
            reader.GetNext()
        except OutOfRangeError:
            return
        event = Event.FromString(reader.record())
        for value in event.summary.value:
            number = _number(value)
            if number is not None:
                yield event.step, value.tag, number


def _number(value: Any) -> float | None:
    """The number of a summary, as torch and TensorFlow write it."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind == "tensor" and not value.tensor.tensor_shape.dim:
        for numbers in (value.tensor.float_val, value.tensor.double_val):
            if len(numbers) == 1:
                return float(numbers[0])
    return None


def _history(tags: dict[str, dict[int, float]], wanted: Sequence[str]) -> History:
    steps = sorted({step for tag in wanted for step in tags[tag]})  # Lightning counts from 0
    unknown = [math.nan] * len(steps)
    lrs = next((values for tag, values in tags.items() if LR.match(tag)), {})
    known = sorted(lrs)
    lr = [lrs[known[at - 1]] if (at := bisect_right(known, step)) else math.nan for step in steps]
    metrics = {tag: [tags[tag].get(step, math.nan) for step in steps] for tag in wanted}
    return History([step + 1 for step in steps], unknown, unknown, lr, metrics)
