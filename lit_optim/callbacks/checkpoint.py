"""Saves the best weights by the monitored metric, and the newest."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from copy import copy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from lit_optim.callbacks.averaged_weights import AveragedWeights
from lit_optim.callbacks.signals import have_agreed
from lit_optim.checkpoints.files import CheckpointFiles
from lit_optim.errors import TrainingFailed
from lit_optim.kernels.precision import as_real
from lit_optim.lightning_classes import (
    Callback,
    LightningModule,
    ModelCheckpoint,
    Trainer,
    TrainerFn,
    is_a,
)
from lit_optim.metric_names import infer_direction
from lit_optim.sharding import local_tensor
from lit_optim.training.lengths import is_at_end
from lit_optim.training.loggers import flush_loggers
from lit_optim.training.monitor import (
    has_validation,
    is_settled,
    require_direction,
    require_logged,
    set_direction,
)
from lit_optim.training.overrides import call_after_batches

#: What Lightning has noted of the best checkpoint before it is written.
OF_THE_BEST = (
    *("best_k_models", "best_model_path", "best_model_score"),
    *("kth_best_model_path", "kth_value", "current_score"),
)


#: The most weights of which checkpoints are kept in memory until they are written.
MOST_WEIGHTS = 4_000_000
#: Hooks in which other code may look at a checkpoint that has just been saved, or count them.
LOOKING = ("on_validation_end", "on_save_checkpoint", "on_train_epoch_end")
#: Modules whose hooks do not, and loggers that do not send it away.
INDIFFERENT = (
    "lit_optim.",
    *(
        f"{package}.{part}"
        for package in ("lightning.pytorch", "pytorch_lightning")
        for part in ("core.", "callbacks.", "loggers.logger", "loggers.tensorboard", "loggers.csv")
    ),
)


class NotWritten(Exception):
    """The best checkpoint could not be written, of which the log tells."""


class Checkpoint(ModelCheckpoint):
    """Saves the best checkpoint as `<filename>.ckpt` and the newest as `last.ckpt`.

    The newest is also saved after Ctrl-C or an exception. Weights that are not finite are never
    saved.

    Args:
        dirpath: the directory of the checkpoints.
        filename: the name of the best checkpoint.
        monitor: the metric that decides; without validation data only the newest is saved.
        mode: "min" or "max" of the metric; None: as its torchmetrics class or its name says.
        save_last: whether to save the newest.

    Raises:
        UsageError: the model does not log the metric, or its direction is unknown.
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

    #: Whether the newest is to be saved at the end of the update that has begun.
    _is_pending = False
    _validates = True
    #: The number of updates when the newest was saved.
    _newest_at = 0
    #: Whether the run resumed from the newest and has done nothing since.
    _is_as_loaded = False

    #: What writes the checkpoints of this fit, if it is ours.
    _files: CheckpointFiles | None = None
    #: What was known of the best checkpoint before the one that is being written in the background.
    _before: dict[str, Any] | None = None

    #: The names of the buffers that must be finite.
    _finite_buffers: Collection[str] = ()

    #: Lightning's callback checks at every step whether to save; this one saves at validations.
    on_train_batch_end = Callback.on_train_batch_end

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        files = trainer.strategy.checkpoint_io
        self._files = files if isinstance(files, CheckpointFiles) else None
        self._finite_buffers = finite_buffers(pl_module)
        self._is_pending = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not has_validation(trainer):
            self.monitor, self.save_top_k, self._validates = None, 0, False
        super().on_train_start(trainer, pl_module)
        # a run that resumes at its end completes the epoch, from which a longer run would not
        # continue: what it would save is not what the undisturbed run has saved
        newest = Path(self._newest_path())
        self._is_as_loaded = Path(str(trainer.ckpt_path)).absolute() == newest.absolute()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.settle()
        self._is_as_loaded &= trainer.sanity_checking
        metrics = trainer.callback_metrics
        if trainer.state.fn == TrainerFn.FITTING and self.monitor:
            require_logged(trainer, self.monitor)
            if not self._is_directed and is_settled(trainer, self.monitor):
                set_direction(self, require_direction(trainer, self.monitor))
                self._is_directed = True
        score = metrics.get(self.monitor or "")
        if score is not None and not torch.isfinite(torch.as_tensor(score)):
            return  # neither the best, nor worth resuming from
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if fitting and not self._is_finite(trainer):
            return
        files = self._files
        # the newest must not be there before the best one of which it tells; and where the name of
        # the best one changes, the one before is removed at once
        may_be_late = "{" not in str(self.filename) and may_wait(trainer)
        if files and fitting and may_be_late and files.has_checked(self._newest_path()):
            with files.in_background():
                self._save_validated(trainer, pl_module, fitting)
        else:
            self._save_validated(trainer, pl_module, fitting)

    def _save_validated(self, trainer: Trainer, pl_module: LightningModule, fitting: bool) -> None:
        # Lightning saves the newest only if it is the best
        kept, self.save_last = self.save_last, False
        # and skips a second validation during one update of several batches
        self._last_global_step_saved = 0
        # the newest is part of what the best one holds
        is_known = self.last_model_path == self._newest_path()
        try:
            super().on_validation_end(trainer, pl_module)
        finally:
            self.save_last = kept
        if not fitting or not self.save_last:
            return
        # the newest has no unfinished update, so that it is as small as the others
        self._is_pending = trainer.fit_loop.epoch_loop._should_accumulate()
        if self._is_pending:
            call_after_batches(trainer, lambda: self._save_pending(trainer))
        if self._is_pending or not self._keeps_newest(trainer):
            return
        files = self._files
        if files and is_known and files.repeat(self.best_model_path, self.last_model_path):
            self._newest_at = trainer.global_step
            self._last_checkpoint_saved = self.last_model_path
        else:
            self._save_newest(trainer, is_finite=True)

    def _newest_path(self) -> str:
        return self.format_checkpoint_name({}, self.CHECKPOINT_NAME_LAST)

    def settle(self) -> None:
        """Wait for what is written in the background; the best one counts only if it is written."""
        failed = self._files.settle() if self._files else []
        before, self._before = self._before, None
        if before is not None and Path(self.best_model_path) in failed:
            self.__dict__.update(before)
            self._newest_at = 0  # it came after the best one, and has not been tried

    def state_dict(self) -> dict[str, Any]:
        if self._before is None or not (
            self._files and self._files.is_waiting(self.best_model_path)
        ):
            self.settle()
        return super().state_dict()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self.settle()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._is_as_loaded = False

    def _save_pending(self, trainer: Trainer) -> bool:
        """Save the newest if the update is finished; return whether nothing is left to save.

        After the last batch of an epoch Lightning could not resume, but at its end it can.
        """
        is_within = trainer.fit_loop.epoch_loop._should_accumulate() or trainer.is_last_batch
        if self._is_pending and not is_within:
            self._is_pending = False
            if self._keeps_newest(trainer):
                self._save_newest(trainer)
        return not self._is_pending

    def _update_best_and_save(
        self, current: Tensor, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        before = {name: copy(self.__dict__[name]) for name in OF_THE_BEST}
        try:
            super()._update_best_and_save(current, trainer, monitor_candidates)
        except NotWritten:  # what is there is still the best that there is
            self.__dict__.update(before)
        else:
            self._before = before

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        files = trainer.strategy.checkpoint_io
        written = files.written if isinstance(files, CheckpointFiles) else -1
        flush_loggers(trainer)
        super()._save_checkpoint(trainer, filepath)
        if isinstance(files, CheckpointFiles) and files.is_waiting(filepath):
            return
        is_missing = trainer.is_global_zero and getattr(files, "written", None) == written
        if trainer.world_size > 1:
            is_missing = trainer.strategy.reduce_boolean_decision(is_missing, all=False)
        if is_missing and filepath in self.best_k_models:
            raise NotWritten

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (self._is_pending or not self._validates) and self._keeps_newest(trainer):
            self._save_newest(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.settle()
        # if the run ends at a validation, that has saved the newest, with the epoch counters from
        # which a longer run continues
        if self._keeps_newest(trainer) and not self._is_newest_saved(trainer):
            self._save_newest(trainer)

    def _is_newest_saved(self, trainer: Trainer) -> bool:
        return not self._is_pending and self._newest_at == trainer.global_step

    def _is_finite(self, trainer: Trainer) -> bool:
        """Whether the weights are finite on all devices."""
        finite = is_finite(trainer, self._finite_buffers)
        if trainer.world_size > 1:
            return bool(trainer.strategy.reduce_boolean_decision(finite))
        return finite

    @property
    def directory(self) -> Path:
        """The directory of the checkpoints."""
        return Path(str(self.dirpath))

    def _save_newest(self, trainer: Trainer, is_finite: bool = False) -> None:
        if not is_finite and not self._is_finite(trainer):
            return  # keep the previous one
        self._is_pending, self._newest_at = False, trainer.global_step
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.settle()
        failed = isinstance(exception, TrainingFailed)  # then the previous checkpoint is better
        if failed or not self._keeps_newest(trainer):
            return
        if is_at_end(trainer) and self._is_newest_saved(trainer):
            return  # as at the end that was about to come
        if have_agreed(trainer):
            self._save_newest(trainer)
            return
        if not trainer.is_global_zero:
            return
        # the other ranks may wait elsewhere or be gone, so this must not wait for them
        whole = is_a(trainer.strategy, "strategies.SingleDeviceStrategy", "strategies.DDPStrategy")
        if whole and is_finite(trainer, self._finite_buffers):
            name = self._newest_path()
            flush_loggers(trainer)
            checkpoint = trainer._checkpoint_connector.dump_checkpoint()
            trainer.strategy.checkpoint_io.save_checkpoint(checkpoint, name)
            self.last_model_path = name

    def _keeps_newest(self, trainer: Trainer) -> bool:
        if self._is_as_loaded or not trainer.global_step:
            return False
        return bool(self.save_last and not trainer.fast_dev_run)  # type: ignore[attr-defined]


def may_wait(trainer: Trainer) -> bool:
    """Whether a checkpoint may be written after its validation, while the training goes on.

    Nobody looks at it there: no logger that sends it away, no callback or module of the user, no
    other process. And the weights are few, since what waits is in memory.
    """
    module = trainer.lightning_module
    if trainer.world_size > 1 or sum(p.numel() for p in module.parameters()) > MOST_WEIGHTS:
        return False
    hooks = [getattr(x, hook, None) for x in (module, *trainer.callbacks) for hook in LOOKING]  # type: ignore[attr-defined]
    hooks += [getattr(logger, "after_save_checkpoint", None) for logger in trainer.loggers]
    return all((getattr(f, "__module__", None) or "").startswith(INDIFFERENT) for f in hooks if f)


def finite_buffers(module: LightningModule) -> set[str]:
    """Return the names of the buffers that must stay finite.

    These are the statistics of normalization layers, and all buffers that are finite now; a mask of
    -inf, for example, is not.
    """
    names = {name for name, buffer in module.named_buffers() if are_finite([buffer])}
    for prefix, layer in module.named_modules():
        if isinstance(layer, _NormBase):
            names |= {f"{prefix}.{n}".lstrip(".") for n, _ in layer.named_buffers(recurse=False)}
    return names


def is_finite(trainer: Trainer, buffers: Collection[str]) -> bool:
    """Whether the weights that a checkpoint would hold now are finite.

    These are the parameters, the buffers of these names, the average if it is saved in place of the
    parameters, and the weights that a wrapper keeps. If they are sharded, each process sees its
    shards. With other strategies than Lightning's for one device, DDP and FSDP2 the answer is True.
    """
    kinds = "SingleDeviceStrategy", "DDPStrategy", "ModelParallelStrategy"
    if not is_a(trainer.strategy, *(f"strategies.{kind}" for kind in kinds)):
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
    """Whether all floating-point numbers are finite, however large; of DTensors the shards here."""
    shards = (local_tensor(t.detach()) for t in tensors)
    numbers = (t for t in shards if t.is_floating_point() or t.is_complex())
    values = [as_real(t) for t in numbers if not is_lazy(t) and t.numel()]
    with torch.no_grad():
        try:
            # the maximum norm, since squares overflow long before the numbers do
            norms = torch._foreach_norm(values, float("inf")) if values else ()
        except (
            RuntimeError,
            NotImplementedError,
        ):  # a dtype without norms, or no memory for them
            return all(bool(torch.isfinite(value.float()).all()) for value in values)
    return all(bool(torch.isfinite(norm)) for norm in norms)
