"""Optimizers that train one set of weights and evaluate their average."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from lit_optim.lightning_classes import LightningModule, Trainer, TrainerFn
from lit_optim.sharding import free_gathered, gather_wholes, shard_like
from lit_optim.training.overrides import (
    Checkpoint,
    FitCallback,
    loaded_checkpoint,
    wrap_checkpoints,
)
from lit_optim.updates import innermost_optimizer

LOG = logging.getLogger("lit_optim")

#: The key of a checkpoint under which it holds the weights that training continues with.
TRAINING_WEIGHTS = "training_weights"
#: The parts of an optimizer's state dict that its eval() does not change.
UNAFFECTED_BY_EVAL = {"state", "param_groups"}


@runtime_checkable
class Averaging(Protocol):
    """An optimizer, from any package, whose eval() puts the averaged weights into the model."""

    param_groups: list[dict[str, Any]]

    def train(self) -> Any:
        """Put the weights in training into the parameters."""

    def eval(self) -> Any:
        """Put their average into the parameters."""


class AveragedWeights(FitCallback):
    """Validates, tests, predicts and saves averaged weights; trains the weights that they average.

    A checkpoint holds the average as `state_dict` and the weights in training as
    `training_weights`, so that a resumed run continues bit for bit. After fit the model holds the
    average. While the model holds the average, the callback keeps a copy of the weights in
    training, which takes their size in memory.

    Args:
        optimizers: of the module.
        module: the model.
        training_weights: of the checkpoint that the run resumes from. The optimizers' states in it
            are in eval mode.
    """

    position = "first"  # it restores the weights before another callback writes a checkpoint

    def __init__(
        self,
        optimizers: list[Averaging],
        module: LightningModule,
        training_weights: dict[str, Tensor] | None = None,
    ) -> None:
        self.optimizers = optimizers
        self.module = module
        #: The weights in training, while the model holds the average.
        self.training_weights = training_weights

    @property
    def optimizer(self) -> Averaging:
        """The first of the optimizers; usually the only one."""
        return self.optimizers[0]

    def is_stale(self, trainer: Trainer) -> bool:
        return self.is_of_earlier_fit(trainer)

    def merge(self, other: AveragedWeights) -> bool:
        self.optimizers += other.optimizers
        return True

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: Checkpoint
    ) -> None:
        # it is called where the checkpoint is loaded after the optimizer was made
        self.training_weights = checkpoint.get(TRAINING_WEIGHTS, self.training_weights)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        wrap_checkpoints(trainer, self.make_checkpoint)
        # an attempt to fit that failed may have left others
        own = {id(innermost_optimizer(optimizer)) for optimizer in trainer.optimizers}
        of_fit = [one for one in self.optimizers if id(innermost_optimizer(cast(Any, one))) in own]
        self.optimizers = of_fit or self.optimizers

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.leave_average()
        for optimizer in self.optimizers:
            optimizer.train()  # those of some packages start in eval mode
        norms = [layer for layer in pl_module.modules() if isinstance(layer, _NormBase)]
        if any(layer.track_running_stats for layer in norms):
            LOG.warning(
                "%s: batch norm's running statistics are those of the weights in training, not of "
                "their average, which is validated and saved: the average may look worse than it "
                "is (refreshing them would take passes over the training data)",
                type(self.optimizer).__name__,
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.enter_average()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.leave_average()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.leave_average()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.enter_average()

    @torch.no_grad()
    def enter_average(self) -> None:
        """Put the average into the model, unless it is there."""
        if self.training_weights is None:
            free_gathered(self.module)
            self.training_weights = {name: p.clone() for name, p in self.module.named_parameters()}
            for optimizer in self.optimizers:
                optimizer.eval()

    @torch.no_grad()
    def leave_average(self) -> None:
        """Put the weights in training back into the model, bit for bit, unless they are there."""
        if self.training_weights is not None:
            free_gathered(self.module)
            for optimizer in self.optimizers:
                optimizer.train()
            for name, p in self.module.named_parameters():
                p.copy_(shard_like(self.training_weights[name], p))
            self.training_weights = None

    @contextmanager
    def average_in_model(self) -> Iterator[dict[str, Tensor]]:
        """Hold the average in the model; yields the weights in training."""
        was_there = self.training_weights is not None
        self.enter_average()
        assert self.training_weights is not None
        try:
            yield self.training_weights
        finally:
            if not was_there:
                self.leave_average()

    def make_checkpoint(self, dump: Callable[[], Checkpoint], weights_only: bool) -> Checkpoint:
        """Return a checkpoint of the average, with the weights in training beside it."""
        with self.average_in_model() as training_weights:
            checkpoint = dump()
            if not weights_only:
                checkpoint[TRAINING_WEIGHTS] = gather_wholes(_clone(training_weights))
            # the model's own tensors would change before the checkpoint is written
            checkpoint["state_dict"] = _clone(dict(checkpoint["state_dict"]))
            for state in checkpoint.get("optimizer_states", ()):  # and so would a wrapper's average
                state.update(
                    {k: _clone(v) for k, v in state.items() if k not in UNAFFECTED_BY_EVAL}
                )
                for k, values in state["state"].items():
                    own = {name: _clone(v) for name, v in values.items() if "." in str(name)}
                    state["state"][k] = values | own
        return checkpoint


def average_weights(module: LightningModule, optimizer: Averaging) -> AveragedWeights:
    """Return the callback that shows the average of an optimizer wherever it does not train."""
    trainer = module.trainer
    saved = loaded_checkpoint(trainer).get(TRAINING_WEIGHTS)
    training_weights = saved and {name: w.to(module.device) for name, w in saved.items()}
    return AveragedWeights([optimizer], module, training_weights)


def _clone(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _clone(item) for key, item in value.items()}
    return value.clone() if isinstance(value, Tensor) else value
