"""What single optimizers promise beyond the contract of all."""

from __future__ import annotations

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.optimizers.base.options import OPTIONS
from tests.optimizers.cases import CASES
from tests.optimizers.running import class_of, defaults_of, parameters, run

#: of torch's classes, what says how they compute; an option of all
NOT_OURS = {"foreach", "fused", "capturable", "differentiable"}
OF_ALL = {"maximize"}
TORCHS = [
    "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "asgd", "lbfgs", "muon_torch",
    "nadam", "radam", "rmsprop", "rprop", "sgd", "sparse_adam",
]  # fmt: skip


def refused(name, message, params=None, **settings):
    with pytest.raises(UsageError, match=message) as error:
        class_of(name)(params or parameters(), **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", TORCHS)
def test_defaults_are_torchs(name):
    reference = CASES[name].counterpart
    theirs = defaults_of(getattr(reference, "func", reference))
    left_out = NOT_OURS | (OF_ALL if issubclass(class_of(name), OptimizerBase) else set())
    assert defaults_of(class_of(name)) == {
        key: value for key, value in theirs.items() if key not in left_out
    }


def test_what_a_class_has_fixed():
    refused("sgd", "nesterov must go with momentum", nesterov=True)
    refused("nag", "momentum must be a number > 0, got 0", momentum=0)
    for name, key, value in [("momentum", "nesterov", True), ("nag", "dampening", 0.1)]:
        refused(name, f"has no '{key}'; ", [{"params": parameters(), key: value}])
    keys = torch.optim.SGD(parameters()).param_groups[0].keys() - NOT_OURS - OPTIONS.keys()
    for name in ("momentum", "nag"):
        assert class_of(name)(parameters()).param_groups[0].keys() - OPTIONS.keys() == keys


def test_rprop_ranges():
    refused("rprop", "etas must be one below 1 and one above it", etas=(1.2, 0.5))
    refused("rprop", "step_sizes must be the smallest and the largest", step_sizes=(1.0, 0.1))
    refused("rprop", "etas must be", [{"params": parameters(), "etas": (0.5, 0.9)}])


def test_rmsprop_centered_survives_a_steady_gradient():
    """A variance that is 0 but for rounding."""
    p = torch.nn.Parameter(torch.ones(1000))
    optimizer = class_of("rmsprop")([p], centered=True, alpha=0.5)
    for _ in range(100):
        p.grad = torch.linspace(0.1, 1.0, 1000)
        optimizer.step()
    assert torch.isfinite(p).all()


def test_asgd_keeps_the_average():
    """Of the parameters after the updates t0 + 2, t0 + 3, ...; before them, the parameter."""
    params = parameters()
    optimizer = class_of("asgd")(params, lr=0.1, lambd=0.05, t0=10)
    seen = []
    for t in range(1, 31):
        run(optimizer, params, 100 + t, 101 + t)
        seen.append(params[2].detach().clone())
        expected = torch.stack(seen[11:]).mean(0) if t > 12 else seen[-1]
        assert torch.allclose(optimizer.state[params[2]]["ax"], expected, rtol=0, atol=1e-12)


def test_asgd_uses_the_lr_of_the_update_before():
    def moved(make, **settings):
        p = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
        optimizer = make([p], lr=0.1, **settings)
        way = []
        for lr in (0.1, 0.5, 0.5, 0.2):
            optimizer.param_groups[0]["lr"] = lr
            p.grad = torch.ones_like(p)
            optimizer.step()
            way.append(p.item())
        return way

    torchs = moved(torch.optim.ASGD, foreach=False)
    assert moved(class_of("asgd")) == pytest.approx(torchs, abs=1e-6)


def test_radam_starts_as_momentum():
    """Its denominator counts from the sixth update on, so the size of gradients does not."""
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = class_of("radam")([p])
    for t in range(1, 8):
        before = p.detach().clone()
        p.grad = torch.tensor([1.0, 100.0], dtype=torch.float64)
        optimizer.step()
        small, large = (p.detach() - before).tolist()
        assert large / small == pytest.approx(100 if t <= 5 else 1, rel=1e-6)


def effective(name, t, **settings):
    optimizer = class_of(name)(parameters(), **settings)
    group = optimizer.param_groups[0]
    return optimizer.effective_lr(group | optimizer.initial_scalars(group), t)


def test_effective_lrs():
    assert effective("adafactor", 4) == 1e-2
    assert effective("adafactor", 40_000) == 1 / 200
    assert effective("adafactor_hf", 4) == 1e-2
    assert effective("adafactor_hf", 40_000) == 1 / 200
    assert effective("adafactor_hf", 40, warmup_init=True) == pytest.approx(4e-5)
    assert effective("adafactor_hf", 40, relative_step=False, lr=0.3) == 0.3
    assert effective("asgd", 1, lr=0.3) == 0.3

    params = parameters()
    optimizer = class_of("asgd")(params, lr=0.1, lambd=0.5)
    run(optimizer, params, 5, 8)
    state, group = optimizer.state[params[0]], optimizer.param_groups[0]
    assert optimizer.effective_lr(group | state, 4) == pytest.approx(0.1 / 1.15**0.75)


# transformers' Adafactor


def test_adafactor_hf_has_one_source_of_steps():
    refused("adafactor_hf", "lr=0.001 must go with relative_step=false", lr=1e-3)
    refused("adafactor_hf", "lr must be given with relative_step=false", relative_step=False)
    refused(
        "adafactor_hf",
        "warmup_init=true must go with relative_step=true",
        lr=0.1,
        relative_step=False,
        warmup_init=True,
    )
    refused("adafactor_hf", "lr must be given", [{"params": parameters(), "relative_step": False}])


def test_a_schedule_reaches_the_relative_step():
    def step(lr, beta1=None):
        params = parameters()
        before = [p.detach().clone() for p in params]
        optimizer = class_of("adafactor_hf")(params, beta1=beta1)
        assert optimizer.param_groups[0]["lr"] == 1
        optimizer.param_groups[0]["lr"] = lr
        run(optimizer, params, 5, 6)
        return [p.detach() - b for p, b in zip(params, before, strict=True)]

    for beta1 in (None, 0.9):
        for whole, half in zip(step(1.0, beta1), step(0.5, beta1), strict=True):
            assert torch.allclose(half, whole / 2, rtol=1e-9, atol=0)


def test_adafactor_hf_loads_a_state_without_an_lr():
    from transformers.optimization import Adafactor

    params = parameters()
    theirs = Adafactor(params)
    run(theirs, params, 5, 6)
    state = theirs.state_dict()
    assert state["param_groups"][0]["lr"] is None
    optimizer = class_of("adafactor_hf")(params)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 1
    assert optimizer.state[params[2]]["RMS"] == theirs.state[params[2]]["RMS"]


@pytest.mark.parametrize("name", ["adafactor", "adafactor_hf"])
def test_adafactor_keeps_rows_and_columns_only(name):
    p = torch.nn.Parameter(torch.ones(300, 200))
    optimizer = class_of(name)([p])
    p.grad = torch.ones_like(p)
    optimizer.step()
    kept = sum(v.numel() for v in optimizer.state[p].values() if torch.is_tensor(v))
    assert kept <= 300 + 200 + 1


@pytest.mark.parametrize("name", ["adafactor", "adafactor_hf"])
def test_adafactor_takes_empty_parameters(name):
    p, q = torch.nn.Parameter(torch.ones(0, 3)), torch.nn.Parameter(torch.ones(2, 3))
    optimizer = class_of(name)([p, q])
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    optimizer.step()
    assert torch.isfinite(q).all()


@pytest.mark.parametrize(
    ("dtype", "settings", "warns"),
    [
        (torch.float32, {}, False),
        (torch.bfloat16, {}, True),
        (torch.float16, {}, True),
        (torch.bfloat16, {"master": "split"}, False),
    ],
)
def test_prodigy_says_where_its_d_cannot_grow(dtype, settings, warns, caplog):
    target = torch.linspace(-1, 1, 50)
    p = torch.nn.Parameter((target + 5).to(dtype))
    with caplog.at_level("WARNING", "lit_optim"):
        optimizer = class_of("prodigy")([p], **settings)
    lines = [r.message for r in caplog.records]
    assert len(lines) == warns
    assert all("d0=1e-06" in line and "\n" not in line for line in lines)
    for _ in range(100):
        p.grad = (p.detach().float() - target).to(dtype)
        optimizer.step()
    assert (optimizer.param_groups[0]["d"] == 1e-6) == warns
