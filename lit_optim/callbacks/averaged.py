"""Optimizers that train other weights than they are judged by: train() and eval() swap them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from lit_optim.training.lengths import is_of_earlier_fit

LOG = logging.getLogger("lit_optim")

#: Where a checkpoint keeps the weights that training goes on with.
TRAINING_WEIGHTS = "training_weights"
#: The parts of an optimizer's state that its eval() leaves alone.
TORCHS = ("state", "param_groups")


@runtime_checkable
class Averaging(Protocol):
    """An optimizer, ours or anybody's, whose eval() puts the averaged weights into the model."""

    param_groups: list[dict[str, Any]]

    def train(self) -> Any:
        """Let the parameters be what is trained."""

    def eval(self) -> Any:
        """Let the parameters be their average."""


class Averaged(Callback):
    """Validates, tests, predicts and saves averaged weights, and trains on the others.

    A checkpoint holds the average as its `state_dict`, and the weights that training goes on with
    as `training_weights`: resumed, they are the same to the bit. After fit the model holds the
    average. While it does, the others are kept beside it, which takes their size in memory.
    """

    def __init__(self, optimizers: list[Averaging], module: LightningModule) -> None:
        self.optimizers = optimizers
        self.module = module
        #: The weights that are trained, while the model holds the average.
        self.kept: dict[str, Tensor] | None = None

    @property
    def optimizer(self) -> Averaging:
        """The first of them; mostly there is one."""
        return self.optimizers[0]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.leave()
        for optimizer in self.optimizers:
            optimizer.train()  # a package's own may begin in eval mode
        norms = [layer for layer in pl_module.modules() if isinstance(layer, _NormBase)]
        if any(layer.track_running_stats for layer in norms):
            LOG.warning(
                "%s: batch norm's running statistics are those of the weights in training, not of "
                "their average, which is validated and saved: the average may look worse than it "
                "is (refreshing them would take passes over the training data)",
                type(self.optimizer).__name__,
            )

    def on_validation_start(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.enter()

    def on_validation_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.leave()

    def on_exception(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.leave()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self.enter()

    @torch.no_grad()
    def enter(self) -> None:
        """Put the average into the model; nothing if it is there."""
        if self.kept is None:
            self.kept = {name: p.clone() for name, p in self.module.named_parameters()}
            for optimizer in self.optimizers:
                optimizer.eval()

    @torch.no_grad()
    def leave(self) -> None:
        """Put back what is trained, to the bit; nothing if it is there."""
        if self.kept is not None:
            for optimizer in self.optimizers:
                optimizer.train()
            for name, p in self.module.named_parameters():
                p.copy_(self.kept[name])
            self.kept = None

    @contextmanager
    def saving(self) -> Iterator[dict[str, Tensor]]:
        """The average is in the model; yields the weights that are trained."""
        there = self.kept is not None
        self.enter()
        assert self.kept is not None
        try:
            yield self.kept
        finally:
            if not there:
                self.leave()


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    return value.clone() if isinstance(value, Tensor) else value


def average(module: LightningModule, optimizer: Averaging) -> None:
    """Have the trainer of this module show the averaged weights wherever it does not train."""
    trainer = module.trainer
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in [c for c in callbacks if isinstance(c, Averaged)]:
        if not any(is_of_earlier_fit(trainer, one) for one in callback.optimizers):  # type: ignore[arg-type]
            callback.optimizers.append(optimizer)  # another one of the same module
            return
        callbacks.remove(callback)
    averaged = Averaged([optimizer], module)
    callbacks.insert(0, averaged)  # before a checkpoint is written, also after an exception

    connector = trainer._checkpoint_connector
    loaded = connector._loaded_checkpoint or {}
    if TRAINING_WEIGHTS in loaded:  # the optimizer's state, which is loaded next, is in eval mode
        device = module.device
        averaged.kept = {k: v.to(device) for k, v in loaded[TRAINING_WEIGHTS].items()}

    dump = type(connector).dump_checkpoint  # what an earlier fit has put there is not called

    def dump_checkpoint(weights_only: bool | None = None) -> dict[str, Any]:
        with averaged.saving() as training:
            checkpoint: dict[str, Any] = dump(connector, weights_only)
            if not weights_only:
                copies = {name: value.clone() for name, value in training.items()}
                checkpoint[TRAINING_WEIGHTS] = copies
            # the model's own tensors would change with it before they are written
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: value.clone() for name, value in state.items()}
            for saved in checkpoint.get("optimizer_states", ()):  # a wrapper's average, too
                saved.update({k: _copied(v) for k, v in saved.items() if k not in TORCHS})
        return checkpoint

    connector.dump_checkpoint = dump_checkpoint  # type: ignore[method-assign]
