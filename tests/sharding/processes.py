"""Processes that form a group over gloo and stay: starting one takes longer than most tests.

    results = processes(2).run(function, *arguments)

calls a function of a module of the tests in each of them, and returns what each returned.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any

#: How long a call may take, and a message between two processes, in seconds.
CALL, MESSAGE = 240, 60


class Failed(AssertionError):
    """A call failed in a process; the message is the traceback there."""


class Processes:
    """A group of processes, started when it is first needed."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._members: list[tuple[Any, Any]] = []

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        store = Path(tempfile.mkdtemp(), "store")
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, rank, self.size, str(store)), daemon=True
            )
            process.start()
            self._members.append((process, ours))

    def stop(self) -> None:
        """End the processes."""
        for process, _ in self._members:
            process.kill()
            process.join()
        self._members.clear()

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call a function in each process; its results, by rank.

        Raises:
            Failed: it raised an error in one of them, or took too long. The group starts anew.
        """
        if not self._members:
            self._start()
        for _, pipe in self._members:
            pipe.send((function, arguments))
        results: list[Any] = []
        end = monotonic() + CALL
        for rank, (_, pipe) in enumerate(self._members):
            try:
                answered = pipe.poll(max(0, end - monotonic()))
                kind, value = pipe.recv() if answered else ("error", "it took too long")
            except EOFError:
                kind, value = "error", "the process died"
            if kind == "error":
                errors = [f"rank {rank}: {value}"]
                for other, (_, more) in enumerate(self._members[rank + 1 :], rank + 1):
                    with suppress(EOFError):  # it died
                        if more.poll(0.5) and (answer := more.recv())[0] == "error":
                            errors.append(f"rank {other}: {answer[1]}")
                self.stop()
                raise Failed("\n".join(errors))
            results.append(value)
        return results


_groups: dict[int, Processes] = {}


def processes(size: int) -> Processes:
    """The group of this many processes, which the tests of a worker share."""
    if size not in _groups:
        _groups[size] = Processes(size)
        atexit.register(_groups[size].stop)
    return _groups[size]


def stop_processes() -> None:
    """End all groups: their threads look for messages as long as they are there."""
    for group in _groups.values():
        group.stop()


def _serve(pipe: Any, rank: int, size: int, store: str) -> None:
    variables = {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= variables
    import torch
    import torch.distributed as dist
    from torch.distributed import device_mesh

    from lit_optim.callbacks import ranks

    ranks.PARENT = os.getppid()  # not that of the server which has imported it
    # each mesh has process groups with threads that look for messages until the process ends
    device_mesh.init_device_mesh = cache(device_mesh.init_device_mesh)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{store}", timedelta(seconds=MESSAGE), rank=rank, world_size=size
    )
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        os.environ |= variables  # some of which Lightning deletes at the end of a run
        try:
            torch.manual_seed(0)
            answer = "result", function(*arguments)
        except BaseException:
            answer = "error", traceback.format_exc()
        pipe.send(answer)
