"""Durations: optimizer steps, a percentage of the run, epochs or samples."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from lit_optim.errors import UsageError, show
from lit_optim.hyperparameters import describe

#: `500` (optimizer steps), "5%" (of the run), "2 epochs", "1000 samples". Rounded to the nearest
#: step; "5%+" rounds up, as transformers does.
Duration = Annotated[
    int | str, "such as 500 (steps), 5%, 2 epochs or 1000 samples, and not negative"
]
#: What to do when a schedule resumes in a run of another length; see `ScheduledLR`.
HorizonPolicy = Literal["error", "keep", "extend"]
PATTERN = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?(%\+?|steps?|epochs?|samples?)?")


@dataclass(frozen=True)
class RunFraction:
    """A fraction of the run that is not rounded to the nearest step, for other libraries' rules.

    Args:
        value: in [0, 1].
        rounds_up: round up to whole steps; otherwise do not round.
        steps_less: subtract this many steps.
    """

    value: float
    rounds_up: bool = False
    steps_less: int = 0


@dataclass(frozen=True)
class Horizon:
    """The length of a run and of its units, in optimizer steps.

    Args:
        steps: the number of updates in the run.
        steps_per_epoch: None if the length of an epoch is not known.
        samples_per_step: samples per update over all devices; None if not known.

    Raises:
        ValueError: the length is not a whole number > 0.
    """

    steps: int
    steps_per_epoch: int | None = None
    samples_per_step: int | None = None

    def __post_init__(self) -> None:
        if type(self.steps) is not int or self.steps < 1:
            raise UsageError(f"a run must have a whole number of steps > 0, got {show(self.steps)}")

    def resolve(self, name: str, duration: Duration | RunFraction) -> float:
        """Convert the argument called `name` to optimizer steps, with its rounding.

        Raises:
            ValueError: it is not a duration, or its unit has no known length in this run.
        """
        if isinstance(duration, RunFraction):
            steps = self.steps * duration.value
            return (math.ceil(steps) if duration.rounds_up else steps) - duration.steps_less
        return math.floor(self.exact(name, duration) + 0.5)

    def exact(self, name: str, duration: Duration) -> float:
        """Convert to optimizer steps without rounding, except for a "%+"."""
        amount, unit = parse_duration(name, duration)
        if str(duration).strip().endswith("+"):
            return self.resolve(name, RunFraction(amount / 100, rounds_up=True))
        steps, units = {
            "%": (self.steps, 100),
            "step": (1, 1),
            "epoch": (self.steps_per_epoch, 1),
            "sample": (1, self.samples_per_step),
        }[unit]
        if steps is None or units is None:
            raise UsageError(
                f"{name} is {duration!r}, but {unit}s have no known length here; use steps or %"
            )
        return amount * steps / units  # in this order a half stays one, and is rounded up


def parse_duration(name: str, duration: Duration) -> tuple[float, str]:
    """The amount and unit ("step", "%", "epoch" or "sample") of the argument called `name`.

    Raises:
        ValueError: it is not a duration.
    """
    match = PATTERN.fullmatch(str(duration).strip())
    if isinstance(duration, int | str) and type(duration) is not bool and match:
        amount, unit = float(match[1]), (match[2] or "steps").rstrip("s+")
        if (
            (unit == "%" and amount <= 100)
            or unit == "epoch"
            or (unit != "%" and amount.is_integer())
        ):
            return amount, unit
    raise UsageError(f"{name} must be {describe(Duration)}, got {show(duration)}")
