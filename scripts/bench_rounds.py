"""Times candidates in turn on the same parameters; see `bench_step.py`."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench_candidates import Candidate, parameters
from rich.console import Console
from rich.progress import Progress
from torch.nn import Parameter
from torch.optim import Optimizer

ERRORS = Console(stderr=True, highlight=False)
#: A candidate's turn lasts about so long, in seconds: enough for the clock.
TURN = 0.02
#: torch.compile takes about a second per tensor.
MOST_COMPILED = 300


@dataclass
class Running:
    """A candidate on its parameters, and the seconds of a step in each round.

    Args:
        candidate: what it is.
        step: as it is timed.
        steps: how often in a turn.
        traffic: bytes that a step must move.
        seconds: of a step, by round.
    """

    candidate: Candidate
    step: Callable[[], Any]
    steps: int
    traffic: int
    seconds: list[float] = field(default_factory=list)

    def turn(self) -> None:
        """Its part of a round."""
        start = time.perf_counter()
        for _ in range(self.steps):
            self.step()
        self.seconds.append((time.perf_counter() - start) / self.steps)


@dataclass(frozen=True)
class Result:
    """What a candidate takes on a shape.

    Args:
        candidate: what it is.
        seconds: of a step.
        ratio: to the baseline.
        traffic: bytes that a step must move.
        limit: seconds of its limit, if that was measured.
        share: how near it is to that.
    """

    candidate: Candidate
    seconds: float
    ratio: float
    traffic: int
    limit: float | None
    share: float | None


def stepping(candidate: Candidate, params: list[Parameter]) -> tuple[Optimizer, Callable[[], Any]]:
    """The optimizer, and its step compiled if it is to be and does not do so itself."""
    optimizer = candidate.make(params)
    if candidate.compiled and type(optimizer).__module__.startswith("torch."):
        return optimizer, torch.compile(optimizer.step)
    return optimizer, optimizer.step


def running(candidate: Candidate, params: list[Parameter]) -> Running:
    """Started: its states are there, what is to be compiled is compiled."""
    optimizer, step = stepping(candidate, params)
    step()
    step()
    start = time.perf_counter()
    step()
    steps = max(1, int(TURN / (time.perf_counter() - start)))
    if any(p.grad is None for p in params):
        raise RuntimeError("it drops the gradients")
    moved = sum(3 * p.nbytes for p in params) + 2 * state_bytes(optimizer)
    return Running(candidate, step, steps, moved)


def state_bytes(optimizer: Optimizer) -> int:
    """The bytes of all tensors of its state."""

    def within(value: Any) -> int:
        if isinstance(value, torch.Tensor):
            return value.nbytes
        if isinstance(value, dict):
            return sum(map(within, value.values()))
        return sum(map(within, value)) if isinstance(value, list | tuple) else 0

    return sum(map(within, optimizer.state.values()))


def started(unit: list[Candidate], params: list[Parameter]) -> list[Running]:
    """Those of a unit that run; one that fails is told, unless it is ours."""
    found = []
    for candidate in unit:
        if candidate.compiled and len(params) > MOST_COMPILED:
            told(f"{candidate.label} is left out: {len(params)} tensors take too long to compile")
            continue
        try:
            found.append(running(candidate, params))
        except Exception as error:
            if candidate.kind == "ours":
                raise
            why = (str(error) or type(error).__name__).splitlines()[0]
            told(f"{candidate.label} is left out: {why}")
            for p in params:
                p.grad = torch.randn_like(p) if p.grad is None else p.grad
    return found


def told(line: str) -> None:
    """One line on stderr."""
    ERRORS.print(line, markup=False, soft_wrap=True)


def available() -> float:
    """Bytes of memory that are free, as far as the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    except OSError:
        return float("inf")
    found = next(line for line in lines if line.startswith("MemAvailable:"))
    return float(found.split()[1]) * 1024


def measure(
    shape: str, units: list[list[Candidate]], rounds: int, progress: Progress
) -> list[Result]:
    """All units, as many together as memory allows; the first one is the baseline."""
    params = parameters(shape)
    needed = 16 * sum(p.nbytes for p in params)  # 3 candidates of 4 states, and temporaries
    first, *pending = units
    bar = progress.add_task(shape, total=sum(map(len, units)) * (rounds + 1))
    results: list[Result] = []
    while pending:
        group = [started(first, params)]
        while pending and (len(group) == 1 or available() > needed):
            unit = pending.pop(0)
            progress.update(bar, description=f"{shape}: {unit[0].label} starts")
            group.append(started(unit, params))
            progress.advance(bar, len(unit))
        for _ in range(rounds):
            for one in (one for members in group for one in members):
                progress.update(bar, description=f"{shape}: {one.candidate.label}")
                one.turn()
                progress.advance(bar)
        base = group[0][0].seconds
        for members in group[1:] if results else group:
            limits = [one.seconds for one in members if one.candidate.kind == "limit"]
            results += [result(one, base, *limits) for one in members]
        del group
        gc.collect()
    progress.update(bar, description=shape, completed=progress.tasks[bar].total)
    return results


def result(one: Running, base: list[float], limit: list[float] | None = None) -> Result:
    """Medians over the rounds; ratios are taken within each."""

    def ratio(above: list[float], below: list[float]) -> float:
        return median(a / b for a, b in zip(above, below, strict=True))

    lowest = median(limit) if limit else None
    share = ratio(limit, one.seconds) if limit else None
    seconds, slower = median(one.seconds), ratio(one.seconds, base)
    return Result(one.candidate, seconds, slower, one.traffic, lowest, share)
