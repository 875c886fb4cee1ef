"""The loop over the batches of an epoch: Lightning's, without what nothing in a run asks for.

For every batch Lightning looks up some twenty hooks on each callback and on the module, names the
one that runs (an assignment that `nn.Module` intercepts), enters a context of the profiler, reads
the signature of `training_step`, divides the loss by 1, and collects metrics that nobody has
logged. That takes as long as a step of a small network. Here the hooks are looked up once, and only
those that somebody has overridden are called. What is called is called in the same order and with
the same values, so results are equal to the bit.

Whatever is not known to be as Lightning has it takes Lightning's own path: another strategy than
that of one device, a loss scaler, a profiler, manual optimization, a restart in the middle of an
epoch, a version of Lightning that has not been compared. So does the optimization alone, of a
module that overrides a part of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.core.optimizer import do_nothing_closure
from lightning.pytorch.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from lightning.pytorch.loops.optimization.automatic import Closure, ClosureResult
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection
from lightning.pytorch.utilities.exceptions import SIGTERMException
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
NO_LOSS = "`training_step` returned `None`. If this was on purpose, ignore this warning..."
NO_BATCH = "train_dataloader yielded None. If this was on purpose, ignore this warning..."


class _Results(_ResultCollection):
    """Lightning's logged metrics, which note whether there are new ones."""

    is_new = True

    def log(self, *args: Any, **kwargs: Any) -> None:
        self.is_new = True
        super().log(*args, **kwargs)

    def reset(self, *args: Any, **kwargs: Any) -> None:
        self.is_new = True
        super().reset(*args, **kwargs)


class EpochLoop(_TrainingEpochLoop):
    """Lightning's loop, with a shorter path for what it does at every batch.

    To be set as `trainer.fit_loop.epoch_loop`, before the training.
    """

    def __init__(self, trainer: Trainer, min_steps: int | None = None, max_steps: int = -1) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self._results = self._logged = _Results(training=True)
        self._plan: _Plan | None = None

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        super().on_run_start(data_fetcher)
        self._logged.is_new = True
        self._plan = None
        if is_plain(self.trainer) and not isinstance(data_fetcher, _DataLoaderIterDataFetcher):
            self._plan = _Plan(self.trainer)

    def advance(self, data_fetcher: _DataFetcher) -> None:
        plan = self._plan
        if plan is None or self.restarting:
            self._logged.is_new = True
            super().advance(data_fetcher)
            return
        plan.refresh()
        trainer, progress = self.trainer, self.batch_progress
        if self.val_loop.restarting:
            self.val_loop.restarting = False
        batch = next(data_fetcher)[0]
        batch_idx = progress.current.ready
        progress.is_last_batch = data_fetcher.done
        batch = plan.transfer(batch)
        progress.increment_ready()
        trainer._logger_connector.on_batch_start(batch)
        output: Mapping[str, Any] | None = None
        skips_rest = False
        if batch is None:
            self._warning_cache.warn(NO_BATCH)
        else:
            skips_rest = plan.call("on_train_batch_start", batch, batch_idx) == -1
            if skips_rest:
                progress.increment_by(0, is_last_batch=True)
            else:
                progress.increment_started()
                output = self._optimize(plan, batch, batch_idx)
        progress.increment_processed()
        self._step_schedulers(plan)
        if self._num_ready_batches_reached():
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        if skips_rest:
            raise StopIteration
        plan.call("on_train_batch_end", output, batch, batch_idx)
        self._collect_metrics()
        progress.increment_completed()
        every = trainer.log_every_n_steps
        is_due = every and (self._batches_that_stepped + 1) % every == 0
        if is_due or trainer.should_stop or trainer.fast_dev_run:
            trainer._logger_connector.update_train_step_metrics()

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        usual = self._plan is None or self.restarting or self._skip_next_val
        if usual or self.trainer.should_stop or self._should_check_val_fx(data_fetcher):
            super().on_advance_end(data_fetcher)
            self._logged.is_new = True  # a validation may have logged the same names
            return
        if any(config.reduce_on_plateau for config in self.trainer.lr_scheduler_configs):
            self.update_lr_schedulers("step", update_plateau_schedulers=True)
        if not self._should_accumulate():
            self._batches_that_stepped += 1
        if self.trainer.received_sigterm and not self._is_training_done:
            raise SIGTERMException

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        trainer, every = self.trainer, self.trainer.val_check_batch
        is_counted = isinstance(every, int) and every > 0 and not self.batch_progress.is_last_batch
        if is_counted and not trainer.should_stop and trainer._val_check_time_interval is None:
            across = trainer.check_val_every_n_epoch is None
            if ((self.total_batch_idx if across else self.batch_idx) + 1) % every:
                return False  # without a look at what could be validated
        return super()._should_check_val_fx(data_fetcher)

    def _collect_metrics(self) -> None:
        """Update what callbacks and the progress bar read, if the batch has logged anything."""
        if self._logged.is_new:
            self._logged.is_new = False
            self.trainer._logger_connector.on_batch_end()
        else:
            self._results.batch = self._results.batch_size = None

    def _step_schedulers(self, plan: _Plan) -> None:
        """Step the schedulers that follow updates, but those of a metric."""
        if self._should_accumulate():
            return
        for config in self.trainer.lr_scheduler_configs:
            is_due = config.interval == "step" and (self.batch_idx + 1) % config.frequency == 0
            if is_due and not config.reduce_on_plateau:
                self.scheduler_progress.increment_ready()
                plan.step_scheduler(config.scheduler)
                self.scheduler_progress.increment_completed()

    def _optimize(self, plan: _Plan, batch: Any, batch_idx: int) -> Mapping[str, Any]:
        """Compute the loss and its gradient, and make a step unless gradients are accumulated."""
        automatic, optimizer = self.automatic_optimization, self.trainer.optimizers[0]
        if not plan.optimizes or automatic._skip_backward:
            kwargs = self._build_kwargs(OrderedDict(), batch, batch_idx)
            return automatic.run(optimizer, batch_idx, kwargs)
        progress = automatic.optim_progress.optimizer
        closure = _Closure(plan, progress, optimizer, batch, batch_idx)
        if self._should_accumulate():
            closure.compute()
        else:
            progress.step.increment_ready()
            optimizer.step(closure=closure)
            progress.step.increment_completed()
        result = closure.consume_result()
        return {} if result.loss is None else {"loss": result.loss, **result.extra}


class _Plan:
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
        self._takes_index = is_param_in_hook_signature(
            module.training_step, "batch_idx", min_args=2
        )

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
        before = self._attributes["_current_fx_name"]
        self._attributes["_current_fx_name"] = "training_step"
        with self._context():
            step = self.module.training_step
            output = step(batch, batch_idx) if self._takes_index else step(batch)
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


class _Closure(Closure):
    """Computes the loss of a batch and its gradient; an optimizer calls it within its step.

    Args:
        plan: of the run.
        progress: counts what is done.
        optimizer: of the module.
        batch: of which the loss is.
        batch_idx: its number in the epoch.
    """

    def __init__(
        self, plan: _Plan, progress: Any, optimizer: Optimizer, batch: Any, batch_idx: int
    ) -> None:
        self._result: ClosureResult | None = None
        self._plan, self._progress, self._optimizer = plan, progress, optimizer
        self._batch, self._batch_idx = batch, batch_idx

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor | None:
        loss = self.compute()
        plan, optimizer = self._plan, self._optimizer
        plan.call("on_before_optimizer_step", optimizer)
        plan.clip(optimizer)
        return loss

    def compute(self) -> Tensor | None:
        """Compute the gradient; return the loss, or None if there is none."""
        plan = self._plan
        batches = plan.trainer.accumulate_grad_batches
        with torch.enable_grad():
            output = plan.training_step(self._batch, self._batch_idx)
            result = _as_result(output, batches)
            if result.closure_loss is None:
                self.warning_cache.warn(NO_LOSS)
            if self._batch_idx % batches == 0:
                self._clear_gradients()
            if result.closure_loss is not None:
                plan.call("on_before_backward", result.closure_loss)
                plan.backward(result.closure_loss)
                plan.call("on_after_backward")
        self._result = result
        return result.loss

    def _clear_gradients(self) -> None:
        progress, optimizer = self._progress.zero_grad, self._optimizer
        progress.increment_ready()
        self._plan.call("on_before_zero_grad", optimizer)
        progress.increment_started()
        if type(optimizer).zero_grad is Optimizer.zero_grad and "zero_grad" not in vars(optimizer):
            for group in optimizer.param_groups:
                for p in group["params"]:
                    p.grad = None
        else:
            optimizer.zero_grad()
        progress.increment_completed()


def _has_own(owner: LightningModule | LightningDataModule | None, names: Iterable[str]) -> bool:
    """Whether a module or its data has one of these methods not from Lightning's class."""
    kind = LightningModule if isinstance(owner, LightningModule) else LightningDataModule
    methods = () if owner is None else [(getattr(owner, n), getattr(kind, n)) for n in names]
    return any(getattr(method, "__func__", method) is not empty for method, empty in methods)


def _as_result(output: Any, batches: int) -> ClosureResult:
    """What `training_step` has returned; the loss is divided by the batches of an update."""
    if batches == 1 and type(output) is dict and output.get("loss") is not None:
        extra = {key: value for key, value in output.items() if key != "loss"}
        return ClosureResult(output["loss"], extra=extra)
    if batches == 1 and isinstance(output, Tensor):
        return ClosureResult(output)
    return ClosureResult.from_training_step_output(output, batches)


def is_plain(trainer: Trainer) -> bool:
    """Whether Lightning does nothing for a batch but what `EpochLoop` does."""
    strategy, precision = trainer.strategy, trainer.precision_plugin
    module = trainer.lightning_module
    wrapped = strategy._lightning_optimizers
    return (
        lightning.__version__.startswith(COMPARED_VERSIONS)
        and isinstance(module, LightningModule)
        and module.automatic_optimization
        and type(strategy) is SingleDeviceStrategy
        and strategy.model is module
        and type(trainer.profiler) in (NoProfiler, PassThroughProfiler)  # type: ignore[attr-defined]
        and (
            type(precision) is Precision
            or (type(precision) is MixedPrecision and precision.scaler is None)
        )
        and len(wrapped) == 1
        and all(
            step is do_nothing_closure
            for one in wrapped
            for step in (one._on_before_step, one._on_after_step)
        )
    )
