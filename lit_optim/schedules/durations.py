"""How long: optimizer steps, a share of the run, epochs or samples."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated

from lit_optim.errors import UsageError, show
from lit_optim.hyperparameters import describe

#: `500` (optimizer steps), "5%" (of the run), "2 epochs", "1000 samples"; rounded to the nearest
#: step, or up if written "5%+", as transformers counts.
Duration = Annotated[int | str, "such as 500 (steps), 5%, 2 epochs or 1000 samples"]
FORM = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?(%\+?|steps?|epochs?|samples?)?")


@dataclass(frozen=True)
class Share:
    """A share of the run that is not rounded to the nearest step, as other libraries count.

    Args:
        value: in [0, 1].
        up: rounded up to whole steps; else not rounded at all.
        less: so many steps shorter.
    """

    value: float
    up: bool = False
    less: int = 0


@dataclass(frozen=True)
class Horizon:
    """The length of a run, and what its units are worth, all in optimizer steps.

    Args:
        steps: how many updates the run makes.
        steps_per_epoch: None where an epoch has no known length.
        samples_per_step: samples per update over all devices; None where that is not known.

    Raises:
        ValueError: the length is not a whole number > 0.
    """

    steps: int
    steps_per_epoch: int | None = None
    samples_per_step: int | None = None

    def __post_init__(self) -> None:
        if type(self.steps) is not int or self.steps < 1:
            raise UsageError(f"a run must have a whole number of steps > 0, got {show(self.steps)}")

    def resolve(self, name: str, duration: Duration | Share) -> float:
        """The duration called `name` in optimizer steps, rounded as it says.

        Raises:
            ValueError: it is not a duration, or its unit means nothing in this run.
        """
        if isinstance(duration, Share):
            steps = self.steps * duration.value
            return (math.ceil(steps) if duration.up else steps) - duration.less
        return math.floor(self.exact(name, duration) + 0.5)

    def exact(self, name: str, duration: Duration) -> float:
        """The same, rounded only where it says so."""
        amount, unit = parse(name, duration)
        if str(duration).strip().endswith("+"):
            return self.resolve(name, Share(amount / 100, up=True))
        worth: float | None = {
            "%": self.steps / 100,
            "step": 1,
            "epoch": self.steps_per_epoch,
            "sample": None if self.samples_per_step is None else 1 / self.samples_per_step,
        }[unit]
        if worth is None:
            raise UsageError(
                f"{name} is {duration!r}, but {unit}s have no known length here; use steps or %"
            )
        return amount * worth


def parse(name: str, duration: Duration) -> tuple[float, str]:
    """Amount and unit ("step", "%", "epoch" or "sample") of the duration called `name`.

    Raises:
        ValueError: naming what was given and what is allowed.
    """
    match = FORM.fullmatch(str(duration).strip())
    if isinstance(duration, int | str) and type(duration) is not bool and match:
        amount, unit = float(match[1]), (match[2] or "steps").rstrip("s+")
        if (
            (unit == "%" and amount <= 100)
            or unit == "epoch"
            or (unit != "%" and amount.is_integer())
        ):
            return amount, unit
    raise UsageError(f"{name} must be {describe(Duration)}, got {show(duration)}")
