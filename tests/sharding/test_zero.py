"""torch's ZeroRedundancyOptimizer around each optimizer trains what one process trains."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import lit_optim
from lit_optim.errors import UsageError
from lit_optim.param_groups import by_role, no_decay
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.hyperparameter_schedules import parse_hyperparameter_schedules
from lit_optim.schedules.library import cosine
from tests.optimizers.running import NAMES, class_of
from tests.sharding.processes import processes

#: What cannot be made of the parameters of one process, and what is said about it.
REFUSED = {
    "lbfgs": "evaluates the loss of all parameters",
    "prodigy": "looks at all parameters at once",
    "schedule_free_adamw": "train() and eval()",
    "schedule_free_sgd": "train() and eval()",
}
TAKEN = sorted({*NAMES} - {*REFUSED, "custom"})


def build(seed: int, matrices_only: bool) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Embedding(6, 4), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4), nn.LayerNorm(4)]
    if matrices_only:
        layers = [nn.Linear(4, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False)]
    return nn.Sequential(*layers).double()


def groups_of(name: str, model: nn.Module) -> list[dict[str, Any]]:
    make = class_of(name)
    groups = no_decay(model) if "weight_decay" in make.fields else lit_optim.param_groups(model)
    if "roles" in make.requirements:
        groups = by_role(groups, model)
    return [dict(group) for group in groups]


def train(
    name: str,
    arguments: dict[str, Any],
    with_zero: bool,
    updates: int = 4,
    saved: dict[str, Any] | None = None,
) -> Any:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    make = class_of(name)
    model = build(0, getattr(make, "takes_matrices_only", False))
    groups = groups_of(name, model)
    values = {"lr": make.fields["lr"].default or 0.01, **arguments}
    if name == "adafactor_hf":
        values["relative_step"] = False
    if "ns_dtype" in make.fields:
        values["ns_dtype"] = "float32"  # a busy machine measures another one in each process
    if with_zero:
        optimizer = ZeroRedundancyOptimizer(groups, optimizer_class=make, **values)
    else:
        optimizer = make(groups, **values)
    schedule = LambdaLR(optimizer, lambda k: 1 / (1 + k))
    params = list(model.parameters())
    first = 0
    if saved is not None:
        first = 2
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        model.load_state_dict(saved["model"])
    for k in range(first, updates):
        torch.manual_seed(k + 1)
        for p in params:
            p.grad = torch.randn(p.shape, dtype=p.dtype)
        if k == 0:
            params[1].grad = None
        optimizer.step()
        schedule.step()
    if with_zero:
        optimizer.consolidate_state_dict(0)
    is_first = not with_zero or torch.distributed.get_rank() == 0
    now = {"schedule": schedule.state_dict(), "model": model.state_dict()}
    return [p.detach() for p in params], optimizer.state_dict() if is_first else None, now


def same(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(a, Tensor):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    else:
        assert a == pytest.approx(b)


@pytest.mark.parametrize("name", TAKEN)
def test_zero_trains_what_one_process_trains(name):
    expected, saved, _ = train(name, {}, False)
    results = processes(2).run(train, name, {}, True)
    for params, *_ in results:
        same(params, expected)
    same(results[0][1]["state"], saved["state"])
    same(results[0][1]["param_groups"], saved["param_groups"])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("muon", {}), ("soap", {}), ("adamw", {"state_dtype": "int8"}), ("adafactor", {})],
)
def test_zero_goes_on_from_the_state_of_one_process(name, arguments):
    expected, *_ = train(name, arguments, False)
    _, state, rest = train(name, arguments, False, updates=2)
    saved = {"optimizer": state, **rest}
    for params, *_ in processes(2).run(train, name, arguments, True, 4, saved):
        same(params, expected)


def lrs_of_muon() -> list[float]:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    groups = groups_of("muon", build(0, False))
    groups[0]["lr"] = 0.5
    make = lit_optim.Muon
    optimizer = ZeroRedundancyOptimizer(groups, optimizer_class=make, lr=0.02, adamw_eps=1e-5)
    assert [group["lr"] for group in optimizer.optim.param_groups] == [
        group["lr"] for group in optimizer.param_groups
    ]
    assert all("momentum" not in g or g["role"] == "hidden" for g in optimizer.param_groups)
    return [group["lr"] for group in optimizer.param_groups]


def test_groups_of_adamw_within_muon_keep_their_lr():
    own = [group["lr"] for group in lit_optim.Muon(groups_of("muon", build(0, False))).param_groups]
    own[0] = 0.5
    for lrs in processes(2).run(lrs_of_muon):
        assert lrs == pytest.approx(own)
    assert len(set(own)) == 3  # the group that sets its own, matrices, and AdamW's


def resume_within_zero(width: int, precision: str) -> tuple[list[Tensor], list[Tensor], list[Any]]:
    """The weights after four updates, and after two, a state dict and two more."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def start() -> tuple[list[Tensor], Any]:
        torch.manual_seed(3)
        params = [nn.Parameter(torch.randn(4, width).double()) for _ in range(4)]
        make = lit_optim.AdamW
        return params, ZeroRedundancyOptimizer(
            params, optimizer_class=make, lr=0.1, state_dtype=precision
        )

    def update(params: list[Tensor], optimizer: Any, first: int, last: int) -> None:
        for k in range(first, last):
            torch.manual_seed(k)
            for p in params:
                p.grad = torch.randn(p.shape, dtype=p.dtype)
            optimizer.step()

    params, optimizer = start()
    update(params, optimizer, 0, 2)
    for rank in range(2):
        optimizer.consolidate_state_dict(rank)
        if torch.distributed.get_rank() == rank:
            saved = deepcopy(optimizer.state_dict())
    kept = [p.detach().clone() for p in params]
    update(params, optimizer, 2, 4)
    again, resumed = start()
    with torch.no_grad():
        for p, before in zip(again, kept, strict=True):
            p.copy_(before)
    resumed.load_state_dict(saved)
    update(again, resumed, 2, 4)
    dtypes = [x.dtype for state in resumed.optim.state.values() for x in state.values()
              if isinstance(x, Tensor)]  # fmt: skip
    return [p.detach() for p in params], [p.detach() for p in again], dtypes


@pytest.mark.parametrize(("width", "precision"), [(256, "int8"), (6, "int8"), (6, "bfloat16")])
def test_zero_resumes_to_the_bit(width, precision):
    for going_on, resumed, dtypes in processes(2).run(resume_within_zero, width, precision):
        assert all(torch.equal(p, q) for p, q in zip(going_on, resumed, strict=True))
        assert (torch.bfloat16 if precision == "bfloat16" else torch.int8) in dtypes


def decays_by_update(with_zero: bool) -> Any:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = build(0, False)
    groups = groups_of("muon", model)
    if with_zero:
        optimizer = ZeroRedundancyOptimizer(groups, optimizer_class=lit_optim.Muon, lr=0.02)
    else:
        optimizer = lit_optim.Muon(groups, lr=0.02)
    horizon = Horizon(4)
    moved = [
        one.attach(one.schedule and one.schedule.curve(horizon), optimizer)
        for one in parse_hyperparameter_schedules({"weight_decay": cosine(), "betas.1": cosine()})
    ]
    schedule = ScheduledLR(optimizer, cosine().curve(horizon), moved)
    seen = []
    for k in range(4):
        torch.manual_seed(k)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, dtype=p.dtype)
        optimizer.step()
        schedule.step()
        keys = ("lr", "weight_decay", "momentum", "betas")
        seen += [[group.get(key) for key in keys] for group in optimizer.param_groups]
    return [p.detach() for p in model.parameters()], seen


def test_schedules_of_hyperparameters_reach_each_process():
    weights, seen = decays_by_update(False)
    for found, values in processes(2).run(decays_by_update, True):
        same(found, weights)
        assert values == seen


def refusal(name: str) -> str:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    try:
        ZeroRedundancyOptimizer(build(0, False).parameters(), optimizer_class=class_of(name))
    except lit_optim.UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", REFUSED)
def test_who_sees_all_parameters_is_refused(name):
    for message in processes(2).run(refusal, name):
        assert REFUSED[name] in message
        assert "\n" not in message


def wrapped(name: str) -> str:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def make(params: Any) -> Any:
        return getattr(lit_optim, name)(lit_optim.AdamW(params))

    try:
        ZeroRedundancyOptimizer(build(0, False).parameters(), optimizer_class=make)
    except lit_optim.UsageError as error:
        return str(error)
    return ""


def test_wrappers_are_around_it_not_within():
    assert "Sam(ZeroRedundancyOptimizer(...))" in wrapped_result("Sam")
    assert "Ema(ZeroRedundancyOptimizer(...))" in wrapped_result("Ema")
    assert not wrapped_result("Lookahead")


def wrapped_result(name: str) -> str:
    first, second = processes(2).run(wrapped, name)
    assert first == second
    return first


def add_late() -> str:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    groups = groups_of("muon", build(0, False))
    optimizer = ZeroRedundancyOptimizer(groups, optimizer_class=lit_optim.Muon, lr=0.02)
    layer = nn.Linear(2, 2).double()
    names = ["late.weight", "late.bias"]
    group = {"params": list(layer.parameters()), "role": "head", "name": "h", "param_names": names}
    try:
        optimizer.add_param_group(group)
    except lit_optim.UsageError as error:
        return str(error)
    return ""


def test_muon_takes_no_group_later():
    assert all("when it is made" in message for message in processes(2).run(add_late))


def make_of_bare_parameters(name: str) -> str:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 1))
    try:
        ZeroRedundancyOptimizer(model.parameters(), getattr(lit_optim, name), lr=0.02)
    except UsageError as error:
        return str(error)
    return "accepted"


@pytest.mark.parametrize("name", ["Muon", "MuonTorch"])
def test_all_processes_refuse_alike_whatever_their_shares_are(name):
    first, second = processes(2).run(make_of_bare_parameters, name)
    assert first == second
    assert "has shape" in first
