"""Every rule over gradients of every magnitude and the edges of its hyperparameters' ranges.

The native executor is compared with the torch executor, both with float64, and with torch's own
class where there is one. A part of it runs by default, all of it with `-m "slow or not slow"`.
"""

from __future__ import annotations

import math
from typing import Annotated, get_args, get_origin

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.hyperparameters import RANGE, accepts, hints_of
from lit_optim.kernels.arithmetic import average_squares, clip, dot, lerp, norm, rms
from lit_optim.optimizers.base import orthogonal
from tests.kernels import requirements
from tests.optimizers.cases import CASES
from tests.optimizers.running import WALKS, class_of, made_by

pytestmark = requirements.compiler

MAGNITUDES = [0.0, 1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e18, 1e19, 1e20, 1e30, math.inf, math.nan]
BY_DEFAULT = [1e-30, 1e20, 1e30, math.nan]
#: where the squares of float32 gradients and their averages are float32 numbers
REPRESENTABLE = [0.0, 1e-10, 1.0, 1e10, 1e18]
SHAPES = [(4, 3), (5,), (2, 2, 3, 3)]
SETTINGS = [(name, settings) for name in WALKS for settings in CASES[name].settings]
MATRIX = {name for name in WALKS if "roles" in class_of(name).requirements}
#: adafactor's default eps differs between float32 and float64
IN_COMMON = {"adafactor": {"eps": (1e-7, 1e-3)}}


@pytest.fixture(autouse=True)
def products_in_float32(monkeypatch):
    """Where products of bfloat16 are faster, matrices would be those of bfloat16."""
    monkeypatch.setattr(orthogonal, "prefers_bfloat16", lambda device: False)


def executors(name):
    return ("torch",) if name in MATRIX else ("native", "torch")


def gradients(kind, magnitude, dtype, steps=6):
    """Of each update: normal ones, but at updates 1 and 3.

    one: an element of a tensor has the magnitude; all: all have; mixed: each element another.
    """
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        drawn = [torch.randn(s, dtype=torch.float64, generator=generator) for s in SHAPES]
        if step in (1, 3):
            for g in drawn:
                flat = g.view(-1)
                if kind == "one":
                    flat[1] = magnitude
                elif kind == "all":
                    flat *= magnitude
                else:
                    sizes = torch.tensor(MAGNITUDES, dtype=torch.float64)
                    flat *= sizes[torch.arange(len(flat)) % len(sizes)]
        yield [g.to(dtype) for g in drawn]


def trained(make, updates, dtype=torch.float32, **settings):
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randn(s, dtype=torch.float64, generator=generator) for s in SHAPES]
    params = [torch.nn.Parameter(p.to(dtype)) for p in drawn]
    optimizer = make(params, **settings)
    for grads in updates:
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return torch.cat([p.detach().flatten().double() for p in params])


def compare(ours, theirs, close=1e-4):
    """The same elements are finite, and these are close."""
    assert torch.equal(ours.isfinite(), theirs.isfinite())
    there = theirs.isfinite()
    torch.testing.assert_close(ours[there], theirs[there], rtol=close, atol=close)


#: torch's, and transformers', overflow earlier than ours
EARLIER = {"adafactor", "adafactor_hf", "nadam"}


def check_magnitude(name, settings, kind, magnitude):
    updates = list(gradients(kind, magnitude, torch.float32))
    found = [trained(made_by(name), updates, executor=e, **settings) for e in executors(name)]
    compare(found[0], found[-1])
    finite = all(g.isfinite().all() for grads in updates for g in grads)
    if finite:
        assert found[0].isfinite().all()
    if CASES[name].counterpart is not None:
        torchs = trained(CASES[name].counterpart, updates, **settings)
        assert found[0].isfinite()[torchs.isfinite()].all()
        if name not in EARLIER:
            compare(found[0], torchs)
        elif kind != "mixed" and not finite:
            assert torch.equal(found[0].isfinite(), torchs.isfinite())


@pytest.mark.parametrize("magnitude", BY_DEFAULT)
@pytest.mark.parametrize("name", WALKS)
def test_one_gradient_of_a_magnitude(name, magnitude):
    check_magnitude(name, CASES[name].settings[0], "one", magnitude)


@pytest.mark.parametrize("name", WALKS)
def test_all_magnitudes_in_a_tensor(name):
    check_magnitude(name, CASES[name].settings[0], "mixed", None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one", "all"])
@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_gradients_of_every_magnitude(name, settings, magnitude, kind):
    check_magnitude(name, settings, kind, magnitude)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_all_magnitudes_in_a_tensor_in_every_setting(name, settings):
    check_magnitude(name, settings, "mixed", None)


@pytest.mark.parametrize("state_dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("magnitude", [1e-30, 1e20, 1e30])
@pytest.mark.parametrize("name", ["adamw", "lion", "adan", "rmsprop", "adadelta"])
def test_one_gradient_of_a_magnitude_with_small_states(name, magnitude, state_dtype):
    updates = list(gradients("one", magnitude, torch.float32))
    found = [
        trained(made_by(name), updates, executor=e, state_dtype=state_dtype)
        for e in ("native", "torch")
    ]
    compare(*found)
    assert found[0].isfinite().all()


# what the words of the arithmetic are at their ends


def numbers(*values):
    return torch.tensor(values, dtype=torch.float32)


def test_lerp_is_exact_at_its_ends_and_near_to_float64_between():
    x, y = numbers(1e-30, 1e30, -3.0, 0.1, 7.0), numbers(1e30, 1e-30, 5.0, 0.1, 1e10)
    assert torch.equal(lerp(x, y, 0.0), x)
    assert torch.equal(lerp(x, y, 1.0), y)
    for weight in (1e-7, 1e-4, 0.3, 0.5, 0.9, 1 - 1e-4, 1 - 1e-7):
        expected = (1 - weight) * x.double() + weight * y.double()
        for w in (weight, torch.tensor(weight, dtype=torch.float64)):
            torch.testing.assert_close(lerp(x, y, w).double(), expected, rtol=1e-6, atol=0)


def test_squares_overflow_only_where_their_average_does():
    g = numbers(1e-30, 1.0, 1e19, 1e20, 1e30)
    v = average_squares(torch.zeros(5), g, 0.999)
    torch.testing.assert_close(v[:4].double(), 0.001 * g[:4].double() ** 2, rtol=1e-4, atol=1e-45)
    assert v[4] == math.inf
    assert average_squares(v, torch.ones(5), 0.999)[4] == math.inf  # not NaN
    assert torch.equal(average_squares(numbers(1e30), numbers(3.0), 0.0), numbers(9.0))


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_sums_of_squares_are_doubles(size):
    x = size * numbers(3.0, -4.0)
    torch.testing.assert_close(norm(x).item(), 5 * size, rtol=1e-6, atol=0)
    torch.testing.assert_close(rms(x).item(), 5 * size / math.sqrt(2), rtol=1e-6, atol=0)
    torch.testing.assert_close(dot(x, x.flip(0)).item(), -24 * size**2, rtol=1e-6, atol=0)
    assert torch.equal(clip(x, -1e300, 1e300), x)


# the edges of ranges


def edges(annotation):
    """Values at the ends of a range, and next to them where they are not in it."""
    args = get_args(annotation)
    if get_origin(annotation) is not Annotated:
        for option in args:
            yield from edges(option)
        return
    found = RANGE.fullmatch(args[1])
    count = len(get_args(args[0])) if get_origin(args[0]) is tuple else None
    if found is None:
        return
    if found["op"]:
        bound, up = float(found["bound"]), 1 if found["op"][0] == ">" else -1
        values = [bound + up * step for step in (0.0, 1e-30, 1e-7, 1.0, 1e30, 1e300)]
    else:
        low, high = float(found["lo"]), float(found["hi"])
        values = [low + share * (high - low) for share in (0.0, 1e-4, 0.5, 1 - 1e-4, 1 - 1e-7, 1.0)]
    for value in values:
        whole = int(value) if abs(value) < 1e6 and value == int(value) else None
        for one in dict.fromkeys([value, whole]):
            given = one if count is None else (one,) * count
            if one is not None and accepts(given, annotation):
                yield given


EDGES = {
    name: [
        (argument, value)
        for argument, hint in hints_of(class_of(name).__init__).items()
        for value in dict.fromkeys(edges(hint))
    ]
    for name in WALKS
}


def settings_with(name, argument, value):
    """Settings in which an argument has a value, which may ask for others."""
    settings = IN_COMMON.get(name, {}) | {argument: value}
    if argument == "etas":
        settings = {"etas": (min(value[0], 0.9999), 1.2)}
    if name == "adafactor_hf" and argument == "lr":
        settings["relative_step"] = False
    return settings


@pytest.mark.parametrize("name", WALKS)
def test_executors_agree_at_the_edges_of_every_range(name):
    updates = list(gradients("one", 1.0, torch.float32, steps=4))
    for argument, value in EDGES[name]:
        settings, found = settings_with(name, argument, value), []
        try:
            made_by(name)([torch.nn.Parameter(torch.ones(2, 2))], **settings)
        except UsageError:  # an option that is not for it
            assert argument == "clip_update"
            continue
        for executor in executors(name):
            found.append(trained(made_by(name), updates, executor=executor, **settings))
        try:
            compare(found[0], found[-1])
        except AssertionError as error:
            raise AssertionError(f"{argument}={value}") from error


#: memories; where float32 itself is further off, by how much: decompositions, and an estimate of
#: the step size that multiplies
MEMORIES = {"betas", "alpha", "rho", "beta2", "beta3", "momentum", "adamw_betas", "betas_1d"}
OFF = {"soap": 0.1, "shampoo": 0.05, "prodigy": 2e-2}


def check_memory(name, argument, value, steps):
    def updates(dtype):
        generator = torch.Generator().manual_seed(3)
        for _ in range(steps):
            drawn = [torch.randn(s, dtype=torch.float32, generator=generator) for s in SHAPES]
            yield [g.to(dtype) for g in drawn]

    settings = settings_with(name, argument, value)
    exact = trained(
        made_by(name), updates(torch.float64), torch.float64, executor="torch", **settings
    )
    most = OFF.get(name, 1e-5) * (1 + exact.abs().max())
    for executor in executors(name):
        ours = trained(made_by(name), updates(torch.float32), executor=executor, **settings)
        assert (ours - exact).abs().max() <= most, executor


REMEMBERED = [
    (name, argument, value)
    for name in WALKS
    for argument, value in EDGES[name]
    if argument in MEMORIES and max(value if isinstance(value, tuple) else (value,)) <= 1
]
SHORT = [row for row in REMEMBERED if row[2] in (0.0, 1e-4, (0.0,) * 2, (0.0,) * 3, (1e-4,) * 2)]


@pytest.mark.parametrize(("name", "argument", "value"), SHORT, ids=str)
def test_next_to_no_memory_is_as_near_to_float64(name, argument, value):
    check_memory(name, argument, value, steps=50)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "argument", "value"), REMEMBERED, ids=str)
def test_every_memory_is_as_near_to_float64(name, argument, value):
    check_memory(name, argument, value, steps=200)


@pytest.mark.parametrize("magnitude", REPRESENTABLE)
@pytest.mark.parametrize("name", [name for name in WALKS if name not in MATRIX])
def test_float32_is_near_to_float64_where_it_has_the_squares(name, magnitude):
    settings = IN_COMMON.get(name, {})
    updates = {d: gradients("one", magnitude, d) for d in (torch.float32, torch.float64)}
    found = [trained(made_by(name), grads, d, **settings) for d, grads in updates.items()]
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)
