"""Pretrained weights: which are loaded and which are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lit_optim.checkpoints.weights import load_weights
from lit_optim.errors import UsageError
from lit_optim.tasks.classifiers import MLP

QUICK = ["data=digits", "model=mlp", "trainer.max_steps=3", "test=false", "optimizer.lr=1e-9",
         "optimizer.weight_decay=0"]  # fmt: skip


def mlp(width=100, seed=1):
    torch.manual_seed(seed)
    return MLP(features=64, classes=10, width=width)


def saved(path, content):
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state}])
def test_a_run_starts_with_pretrained_weights(run_here, tmp_path, wrap):
    """At an lr at which nothing moves the weights of the run are those of the file."""
    state = mlp().state_dict()
    path = saved(tmp_path / "a=b,c.pt", wrap(state))
    run_here(*QUICK, f"weights={path}")
    after = torch.load(tmp_path / "run/checkpoints/last.ckpt")["state_dict"]
    for name, tensor in state.items():
        torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=0)


def test_weights_may_be_a_checkpoint_of_a_run(run_here, tmp_path):
    run_here(*QUICK, "seed=5", run_dir="first")
    path = tmp_path / "first/checkpoints/last.ckpt"
    run_here(*QUICK, f"weights={path}", run_dir="second")
    first, second = (torch.load(tmp_path / d / "checkpoints/last.ckpt")["state_dict"]
                     for d in ("first", "second"))  # fmt: skip
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-6, rtol=0)


MISFITS = {
    "lacks": (lambda s: s.pop("out.bias"), "it lacks out.bias"),
    "more": (lambda s: s.update(extra=torch.zeros(1)), "the model has no extra"),
    "shape": (lambda s: s.update({"out.weight": torch.zeros(3, 100)}),
              "out.weight is 3x100 there and 10x100 in the model"),
    "prefix": (lambda s: [s.update({f"module.{k}": s.pop(k)}) for k in list(s)],
               "it lacks first.weight, first.bias, second.weight and 3 more"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_named(tmp_path, case):
    change, message = MISFITS[case]
    state = dict(mlp().state_dict())
    change(state)
    model = mlp(seed=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UsageError) as refused:
        load_weights(model, saved(tmp_path / "weights.pt", state))
    assert "does not fit MLP" in str(refused.value)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "is neither a state dict"),
        ({}, "is neither a state dict"),
        ({"epoch": 3}, "is neither a state dict"),
        (torch.zeros(3), "is neither a state dict"),
        (nn.Linear(2, 2), "cannot be read"),
        (Evil(), "cannot be read"),
    ],
    ids=["list", "empty", "numbers", "tensor", "module", "code"],
)
def test_what_is_no_state_dict_is_refused(tmp_path, capsys, content, message):
    with pytest.raises(UsageError) as refused:
        load_weights(mlp(), saved(tmp_path / "weights.pt", content))
    assert message in str(refused.value)
    assert "executed" not in capsys.readouterr().out


def test_lazy_layers_take_their_shape_from_them(tmp_path):
    model = mlp()
    model.out = nn.LazyLinear(10)
    state = mlp(seed=3).state_dict()
    load_weights(model, saved(tmp_path / "weights.pt", state))
    assert torch.equal(model.out.weight, state["out.weight"])
