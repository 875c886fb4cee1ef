"""Full-batch gradient descent, in the memory of a batch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_optim.errors import UsageError
from lit_optim.lightning_classes import Callback, LightningModule, Trainer, variant_for, variants
from lit_optim.training.protocols import AllowsUnevenRanks

#: Micro-batches per update until the length of the epoch is known: more than any epoch has.
#: Lightning makes an update after the last batch of an epoch anyway.
UNKNOWN_LENGTH = 2**30


class FullBatch(Callback):
    """Makes one update per epoch, with the exact gradient of the mean loss over its samples.

    The batches of the loader are micro-batches: their gradients are summed over all devices, each
    weighed by its number of samples. Their size affects memory and speed only, and a smaller last
    batch has a smaller weight. Clipping sees the whole gradient.

    The loss must be the mean over the samples of its batch. These are counted as Lightning does for
    `self.log`: by the length of the first tensor in the batch. A batch whose `training_step`
    returns None is left out of the mean (with a loss scaler, Lightning makes no update if it is the
    last batch). Statistics across samples (batch norm) are those of a micro-batch, and samples that
    a DistributedSampler repeats count twice.

    Raises:
        UsageError: `accumulate_grad_batches` is set, the module optimizes manually, the strategy
            accumulates gradients itself, a batch has no tensor, or the optimizer evaluates the loss
            several times within an update (LBFGS) and the epoch has more than one micro-batch.
    """

    def __init__(self) -> None:
        self._samples = 0  # of this micro-batch, on this rank
        self._unit = 0  # samples in the first micro-batch: weights near 1 do not overflow float16
        self._counted = 0  # samples in the gradient so far, on this rank
        self._is_averaged = False  # whether the gradient was divided by the number of samples
        self._accumulated = 1  # what this callback has set in the trainer

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        given, strategy = trainer.accumulate_grad_batches, trainer.strategy
        if given not in (1, self._accumulated):
            raise UsageError(
                f"trainer.accumulate_grad_batches={given}, but a full batch is the whole epoch; "
                "leave it out"
            )
        if not pl_module.automatic_optimization:
            raise UsageError(
                f"{type(pl_module).__name__} optimizes manually, so its updates are its own; "
                "a full batch needs automatic_optimization"
            )
        if strategy.handles_gradient_accumulation:
            raise UsageError(f"a full batch cannot be accumulated by {type(strategy).__name__}")
        self._accumulate(trainer, UNKNOWN_LENGTH)
        self._allow_uneven_ranks(trainer, True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._allow_uneven_ranks(trainer, False)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._allow_uneven_ranks(trainer, False)

    def _allow_uneven_ranks(self, trainer: Trainer, allowed: bool) -> None:
        """Tell the data that ranks may have different numbers of samples."""
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, AllowsUnevenRanks):
            data.allow_uneven_ranks(allowed)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning divides the loss by this number: with the true one the loss stays readable and
        # does not underflow in float16
        if math.isfinite(trainer.num_training_batches):
            self._accumulate(trainer, int(trainer.num_training_batches))

    def _accumulate(self, trainer: Trainer, batches: int) -> None:
        trainer.accumulate_grad_batches = self._accumulated = batches

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        count_samples = variant_for(trainer, "utilities.data.extract_batch_size")
        try:
            self._samples = count_samples(batch)
        except variants("utilities.exceptions.MisconfigurationException"):
            raise UsageError(
                f"cannot count the samples of a batch without tensors, a {type(batch).__name__}; "
                "a full batch is weighted by them"
            ) from None
        if not self._unit:
            self._unit = max(1, trainer.strategy.broadcast(self._samples))  # the same on all ranks

    def on_before_zero_grad(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        self._counted, self._is_averaged = 0, False

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        if self._is_averaged:
            name = type(trainer.optimizers[0]).__name__
            raise UsageError(
                f"{name} evaluates the loss again within an update, so it needs all samples in "
                "one batch: make data.batch_size larger"
            )
        weight = trainer.accumulate_grad_batches * self._samples / self._unit
        loss.register_hook(lambda gradient: gradient * weight)  # type: ignore[no-untyped-call]
        self._counted += self._samples

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        self._is_averaged = True
        counted = torch.tensor(self._counted, device=trainer.strategy.root_device)
        total = int(trainer.strategy.reduce(counted, reduce_op="sum"))
        if not total:
            return  # every training_step returned None, so there is no gradient
        mean = total / trainer.world_size / self._unit  # gradients are already means over ranks
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.div_(mean)
