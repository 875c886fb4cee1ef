"""Numbers of torch and numpy, and keys of param groups that are for someone else."""

from __future__ import annotations

import io

import numpy
import pytest
import torch
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from lit_optim.errors import UsageError
from lit_optim.optimizers.adagrad import Adagrad
from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.sgd import SGD
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import cosine_warmup
from lit_optim.wrappers import Ema
from tests.optimizers.running import NAMES, made_by, parameters, run

#: What is no lr to a plain number's name.
NUMBERS = {
    "tensor": lambda x: torch.tensor(x, dtype=torch.float64),
    "tensor_1d": lambda x: torch.tensor([x], dtype=torch.float64),
    "float64": numpy.float64,
    "float32": numpy.float32,
    "array": lambda x: numpy.array(x),
}


def values_of(optimizer):
    values = [v for g in optimizer.param_groups for k, v in g.items() if k != "params"]
    values += optimizer.defaults.values()
    return [x for v in values for x in (v if isinstance(v, tuple) else (v,))]


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_takes_a_number_of_any_kind(name, kind):
    """As its lr, in the constructor and in a group; what is kept are Python's own numbers.

    But a tensor lr stays that tensor, as in torch.
    """
    lr, make, more = NUMBERS[kind](0.5), made_by(name), {}  # 0.5 is one in float32 too
    if name == "adafactor_hf":
        more = {"relative_step": False, "warmup_init": False, "scale_parameter": False}
    params = [p for p in parameters() if p.ndim == 2 or name != "muon_torch"]
    pairs = [(make(params, lr=lr, **more), make(params, lr=0.5, **more))]
    pairs.append(tuple(make([{"params": params, "lr": one}], **more) for one in (lr, 0.5)))
    for optimizer, other in pairs:
        kinds = {type(value).__module__ for value in values_of(optimizer)}
        assert not kinds & {"numpy", *["torch"] * ("tensor" not in kind)}
        assert [g["lr"] for g in optimizer.param_groups] == [g["lr"] for g in other.param_groups]
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        torch.load(file, weights_only=True)


def test_other_hyperparameters_and_schedules_too():
    optimizer = AdamW(
        parameters(), betas=(torch.tensor(0.5), numpy.float32(0.25)), eps=numpy.float64(1e-6)
    )
    assert optimizer.defaults["betas"] == (0.5, 0.25)
    assert type(optimizer.defaults["eps"]) is float
    assert type(Ema(optimizer, decay=numpy.float32(0.5)).decay) is float
    found = cosine_warmup(warmup=numpy.int64(5), min_lr_ratio=numpy.float32(0.5)).curve(Horizon(20))
    expected = cosine_warmup(warmup=5, min_lr_ratio=0.5).curve(Horizon(20))
    assert [found(t) for t in range(20)] == [expected(t) for t in range(20)]


@pytest.mark.parametrize(
    "value", [torch.tensor([0.1, 0.2]), numpy.array([0.1] * 3), torch.tensor(-1.0)]
)
def test_what_is_no_number_is_refused(value):
    with pytest.raises(UsageError, match="lr must be a number >= 0"):
        AdamW(parameters(), lr=value)


@pytest.mark.parametrize("scheduler", ["one_cycle", "cyclic"])
@pytest.mark.parametrize("make", [AdamW, SGD])
def test_a_state_after_torchs_schedulers_loads(make, scheduler):
    """Ours and torch's of the same name, in both directions, with the keys that they leave."""

    def after(kind):
        params = parameters()
        optimizer = kind(params, lr=0.1, **({"momentum": 0.9} if kind.__name__ == "SGD" else {}))
        if scheduler == "one_cycle":
            made = OneCycleLR(optimizer, max_lr=0.2, total_steps=20)
        else:
            made = CyclicLR(optimizer, 0.1, 0.2, step_size_up=4)
        for t in range(4):
            run(optimizer, params, t, t + 1)
            made.step()
        return optimizer

    theirs = getattr(torch.optim, make.__name__)
    for source in (make, theirs):
        saved = after(source).state_dict()
        foreign = {"one_cycle": "max_lr", "cyclic": "max_momentum"}[scheduler]
        assert foreign in saved["param_groups"][0]
        other = make(parameters(), lr=0.1)
        other.load_state_dict(saved)
        group = other.param_groups[0]
        for key, value in saved["param_groups"][0].items():
            if key in group and key != "params":
                assert group[key] == value
        assert foreign in group
        theirs(parameters(), lr=0.1).load_state_dict(other.state_dict())


@pytest.mark.parametrize("key", ["max_lr", "min_lr", "base_momentum", "layer", "weight_norm_id"])
@pytest.mark.parametrize("make", [AdamW, SGD, Adagrad])
def test_keys_for_somebody_else_are_kept(make, key):
    """As torch keeps them: in a group that is given, and in one that is added."""
    first, second = parameters(), parameters()
    optimizer = make([{"params": first, key: 0.5}])
    optimizer.add_param_group({"params": second, key: "x"})
    assert [group[key] for group in optimizer.param_groups] == [0.5, "x"]
    other = make([{"params": first}, {"params": second}])
    other.load_state_dict(optimizer.state_dict())
    assert [group[key] for group in other.param_groups] == [0.5, "x"]


#: A typo, and what was meant.
TYPOS = {
    "lrr": "lr", "LR": "lr", "learning_rate": "lr", "wieght_decay": "weight_decay",
    "weight-decay": "weight_decay", "weightDecay": "weight_decay", "wd": "weight_decay",
    "weight": "weight_decay", "beta": "betas", "beta1": "betas", "betsa": "betas",
    "epsilon": "eps", "lr_mul": "lr_mult", "maximise": "maximize",
}  # fmt: skip


@pytest.mark.parametrize("key", TYPOS)
def test_a_misspelled_hyperparameter_is_refused(key):
    with pytest.raises(UsageError, match=f"AdamW has no '{key}'; .*mean {TYPOS[key]}"):
        AdamW([{"params": parameters(), key: 0.5}])


@pytest.mark.parametrize(
    "key", ["momentum", "nesterov", "rho", "adamw_lr", "precondition_frequency"]
)
def test_a_hyperparameter_of_another_optimizer_is_refused(key):
    with pytest.raises(UsageError, match=f"AdamW has no '{key}'"):
        AdamW([{"params": parameters(), key: 0.5}])
    state = AdamW(parameters()).state_dict()
    state["param_groups"][0][key] = 0.5
    with pytest.raises(UsageError, match=f"AdamW has no {key}, but the state has 0.5"):
        AdamW(parameters()).load_state_dict(state)


class SAM(torch.optim.Optimizer):
    """The form of the wrapper that everybody copies: its groups are those of the optimizer."""

    def __init__(self, params, base, rho=0.05, **settings):
        super().__init__(params, {"rho": rho, "momentum": 0.5, "adaptive": False, **settings})
        self.base_optimizer = base(self.param_groups, **settings)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def step(self, closure):
        backward = torch.enable_grad()(closure)
        backward()
        pairs = [(p, g["rho"]) for g in self.param_groups for p in g["params"]]
        norm = torch.stack([p.grad.norm() for p, _ in pairs]).norm()
        moves = [(p, p.grad * rho / norm) for p, rho in pairs]
        for p, move in moves:
            p.add_(move)
        backward()
        for p, move in moves:
            p.sub_(move)
        self.base_optimizer.step()


def test_the_keys_of_a_wrapping_class_are_kept_as_torchs_optimizers_keep_them():
    def train(base):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64))
        optimizer = SAM([p], base, lr=0.1)

        def closure():
            optimizer.zero_grad()
            loss = (p - 2).pow(4).sum()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        return p, optimizer

    (ours, optimizer), (theirs, _) = train(AdamW), train(torch.optim.AdamW)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    base = optimizer.base_optimizer
    base.load_state_dict(base.state_dict())
    assert (base.param_groups[0]["rho"], base.param_groups[0]["momentum"]) == (0.05, 0.5)


def test_a_wrapping_class_excuses_no_misspelled_key_of_the_user():
    with pytest.raises(UsageError, match="AdamW has no 'weight_decy'"):
        SAM([{"params": parameters(), "weight_decy": 0.5}], AdamW, lr=0.1)
    with pytest.raises(UsageError, match="AdamW has no 'nesterov'"):
        SAM([{"params": parameters(), "nesterov": True}], AdamW, lr=0.1)
