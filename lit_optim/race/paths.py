"""The path of an optimizer over a landscape: made by the configuration and the code that train."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from lit_optim.command_line.combinations import compose_combinations
from lit_optim.config.check import make_schedule, to_plain
from lit_optim.config.targets import make_factory
from lit_optim.errors import UsageError
from lit_optim.race.landscapes import Landscape, Point
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.hyperparameter_schedules import parse_hyperparameter_schedules
from lit_optim.wrappers import Wrapped

#: The lrs that are tried where none is typed: from 1e-4 to 100, about three times as large each.
LRS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
#: What a race takes of a run's configuration; the rest would change nothing.
USED = ("optimizer", "scheduler", "wrapper", "schedules", "allow")
#: An optimizer has arrived once its loss stays within this share of what there is to lose.
TOLERANCE = 1e-3
#: More paths than this over each other tell nothing apart.
MOST = 32
#: A coordinate beyond this one has diverged.
FAR = 1e6


@dataclass(frozen=True)
class Entrant:
    """One combination of the choices that were typed.

    Args:
        name: what sets it apart: "adam", "sgd momentum=0.9", "muon cosine".
        make: an optimizer of parameters, with an lr in place of its own; None keeps its own.
        lrs: that are tried; the best one is kept.
        plain: its configuration.
        needs: of its optimizer, as `lit_optim.requirements` explains them.
    """

    name: str
    make: Callable[[Any, float | None], Any]
    lrs: tuple[float | None, ...]
    plain: Mapping[str, Any]
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Path:
    """Where an entrant went.

    Args:
        name: of the entrant.
        landscape: it went over.
        lr: it was given; None where its optimizer takes none.
        tried: how many lrs this one is the best of; 1 where it was typed.
        points: the start, and where it stood after each step, until it diverged.
        losses: there.
        evaluations: of the loss and its gradient.
    """

    name: str
    landscape: Landscape
    lr: float | None
    tried: int
    points: list[Point]
    losses: list[float]
    evaluations: int

    @property
    def has_diverged(self) -> bool:
        """Whether it left for infinity."""
        return not all(map(math.isfinite, (*self.points[-1], self.losses[-1]))) or (
            max(map(abs, self.points[-1])) > FAR
        )

    @property
    def arrival(self) -> int | None:
        """After how many steps the loss stays low: within `TOLERANCE` of the global minimum."""
        least = self.landscape.least
        bound = least + TOLERANCE * (self.losses[0] - least)
        if self.has_diverged or not self.losses[-1] <= bound:
            return None
        high = [t for t, loss in enumerate(self.losses) if not loss <= bound]
        return high[-1] + 1 if high else 0

    @property
    def leaves(self) -> bool:
        """Whether it leaves the window of its landscape, to come back or not."""
        return not all(map(self.landscape.contains, self.points))

    @property
    def rank(self) -> tuple[float, float]:
        """Less is better: when it arrived, then its final loss."""
        arrival = math.inf if self.arrival is None else self.arrival
        return arrival, math.inf if self.has_diverged else self.losses[-1]


def find_entrants(lines: Sequence[str], steps: int) -> list[Entrant]:
    """The entrants of overrides as for train.py, one for each combination of their values.

    A schedule runs over the steps of the race; where none is typed the lr is constant.

    Raises:
        UsageError: a mistake, or an override that a race has no use for.
    """
    for line in lines:
        key = line.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] not in USED:
            hint = "; --steps=N is its length" if key == "trainer.max_steps" else ""
            raise UsageError(f"{line} has no effect on a race, which takes {', '.join(USED)}{hint}")
    keys = [line.lstrip("+").partition("=")[0] for line in lines]
    more = [f"trainer.max_steps={steps}", "trainer.max_epochs=-1", "preset=none"]
    more += [] if "scheduler" in keys else ["scheduler=none"]
    is_typed = "optimizer.lr" in keys
    found = [
        _make_entrant(name, cfg, is_typed)
        for name, cfg in islice(compose_combinations([*lines, *more]), MOST + 1)
    ]
    if len(found) > MOST:
        raise UsageError(f"a race has at most {MOST} combinations of values, and these are more")
    return found


def _make_entrant(combination: str, cfg: Any, is_typed: bool) -> Entrant:
    own = cfg.optimizer.get("lr")
    wrap = make_factory(cfg.wrapper)

    def make(params: Any, lr: float | None) -> Any:
        node = cfg.optimizer.copy()
        if lr is not None:
            node.lr = lr
        return Wrapped(make_factory(node), wrap)(params)

    needs = Wrapped(make_factory(cfg.optimizer), wrap).requirements
    is_own = own is None or "closure" in needs or "lr_of_1" in needs  # finds its step size itself
    lrs = (own,) if is_typed or is_own else LRS
    name = _name(combination, cfg.hydra.runtime.choices)
    return Entrant(name, make, lrs, to_plain(cfg), needs)


def _name(combination: str, choices: Mapping[str, str]) -> str:
    """The optimizer, a schedule and a wrapper where there are any, and what else was listed.

    An lr is not part of the name: it stands beside it.
    """
    listed = combination.removeprefix(choices["scheduler"]).split()
    by_itself = re.compile(r"(optimizer|optimizer\.lr|scheduler|wrapper)=")
    listed = [one for one in listed if not by_itself.match(one)]
    listed = [one.removeprefix("optimizer.") for one in listed]
    around = [choices[group] for group in ("scheduler", "wrapper") if choices[group] != "none"]
    return " ".join([choices["optimizer"], *around, *listed])


def follow_path(entrant: Entrant, landscape: Landscape, start: Point, steps: int) -> Path:
    """The best path of an entrant, of those with the lrs that are tried.

    One that leaves the window is taken only if all do: a first step that jumps over the hills may
    land anywhere, also near a minimum.

    Raises:
        UsageError: no lr is one that the optimizer and its schedule take.
    """
    paths = list(_paths(entrant, landscape, start, steps))
    return min(paths, key=lambda path: (path.leaves, path.rank))


def _paths(entrant: Entrant, landscape: Landscape, start: Point, steps: int) -> Iterator[Path]:
    refusal: ValueError | None = None
    taken = 0
    for lr in entrant.lrs:
        try:
            points, losses, evaluations = trace(entrant, lr, landscape, start, steps)
        except ValueError as error:  # a schedule's min_lr may lie above, an optimizer's range below
            refusal = error
            continue
        taken += 1
        yield Path(entrant.name, landscape, lr, len(entrant.lrs), points, losses, evaluations)
    if refusal is not None and not taken:
        raise UsageError(f"{entrant.name}: {refusal}") from refusal


def trace(
    entrant: Entrant, lr: float | None, landscape: Landscape, start: Point, steps: int
) -> tuple[list[Point], list[float], int]:
    """Run an optimizer from a point.

    The two coordinates are one parameter of shape [1, 2] in float64, so that an optimizer of
    matrices has a matrix. The gradient is exact: there is no noise.

    Returns:
        the points before and after each step, the losses there, and how many times the gradient was
        evaluated. A path that diverges ends there.
    """
    point = torch.tensor([start], dtype=torch.float64, requires_grad=True)
    optimizer = entrant.make([{"params": [point], "param_names": ["point"]}], lr)
    adapter = _make_adapter(optimizer, entrant.plain, Horizon(steps))
    is_sparse = "sparse" in entrant.needs
    evaluations = 0

    def closure() -> Tensor:
        nonlocal evaluations
        evaluations += 1
        [[x, y]] = point.tolist()
        gradient = point.new_tensor([landscape.gradient(x, y)])
        point.grad = gradient.to_sparse(1) if is_sparse else gradient
        return point.new_tensor(landscape.value(x, y))

    points, losses = [start], [float(landscape.value(*start))]
    for _ in range(steps):
        optimizer.step(closure)
        x, y = _evaluated(optimizer, point)
        points.append((x, y))
        losses.append(float(landscape.value(x, y)))
        if not max(abs(x), abs(y)) <= FAR:
            break
        if adapter is not None:
            adapter.step()
            if adapter.curve.metric is not None:
                adapter.observe(losses[-1])
    return points, losses, evaluations


def _evaluated(optimizer: Any, point: Tensor) -> Point:
    """The weights that are evaluated, which an optimizer that averages keeps apart."""
    averages = hasattr(optimizer, "eval")
    if averages:
        optimizer.eval()
    [[x, y]] = point.tolist()
    if averages:
        optimizer.train()
    return x, y


def _make_adapter(optimizer: Any, plain: Mapping[str, Any], horizon: Horizon) -> ScheduledLR | None:
    """The schedules of the lr and of other hyperparameters, for one optimizer."""
    schedule = make_schedule(plain["scheduler"])
    others = parse_hyperparameter_schedules(plain["schedules"])
    if schedule is None and not others:
        return None
    if schedule is None:
        raise UsageError("schedules needs a scheduler in a race; scheduler=constant keeps the lr")
    schedule.check(max(group["lr"] for group in optimizer.param_groups))
    moved = [
        one.attach(None if one.schedule is None else one.schedule.curve(horizon), optimizer)
        for one in others
    ]
    return ScheduledLR(optimizer, schedule.curve(horizon), moved)
