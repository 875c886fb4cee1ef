"""skorch's own LRScheduler with our schedules as its policy, compared with torch's there."""

from __future__ import annotations

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from lit_optim import AdamW, Ema, lr_schedulers
from lit_optim.schedules.metric_adapter import MetricScheduledLR
from tests.clients.conftest import import_client
from tests.conftest import ROOT
from tests.documents import read_blocks

skorch = import_client("skorch")
callbacks = import_client("skorch.callbacks")
clone = import_client("sklearn.base").clone

BATCHES, EPOCHS = 4, 5


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCHES * 8, 3, generator=generator)
    return x, x.sum(1, keepdim=True)


class LrOfBatches(callbacks.Callback):
    """Records the lr of each update."""

    def on_train_begin(self, net, **_):
        self.lrs_ = []
        net.optimizer_.register_step_post_hook(
            lambda optimizer, *_: self.lrs_.append(optimizer.param_groups[0]["lr"])
        )


def fit(policy, step_every, optimizer=torch.optim.SGD, monitor="train_loss", **arguments):
    """Train, and return the net, the lr of each update and the scheduler."""
    torch.manual_seed(0)
    scheduler = callbacks.LRScheduler(policy, monitor, step_every=step_every, **arguments)
    net = skorch.NeuralNetRegressor(
        torch.nn.Linear(3, 1),
        optimizer=optimizer,
        lr=0.1,
        batch_size=8,
        max_epochs=EPOCHS,
        train_split=None,
        verbose=0,
        callbacks=[("record", LrOfBatches()), ("lr", scheduler)],
    )
    net.fit(*data())
    made = dict(net.callbacks_)
    return net, made["record"].lrs_, made["lr"].lr_scheduler_


@pytest.mark.parametrize("step_every", ["batch", "epoch"])
def test_a_policy_has_the_lrs_of_torchs(step_every):
    """Our schedule counts updates whether skorch steps it per batch or per epoch."""
    _, expected, _ = fit(theirs.CosineAnnealingLR, "batch", T_max=BATCHES * EPOCHS)
    net, found, scheduler = fit(
        lr_schedulers.cosine, step_every, steps=BATCHES * EPOCHS, step_alignment="start"
    )
    assert found == pytest.approx(expected)
    assert scheduler.last_epoch == BATCHES * EPOCHS
    assert net.history[-1, "train_loss"] < net.history[0, "train_loss"]


def test_epochs_as_the_unit():
    _, expected, _ = fit(theirs.StepLR, "epoch", step_size=2)
    _, found, _ = fit(
        lr_schedulers.step, "epoch", step_size="2 epochs", steps_per_epoch=BATCHES, total="5 epochs"
    )
    assert found == pytest.approx(expected)


def scores():
    """Scores that stop improving."""
    left = iter([1.0, 0.5, 0.5, 0.5, 0.5])
    return lambda net: next(left)


def test_a_monitored_score_is_passed_on():
    """skorch passes it to instances of ReduceLROnPlateau only."""
    _, expected, _ = fit(
        theirs.ReduceLROnPlateau, "epoch", monitor=scores(), patience=1, factor=0.5
    )
    _, found, scheduler = fit(
        lr_schedulers.plateau, "epoch", monitor=scores(), patience=1, factor=0.5
    )
    assert isinstance(scheduler, MetricScheduledLR)
    assert found == pytest.approx(expected)
    assert found[-1] < found[0]


def test_our_optimizers_and_wrappers():
    def average(params, **keywords):
        return Ema(AdamW(params, **keywords), decay=0.5)

    for optimizer in (AdamW, average):
        net, found, _ = fit(lr_schedulers.linear, "batch", optimizer, steps=BATCHES * EPOCHS)
        assert net.history[-1, "train_loss"] < net.history[0, "train_loss"]
        assert found[-1] == 0


def test_a_saved_net_goes_on(tmp_path):
    """skorch pickles the callbacks, their policies included."""
    import pickle

    net, _, scheduler = fit(lr_schedulers.cosine, "batch", steps=BATCHES * EPOCHS)
    again = pickle.loads(pickle.dumps(net))
    assert dict(again.callbacks_)["lr"].policy is lr_schedulers.cosine
    assert dict(again.callbacks_)["lr"].lr_scheduler_.last_epoch == scheduler.last_epoch


def test_the_net_of_the_page_trains_when_it_is_cloned():
    """Muon has the module of its own net: fitted or not, cloned or not."""
    page = ROOT / "docs/clients/skorch.md"
    code = [block.code for block in read_blocks(page.read_text("utf-8"), page.name)][-1]
    names: dict[str, object] = {"__name__": "page"}
    exec(code, names)
    net = names["net"].set_params(max_epochs=20, batch_size=16)
    x = torch.randn(128, 8)
    y = x.sum(1, keepdim=True)
    for each in (clone(net), net, clone(net)):
        each.fit(x, y)
        roles = {group["role"] for group in each.optimizer_.param_groups}
        assert "hidden" in roles
        assert len(roles) > 1
        assert {id(p) for group in each.optimizer_.param_groups for p in group["params"]} == {
            id(p) for p in each.module_.parameters()
        }
        assert each.history[-1, "train_loss"] < each.history[0, "train_loss"] / 2
