"""Metrics of parameters in 16 bits are those of the same outputs, counted and added exactly."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import CatMetric, MeanMetric, SumMetric
from torchmetrics.classification import MulticlassAccuracy

from lit_optim.callbacks.metric_history import MetricHistory
from lit_optim.callbacks.precise_metrics import PreciseMetrics
from lit_optim.tasks.classifiers import MLP
from tests.lightning.modules import trainer

HALVES = ["bf16-true", "16-true"]
COUNT = 5003


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(COUNT, 6, generator=generator)
    return TensorDataset(x, torch.randint(0, 4, (COUNT,), generator=generator))


class Own(LightningModule):
    """A module of a user, with metrics of torchmetrics."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(6, 4)
        self.mean, self.sum = MeanMetric(), SumMetric()
        self.cat, self.acc = CatMetric(), MulticlassAccuracy(4)

    def training_step(self, batch):
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        self.mean.update((logits.argmax(1) == y).float())
        self.sum.update(torch.ones(len(x)))
        self.cat.update(torch.arange(len(x)) + 256.0)
        self.acc.update(logits, y)

    test_step = validation_step

    def on_validation_epoch_end(self):
        names = "mean", "sum", "cat", "acc"
        self.found = {name: getattr(self, name).compute() for name in names}

    on_test_epoch_end = on_validation_epoch_end

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def one_step(tmp_path, precision):
    """A trainer that validates after a step, and not before."""
    arguments = {"precision": precision, "max_steps": 1, "num_sanity_val_steps": 0}
    return trainer(tmp_path, callbacks=[MetricHistory(), PreciseMetrics()], **arguments)


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.parametrize("precision", HALVES)
def test_of_any_module(precision, stage, tmp_path):
    module = Own()
    run = one_step(tmp_path, precision)
    held_out = DataLoader(data(), 37)
    if stage == "fit":
        run.fit(module, DataLoader(data(), 37), held_out)
    else:
        getattr(run, stage)(module, held_out, verbose=False)
    x, y = data().tensors
    with torch.no_grad():
        hits = (module.net(x.to(module.net.weight.dtype)).argmax(1) == y).double()
    assert float(module.found["mean"]) == pytest.approx(hits.mean().item(), abs=1e-6)
    assert float(module.found["sum"]) == COUNT
    assert module.found["cat"].max() == 256 + 36
    each = [hits[y == k].mean() for k in range(4)]
    assert float(module.found["acc"]) == pytest.approx(torch.stack(each).mean().item(), abs=1e-6)
    assert not any(p.dtype is torch.float32 for p in module.parameters())


@pytest.mark.parametrize("precision", [*HALVES, "32-true", "64-true", "bf16-mixed"])
def test_of_a_task(precision, tmp_path):
    torch.manual_seed(0)
    module = MLP(6, 4)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    run = one_step(tmp_path, precision)
    run.fit(module, DataLoader(data(), 37), DataLoader(data(), 37))
    x, y = data().tensors
    with torch.no_grad(), run.precision_plugin.val_step_context():
        logits = module(x.to(module.first.weight.dtype))
    loss = nn.functional.cross_entropy(logits.double(), y).item()
    hits = (logits.argmax(1) == y).double().mean().item()
    assert run.callback_metrics["val/acc"].item() == pytest.approx(hits, abs=2e-4)
    assert run.callback_metrics["val/loss"].item() == pytest.approx(loss, rel=1e-5)
