"""The landscapes: gradients against autograd, minima against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.race.landscapes import LANDSCAPES, find_landscapes

EACH = pytest.mark.parametrize("landscape", LANDSCAPES.values(), ids=LANDSCAPES)
#: Known values, from the literature or worked out by hand: landscape, point, value.
KNOWN = [
    ("rosenbrock", (1.0, 1.0), 0.0),
    ("rosenbrock", (-1.5, 2.0), 12.5),
    ("quadratic", (1.0, 0.5), 0.0),
    # a step of 1 along the flat axis, and of 1 along the steep one
    ("quadratic", (1.0 + 3**0.5 / 2, 1.0), 0.5),
    ("quadratic", (0.5, 0.5 + 3**0.5 / 2), 50.0),
    ("beale", (3.0, 0.5), 0.0),
    ("beale", (0.0, 0.0), 1.5**2 + 2.25**2 + 2.625**2),
    ("himmelblau", (3.0, 2.0), 0.0),
    ("himmelblau", (0.0, 0.0), 170.0),
    ("styblinski", (-2.903534, -2.903534), -78.33233),
    ("styblinski", (0.0, 0.0), 0.0),
    ("saddle", (0.0, 1.0), -0.25),
    ("saddle", (0.0, 0.0), 0.0),
]


def autograd(landscape, x, y):
    point = torch.tensor([x, y], dtype=torch.float64, requires_grad=True)
    landscape.value(*point).backward()
    return point.grad.tolist()


@EACH
def test_gradient_is_the_derivative(landscape):
    generator = torch.Generator().manual_seed(0)
    for x, y in (4 * torch.rand(20, 2, generator=generator, dtype=torch.float64) - 2).tolist():
        assert landscape.gradient(x, y) == pytest.approx(autograd(landscape, x, y), rel=1e-9)


@EACH
def test_minima_are_minima(landscape):
    for x, y in landscape.minima:
        assert landscape.gradient(x, y) == pytest.approx((0.0, 0.0), abs=1e-6)
        point = torch.tensor([x, y], dtype=torch.float64)
        hessian = torch.autograd.functional.hessian(lambda p: landscape.value(*p), point)
        assert torch.linalg.eigvalsh(hessian).min() > 0
    assert landscape.least == min(landscape.value(x, y) for x, y in landscape.minima)


@EACH
def test_no_lower_value_in_the_window(landscape):
    (left, right), (bottom, top) = landscape.window
    x, y = np.meshgrid(np.linspace(left, right, 301), np.linspace(bottom, top, 301))
    assert landscape.value(x, y).min() >= landscape.least - 1e-9


@EACH
def test_start_and_minima_lie_in_the_window(landscape):
    (left, right), (bottom, top) = landscape.window
    for x, y in (landscape.start, *landscape.minima):
        assert left < x < right
        assert bottom < y < top


@pytest.mark.parametrize(("name", "point", "value"), KNOWN)
def test_known_values(name, point, value):
    assert LANDSCAPES[name].value(*point) == pytest.approx(value, abs=1e-4)


def test_distance_is_to_the_nearest_minimum():
    assert LANDSCAPES["saddle"].distance((3.0, 5.0)) == 5.0
    assert LANDSCAPES["saddle"].distance((0.0, -0.75)) == 0.25


def test_unknown_landscape_is_an_error():
    with pytest.raises(UsageError, match=r"on must be one of rosenbrock, .*, got 'rosenbrok'"):
        find_landscapes("beale,rosenbrok")
