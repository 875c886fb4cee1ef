"""Shows the progress of a sweep: `3/12 · best adamw 0.61 · ETA 2:10`."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.live import Live
from rich.text import Text

from lit_optim.config.places import groups
from lit_optim.errors import printable
from lit_optim.printing import Console
from lit_optim.runs.job import JobRecord
from lit_optim.runs.status import Status
from lit_optim.streams import can_show
from lit_optim.sweeps.describing import describe_job
from lit_optim.sweeps.plan import PlannedJob
from lit_optim.sweeps.returns import read_value

SEED = re.compile(r"[+~]*seed=")
#: The fewest columns of a truncated name.
MIN_NAME = 3


class ProgressLine:
    """A line about something that lasts: live in a terminal.

    Args:
        console: where to show it.
        clock: returns seconds, for the remaining time.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self._clock = console, clock
        self._running: list[str] = []
        self._has_begun = False
        self._start = self._last = clock()
        self._is_live = console.is_terminal and not console.is_dumb_terminal
        self._live: Live | None = None

    def __enter__(self) -> ProgressLine:
        self._start = self._last = self._clock()
        if self._is_live:
            self._live = Live(
                get_renderable=lambda: Text(self.line(self.console.width), no_wrap=True),
                console=self.console,
                refresh_per_second=4,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop updating the line."""
        self._running = []
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _parts(self, room: float = math.inf) -> list[str]:
        """Return the parts of the line; a label in it is truncated to fit into `room`."""
        raise NotImplementedError

    def _set_running(self, labels: list[str]) -> None:
        """Set what is running.

        The pace is counted from the first one: what is imported before it is not part of a job.
        """
        if labels and not self._has_begun:
            self._has_begun = True
            self._start = self._last = self._clock()
        self._running = labels

    def _left(self, done_now: int, remaining: int) -> str | None:
        """Estimate the remaining time from the pace so far; None if it is unknown."""
        if not remaining or not done_now:
            return None
        each = (self._last - self._start) / done_now
        return format_time(max(0.0, each * remaining - (self._clock() - self._last)))

    def _add_best(
        self, parts: list[str], best: tuple[str, str] | None, after: list[str], room: float
    ) -> list[str]:
        """Put the best so far, its label and value, between the parts of a line."""
        if best is None:
            return [*parts, *after]
        label, value = best
        others = self._join([*parts, f"best  {value}", *after])
        label = truncate(label, room - cell_len(others), self.console)
        return [*parts, f"best {label} {value}".replace("  ", " "), *after]

    def line(self, width: int) -> str:
        """Return the line for a terminal with `width` columns."""
        text = self._join(self._parts(width))
        if self._running:
            start = self._join([text, "running "])
            names = truncate(_count(self._running), width - cell_len(start), self.console)
            text = f"{start}{names}" if names else text
        return set_cell_size(text, width).rstrip() if cell_len(text) > width else text

    def _tell_end(self, name: str, record: JobRecord) -> None:
        """Print, where no line is live, how a job has ended."""
        if not self._is_live:
            count, *more = self._parts()
            end = printable(f"{name}: {describe_job(record)}")
            self._print(self._join([f"{count} {end}", *more]))

    def _join(self, parts: Sequence[str]) -> str:
        mark = "·" if can_show("·", self.console.file) else "-"
        return f" {mark} ".join(parts)

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)


class SweepProgress(ProgressLine):
    """Shows the progress of a sweep: in a terminal one live line, otherwise a line per job.

    Args:
        jobs: all of them.
        console: where to show it.
        clock: returns seconds, for the remaining time.
    """

    def __init__(
        self,
        jobs: Sequence[PlannedJob],
        console: Console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(console, clock)
        self._labels = label_jobs([job.overrides for job in jobs])
        self._total = len(self._labels)
        self._done = self._done_now = self._failed = self._diverged = 0
        self._values: dict[str, list[float]] = {}
        self._sign = 1.0

    def add_known(self, job: PlannedJob, result: Mapping[str, Any] | None) -> None:
        """Count a job that an earlier start of the sweep completed."""
        self._done += 1
        self._note(job, result)

    def set_running(self, running: Sequence[PlannedJob]) -> None:
        """Set the jobs that are running."""
        self._set_running([self._label(job) for job in running])

    def add_ended(
        self, job: PlannedJob, name: str, record: JobRecord, result: Mapping[str, Any] | None
    ) -> None:
        """Count a job that has ended.

        Args:
            job: that has ended.
            name: of its directory.
            record: how it ended.
            result: its result; None if it failed.
        """
        self._done, self._done_now = self._done + 1, self._done_now + 1
        self._diverged += record.status == Status.DIVERGED
        self._failed += not record.is_done
        self._last = self._clock()
        self._note(job, result)
        self._tell_end(name, record)

    def _note(self, job: PlannedJob, result: Mapping[str, Any] | None) -> None:
        if result is None or result.get("diverged"):
            return
        value = read_value(result)
        if value is None or not math.isfinite(value):
            return
        self._sign = -1.0 if result.get("mode") == "max" else 1.0
        self._values.setdefault(self._label(job), []).append(value)

    def _label(self, job: PlannedJob) -> str:
        return self._labels[job.overrides]

    def _best(self) -> tuple[str, str] | None:
        """Return the label with the best mean over its seeds so far, and that mean."""
        # divided first: the sum of huge values overflows
        means = {k: sum(v / len(values) for v in values) for k, values in self._values.items()}
        if not means:
            return None
        label = min(means, key=lambda one: self._sign * means[one])
        return label, f"{means[label]:.4g}"

    def _parts(self, room: float = math.inf) -> list[str]:
        left = self._left(self._done_now, self._total - self._done)
        counts = {"diverged": self._diverged, "failed": self._failed}
        after = [f"{count} {how}" for how, count in counts.items() if count]
        after += [f"ETA {left}"] if left else []
        return self._add_best([f"{self._done}/{self._total}"], self._best(), after, room)


def _count(labels: Sequence[str]) -> str:
    """Join labels; one that occurs several times, for several seeds, is counted."""
    counts = Counter(labels)
    return ", ".join(f"{label} x{n}" if n > 1 else label for label, n in counts.items())


def label_jobs(jobs: Sequence[Sequence[str]]) -> dict[tuple[str, ...], str]:
    """Return a short label of each job from the overrides that it does not share with all jobs.

    The seed is left out if other overrides differ too.

    `optimizer=adamw` becomes `adamw`, `optimizer.lr=0.1` becomes `lr=0.1`.
    """
    shared = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    choices = tuple(f"{group}=" for group in groups())
    labels = {}
    for job in jobs:
        own = [line for line in job if line not in shared] or list(job)
        kept = [line for line in own if not SEED.match(line)] or own
        words = []
        for line in kept:
            key, equals, value = line.lstrip("+~").partition("=")
            words.append(value if f"{key}=" in choices else f"{key.split('.')[-1]}{equals}{value}")
        labels[tuple(job)] = printable(" ".join(words) or "the run")
    return labels


def truncate(text: str, room: float, console: Console) -> str:
    """Truncate a text to `room` columns; return nothing if those are too few to read."""
    if cell_len(text) <= room:
        return text
    end = "…" if can_show("…", console.file) else ".."
    if room < MIN_NAME + len(end):
        return ""
    return set_cell_size(text, int(room) - len(end)).rstrip() + end


def format_time(seconds: float) -> str:
    """Format seconds as 2:10 or 1:02:10."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
