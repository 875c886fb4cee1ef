"""Modules and callbacks that use a loop over batches in every way, for comparing two of them."""

from __future__ import annotations

from functools import partial

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.callbacks import StochasticWeightAveraging as SWA
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MaxMetric, MeanMetric


class Net(LightningModule):
    """Two layers on three numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def training_step(self, batch, batch_idx):
        loss = self.net(batch[0]).square().mean()
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("loss", self.net(batch[0]).abs().mean())  # a name of training as well

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    @staticmethod
    def load(x):
        return DataLoader(TensorDataset(x), 2)


class Keeps(Net):
    """Changes its batches, lists that the loader keeps."""

    def training_step(self, batch, batch_idx):
        batch[0] = batch[0] * 1.5
        batch.append(batch_idx)
        assert len(batch) == 2
        return super().training_step(batch, batch_idx)

    @staticmethod
    def load(x):
        # its batches are not collated anew
        return DataLoader([[part] for part in x.split(2)], None, collate_fn=lambda batch: batch)


class Silent(Net):
    """Logs nothing, and returns more than the loss; its step takes no number."""

    def training_step(self, batch):
        loss = self.net(batch[0]).square().mean()
        return {"loss": loss, "more": loss.detach() + 1}


class Now(Silent):
    """Logs when a batch has ended, not at each."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if batch_idx % 2:
            self.log("late", outputs["more"], prog_bar=True)


class NoLoss(Net):
    """Has no loss for some batches."""

    def training_step(self, batch, batch_idx):
        return None if batch_idx % 3 == 1 else super().training_step(batch, batch_idx)


class Leaves(Net):
    """Leaves out the rest of an epoch."""

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 3 else None


class Twice(Net):
    """An optimizer that evaluates the loss several times."""

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


class Follows(Net):
    """Schedulers of epochs and of a metric."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        first = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        second = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        third = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.99)
        plateau = {"scheduler": second, "interval": "step", "monitor": "loss", "strict": False}
        third = {"scheduler": third, "interval": "step", "frequency": 2}
        return [optimizer], [first, plateau, third]


class Own(Net):
    """Overrides what a batch goes through."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        if batch_idx % 2:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        else:
            optimizer_closure()


class Hand(Net):
    """Each method that is overridden leaves a mark in the weights."""

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return [batch[0] + 0.1]

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [batch[0] * 1.5]

    def on_before_zero_grad(self, optimizer):
        self.log("zeroed", self.global_step)

    def on_after_backward(self):
        for p in self.parameters():
            p.grad += 0.01

    def on_before_optimizer_step(self, optimizer):
        optimizer.param_groups[0]["lr"] *= 0.99

    def lr_scheduler_step(self, scheduler, metric):
        scheduler.step()
        scheduler.step()


class Part(Net):
    """Overrides a part of the optimization; the rest is Lightning's."""

    def backward(self, loss):
        (2 * loss).backward()

    def configure_gradient_clipping(self, optimizer, gradient_clip_val, gradient_clip_algorithm):
        self.clip_gradients(optimizer, 0.01, "value")


class Zero(Net):
    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        for p in self.parameters():
            p.grad = None if p.grad is None else p.grad * 0.5


class Two(Net):
    """Validates on two sets."""

    def validation_step(self, batch, batch_idx, dataloader_idx):
        self.log("val", self.net(batch[0]).abs().mean())


class Steps(Net):
    """Logs each batch of a validation, and takes no number of it."""

    def validation_step(self, batch):
        loss = self.net(batch[0]).abs().mean()
        self.log("val", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def on_validation_batch_end(self, outputs, batch, batch_idx):
        if batch_idx == 1:
            self.log("odd", outputs * 2, on_step=True, on_epoch=False)


class Rare(Net):
    """Logs once an epoch what validations log as well: the last value that is read is its own."""

    def training_step(self, batch, batch_idx):
        loss = self.net(batch[0]).square().mean()
        if batch_idx == 0:
            self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("loss", self.net(batch[0]).abs().mean(), prog_bar=True)


class Sums(Net):
    """Logs in many ways; one name changes its kind, another its value in place."""

    def training_step(self, batch, batch_idx):
        loss = self.net(batch[0]).square().mean()
        counter = loss.detach().clone()
        self.log("sum", loss, on_step=True, on_epoch=True, reduce_fx="sum")
        self.log("most", counter, on_step=False, on_epoch=True, reduce_fx="max")
        self.log("mean", counter.double(), on_epoch=True, batch_size=batch_idx + 1)
        self.log("number", batch_idx / 2, on_epoch=True)
        self.log("whole", torch.tensor(batch_idx), on_epoch=True)
        self.log_dict({"one": loss, "two": loss * 2}, prog_bar=True, logger=False)
        counter += 1
        return loss


class Manual(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.net(batch[0]).square().mean())
        optimizer.step()


class Stops(Callback):
    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.global_step == 6


class Comes(Callback):
    """Brings another callback in the middle of an epoch, and gives the module a hook."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 2:
            trainer.callbacks.append(Doubles())
            module.on_after_backward = partial(halve, module)


class Doubles(Callback):
    def on_train_batch_start(self, trainer, module, *args):
        module.net[0].weight.data *= 1.1

    def on_after_backward(self, trainer, module):
        module.net[0].weight.grad *= 2


class Replaces(Callback):
    """Replaces in the middle of epochs what it has given the module, its class and itself."""

    def on_train_batch_start(self, trainer, module, *args):
        step, own = trainer.global_step, type(module)
        if step in (2, 4):
            module.on_after_backward = partial(halve, module, part=step)
        if step == 5:
            module.on_after_backward = lambda: None
            own.on_before_optimizer_step = lambda module, optimizer: halve(module)
            module.training_step = lambda batch: module.net(batch[0]).abs().mean()
        if step == 6:
            module.training_step = lambda batch, batch_idx: module.net(batch[0]).mean() * batch_idx
        if step in (8, 9):
            self.on_before_zero_grad = lambda trainer, *args: halve(module, trainer.global_step)
        if step == 10:
            self.on_before_zero_grad = None
            own.backward = lambda module, loss: (loss * 3).backward()
        if step == 11:
            trainer.callbacks[:] = [c for c in trainer.callbacks if not isinstance(c, Doubles)]


class Shown(Silent):
    """Returns the memory of its loss a second time."""

    def training_step(self, batch):
        loss = self.net(batch[0]).square().mean()
        return {"loss": loss, "same": loss.detach()}


class ShownToModule(Shown):
    def on_before_backward(self, loss):
        with torch.no_grad():
            loss.mul_(2)


class Doubled(Callback):
    """Doubles the loss in place; in the middle of an epoch it begins, and later it ends."""

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == 2:
            self.on_before_backward = lambda trainer, module, loss: loss.detach().mul_(2)
        if trainer.global_step == 5:
            del self.on_before_backward


class Metrics(Net):
    """Logs objects of torchmetrics, in training and in validations."""

    def __init__(self):
        super().__init__()
        self.mean, self.most = MeanMetric(), MaxMetric()

    def training_step(self, batch, batch_idx):
        loss = self.net(batch[0]).square().mean()
        self.most(loss)
        self.log("most", self.most, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.mean.update(self.net(batch[0]).abs().mean())
        self.log("val", self.mean, prog_bar=True)


class Turns(Callback):
    """Optimizes an epoch's second half by hand."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        module.automatic_optimization = batch_idx < 4
        module.training_step = (Net if batch_idx < 4 else Manual).training_step.__get__(module)


def halve(module, part=2):
    for p in module.net[2].parameters():
        if p.grad is not None:
            p.grad /= part


#: A module, arguments of the trainer, and callbacks.
CASES = {
    "logs": (Net, {}, ()),
    "accumulates": (Net, {"accumulate_grad_batches": 2}, ()),
    "accumulates by epoch": (Net, {}, lambda: GradientAccumulationScheduler({0: 1, 1: 3})),
    "clips": (Net, {"gradient_clip_val": 0.1}, ()),
    "clips by value": (
        Silent,
        {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"},
        (),
    ),
    "mixed": (Net, {"precision": "bf16-mixed"}, ()),
    "double": (Net, {"precision": "64-true"}, ()),
    "validates within epochs": (Net, {"val_check_interval": 2}, ()),
    "validates across epochs": (
        Now,
        {"val_check_interval": 4, "check_val_every_n_epoch": None},
        (),
    ),
    "all steps logged": (Now, {"log_every_n_steps": 1}, ()),
    "no steps logged": (Net, {"log_every_n_steps": 0}, ()),
    "profiler": (Net, {"profiler": "simple"}, ()),
    "stops": (Net, {}, Stops),
    "comes later": (Net, {}, Comes),
    "replaces": (lambda: type("Patched", (Net,), {})(), {}, lambda: [Replaces(), Doubles()]),
    "turns": (Net, {}, Turns),
    "doubled": (Shown, {}, Doubled),
    "averages": (Silent, {}, lambda: SWA(swa_lrs=0.1, swa_epoch_start=1)),
    "logs rarely": (Rare, {"val_check_interval": 2}, ()),
    "full batch": (Silent, {"limit_train_batches": 3}, ()),
    **{kind.__name__: (kind, {}, ()) for kind in (
        Silent, Now, NoLoss, Leaves, Twice, Follows, Own, Hand, Part, Zero, Two, Steps,
        Sums, Manual, Keeps, ShownToModule, Metrics)},
}  # fmt: skip
