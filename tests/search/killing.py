"""Searches and tournaments in another process, which is killed at one of its writes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

#: Runs something in a directory until it is killed at a write, or, without one, to its end. Returns
#: the number of its writes, None if it was killed.
Start = Callable[..., "int | None"]


@contextmanager
def starting(**what: Any) -> Iterator[Start]:
    """A server that starts what `tests.search.killed` describes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.search.killed"],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip

    def start(directory: Path, point: int | None = None, **more: Any) -> int | None:
        asked = {"directory": str(directory), "kill_at": point}
        asked |= what | {key: what.get(key, {}) | more[key] for key in more}
        print(json.dumps(asked), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())

    yield start
    process.communicate(timeout=60)


def check_kills(
    points: Iterable[int], start: Start, read: Callable[[Path], Any], whole: Any, tmp_path: Path
) -> None:
    """What was killed at a write, and gone on with, is as one that was not killed."""
    for point in points:
        directory = tmp_path / str(point)
        assert start(directory, point) is None
        assert start(directory) is not None
        assert read(directory) == whole, point


def draw_points(writes: int, count: int) -> list[int]:
    """Some of the writes, always the same."""
    return random.Random(0).sample(range(1, writes + 1), count)
