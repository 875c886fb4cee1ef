"""What is kept of a run: the best weights by the monitored metric, and the newest."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from lit_optim.callbacks.averaged_weights import AveragedWeights
from lit_optim.errors import TrainingFailed
from lit_optim.kernels.precision import as_real
from lit_optim.metric_names import infer_direction
from lit_optim.training.monitor import (
    has_validation,
    is_settled,
    require_direction,
    require_logged,
    set_direction,
)


class Checkpoint(ModelCheckpoint):
    """`<filename>.ckpt`, the best, and `last.ckpt`, the newest; also after Ctrl-C or an exception.

    Args:
        dirpath: where they go.
        filename: name of the best.
        monitor: the metric that decides; without validation data only the newest is kept.
        mode: is it best when max or min; None: as its torchmetrics class or its name says.
        save_last: keep the newest.

    Raises:
        UsageError: the model does not log the metric, or its direction cannot be known.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        filename: str = "best",
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
        save_last: bool = True,
    ) -> None:
        super().__init__(
            dirpath,
            filename,
            monitor=monitor,
            mode=mode or infer_direction(monitor or "") or "min",
            save_last=save_last,
            save_top_k=1 if monitor else 0,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
        self._is_directed = mode is not None

    #: The newest is to be saved when the update that has begun is made.
    _waits = False
    _validates = True
    #: The update after which the newest was saved.
    _newest_at = 0

    #: Names of the buffers that are looked at.
    _finite_buffers: Collection[str] = ()

    #: Nothing is saved between validations; Lightning's own asks so at every step.
    on_train_batch_end = Callback.on_train_batch_end

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._finite_buffers = finite_buffers(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if not has_validation(trainer):
            self.monitor, self.save_top_k, self._validates = None, 0, False
        super().on_train_start(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        metrics = trainer.callback_metrics
        if trainer.state.fn == TrainerFn.FITTING and self.monitor:
            require_logged(trainer, self.monitor)
            if not self._is_directed and is_settled(trainer, self.monitor):
                set_direction(self, require_direction(trainer, self.monitor))
                self._is_directed = True
        score = metrics.get(self.monitor or "")
        if score is not None and not torch.isfinite(torch.as_tensor(score)):
            return  # what is not finite is not the best, nor are its weights worth going on with
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if fitting and not self._is_finite(trainer):
            return
        # Lightning's would keep the newest only if it is the best
        kept, self.save_last = self.save_last, False
        # and nothing twice at one step, where an update takes several batches with validations
        self._last_global_step_saved = 0
        try:
            super().on_validation_end(trainer, pl_module)
        finally:
            self.save_last = kept
        if not fitting or not self.save_last:
            return
        # where gradients are half gathered, which no checkpoint has, it waits for the update
        self._waits = trainer.fit_loop.epoch_loop._should_accumulate()
        if not self._waits and self._keeps_newest(trainer):
            self._save_newest(trainer)

    def on_train_batch_start(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        between = batch_idx % trainer.accumulate_grad_batches == 0
        if self._waits and between and self._keeps_newest(trainer):
            self._save_newest(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if not self._validates and self._keeps_newest(trainer):
            self._save_newest(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        # the run may end between two validations; else the last one has saved it, in the epoch that
        # a longer run would go on with
        if self._keeps_newest(trainer) and (self._waits or self._newest_at != trainer.global_step):
            self._save_newest(trainer)

    def _is_finite(self, trainer: Trainer) -> bool:
        """Whether the weights are, on all devices."""
        finite = is_finite(trainer, self._finite_buffers)
        if trainer.world_size > 1:
            return bool(trainer.strategy.reduce_boolean_decision(finite))
        return finite

    @property
    def directory(self) -> Path:
        """Where they are."""
        return Path(str(self.dirpath))

    def _save_newest(self, trainer: Trainer) -> None:
        if not self._is_finite(trainer):
            return  # the one before is worth more
        self._waits, self._newest_at = False, trainer.global_step
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_exception(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        failed = isinstance(exception, TrainingFailed)  # then what was saved before is better
        if failed or not self._keeps_newest(trainer) or not trainer.is_global_zero:
            return
        if not is_finite(trainer, self._finite_buffers):
            return
        # the other ranks may wait elsewhere or be gone: nothing here may wait for them
        if isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            name = self.format_checkpoint_name({}, self.CHECKPOINT_NAME_LAST)
            checkpoint = trainer._checkpoint_connector.dump_checkpoint()
            trainer.strategy.checkpoint_io.save_checkpoint(checkpoint, name)
            self.last_model_path = name

    def _keeps_newest(self, trainer: Trainer) -> bool:
        return bool(self.save_last and trainer.global_step and not trainer.fast_dev_run)  # type: ignore[attr-defined]


def finite_buffers(module: LightningModule) -> set[str]:
    """Names of the buffers that must stay finite.

    These are the statistics of normalization layers, and all that are finite now; a mask of -inf,
    say, is not.
    """
    names = {name for name, buffer in module.named_buffers() if are_finite([buffer])}
    for prefix, layer in module.named_modules():
        if isinstance(layer, _NormBase):
            names |= {f"{prefix}.{n}".lstrip(".") for n, _ in layer.named_buffers(recurse=False)}
    return names


def is_finite(trainer: Trainer, buffers: Collection[str]) -> bool:
    """Whether what would be saved now is finite; not asked where each device has other weights.

    Looked at are the parameters, the buffers of these names, the average where that is saved in
    place of the parameters, and what a wrapper keeps of them.
    """
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        return True
    module = trainer.lightning_module
    kept = [value for name, value in module.named_buffers() if name in buffers]
    for optimizer in trainer.optimizers:
        tensors = getattr(optimizer, "tensors", ())  # of a wrapper, by parameter
        kept += [value for name in tensors for value in getattr(optimizer, name).values()]
    if not are_finite([*module.parameters(), *kept]):
        return False
    averaged = [c for c in trainer.callbacks if isinstance(c, AveragedWeights)]  # type: ignore[attr-defined]
    for callback in averaged:
        with callback.average_in_model() as training:
            if not are_finite([*module.parameters(), *training.values()]):
                return False
    return True


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every number is finite, however large; others than numbers count as finite."""
    numbers = (t.detach() for t in tensors if t.is_floating_point() or t.is_complex())
    values = [as_real(t) for t in numbers if not is_lazy(t) and t.numel()]
    with torch.no_grad():
        try:
            # not the norm by squares, which overflows long before its numbers do
            norms = torch._foreach_norm(values, float("inf")) if values else ()
        except (
            RuntimeError,
            NotImplementedError,
        ):  # a dtype that has no norms, or no memory for it
            return all(bool(torch.isfinite(value.float()).all()) for value in values)
    return all(bool(torch.isfinite(norm)) for norm in norms)
