"""The line of a sweep: `3/12 · best adamw 0.61 · ETA 2:10`."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.live import Live
from rich.text import Text

from lit_optim.config.places import groups
from lit_optim.errors import printable
from lit_optim.system import can_show

SEED = re.compile(r"[+~]*seed=")
#: Columns below which what is swept is not named.
LEAST = 3


class SweepProgress:
    """Shows how far a sweep is: in a terminal as a line that changes, else as a line for each job.

    Args:
        jobs: the overrides of all jobs.
        console: where it is shown.
        clock: seconds, for the time that is left.
    """

    def __init__(
        self,
        jobs: Sequence[Sequence[str]],
        console: Console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console
        self._labels = label_jobs(jobs)
        self._clock = clock
        self._total = len(self._labels)
        self._done = self._here = self._failed = 0
        self._values: dict[str, list[float]] = {}
        self._sign = 1.0
        self._running: list[str] = []
        self._start = self._last = clock()
        self._is_live = console.is_terminal and not console.is_dumb_terminal
        self._live: Live | None = None

    def __enter__(self) -> SweepProgress:
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
        """Leave the line as it is."""
        self._running = []
        if self._live is not None:
            self._live.stop()
            self._live = None

    def add_known(self, overrides: Sequence[str], result: Mapping[str, Any] | None) -> None:
        """Count a job that an earlier start has done."""
        self._done += 1
        self._note(overrides, result)

    def set_running(self, running: Sequence[Sequence[str]]) -> None:
        """Say which jobs run now, by their overrides."""
        self._running = [self._labels[tuple(overrides)] for overrides in running]

    def add_ended(
        self, overrides: Sequence[str], name: str, how: str, result: Mapping[str, Any] | None
    ) -> None:
        """Count a job that has ended.

        Args:
            overrides: of the job.
            name: of its directory.
            how: it ended, in words.
            result: what came out of it; None where it failed.
        """
        self._done, self._here = self._done + 1, self._here + 1
        self._failed += how != "done"
        self._last = self._clock()
        self._note(overrides, result)
        if not self._is_live:
            count, *more = self._parts()
            self._print(self._joined([f"{count} {printable(name)}: {how}", *more]))

    def _note(self, overrides: Sequence[str], result: Mapping[str, Any] | None) -> None:
        value = (result or {}).get("best", {}).get((result or {}).get("monitor"))
        if result is None or not isinstance(value, int | float) or not math.isfinite(value):
            return
        self._sign = -1.0 if result.get("mode") == "max" else 1.0
        self._values.setdefault(self._label(overrides), []).append(float(value))

    def _label(self, overrides: Sequence[str]) -> str:
        return self._labels[tuple(overrides)]

    def _best(self) -> tuple[str, str] | None:
        """What is best so far, by the mean over its seeds, and that mean."""
        means = {label: statistics.fmean(values) for label, values in self._values.items()}
        if not means:
            return None
        label = min(means, key=lambda one: self._sign * means[one])
        return label, f"{means[label]:.4g}"

    def _left(self) -> str | None:
        """The time until all have ended, from the pace so far; None where that is not known."""
        remaining = self._total - self._done
        if not remaining or not self._here:
            return None
        each = (self._last - self._start) / self._here
        return clock_time(max(0.0, each * remaining - (self._clock() - self._last)))

    def _parts(self, room: float = math.inf) -> list[str]:
        """The parts of the line; the name of the best is cut where it takes more room."""
        parts = [f"{self._done}/{self._total}"]
        best, left = self._best(), self._left()
        after = [f"{self._failed} failed"] if self._failed else []
        after += [f"ETA {left}"] if left else []
        if best is not None:
            label, value = best
            others = self._joined([*parts, f"best  {value}", *after])
            label = shortened(label, room - cell_len(others), self.console)
            parts.append(f"best {label} {value}".replace("  ", " "))
        return [*parts, *after]

    def line(self, width: int) -> str:
        """The line for a terminal of so many columns."""
        text = self._joined(self._parts(width))
        if self._running:
            start = self._joined([text, "running "])
            names = shortened(", ".join(self._running), width - cell_len(start), self.console)
            text = f"{start}{names}" if names else text
        return set_cell_size(text, width).rstrip() if cell_len(text) > width else text

    def _joined(self, parts: Sequence[str]) -> str:
        mark = "·" if can_show("·", self.console.file) else "-"
        return f" {mark} ".join(parts)

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)


def label_jobs(jobs: Sequence[Sequence[str]]) -> dict[tuple[str, ...], str]:
    """A short name of what each job sweeps, without its seed where more is swept.

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


def shortened(text: str, room: float, console: Console) -> str:
    """A text that takes no more than these columns; nothing where they are too few to read."""
    if cell_len(text) <= room:
        return text
    end = "…" if can_show("…", console.file) else ".."
    if room < LEAST + len(end):
        return ""
    return set_cell_size(text, int(room) - len(end)).rstrip() + end


def clock_time(seconds: float) -> str:
    """Seconds as 2:10 or 1:02:10."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
