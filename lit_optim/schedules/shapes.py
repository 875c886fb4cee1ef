"""The shapes of phases: the fraction of a phase's change that is done at x; both go from 0 to 1.

A shape is the same for a rise and for a decay. Papers name a cooldown after the fraction that is
left: a decay with shape `sqrt` is 1 - √x, so it is also called `1-sqrt`. A shape with a number is
an object, so that a schedule can be copied and pickled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from lit_optim.errors import UsageError, show, suggest

Shape = Callable[[float], float]


@dataclass(frozen=True)
class RatioShape:
    """A shape that depends on the ratio of the phase's two levels; neither may be 0.

    Args:
        for_log_ratio: the shape for ln(end / start).
        name: its name in messages.
    """

    for_log_ratio: Callable[[float], Shape]
    name: str


def linear(x: float) -> float:
    """A straight line."""
    return x


def cosine(x: float) -> float:
    """Half a cosine wave: slow, fast, slow."""
    return (1 - math.cos(math.pi * x)) / 2


def mirror_cosine(x: float) -> float:
    """`cosine` mirrored at the straight line: fast, slow, fast."""
    return 2 * x - cosine(x)


def sqrt(x: float) -> float:
    """√x: fast, then slow. A decay of this shape is 1 - √x."""
    return math.sqrt(x)


def mirror_sqrt(x: float) -> float:
    """1 - √(1 - x): slow, then fast."""
    return 1 - math.sqrt(1 - x)


def square(x: float) -> float:
    """x²: slow, then fast. A decay of this shape is 1 - x²."""
    return x * x


def rex(x: float) -> float:
    """Slow, then fast: x / (2 - x). A decay of this shape is (1 - x) / (1 - x / 2)."""
    return x / (2 - x)


@dataclass(frozen=True)
class power:
    """x^k; k = 2 is `square`, k = 0.5 is `sqrt`."""

    k: float

    def __call__(self, x: float) -> float:
        """The fraction of the change that is done at x."""
        return float(x**self.k)


@dataclass(frozen=True)
class polynomial:
    """1 - (1 - x)^k. A decay of this shape is (1 - x)^k."""

    k: float

    def __call__(self, x: float) -> float:
        """The fraction of the change that is done at x."""
        return float(1 - (1 - x) ** self.k)


@dataclass(frozen=True)
class exponential_by:
    """(1 - r^x) / (1 - r): exponential decay by the factor r, shifted to reach its end.

    It takes the logarithm of r.
    """

    log: float

    def __call__(self, x: float) -> float:
        """The fraction of the change that is done at x."""
        return _decayed_fraction(self.log * x, self.log) if self.log else x


def exponential(ratio: float) -> exponential_by:
    """(1 - r^x) / (1 - r): exponential decay by the factor r, shifted to reach its end."""
    return exponential_by(math.log(ratio))


@dataclass(frozen=True)
class inverse_sqrt_by:
    """1 / √(1 + t), from t = 0 to where it has decayed by the factor r, shifted to reach its end.

    It takes the logarithm of r.
    """

    log: float

    def __call__(self, x: float) -> float:
        """The fraction of the change that is done at x."""
        if not self.log or x in (0, 1):  # exact at the ends, where rounding would miss
            return x
        # with c = 1 / r² - 1 it is 1 / √(1 + c x) at x, and r at 1
        of_c = -2 * self.log
        grown = of_c + math.log(x) if of_c > HUGE else math.log1p(math.expm1(of_c) * x)
        return _decayed_fraction(-grown / 2, self.log)


#: A logarithm whose exponential is near the largest float.
HUGE = 600


def _decayed_fraction(part: float, whole: float) -> float:
    """(1 - e^part) / (1 - e^whole), where `part` lies between 0 and `whole`."""
    if whole > HUGE:
        return math.exp(part - whole) * math.expm1(-part) / math.expm1(-whole)
    return math.expm1(part) / math.expm1(whole)


@dataclass(frozen=True)
class waves:
    """A number of whole cosine waves; half a wave is `cosine`."""

    cycles: float

    def __call__(self, x: float) -> float:
        """The fraction of the change that is done at x."""
        return (1 - math.cos(math.pi * self.cycles * 2.0 * x)) / 2


#: Shapes by the names that a configuration uses.
NAMED: dict[str, Shape | RatioShape] = {
    "linear": linear,
    "cosine": cosine,
    "sqrt": sqrt,
    "1-sqrt": sqrt,
    "mirror_sqrt": mirror_sqrt,
    "square": square,
    "rex": rex,
    "mirror_cosine": mirror_cosine,
    "exponential": RatioShape(exponential_by, "exponential"),
    "inverse_sqrt": RatioShape(inverse_sqrt_by, "inverse_sqrt"),
}
#: Shapes with a number > 0 in parentheses, as in power(1.5).
NUMBERED: dict[str, Callable[[float], Shape]] = {
    "power": power,
    "polynomial": polynomial,
    "exponential": exponential,
}
STAIRCASE = "staircase"
CALL = re.compile(r"([\w-]+?) ?\(? ?(\d+(?:\.\d*)?(?:e-?\d+)?|\.\d+) ?\)?")

#: A shape as a configuration writes it.
ShapeName = Annotated[str, "such as linear, cosine, 1-sqrt or power(1.5)"]


def parse_shape(key: str, text: Any) -> dict[str, Any]:
    """Convert the name of a shape to arguments of a phase: `shape`, and `levels` for a staircase.

    Args:
        key: its name in messages.
        text: a name, or a name with a number such as "power(1.5)"; on a command line "power 1.5"
            needs no quotes.

    Raises:
        ValueError: there is no such shape.
    """
    if isinstance(text, str) and text in NAMED:
        return {"shape": NAMED[text]}
    call = CALL.fullmatch(text) if isinstance(text, str) else None
    if call is not None and float(call[2]) > 0:
        number = float(call[2])
        if call[1] in NUMBERED:
            return {"shape": NUMBERED[call[1]](number)}
        if call[1] == STAIRCASE and number.is_integer() and number > 1:
            return {"shape": linear, "levels": int(number)}
    numbered = [f"{name}(...)" for name in [*NUMBERED, STAIRCASE]]
    near = suggest(text, [*NAMED, *numbered]) if isinstance(text, str) else ""
    known = near or f"; it is one of {', '.join([*NAMED, *numbered])}"
    raise UsageError(f"{key} must be a shape such as cosine or power(1.5), got {show(text)}{known}")
