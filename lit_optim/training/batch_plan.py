"""What a run does for a batch, as Lightning does it where nothing is overridden."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any

import lightning
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
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
#: Where hooks are that change no loss.
HARMLESS = ("lit_optim.", "lightning.pytorch.")
#: Makes what reads a hook of a callback.
reader_of = cache(attrgetter)
IS_CPU = attrgetter("is_cpu")


class Methods:
    """Methods of a class of Lightning's, of which a subclass or an object may have its own.

    Args:
        kind: the class.
        names: of the methods.
    """

    def __init__(self, kind: type, *names: str) -> None:
        self._names, self._read = names, attrgetter(*names)
        self._usual = self._read(kind)

    def are_usual(self, owner: Any) -> bool:
        """Whether an object has all of them from the class."""
        is_plain = vars(owner).keys().isdisjoint(self._names)
        return is_plain and bool(self._read(type(owner)) == self._usual)


TRANSFER = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
#: What moves a batch.
OF_MODULE = Methods(LightningModule, *TRANSFER)
OF_DATA = Methods(LightningDataModule, *TRANSFER)
#: What is a part of the optimization.
OPTIMIZATION = Methods(
    LightningModule,
    "optimizer_step",
    "optimizer_zero_grad",
    "backward",
    "configure_gradient_clipping",
    "clip_gradients",
)


class BatchPlan:
    """What a run does for a batch.

    Hooks, and the methods that a module may override, are looked up each time: they may come, go
    or be replaced at any moment, and looking takes little.

    Args:
        trainer: one that `is_plain`.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.strategy = trainer, trainer.strategy
        self.module = trainer.lightning_module
        self._attributes = self.module.__dict__
        precision = trainer.precision_plugin
        is_mixed = isinstance(precision, MixedPrecision)
        self._context = precision.train_step_context if is_mixed else None
        self._validation_context = precision.val_step_context if is_mixed else None
        self._is_on_cpu = trainer.strategy.root_device.type == "cpu"
        self._data = getattr(trainer, "datamodule", None)
        #: For each step: the function, and whether it takes the number of the batch.
        self._known_steps: dict[str, tuple[Any, bool]] = {}

    def is_automatic(self) -> bool:
        """Whether Lightning optimizes the module, which may say so at any moment."""
        return bool(self._attributes["_automatic_optimization"])

    @property
    def optimizes(self) -> bool:
        """Whether the optimizer's step is all there is, as nobody overrides a part of it."""
        wrapped = self.strategy._lightning_optimizers
        return (
            len(wrapped) == 1
            and wrapped[0]._on_before_step is do_nothing_closure
            and wrapped[0]._on_after_step is do_nothing_closure
            and OPTIMIZATION.are_usual(self.module)
        )

    def call(self, hook: str, *args: Any) -> Any:
        """Call a hook of all callbacks, then that of the module, and return what that returns."""
        attributes, trainer, module = self._attributes, self.trainer, self.module
        before = attributes["_current_fx_name"]  # by which the module's `log` knows where it is
        attributes["_current_fx_name"] = hook
        for function in map(reader_of(hook), trainer.callbacks):  # type: ignore[attr-defined]
            if function is not None and callable(function):
                function(trainer, module, *args)
        own = getattr(module, hook)
        output = own(*args) if callable(own) else None
        attributes["_current_fx_name"] = before
        return output

    @property
    def shows_loss(self) -> bool:
        """Whether someone else's hook is given the loss, which it may change in place."""
        hook = "on_before_backward"
        for function in map(reader_of(hook), self.trainer.callbacks):  # type: ignore[attr-defined]
            if function is not None and not _is_harmless(function):
                return True
        return not _is_harmless(getattr(self.module, hook))

    def transfer(self, batch: Any) -> Any:
        """Return the batch on the device of the module."""
        if (
            self._is_on_cpu
            and _is_on_cpu(batch)
            and OF_MODULE.are_usual(self.module)
            and (self._data is None or OF_DATA.are_usual(self._data))
        ):
            # Lightning makes another list, so that the loader's own is not changed by the module
            return batch if type(batch) is tuple else list(batch)
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

    def _step(
        self, name: str, context: Callable[[], Any] | None, batch: Any, batch_idx: int
    ) -> Any:
        step = getattr(self.module, name)
        function = getattr(step, "__func__", step)
        known, takes_index = self._known_steps.get(name, (None, False))
        if function is not known:
            takes_index = is_param_in_hook_signature(step, "batch_idx", min_args=2)
            self._known_steps[name] = function, takes_index
        before = self._attributes["_current_fx_name"]
        self._attributes["_current_fx_name"] = name
        given = (batch, batch_idx) if takes_index else (batch,)
        if context is None:
            output = step(*given)
        else:
            with context():
                output = step(*given)
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
        self.module.lr_scheduler_step(scheduler, None)
        self._attributes["_current_fx_name"] = before

    def clip(self, optimizer: Optimizer) -> None:
        """Clip the gradients, if the trainer does."""
        trainer = self.trainer
        if trainer.gradient_clip_val:
            trainer.precision_plugin._clip_gradients(
                self.module, optimizer, trainer.gradient_clip_val,
                gradient_clip_algorithm=trainer.gradient_clip_algorithm,
            )  # fmt: skip


def _is_harmless(function: Any) -> bool:
    """Whether a hook is ours or Lightning's, of which none changes what it is given."""
    return (getattr(function, "__module__", None) or "").startswith(HARMLESS)


def _is_on_cpu(batch: Any) -> bool:
    """Whether a batch is a list or a tuple of tensors in the memory of the CPU."""
    is_plain = type(batch) is tuple or type(batch) is list
    return is_plain and {*map(type, batch)} == {Tensor} and all(map(IS_CPU, batch))


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
