"""Every optimizer finds minima that are known, and whose rate is proven is as fast as that."""

from __future__ import annotations

import math

import pytest
import torch

from tests.optimizers.running import NAMES, class_of

N, L, MU = 20, 1.0, 0.01
KAPPA = L / MU


def drawn(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


#: directions that are no coordinates, and curvatures along them
DIRECTIONS, _ = torch.linalg.qr(drawn(N, N, seed=0))
CURVATURES = torch.logspace(math.log10(MU), math.log10(L), N, dtype=torch.float64)


class Quadratic:
    """d A d / 2 with d = x - 1, and A ill-conditioned and rotated.

    x is a matrix, for those who take nothing else.
    """

    steps = 200

    def __init__(self):
        self.params = [torch.nn.Parameter(drawn(4, 5))]

    def errors(self):
        """How far x is from the minimum, along each direction."""
        return DIRECTIONS.T @ (self.params[0].flatten() - 1)

    def loss(self):
        return (CURVATURES * self.errors() ** 2).sum() / 2


class DeepLinear:
    """Three matrices whose product is to be a fourth: not convex, with a saddle at 0."""

    steps = 200

    def __init__(self):
        self.params = [torch.nn.Parameter(drawn(6, 6, seed=k) / 6**0.5) for k in range(3)]
        self.target = drawn(6, 6, seed=3) / 6**0.5

    def loss(self):
        a, b, c = self.params
        return (a @ b @ c - self.target).square().sum() / 2


class Rosenbrock:
    """(1 - x)² / 100 + (y - x²)² from (-1.2, 1): along a curved valley to (1, 1)."""

    steps = 500

    def __init__(self):
        start = torch.tensor([[-1.2, 1.0]], dtype=torch.float64)
        self.params = [torch.nn.Parameter(start)]

    def loss(self):
        x, y = self.params[0].flatten()
        return (1 - x) ** 2 / 100 + (y - x**2) ** 2


#: lr on each of the problems, the first of a fall to 0 unless the optimizer wants none
USUAL = {Quadratic: 0.3, DeepLinear: 0.1, Rosenbrock: 0.3}
OWN = {
    "adadelta": {Quadratic: 30.0, DeepLinear: 3.0, Rosenbrock: 10.0},
    "adagrad": {Quadratic: 1.0, Rosenbrock: 1.0},
    "adamax": {Rosenbrock: 1.0},
    "adopt": {Rosenbrock: 1.0},
    "lars": {Quadratic: 10.0, DeepLinear: 10.0, Rosenbrock: 10.0},
    "nag": {DeepLinear: 0.03},
    "prodigy": {Quadratic: 1.0, DeepLinear: 1.0, Rosenbrock: 1.0},
    "rmsprop": {DeepLinear: 0.03, Rosenbrock: 0.1},
    "schedule_free_sgd": {DeepLinear: 0.3},
    "scion": {Quadratic: 0.006, DeepLinear: 0.002, Rosenbrock: 0.006},
}
#: what else is not as it is by default
SETTINGS = {"adafactor_hf": {"relative_step": False, "scale_parameter": False}}
#: what is to be left of the loss
LEFT = 1e-2
#: who is only on the way through the valley by then: their steps are in proportion to the slope
#: there, or fall by themselves
IN_THE_VALLEY = {"adafactor", "adagrad", "asgd", "prodigy", "radam", "schedule_free_sgd", "sgd"}


@pytest.mark.parametrize("problem", USUAL, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_finds_the_minimum(name, problem):
    it, make = problem(), class_of(name)
    lr = OWN.get(name, {}).get(problem, USUAL[problem])
    steps, falls = it.steps, "steady_lr" not in getattr(make, "requirements", ())
    if issubclass(make, torch.optim.LBFGS):
        lr, steps, falls = 1.0, 10, False  # each of them is of up to 20
    optimizer = make(it.params, lr=lr, **SETTINGS.get(name, {}))

    def closure():
        optimizer.zero_grad()
        loss = it.loss()
        loss.backward()
        if name == "sparse_adam":
            for p in it.params:
                p.grad = p.grad.to_sparse()
        return loss

    first = it.loss().item()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps) if falls else lr
        optimizer.step(closure)
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    slow = problem is Rosenbrock and name in IN_THE_VALLEY
    assert it.loss().item() < (6e-2 if slow else LEFT) * first


# Rates that are proven.


def errors_of(name, steps, **settings):
    """How far from the minimum of the quadratic it is along each direction, from the start on."""
    it = Quadratic()
    optimizer = class_of(name)(it.params, **settings)
    errors = [it.errors().detach()]
    for _ in range(steps):
        optimizer.zero_grad()
        it.loss().backward()
        optimizer.step()
        errors.append(it.errors().detach())
    return errors


def test_gradient_descent_takes_as_long_as_the_condition_says():
    """At its best lr each error shrinks by (κ - 1) / (κ + 1) or more, and two by just that.

    Nesterov 2004, Introductory Lectures on Convex Optimization, Th. 2.1.15.
    """
    lr, rate = 2 / (L + MU), (KAPPA - 1) / (KAPPA + 1)
    start, *errors = errors_of("sgd", 100, lr=lr)
    for t, found in enumerate(errors, 1):
        torch.testing.assert_close(found, (1 - lr * CURVATURES) ** t * start, rtol=0, atol=1e-12)
    shares = (errors[-1] / start).abs()
    assert shares.max().item() == pytest.approx(rate**100)
    assert shares[[0, -1]].tolist() == pytest.approx([rate**100] * 2)


def test_momentum_takes_as_long_as_the_root_of_the_condition_says():
    """(√κ - 1) / (√κ + 1) an update, times what grows with their number.

    Polyak 1964, Some methods of speeding up the convergence of iteration methods.
    """
    rate = (math.sqrt(KAPPA) - 1) / (math.sqrt(KAPPA) + 1)
    lr = 4 / (math.sqrt(L) + math.sqrt(MU)) ** 2
    start, first, *errors = errors_of("momentum", 100, lr=lr, momentum=rate**2)
    for t, found in enumerate(errors, 2):
        # from sin(t a) <= t sin(a), a being the angle of the eigenvalues, all of size `rate`
        most = t * rate**t * (first.abs() / rate + start.abs())
        assert (found.abs() <= most + 1e-14).all()


def test_nesterovs_momentum_is_as_fast_as_proven():
    """loss <= (1 - 1 / √κ)^t (loss + μ |x - x*|² / 2, both at the start), at lr 1 / L.

    Nesterov 2004, Introductory Lectures on Convex Optimization, Th. 2.2.3. That is about x, which
    plain descent makes of what the parameters are.
    """
    momentum = (math.sqrt(KAPPA) - 1) / (math.sqrt(KAPPA) + 1)
    errors = errors_of("nag", 100, lr=1 / L, momentum=momentum)
    of_start = (CURVATURES * errors[0] ** 2).sum() / 2 + MU * errors[0].square().sum() / 2
    for t, found in enumerate(errors, 1):
        x = (1 - CURVATURES / L) * found
        assert (CURVATURES * x**2).sum() / 2 <= (1 - 1 / math.sqrt(KAPPA)) ** t * of_start


@pytest.mark.parametrize(
    ("name", "settings", "share"),
    [
        ("lars", {"lr": 20.0, "trust_coefficient": 5e-3, "momentum": 0.0}, 0.1),
        # of equal coordinates; Adam's direction is then the sign of each
        ("lamb", {"lr": 0.1, "betas": (0.0, 0.0), "eps": 1e-15}, 0.1),
    ],
)
def test_what_is_scaled_to_the_tensor_shrinks_by_a_share_of_it(name, settings, share):
    start = 1.5 * drawn(3, 4).sign()
    p = torch.nn.Parameter(start.clone())
    optimizer = class_of(name)([p], weight_decay=0.0, **settings)
    for t in range(1, 51):
        p.grad = p.detach().clone()  # of |p|² / 2
        optimizer.step()
        torch.testing.assert_close(p.detach(), (1 - share) ** t * start, rtol=1e-10, atol=0)
