"""Options that change a step, by hand around directions of torch's own classes, in float64."""

from __future__ import annotations

import math
from contextlib import suppress

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.optimizers.base.tensorwise import Tensorwise
from tests.optimizers.running import class_of

PEAK, WD = 0.1, 0.3
LRS = [PEAK * share for share in (0.25, 1.0, 0.8, 0.4)]
EXECUTORS = ("native", "torch")
#: single numbers, none, and matrices of several chunks whose last one is ragged
SHAPES = [(), (1,), (7,), (0,), (4, 5), (3, 2, 3, 3), (3, 3000)]
ONES = [
    {"cautious": True},
    {"clip_update": 0.5},
    {"trust_ratio": True},
    {"hyperball": True},
]
COMBINED = [
    {"cautious": True, "clip_update": 0.5, "trust_ratio": True},
    {"cautious": True, "clip_update": 0.9, "hyperball": True},
]
WITH_DECAY = [
    {"trust_ratio": True, "decay": "independent"},
    {"trust_ratio": True, "cautious_weight_decay": True},
    {"clip_update": 0.5, "decay": "corrected", "cautious_weight_decay": True},
    {"cautious": True, "clip_update": 0.5, "trust_ratio": True, "decay": "corrected"}
    | {"cautious_weight_decay": True},
]


class LionsDirection:
    """Of Chen et al. 2023, Alg. 2, as torch's classes step: p = p - u."""

    def __init__(self, params):
        [self.p] = params
        self.m = torch.zeros_like(self.p)

    @torch.no_grad()
    def step(self):
        g = self.p.grad
        self.p -= torch.sign(0.9 * self.m + 0.1 * g)
        self.m = 0.99 * self.m + 0.01 * g


#: name: what is ours called with, whose steps of lr 1 are the direction, its coupled decay
BASES = {
    "adamw": ({"weight_decay": WD}, lambda p: torch.optim.Adam(p, lr=1, foreach=False), 0.0),
    "lion": ({"weight_decay": WD, "betas": (0.9, 0.99)}, LionsDirection, 0.0),
    "sgd": (
        {"weight_decay": WD, "momentum": 0.9},
        lambda p: torch.optim.SGD(p, lr=1, momentum=0.9, weight_decay=WD, foreach=False),
        WD,
    ),
}


def values(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in SHAPES]
    return [value.to(dtype) for value in drawn]


def gradients(step, dtype=torch.float64):
    """A tenth of them is 0."""
    generator = torch.Generator().manual_seed(100 + step)
    drawn = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in SHAPES]
    return [torch.where(g.abs() < 0.12, 0.0, g).to(dtype) for g in drawn]


def steps_of(optimizer, params, maximize=False):
    """Train under a schedule; yields after each step."""
    for group in optimizer.param_groups:
        group["initial_lr"] = PEAK  # as a schedule leaves it
    for step, lr in enumerate(LRS):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for p, g in zip(params, gradients(step, params[0].dtype), strict=True):
            p.grad = -g if maximize else g
        optimizer.step()
        yield


def trained(make, hyper, maximize=False, dtype=torch.float64):
    params = [torch.nn.Parameter(value) for value in values(dtype)]
    optimizer = make(params, lr=PEAK, maximize=maximize, **hyper)
    list(steps_of(optimizer, params, maximize))
    return params


def moved(
    p,
    g,
    u,
    lr,
    wd,
    decay="decoupled",
    cautious_weight_decay=False,
    cautious=False,
    clip_update=None,
    trust_ratio=False,
    hyperball=False,
):
    """Where p goes from here, as the papers have it; g is what u was made from."""
    if not p.numel():
        return p
    if cautious:  # arXiv:2411.16085
        mask = (u * g > 0).to(p.dtype)
        u = u * mask / mask.mean().clamp(min=1e-3)
    if clip_update is not None:
        u = u / max(1.0, math.sqrt(u.square().mean()) / clip_update)
    if hyperball and p.ndim > 1:  # arXiv:2606.16899
        radius = p.norm()
        q = p - lr * radius * u / u.norm().clamp(min=1e-10)
        return q * radius / q.norm()
    strength = {"decoupled": wd, "independent": wd / PEAK, "corrected": wd * lr / PEAK}[decay]
    decayed = p
    if cautious_weight_decay:  # arXiv:2510.12402
        decayed = torch.where(u * p >= 0, p, 0.0)
    u = u + strength * decayed
    ratio = 1.0
    if trust_ratio and p.norm() > 0 and u.norm() > 0:  # arXiv:1904.00962
        ratio = p.norm() / u.norm()
    return p - lr * ratio * u


def by_hand(base, options):
    hyper, make, coupled = base
    wd = 0.0 if coupled or "hyperball" in options else hyper["weight_decay"]
    ends = []
    for k, value in enumerate(values()):
        shadow = torch.nn.Parameter(value.clone())
        direction = make([shadow])
        p = value
        for step, lr in enumerate(LRS):
            g = gradients(step)[k]
            shadow.data.copy_(p)
            shadow.grad = g
            direction.step()
            p = moved(p, g + coupled * p, p - shadow.detach(), lr, wd, **options)
        ends.append(p)
    return ends


def without_decay(base, options):
    """The hyperball wants none."""
    hyper, make, _ = base
    if "hyperball" not in options:
        return base
    if "momentum" in hyper:
        make = lambda p: torch.optim.SGD(p, lr=1, momentum=0.9, foreach=False)  # noqa: E731
    return hyper | {"weight_decay": 0.0}, make, 0.0


def assert_near(found, expected, most=1e-12):
    for p, q in zip(found, expected, strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=most, atol=most)


CASES = [
    (name, options)
    for name in BASES
    for options in ONES + COMBINED + (WITH_DECAY if name == "adamw" else [])
]


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_equals_the_papers(name, options, executor):
    base = without_decay(BASES[name], options)
    found = trained(class_of(name), base[0] | options | {"executor": executor})
    assert_near(found, by_hand(base, options))


def test_the_oracle_without_options_is_torchs_adamw():
    torchs = [torch.nn.Parameter(value) for value in values()]
    optimizer = torch.optim.AdamW(torchs, lr=PEAK, weight_decay=WD, foreach=False)
    list(steps_of(optimizer, torchs))
    assert_near(torchs, by_hand(BASES["adamw"], {}))


class Momentum(Tensorwise):
    """A direction of one size for each tensor."""

    lr: float = 0.1
    weight_decay: float = 0.0

    def new_state(self, p, group):
        return {"m": torch.zeros_like(p)}

    def direction(self, g, p, s, h):
        m = 0.5 * s.m + g
        return m / m.square().mean().sqrt(), {"m": m}


class MomentumsDirection(LionsDirection):
    @torch.no_grad()
    def step(self):
        self.m = 0.5 * self.m + self.p.grad
        self.p -= self.m * math.sqrt(max(self.m.numel(), 1)) / self.m.norm()


@pytest.mark.parametrize("options", ONES + COMBINED + WITH_DECAY, ids=str)
def test_who_looks_at_whole_tensors_has_them_too(options):
    base = without_decay(({"weight_decay": WD}, MomentumsDirection, 0.0), options)
    assert_near(trained(Momentum, base[0] | options), by_hand(base, options))


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("shape", [(7,), (4, 5)])
def test_lamb_is_adamw_with_a_trust_ratio(shape, executor):
    """Alg. 2 of arXiv:1904.00962 with φ(z) = z, as its text has the bias correction."""
    generator = torch.Generator().manual_seed(3)
    start, *steps = torch.randn(9, *shape, dtype=torch.float64, generator=generator)
    p = torch.nn.Parameter(start.clone())
    hyper = {"betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": WD}
    ours = class_of("adamw")([p], lr=PEAK, trust_ratio=True, executor=executor, **hyper)
    x, m, v = start.numpy().copy(), 0.0, 0.0
    for t, g in enumerate(steps, 1):
        p.grad = g
        ours.step()
        g = g.numpy()
        m = 0.9 * m + (1 - 0.9) * g
        v = 0.95 * v + (1 - 0.95) * g**2
        r = m / (1 - 0.9**t) / ((v / (1 - 0.95**t)) ** 0.5 + 1e-6)
        update = r + WD * x
        x = x - PEAK * (x**2).sum() ** 0.5 / (update**2).sum() ** 0.5 * update
        assert abs(p.detach().numpy() - x).max() <= 1e-12


@pytest.mark.parametrize("options", ONES[:3] + COMBINED[:1], ids=str)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_nothing_to_go_by(executor, options):
    """Parameters or directions that are all 0."""
    make, hyper = class_of("adamw"), {"lr": PEAK, "weight_decay": WD, "eps": 1e-8}
    p, q = (torch.nn.Parameter(torch.full((3, 2), x, dtype=torch.float64)) for x in (0.0, 2.0))
    optimizer = make([p, q], executor=executor, **hyper, **options)
    p.grad, q.grad = torch.ones_like(p), torch.zeros_like(q)
    optimizer.step()
    most = options.get("clip_update", 1.0)
    assert torch.allclose(p, torch.tensor(-PEAK * most, dtype=torch.float64), rtol=1e-7)
    # of q there is the decay alone, and a trust ratio makes of it lr |q| in all
    left = 2.0 * (1 - (PEAK if options.get("trust_ratio") else PEAK * WD))
    assert torch.allclose(q, torch.tensor(left, dtype=torch.float64), rtol=1e-12)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_cautious_step_grows_a_thousandfold_at_most(executor):
    """Where fewer than one in a thousand coordinates are left."""
    p = torch.nn.Parameter(torch.zeros(5000, dtype=torch.float64))
    optimizer = class_of("sgd")([p], lr=0.5, momentum=0.9, cautious=True, executor=executor)
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(p.detach(), torch.full_like(p, -0.5))
    p.grad.fill_(-0.1)[4321] = 0.1
    optimizer.step()
    expected = torch.full_like(p, -0.5).detach()
    expected[4321] -= 0.5 * (0.9 + 0.1) / 1e-3
    torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_hyperball_keeps_norms(executor):
    start = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    moving, resting = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    optimizer = class_of("adamw")(
        [moving, resting], lr=0.02, weight_decay=0.0, hyperball=True, executor=executor
    )
    for step in range(60):
        moving.grad = torch.sin(start * (step + 1))
        resting.grad = torch.zeros_like(resting)
        optimizer.step()
    assert abs(moving.norm() / start.norm() - 1) < 1e-5
    assert (moving - start).norm() > 0.1 * start.norm()
    assert torch.allclose(resting, start, rtol=1e-6)


def on_the_ball(p, executor):
    return class_of("adamw")([p], weight_decay=0.0, hyperball=True, executor=executor)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_hyperball_wants_a_radius(executor):
    p = torch.nn.Parameter(torch.zeros(2, 3))
    p.grad = torch.ones_like(p)
    with pytest.raises(UsageError, match=r"one of shape \[2, 3\] that is all 0") as error:
        on_the_ball(p, executor).step()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_hyperball_takes_empty_matrices(executor):
    p = torch.nn.Parameter(torch.zeros(0, 3))
    p.grad = torch.ones_like(p)
    optimizer = on_the_ball(p, executor)
    optimizer.step()
    assert optimizer.state[p]["step"] == 1


@pytest.mark.parametrize("now", [0.0, 1e-30])  # whose square is no float32
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_radius_that_is_lost_is_refused_or_makes_no_nan(now, executor):
    p = torch.nn.Parameter(torch.ones(2, 3))
    p.grad = torch.ones_like(p)
    optimizer = on_the_ball(p, executor)
    optimizer.step()
    p.data.fill_(now)
    with suppress(UsageError):
        optimizer.step()
    assert torch.isfinite(p).all()


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("options", ONES + COMBINED, ids=str)
def test_bfloat16_parameters_are_rounded_once(options, executor):
    base = without_decay(BASES["adamw"], options)
    params = [torch.nn.Parameter(value) for value in values(torch.bfloat16)]
    starts = [p.detach().double() for p in params]
    optimizer = class_of("adamw")(params, lr=PEAK, executor=executor, **base[0], **options)
    next(steps_of(optimizer, params))
    for p, start, g in zip(params, starts, gradients(0, torch.bfloat16), strict=True):
        g = g.double()
        u = g / (g.abs() + 1e-8)  # of the first step
        expected = moved(start, g, u, LRS[0], base[0]["weight_decay"], **options)
        most = 2**-8 + 1e-5  # half of the last of 8 bits, and what float32 adds
        torch.testing.assert_close(p.detach().double(), expected, rtol=most, atol=1e-6)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", BASES)
def test_maximize_is_the_other_sign(name, executor):
    hyper = BASES[name][0] | COMBINED[0] | {"executor": executor}
    assert_near(trained(class_of(name), hyper, True), trained(class_of(name), hyper), 0)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_each_group_has_its_own(executor):
    params = [torch.nn.Parameter(value) for value in values()]
    options = [ONES[0], ONES[1], {}, ONES[2], {}, ONES[3] | {"weight_decay": 0.0}, COMBINED[0]]
    groups = [{"params": [p], **own} for p, own in zip(params, options, strict=True)]
    optimizer = class_of("adamw")(groups, lr=PEAK, weight_decay=WD, executor=executor)
    list(steps_of(optimizer, params))
    for k, own in enumerate(options):
        own = {key: value for key, value in own.items() if key != "weight_decay"}
        assert_near([params[k]], [by_hand(BASES["adamw"], own)[k]])


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_step_of_size_0_moves_nothing(executor):
    options = COMBINED[0] | {"cautious_weight_decay": True}
    params = [torch.nn.Parameter(value) for value in values()]
    optimizer = class_of("adamw")(params, weight_decay=WD, executor=executor, **options)
    optimizer.param_groups[0]["lr"] = 0.0
    for p, g in zip(params, gradients(0), strict=True):
        p.grad = g
    optimizer.step()
    assert all(torch.equal(p, value) for p, value in zip(params, values(), strict=True))
