"""Where a cycle of `chaos.py` takes place: its starts, what strikes them, and their processes."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import strikes

TRAIN = str(Path(__file__).resolve().parents[1] / "train.py")
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
#: After this time a start is stuck.
MAX_SECONDS = 240.0
#: For what is left of a cycle's processes after its last start to end.
LAST_SECONDS = 20.0
SECONDS_STOPPED = 0.2
#: Of the disk of a cycle: more than two runs of LBFGS keep, whose checkpoints are the largest.
DISK_BYTES = 256 << 20
#: The limit on a file's size: more than what is printed, less than a checkpoint.
LIMIT_BYTES = 12000


@dataclass(frozen=True)
class Strike:
    """What happens to a start, and when.

    Args:
        how: one of `HOWS`.
        place: the share of the undisturbed run's calls after which it happens.
        delay: milliseconds after that call, from outside; None: right after it, from within.
        target: what a signal is sent to: `self`, which made the call, `root`, or `tree`.
        gap: calls, or else milliseconds, until the second signal or the end of a full disk.
    """

    how: str
    place: float
    delay: float | None
    target: str
    gap: int


class Stage:
    """Where a cycle takes place, and the processes that it starts.

    Args:
        directory: an empty one.
        has_disk: whether it is on a small disk of its own.
    """

    def __init__(self, directory: Path, has_disk: bool) -> None:
        self.directory = directory
        self.place = directory / "place"
        self.temporary = directory / "tmp"
        for path in (self.place, self.temporary):
            path.mkdir(parents=True, exist_ok=True)
        self.has_disk = has_disk and strikes.mount_small_disk(self.place, DISK_BYTES)
        self.calls = ""
        self.said = ""

    def start(self, line: Sequence[str], strike: Strike | None = None, calls: int = 0) -> int:
        """Run a line to its end, or to a strike, and return the exit code.

        Raises:
            Stuck: it has not ended.
        """
        count, output = self.directory / "calls", self.directory / "output"
        for path in (count, output):
            path.unlink(missing_ok=True)
        number = os.open(count, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.set_inheritable(number, True)
        place = 1 + int(strike.place * calls) if strike is not None else 0
        is_within = strike is not None and strike.delay is None

        def prepare() -> None:
            os.dup2(number, 250)
            root = os.getpid()
            within = partial(self._strike, strike, root, number)
            strikes.watch_calls(number, place, within if is_within else None)

        environment = {**os.environ, "TMPDIR": str(self.temporary)}
        pid = strikes.fork_program([TRAIN, *line], self.place, output, environment, prepare)
        try:
            return self._supervise(pid, None if is_within else strike, place, count)
        finally:
            os.close(number)
            self.calls, self.said = count.read_text(), output.read_text("utf-8", "replace")
            self._put_right()

    def _supervise(self, pid: int, strike: Strike | None, place: int, count: Path) -> int:
        begun, looked, struck = time.monotonic(), 0.0, False
        while (now := time.monotonic()) < begun + MAX_SECONDS:
            done, status = os.waitpid(-1, os.WNOHANG)  # also orphans
            if done == pid:
                return os.waitstatus_to_exitcode(status)
            if strike is not None and not struck and count.stat().st_size >= place:
                struck = True
                time.sleep((strike.delay or 0) / 1000)
                self._strike(strike, pid, None)
            if now > looked + SECONDS_STOPPED:
                looked = now
                for stopped in descendants(os.getpid(), "T"):
                    os.kill(stopped, signal.SIGCONT)
            if not done:
                time.sleep(0.003)
        raise Stuck

    def _strike(self, strike: Any, root: int, count: int | None) -> None:
        """Do what the strike says, from within the process that made the call, or from outside."""
        how, _, kind = strike.how.rpartition(" ")
        if strike.how in ("stop", "stop and kill"):
            pid = os.getpid() if count is not None else root
            if strike.how == "stop":
                os.kill(pid, signal.SIGSTOP)
            else:
                os.kill(pid, signal.SIGKILL)
        elif kind in SIGNALS:
            for target in self._targets(strike.target, root, count is not None):
                with suppress(ProcessLookupError):
                    os.kill(target, SIGNALS[kind])
            if how == "double":
                self._again(strike, root, count, SIGNALS[kind])
        elif strike.how == "full" or strike.how == "full for a while":
            if self.has_disk:
                strikes.fill_disk(self.place)
            else:
                strikes.limit_files(0)
            if strike.how != "full":
                self._later(strike, count, self._free)
        elif strike.how == "small files":
            strikes.limit_files(LIMIT_BYTES)
        elif strike.how == "read-only":
            strikes.forbid_writing(self.place)

    def _free(self) -> None:
        (self.place / strikes.FILLER).unlink(missing_ok=True)
        with suppress(ValueError, OSError):
            strikes.limit_files(-1)

    def _again(self, strike: Strike, root: int, count: int | None, number: int) -> None:
        def send() -> None:
            with suppress(ProcessLookupError):
                os.kill(
                    os.getpid() if strike.target == "self" and count is not None else root, number
                )

        self._later(strike, count, send)

    @staticmethod
    def _later(strike: Strike, count: int | None, what: Any) -> None:
        if count is None:
            time.sleep(strike.gap / 1000)
            what()
        else:
            strikes.watch_calls(count, os.fstat(count).st_size + strike.gap, what)

    def _targets(self, target: str, root: int, is_within: bool) -> list[int]:
        if target == "tree":
            mine = os.getpid()
            return sorted([root, *descendants(root)], key=lambda pid: pid == mine)
        return [os.getpid() if target == "self" and is_within else root]

    def _put_right(self) -> None:
        """Give back the disk and the permissions."""
        strikes.forbid_writing(self.place, False)
        (self.place / strikes.FILLER).unlink(missing_ok=True)

    def end(self) -> list[int]:
        """Wait for all processes; kill those that do not end, and return their numbers."""
        deadline = time.monotonic() + LAST_SECONDS
        while (left := self._alive()) and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while self._alive():
            time.sleep(0.02)
        return left

    @staticmethod
    def _alive() -> list[int]:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        return descendants(os.getpid())

    def remove(self) -> None:
        """Remove everything."""
        if self.has_disk:
            strikes.unmount(self.place)
        shutil.rmtree(self.directory, ignore_errors=True)


class Stuck(Exception):
    """A start has not ended."""


def descendants(pid: int, state: str = "") -> list[int]:
    """The processes below a process, with those that have ended; or those in one state only."""
    states: dict[int, str] = {}
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry))
                states[int(entry)] = fields[0]
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return [one for one in found if not state or states[one] == state]
