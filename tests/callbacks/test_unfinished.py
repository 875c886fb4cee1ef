"""Gradients of an update that was not finished, in checkpoints of anybody."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from lit_optim import AdamW
from lit_optim.callbacks import resumable
from lit_optim.callbacks.resumable import Resumable
from lit_optim.callbacks.unfinished import restore_gradients
from lit_optim.errors import UsageError
from tests.callbacks.resuming import fit, same

GRADIENT = torch.arange(15.0).view(5, 3)
#: Tensors that load with `weights_only`, and are no gradients of a parameter of this shape.
STRANGE = {
    "shape": torch.zeros(2, 2),
    "bool": GRADIENT.bool(),
    "whole": GRADIENT.long(),
    "complex": GRADIENT.to(torch.complex64),
    "float8": GRADIENT.to(torch.float8_e4m3fn),
    "meta": GRADIENT.to("meta"),
    "rows": GRADIENT.to_sparse_csr(),
    "nested": torch.nested.nested_tensor([torch.zeros(3)] * 5),
    "quantized": torch.quantize_per_tensor(GRADIENT, 1.0, 0, torch.qint8),
}


def restored(shared, by_rank, size=1):
    net = nn.Linear(3, 5)
    trainer = SimpleNamespace(world_size=size, global_rank=0)
    restore_gradients(net, shared, by_rank, trainer)
    net(torch.ones(2, 3)).sum().backward()  # adds to it in place
    return net.weight.grad - 2


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("size", [1, 2])
def test_a_strange_gradient_is_refused_by_all_processes(kind, size):
    strange, usual = {"weight": STRANGE[kind]}, {"weight": GRADIENT}
    cases = [(strange, []), ({}, [usual, strange]), ({}, [strange, strange])]
    for shared, by_rank in cases:
        with pytest.raises(UsageError, match="the gradient of weight "):
            restored(shared, by_rank, size)


@pytest.mark.parametrize(
    "gradient",
    [GRADIENT, GRADIENT.t().contiguous().t(), GRADIENT.to_sparse(), torch.ones(1).expand(5, 3)],
    ids=["dense", "strided", "sparse", "expanded"],
)
def test_what_backward_may_have_made_is_taken(gradient):
    whole = gradient.to_dense()
    assert torch.equal(restored({"weight": gradient, "gone": gradient}, []), whole)
    assert torch.equal(restored({}, [{"weight": gradient}, {}]), whole / 2)


@pytest.mark.parametrize("rank", [0, 1])
def test_strange_random_states_of_one_are_refused_by_all_processes(rank):
    usual = resumable._random_states()
    ranks = [{"chance": usual, "gradients": {}}, {"chance": {"torch": 3}, "gradients": {}}]
    callback = Resumable()
    callback.load_state_dict({"batches": 0, "chance": usual, "ranks": ranks})
    trainer = SimpleNamespace(world_size=2, global_rank=rank)
    with pytest.raises(UsageError, match="different random states"):
        callback.on_train_batch_start(trainer, nn.Linear(1, 1), None, 0)


class Fail(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        raise RuntimeError("of the user")


def test_a_run_that_ends_before_its_first_batch_loses_none(tmp_path):
    make = partial(AdamW, lr=0.05)
    module = fit(tmp_path, make, None, max_epochs=1)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    gradients = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    unfinished = {
        "gradients": gradients,
        "ranks": [{"chance": {}, "gradients": gradients}] * 2,
        "lost": 1,
    }
    saved["callbacks"]["Resumable"].update(unfinished)
    torch.save(saved, tmp_path / "other.ckpt")
    with pytest.raises(RuntimeError, match="of the user"):
        fit(tmp_path, make, None, ckpt=tmp_path / "other.ckpt", more=[Fail()])
    newest = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["Resumable"]
    assert same({name: newest[name] for name in unfinished}, unfinished)
