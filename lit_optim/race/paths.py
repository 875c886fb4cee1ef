"""The path of an optimizer over a landscape, computed by the same code that trains models."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_optim.config.check import make_schedule, to_plain
from lit_optim.config.targets import make_factory
from lit_optim.errors import UsageError
from lit_optim.race.landscapes import Landscape, Point
from lit_optim.race.lines import compose_entrants
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.hyperparameter_schedules import parse_hyperparameter_schedules
from lit_optim.wrappers import Wrapped

#: The lrs tried if none is typed, each about three times the last.
LRS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
#: An optimizer has arrived once its loss above the global minimum stays below this share of the
#: loss above it at the start.
TOLERANCE = 1e-3
#: A path diverges when a coordinate exceeds this.
FAR = 1e6


@dataclass(frozen=True)
class Entrant:
    """One combination of the values on the command line.

    Args:
        name: what tells it apart from others: "adam", "sgd momentum=0.9", "muon cosine".
        make: builds the optimizer from parameters and an lr; None keeps the configured lr.
        lrs: the lrs to try; the path with the best one is kept.
        config: the composed configuration, as plain containers.
        requirements: of the optimizer; see `lit_optim.requirements`.
    """

    name: str
    make: Callable[[Any, float | None], Any]
    lrs: tuple[float | None, ...]
    config: Mapping[str, Any]
    requirements: tuple[str, ...]


@dataclass(frozen=True)
class Path:
    """The points that an entrant visited.

    Args:
        name: the entrant's.
        landscape: where it ran.
        lr: its lr; None if the optimizer has none.
        tried: how many lrs were tried to find this one; 1 if it was typed.
        points: the start and the point after each step, up to divergence.
        losses: the loss at each point.
        evaluations: how many times the gradient was evaluated.
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
        """Whether the last point is not finite or farther out than `FAR`."""
        return not all(map(math.isfinite, (*self.points[-1], self.losses[-1]))) or (
            max(map(abs, self.points[-1])) > FAR
        )

    @property
    def arrival(self) -> int | None:
        """The number of steps until the loss stays below the tolerance; None: it does not."""
        least = self.landscape.least
        bound = least + TOLERANCE * (self.losses[0] - least)
        if self.has_diverged or not self.losses[-1] <= bound:
            return None
        high = [t for t, loss in enumerate(self.losses) if not loss <= bound]
        return high[-1] + 1 if high else 0

    @property
    def leaves_window(self) -> bool:
        """Whether any point lies outside the window of the landscape."""
        return not all(map(self.landscape.contains, self.points))

    @property
    def rank(self) -> tuple[float, float]:
        """A sort key, best first: by arrival, then by final loss."""
        arrival = math.inf if self.arrival is None else self.arrival
        return arrival, math.inf if self.has_diverged else self.losses[-1]


def find_entrants(lines: Sequence[str], steps: int) -> list[Entrant]:
    """Build an entrant for each combination of the values in these overrides.

    A schedule runs over the steps of the race. Without one the lr is constant.

    Raises:
        UsageError: a mistake, or an override that has no effect on a race.
    """
    is_typed = any(line.lstrip("+").startswith("optimizer.lr=") for line in lines)
    composed = compose_entrants(lines, steps)
    return [_make_entrant(name, cfg, is_typed) for name, cfg in composed]


def _make_entrant(combination: str, cfg: Any, is_typed: bool) -> Entrant:
    own = cfg.optimizer.get("lr")
    wrap = make_factory(cfg.wrapper)

    def make(params: Any, lr: float | None) -> Any:
        node = cfg.optimizer.copy()
        if lr is not None:
            node.lr = lr
        return Wrapped(make_factory(node), wrap)(params)

    requirements = Wrapped(make_factory(cfg.optimizer), wrap).requirements
    # those that find their step size themselves are meant to run at their default
    is_own = own is None or "closure" in requirements or "lr_of_1" in requirements
    lrs = (own,) if is_typed or is_own else LRS
    name = _name(combination, cfg.hydra.runtime.choices)
    return Entrant(name, make, lrs, to_plain(cfg), requirements)


def _name(combination: str, choices: Mapping[str, str]) -> str:
    """The optimizer, its schedule and wrapper if any, and the other values that vary.

    The lr is not part of the name: tables and legends show it next to the name.
    """
    varied = combination.removeprefix(choices["scheduler"]).split()
    shown_otherwise = re.compile(r"(optimizer|optimizer\.lr|scheduler|wrapper)=")
    varied = [word.removeprefix("optimizer.") for word in varied if not shown_otherwise.match(word)]
    extras = [choices[group] for group in ("scheduler", "wrapper") if choices[group] != "none"]
    return " ".join([choices["optimizer"], *extras, *varied])


def follow_path(entrant: Entrant, landscape: Landscape, start: Point, steps: int) -> Path:
    """Try each lr of an entrant and return the best path.

    A path that leaves the window counts only if all of them do: an lr whose first step jumps over
    the hills can land near a minimum by luck.

    Raises:
        UsageError: the optimizer or its schedule accepts none of the lrs.
    """
    paths = list(_paths(entrant, landscape, start, steps))
    return min(paths, key=lambda path: (path.leaves_window, path.rank))


def _paths(entrant: Entrant, landscape: Landscape, start: Point, steps: int) -> Iterator[Path]:
    rejection: ValueError | None = None
    accepted = 0
    for lr in entrant.lrs:
        try:
            points, losses, evaluations = trace(entrant, lr, landscape, start, steps)
        except ValueError as error:  # for example, the lr is below the schedule's min_lr
            rejection = error
            continue
        accepted += 1
        yield Path(entrant.name, landscape, lr, len(entrant.lrs), points, losses, evaluations)
    if rejection is not None and not accepted:
        raise UsageError(f"{entrant.name}: {rejection}") from rejection


def trace(
    entrant: Entrant, lr: float | None, landscape: Landscape, start: Point, steps: int
) -> tuple[list[Point], list[float], int]:
    """Run an optimizer from a point, with exact gradients.

    The two coordinates are one float64 parameter of shape [1, 2], so that matrix optimizers get a
    matrix.

    Returns:
        the start and the point after each step; the losses at these points; and the number of
        gradient evaluations. A path ends where it diverges.
    """
    point = torch.tensor([start], dtype=torch.float64, requires_grad=True)
    group = {"params": [point], "param_names": ["point"], "role": "hidden"}
    optimizer = entrant.make([group], lr)
    scheduler = _make_scheduler(optimizer, entrant.config, Horizon(steps))
    is_sparse = "sparse" in entrant.requirements
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
        x, y = _read_evaluation_point(optimizer, point)
        points.append((x, y))
        losses.append(float(landscape.value(x, y)))
        if not max(abs(x), abs(y)) <= FAR:
            break
        if scheduler is not None:
            scheduler.step()
            if scheduler.curve.metric is not None:
                scheduler.observe(losses[-1])
    return points, losses, evaluations


def _read_evaluation_point(optimizer: Any, point: Tensor) -> Point:
    """The weights used for evaluation, which differ from the trained ones if they are averaged."""
    has_average = hasattr(optimizer, "eval")
    if has_average:
        optimizer.eval()
    [[x, y]] = point.tolist()
    if has_average:
        optimizer.train()
    return x, y


def _make_scheduler(
    optimizer: Any, config: Mapping[str, Any], horizon: Horizon
) -> ScheduledLR | None:
    """Attach the schedules of the lr and of other hyperparameters; None: there are none."""
    schedule = make_schedule(config["scheduler"])
    others = parse_hyperparameter_schedules(config["schedules"])
    if schedule is None and not others:
        return None
    if schedule is None:
        raise UsageError("schedules needs a scheduler in a race; scheduler=constant keeps the lr")
    schedule.check(max(group["lr"] for group in optimizer.param_groups))
    attached = [
        other.attach(None if other.schedule is None else other.schedule.curve(horizon), optimizer)
        for other in others
    ]
    return ScheduledLR(optimizer, schedule.curve(horizon), attached)
