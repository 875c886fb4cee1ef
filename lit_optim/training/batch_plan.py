"""What a run does for a batch: the hooks that somebody has, looked up once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import lightning
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.core.optimizer import do_nothing_closure
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.optim import Optimizer

from lit_optim.training.profiler import NoProfiler

#: The versions of Lightning whose loop does what this one leaves out or repeats.
COMPARED_VERSIONS = ("2.6.",)
#: The hooks of a batch that callbacks and the module may have, in their order.
HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_batch_start",
    "on_validation_batch_end",
)
#: Methods of a module, or of its data, that move a batch.
TRANSFER = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
#: Methods of a module that are a part of its optimization.
OPTIMIZATION = (
    "optimizer_step",
    "optimizer_zero_grad",
    "backward",
    "configure_gradient_clipping",
    "clip_gradients",
)


class BatchPlan:
    """What a run does for a batch: looked up at the beginning of an epoch, and where it changes.

    Args:
        trainer: one that `is_plain`.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.module = trainer.lightning_module
        self._attributes = self.module.__dict__
        precision = trainer.precision_plugin
        is_mixed = isinstance(precision, MixedPrecision)
        self._context = precision.train_step_context if is_mixed else nullcontext
        self._validation_context = precision.val_step_context if is_mixed else nullcontext
        self._look_up()

    def _look_up(self) -> None:
        trainer, module = self.trainer, self.module
        self._callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]
        self._count = len(self._attributes)
        self._hooks = {hook: self._find(hook) for hook in HOOKS}
        data = getattr(trainer, "datamodule", None)
        is_on_cpu = trainer.strategy.root_device.type == "cpu"
        self._moves = not is_on_cpu or _has_own(module, TRANSFER) or _has_own(data, TRANSFER)
        self._steps_schedulers = _has_own(module, ("lr_scheduler_step",))
        self.optimizes = not _has_own(module, OPTIMIZATION)
        self._takes_index: dict[str, bool] = {}

    def refresh(self) -> None:
        """Look for new callbacks, and for methods that somebody has given the module."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        if callbacks != self._callbacks or len(self._attributes) != self._count:
            self._look_up()

    def _find(self, hook: str) -> tuple[list[Callable[..., Any]], Callable[..., Any] | None]:
        """The functions of callbacks that do something, and that of the module."""
        functions = [getattr(callback, hook) for callback in self._callbacks]
        empty = getattr(Callback, hook)
        functions = [f for f in functions if callable(f) and getattr(f, "__func__", f) != empty]
        own = getattr(self.module, hook)
        return functions, own if _has_own(self.module, (hook,)) and callable(own) else None

    def call(self, hook: str, *args: Any) -> Any:
        """Call a hook of all callbacks, then that of the module, and return what that returns."""
        self.refresh()
        functions, own = self._hooks[hook]
        if not functions and own is None:
            return None
        attributes, trainer, module = self._attributes, self.trainer, self.module
        before = attributes["_current_fx_name"]  # by which the module's `log` knows where it is
        attributes["_current_fx_name"] = hook
        for function in functions:
            function(trainer, module, *args)
        output = None if own is None else own(*args)
        attributes["_current_fx_name"] = before
        return output

    def transfer(self, batch: Any) -> Any:
        """Return the batch on the device of the module."""
        if (
            not self._moves
            and type(batch) in (tuple, list)
            and all(type(part) is Tensor and part.device.type == "cpu" for part in batch)
        ):
            return batch
        trainer = self.trainer
        batch = trainer.precision_plugin.convert_input(batch)
        batch = self.module._on_before_batch_transfer(batch, dataloader_idx=0)
        before = self._attributes["_current_fx_name"]
        self._attributes["_current_fx_name"] = "batch_to_device"
        batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
        self._attributes["_current_fx_name"] = before
        return batch

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return what the module's `training_step` does."""
        return self._step("training_step", self._context, batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Return what the module's `validation_step` does."""
        return self._step("validation_step", self._validation_context, batch, batch_idx)

    def _step(self, name: str, context: Callable[[], Any], batch: Any, batch_idx: int) -> Any:
        step = getattr(self.module, name)
        if name not in self._takes_index:
            self._takes_index[name] = is_param_in_hook_signature(step, "batch_idx", min_args=2)
        before = self._attributes["_current_fx_name"]
        self._attributes["_current_fx_name"] = name
        with context():
            output = step(batch, batch_idx) if self._takes_index[name] else step(batch)
        self._attributes["_current_fx_name"] = before
        return output

    def backward(self, loss: Tensor) -> None:
        """Compute the gradient of a loss."""
        before = self._attributes["_current_fx_name"]
        self._attributes["_current_fx_name"] = "backward"
        loss.backward()  # type: ignore[no-untyped-call]
        self._attributes["_current_fx_name"] = before

    def step_scheduler(self, scheduler: Any) -> None:
        """Step a scheduler as the module does."""
        before = self._attributes["_current_fx_name"]
        self._attributes["_current_fx_name"] = "lr_scheduler_step"
        if self._steps_schedulers:
            self.module.lr_scheduler_step(scheduler, None)
        else:
            scheduler.step()
        self._attributes["_current_fx_name"] = before

    def clip(self, optimizer: Optimizer) -> None:
        """Clip the gradients, if the trainer does."""
        trainer = self.trainer
        if trainer.gradient_clip_val:
            trainer.precision_plugin._clip_gradients(
                self.module, optimizer, trainer.gradient_clip_val,
                gradient_clip_algorithm=trainer.gradient_clip_algorithm,
            )  # fmt: skip


def _has_own(owner: LightningModule | LightningDataModule | None, names: Iterable[str]) -> bool:
    """Whether a module or its data has one of these methods not from Lightning's class."""
    kind = LightningModule if isinstance(owner, LightningModule) else LightningDataModule
    methods = () if owner is None else [(getattr(owner, n), getattr(kind, n)) for n in names]
    return any(getattr(method, "__func__", method) is not empty for method, empty in methods)


def is_plain(trainer: Trainer) -> bool:
    """Whether Lightning passes a batch to the module as `BatchPlan` does."""
    strategy, precision = trainer.strategy, trainer.precision_plugin
    module = trainer.lightning_module
    return (
        lightning.__version__.startswith(COMPARED_VERSIONS)
        and isinstance(module, LightningModule)
        and type(strategy) is SingleDeviceStrategy
        and strategy.model is module
        and type(trainer.profiler) in (NoProfiler, PassThroughProfiler)  # type: ignore[attr-defined]
        and (
            type(precision) is Precision
            or (type(precision) is MixedPrecision and precision.scaler is None)
        )
    )


def has_plain_step(trainer: Trainer) -> bool:
    """Whether Lightning makes a step of one optimizer, and nothing beside it."""
    wrapped = trainer.strategy._lightning_optimizers
    return (
        trainer.lightning_module.automatic_optimization
        and len(wrapped) == 1
        and all(
            function is do_nothing_closure
            for one in wrapped
            for function in (one._on_before_step, one._on_after_step)
        )
    )
