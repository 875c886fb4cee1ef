"""Fabric: what it sets up trains, is saved, loaded and evaluated as in a plain loop, to the bit."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.muon import Muon
from lit_optim.optimizers.schedule_free_adamw import ScheduleFreeAdamW
from lit_optim.optimizers.sgd import SGD
from lit_optim.schedules.library import linear_warmup
from lit_optim.schedules.scheduling import schedule
from lit_optim.wrappers import Ema, Lookahead, Sam
from tests.clients.conftest import import_client
from tests.optimizers.running import NAMES, class_of

lightning_fabric = import_client("lightning.fabric")
LightningOptimizer = import_client("lightning.pytorch.core.optimizer").LightningOptimizer
FABRIC = lightning_fabric.Fabric(accelerator="cpu", devices=1)

WRAPPED = {
    "ema of adamw": lambda params: Ema(AdamW(params), decay=0.5),
    "ema of muon": lambda params: Ema(Muon(params), decay=0.5),
    "ema of lookahead": lambda params: Ema(Lookahead(AdamW(params), k=2), decay=0.5),
    "ema of torch's": lambda params: Ema(torch.optim.AdamW(params.parameters()), decay=0.5),
    "lookahead": lambda params: Lookahead(AdamW(params), k=2),
    "lookahead of lookahead": lambda params: Lookahead(Lookahead(SGD(params), k=2), k=3),
    "sam": lambda params: Sam(AdamW(params)),
    "sam of ema": lambda params: Sam(Ema(AdamW(params), decay=0.5)),
    "sam of schedule-free": lambda params: Sam(ScheduleFreeAdamW(params)),
}
MAKES = {name: class_of(name) for name in NAMES} | WRAPPED
#: torch's Muon takes matrices only.
BIAS = {name: name != "muon_torch" for name in MAKES}
BATCHES = torch.randn(12, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
HALF = 6


def network(bias=True, dtype=torch.float64):
    torch.manual_seed(0)
    layers = nn.Linear(4, 6, bias=bias), nn.Tanh(), nn.Linear(6, 4, bias=bias), nn.Linear(4, 1)
    return nn.Sequential(*layers[:3], nn.Linear(4, 2, bias=bias)).to(dtype)


def loss_of(model, batch):
    return model(batch).square().mean()


def train(model, optimizer, batches, backward=torch.Tensor.backward):
    """A closure goes with all optimizers, and some need one."""
    for batch in batches:

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            backward(loss)
            return loss

        optimizer.step(closure)


def evaluate(model, optimizer):
    """The loss of the evaluated weights, which stay in the model."""
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    return loss_of(model, BATCHES.flatten(0, 1)).item()


def resume(optimizer):
    if hasattr(optimizer, "train"):
        optimizer.train()


@pytest.mark.parametrize("name", MAKES)
def test_a_run_is_that_of_a_plain_loop(name, tmp_path):
    """Saved and loaded in the middle, while the average, if there is one, is in the parameters."""
    plain = network(BIAS[name])
    alone = MAKES[name](plain)
    train(plain, alone, BATCHES[:HALF])
    losses = [evaluate(plain, alone)]
    resume(alone)
    train(plain, alone, BATCHES[HALF:])
    losses.append(evaluate(plain, alone))

    model = network(BIAS[name])
    inner = MAKES[name](model)
    model, optimizer = FABRIC.setup(model, inner)
    train(model, optimizer, BATCHES[:HALF], FABRIC.backward)
    assert evaluate(model, optimizer) == losses[0]
    averages = hasattr(optimizer, "eval")
    if averages:
        for each in (optimizer, inner):
            with pytest.raises((RuntimeError, ValueError), match="eval mode"):
                train(model, each, BATCHES[:1], FABRIC.backward)
        optimizer.zero_grad()
    FABRIC.save(tmp_path / "half.ckpt", {"model": model, "optimizer": optimizer})

    other = network(BIAS[name])
    other, second = FABRIC.setup(other, MAKES[name](other))
    FABRIC.load(tmp_path / "half.ckpt", {"model": other, "optimizer": second})
    for again, its_optimizer in ((model, optimizer), (other, second)):
        assert loss_of(again, BATCHES.flatten(0, 1)).item() == losses[0]
        resume(its_optimizer)
        train(again, its_optimizer, BATCHES[HALF:], FABRIC.backward)
        assert evaluate(again, its_optimizer) == losses[1]
        for p, q in zip(plain.parameters(), again.parameters(), strict=True):
            assert torch.equal(p, q)


IMITATIONS = {"fabric": FABRIC.setup_optimizers, "lightning": LightningOptimizer}


@pytest.mark.parametrize("imitate", IMITATIONS.values(), ids=IMITATIONS)
@pytest.mark.parametrize("name", [name for name in MAKES if name not in ("lbfgs", "muon_torch")])
def test_what_is_done_to_an_imitation_is_done_to_the_optimizer(name, imitate):
    """Groups that are added, states that are loaded, hooks and modes."""
    model, more = network(), nn.Parameter(torch.ones(4, dtype=torch.float64))
    added = {"params": [more], "role": "vector"}
    if name == "ema of torch's":
        del added["role"]
    inner = MAKES[name](model)
    imitation = imitate(inner)
    before = len(inner.param_groups)
    imitation.add_param_group(added)
    assert len(inner.param_groups) == len(imitation.param_groups) == before + 1
    train(model, inner, BATCHES[:1])  # the new parameter has no gradient
    more.grad = torch.ones_like(more)
    if "closure" not in getattr(inner, "requirements", ()):
        inner.step()
        inner.step()  # the first one of ADOPT moves nothing
        assert not torch.equal(more, torch.ones_like(more))
    calls = []
    imitation.register_step_post_hook(lambda *_: calls.append("step"))
    imitation.register_state_dict_post_hook(lambda *_: calls.append("saved"))
    imitation.register_load_state_dict_post_hook(lambda *_: calls.append("loaded"))
    train(model, inner, BATCHES[:1])
    saved = imitation.state_dict()
    assert saved.keys() == inner.state_dict().keys()
    imitation.load_state_dict(saved)
    assert calls[0] == "step"
    assert calls.count("saved") == 2
    assert calls.count("loaded") == 1
    if hasattr(inner, "eval"):
        imitation.eval()
        with pytest.raises((RuntimeError, ValueError), match="eval mode"):
            train(model, inner, BATCHES[:1])
        imitation.train()
        train(model, inner, BATCHES[:1])


def test_exact_masters_of_a_model_that_fabric_makes_bfloat16():
    """The optimizer is made of the parameters as they are trained: after `setup`."""
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1, precision="bf16-true")
    model, plain = fabric.setup(network(dtype=torch.float32)), network(dtype=torch.bfloat16)
    make = partial(AdamW, lr=1e-3, master="split")
    optimizer, alone = fabric.setup_optimizers(make(model)), make(plain)
    train(model, optimizer, BATCHES.float(), fabric.backward)
    for batch in BATCHES.bfloat16():
        alone.zero_grad()
        plain(batch).float().square().mean().backward()
        alone.step()
    for p, q in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q)


def train_in_two_processes(fabric, place):
    """Each process takes every other row of the batches; the first one saves."""
    for name in ("ema of muon", "ema of lookahead", "schedule_free_adamw", "sam of ema", "adan"):
        model = network()
        model, optimizer = fabric.setup(model, MAKES[name](model))
        scheduler = schedule(optimizer, linear_warmup(2), steps=HALF)
        for batch in BATCHES[:HALF, :4]:
            train(model, optimizer, [batch[fabric.global_rank :: 2]], fabric.backward)
            scheduler.step()
        assert {group["lr"] for group in optimizer.param_groups} == {0.0}
        evaluate(model, optimizer)
        fabric.save(place / f"{name}.ckpt", {"model": model, "optimizer": optimizer})


def test_two_processes_train_what_one_trains(tmp_path):
    strategy = lightning_fabric.strategies.DDPStrategy(start_method="forkserver")
    two = lightning_fabric.Fabric(accelerator="cpu", devices=2, strategy=strategy)
    two.launch(train_in_two_processes, tmp_path)
    for path in tmp_path.glob("*.ckpt"):
        model = network()
        model, optimizer = FABRIC.setup(model, MAKES[path.stem](model))
        scheduler = schedule(optimizer, linear_warmup(2), steps=HALF)
        for batch in BATCHES[:HALF, :4]:
            train(model, optimizer, [batch], FABRIC.backward)
            scheduler.step()
        evaluate(model, optimizer)
        saved = torch.load(path, weights_only=True)
        torch.testing.assert_close(saved["model"], model.state_dict(), rtol=1e-9, atol=1e-9)
        assert saved["optimizer"].keys() == optimizer.state_dict().keys()
    assert len(list(tmp_path.glob("*.ckpt"))) == 5
