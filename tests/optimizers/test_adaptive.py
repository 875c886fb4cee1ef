"""What single optimizers that came after torch's promise beyond the contract of all."""

from __future__ import annotations

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.optimizers.base.elementwise import Elementwise
from tests.kernels.traces import traced
from tests.optimizers.running import NAMES, class_of, difference, parameters, run

WHOLE = ("lamb", "lars", "stable_adamw", "mars")
EXECUTORS = ("native", "torch")


def test_adopt_only_looks_at_first():
    params = parameters()
    optimizer = class_of("adopt")(params, lr=0.1, weight_decay=0.5)
    run(optimizer, params, 5, 6)
    assert difference(params, parameters()) == 0
    run(optimizer, params, 6, 7)
    for p, q in zip(params, parameters(), strict=True):
        # the next gradients are divided by what the first were, and bounded by 1
        assert ((p - q).abs() <= 0.1 * (0.1 + 0.5 * q.abs()) + 1e-12).all()
        assert not torch.equal(p, q)


def test_lamb_is_adamw_with_a_trust_ratio():
    ours, others = parameters(), parameters()
    hyper = {"lr": 0.1, "weight_decay": 0.3, "eps": 1e-6}
    run(class_of("lamb")(ours, **hyper), ours, 0, 30)
    run(class_of("adamw")(others, trust_ratio=True, **hyper), others, 0, 30)
    assert difference(ours, others) <= 1e-12


def test_lars_without_trust_is_momentum():
    """At a constant lr."""
    ours, others = parameters(), parameters()
    hyper = {"lr": 0.05, "weight_decay": 0.1}
    run(class_of("lars")(ours, trust_coefficient=None, **hyper), ours, 0, 30)
    run(class_of("momentum")(others, **hyper), others, 0, 30)
    assert difference(ours, others) <= 1e-12


def test_lars_trusts_by_group():
    params = parameters()
    groups = [
        {"params": params[2:]},
        {"params": params[:2], "trust_coefficient": None, "weight_decay": 0.0},
    ]
    optimizer = class_of("lars")(groups, lr=0.5, momentum=0.5)
    run(optimizer, params, 5, 6)
    expected = parameters()
    for p, q, moved in zip(params, expected, (False, False, True, True), strict=True):
        step, g = q.detach() - p.detach(), p.grad
        ratio = 1e-3 * q.norm() / (g.norm() + 5e-4 * q.norm()) if moved else 1.0
        decayed = g + 5e-4 * q.detach() if moved else g
        torch.testing.assert_close(step, 0.5 * ratio * decayed, rtol=1e-9, atol=1e-12)


def test_a_spike_is_met_by_stable_adamw():
    """A gradient 100 times the usual moves p about as much as any, not 10 times."""

    def way(name):
        p = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
        optimizer = class_of(name)([p], lr=1.0, weight_decay=0.0, betas=(0.0, 0.99))
        steps = []
        for t in range(200):
            before = p.detach().clone()
            p.grad = torch.full_like(p, 100.0 if t == 199 else 1.0)
            optimizer.step()
            steps.append((p.detach() - before).abs().max().item())
        return steps[-2:]

    assert way("adamw") == pytest.approx([1.0, 9.3], rel=0.1)
    assert way("stable_adamw") == pytest.approx([1.0, 1.0], rel=1e-3)


def test_mars_leaves_vectors_to_adamw():
    ours, others = parameters(), parameters()
    hyper = {"lr": 0.05, "eps": 1e-6}
    of_vectors = {"lr": 0.02, "betas": (0.5, 0.8), "weight_decay": 0.2}
    mars = class_of("mars")(ours, **hyper, **{f"{k}_1d": v for k, v in of_vectors.items()})
    adamw = class_of("adamw")(others[:2], eps=1e-6, **of_vectors)
    for optimizer in (mars, adamw):  # a schedule moves both
        optimizer.param_groups[0]["initial_lr"] = optimizer.param_groups[0]["lr"]
    for step in range(20):
        for optimizer, params in [(mars, ours), (adamw, others)]:
            optimizer.param_groups[0]["lr"] *= 0.9
            run(optimizer, params, step, step + 1)
    assert difference(ours[:2], others[:2]) <= 1e-12
    assert [("last_grad" in mars.state[p]) for p in ours] == [False, False, True, True]


def test_mars_without_correction_clips_by_tensor():
    ours, others = parameters()[2:], parameters()[2:]
    hyper = {"lr": 0.05, "betas": (0.9, 0.99), "weight_decay": 0.1}
    mars = class_of("mars")(ours, gamma=0.0, **hyper)
    adamw = class_of("adamw")(others, **hyper)
    for step in range(5, 15):
        run(mars, ours, step, step + 1)
        for p, q in zip(ours, others, strict=True):
            q.grad = p.grad / max(1.0, p.grad.norm())
        adamw.step()
    assert difference(ours, others) <= 1e-12


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", WHOLE)
def test_nothing_to_go_by(name, executor):
    """Parameters or gradients that are all 0, and none at all."""
    shapes = [(3, 2), (3, 2), (3, 2), (0, 2), ()]
    params = [torch.nn.Parameter(torch.full(s, float(k % 2))) for k, s in enumerate(shapes)]
    optimizer = class_of(name)(params, executor=executor)
    for step in range(3):
        for k, p in enumerate(params):
            p.grad = torch.full_like(p, float(k < 1 and step < 2))
        optimizer.step()
    assert all(torch.isfinite(p).all() for p in params)
    assert (params[0] != 0).all()
    assert (params[2] == 0).all()


@pytest.mark.parametrize("name", [n for n in NAMES if issubclass(class_of(n), Elementwise)])
def test_who_takes_a_sum_needs_the_whole(name):
    """And nobody else but prodigy, whose sums are of all tensors together, before the rule."""
    whole = "whole" in class_of(name).requirements and name != "prodigy"
    assert bool(traced(name)[0].sums_by_pass) == whole


def test_nesterov_wants_a_momentum():
    with pytest.raises(UsageError, match=r"^nesterov must go with momentum > 0$"):
        class_of("signum")(parameters(), momentum=0.0, nesterov=True)


@pytest.mark.parametrize("executor", ["auto", "torch"])
def test_prodigy_takes_a_group_without_elements(executor):
    params = [torch.nn.Parameter(torch.ones(4, 3)), torch.nn.Parameter(torch.ones(0, 3))]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = class_of("prodigy")([{"params": [p]} for p in params], executor=executor)
    optimizer.step()
    assert optimizer.param_groups[0]["k"] == 1
