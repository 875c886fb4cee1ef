"""Test functions of two coordinates with their gradients in closed form.

All are polynomials, so they accept floats, NumPy arrays and tensors alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi, sin
from typing import Any

from lit_optim.errors import UsageError, show, suggest

Point = tuple[float, float]


@dataclass(frozen=True)
class Landscape:
    """A loss over a plane.

    Args:
        name: as in `on=rosenbrock`.
        summary: what makes it difficult, in a few words.
        formula: the loss, as shown in titles.
        value: the loss at (x, y).
        gradient: its derivatives by x and by y.
        minima: all local minima; the first is global.
        start: where a race begins.
        window: (left, right), (bottom, top): the part that pictures show.
    """

    name: str
    summary: str
    formula: str
    value: Callable[[Any, Any], Any]
    gradient: Callable[[Any, Any], tuple[Any, Any]]
    minima: tuple[Point, ...]
    start: Point
    window: tuple[Point, Point]

    @property
    def least(self) -> float:
        """The value of the global minimum."""
        return float(self.value(*self.minima[0]))

    def contains(self, point: Point) -> bool:
        """Whether a point lies in the window."""
        return all(low <= z <= high for z, (low, high) in zip(point, self.window, strict=True))

    def distance(self, point: Point) -> float:
        """The distance to the nearest minimum."""
        return min(
            float(((point[0] - x) ** 2 + (point[1] - y) ** 2) ** 0.5) for x, y in self.minima
        )


def rosenbrock(x: Any, y: Any) -> Any:
    """(1 - x)² + 100 (y - x²)²."""
    return (1 - x) * (1 - x) + 100 * (y - x * x) * (y - x * x)


def rosenbrock_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    """The derivatives of `rosenbrock`."""
    return -2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)


#: The curvatures of the quadratic along its two axes, which are rotated by ANGLE.
FLAT, STEEP, ANGLE = 1.0, 100.0, pi / 6
COS, SIN = cos(ANGLE), sin(ANGLE)
#: Its minimum; not the origin, where weight decay alone would lead.
CENTER = (1.0, 0.5)


def _along_axes(x: Any, y: Any) -> tuple[Any, Any]:
    dx, dy = x - CENTER[0], y - CENTER[1]
    return COS * dx + SIN * dy, COS * dy - SIN * dx


def quadratic(x: Any, y: Any) -> Any:
    """(u² + 100 v²) / 2, where u and v are the distances from (1, 0.5), rotated by 30 degrees."""
    u, v = _along_axes(x, y)
    return (FLAT * u * u + STEEP * v * v) / 2


def quadratic_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    """The derivatives of `quadratic`."""
    u, v = _along_axes(x, y)
    return COS * FLAT * u - SIN * STEEP * v, SIN * FLAT * u + COS * STEEP * v


def beale(x: Any, y: Any) -> Any:
    """(1.5 - x + x y)² + (2.25 - x + x y²)² + (2.625 - x + x y³)²."""
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y * y, 2.625 - x + x * y * y * y
    return a * a + b * b + c * c


def beale_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    """The derivatives of `beale`."""
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y * y, 2.625 - x + x * y * y * y
    by_x = 2 * a * (y - 1) + 2 * b * (y * y - 1) + 2 * c * (y * y * y - 1)
    return by_x, 2 * x * (a + 2 * b * y + 3 * c * y * y)


def himmelblau(x: Any, y: Any) -> Any:
    """(x² + y - 11)² + (x + y² - 7)²."""
    a, b = x * x + y - 11, x + y * y - 7
    return a * a + b * b


def himmelblau_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    """The derivatives of `himmelblau`."""
    a, b = x * x + y - 11, x + y * y - 7
    return 4 * a * x + 2 * b, 2 * a + 4 * b * y


def styblinski(x: Any, y: Any) -> Any:
    """The sum of (z⁴ - 16 z² + 5 z) / 2 over z = x, y."""
    xx, yy = x * x, y * y
    return (xx * xx - 16 * xx + 5 * x + yy * yy - 16 * yy + 5 * y) / 2


def styblinski_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    """The derivatives of `styblinski`."""
    return 2 * x * x * x - 16 * x + 2.5, 2 * y * y * y - 16 * y + 2.5


def saddle(x: Any, y: Any) -> Any:
    """x² / 2 - y² / 2 + y⁴ / 4."""
    return (x * x - y * y) / 2 + y * y * y * y / 4


def saddle_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    """The derivatives of `saddle`."""
    return x, y * y * y - y


#: The two minima of (z⁴ - 16 z² + 5 z) / 2, the lower one first.
LOW, HIGH = -2.9035340277711770, 2.7468027709908370

LANDSCAPES: dict[str, Landscape] = {
    landscape.name: landscape
    for landscape in (
        Landscape(
            "rosenbrock",
            "a narrow, curved valley with a nearly flat floor",
            "(1 − x)² + 100 (y − x²)²",
            rosenbrock,
            rosenbrock_gradient,
            ((1.0, 1.0),),
            (-1.5, 2.0),
            ((-2.2, 2.2), (-1.2, 2.8)),
        ),
        Landscape(
            "quadratic",
            "a straight valley, 100 times steeper across than along",
            "(u² + 100 v²) / 2, rotated by 30°",
            quadratic,
            quadratic_gradient,
            (CENTER,),
            (-1.4, 0.3),
            ((-2.0, 2.2), (-1.6, 1.8)),
        ),
        Landscape(
            "beale",
            "a flat plateau between steep walls",
            "(1.5 − x + xy)² + (2.25 − x + xy²)² + (2.625 − x + xy³)²",
            beale,
            beale_gradient,
            ((3.0, 0.5),),
            (-2.0, 1.6),
            ((-4.5, 4.5), (-3.5, 3.5)),
        ),
        Landscape(
            "himmelblau",
            "four minima of the same depth",
            "(x² + y − 11)² + (x + y² − 7)²",
            himmelblau,
            himmelblau_gradient,
            (
                (3.0, 2.0),
                (-2.8051180869527449, 3.1313125182505730),
                (-3.7793102533777469, -3.2831859912861694),
                (3.5844283403304917, -1.8481265269644034),
            ),
            (-0.6, -1.0),
            ((-5.5, 5.5), (-5.0, 5.0)),
        ),
        Landscape(
            "styblinski",
            "four minima, one of them deeper than the others",
            "½ Σ (z⁴ − 16 z² + 5 z)",
            styblinski,
            styblinski_gradient,
            ((LOW, LOW), (LOW, HIGH), (HIGH, LOW), (HIGH, HIGH)),
            (4.4, 3.6),
            ((-5.0, 5.0), (-5.0, 5.0)),
        ),
        Landscape(
            "saddle",
            "a saddle point between two minima",
            "(x² − y²) / 2 + y⁴ / 4",
            saddle,
            saddle_gradient,
            ((0.0, 1.0), (0.0, -1.0)),
            (1.5, 1e-3),
            ((-2.0, 2.0), (-1.6, 1.6)),
        ),
    )
}


def find_landscapes(names: str) -> list[Landscape]:
    """The landscapes of `on=rosenbrock,beale`.

    Raises:
        UsageError: a name that is none of them.
    """
    found = []
    for name in names.split(","):
        if name not in LANDSCAPES:
            near = suggest(name, LANDSCAPES) or ""
            allowed = ", ".join(LANDSCAPES)
            raise UsageError(f"on must be one of {allowed}, got {show(name)}{near}")
        found.append(LANDSCAPES[name])
    return found


def describe_landscapes() -> str:
    """A line for each landscape, for a help text."""
    width = max(map(len, LANDSCAPES))
    return "\n".join(f"  {one.name:<{width}}  {one.summary}" for one in LANDSCAPES.values())
