"""The loop over the batches of an epoch: Lightning's, without what nothing in a run asks for.

For every batch Lightning calls some twenty hooks. Around each it writes to a log, sets an attribute
that `nn.Module` intercepts and enters a context of the profiler. It also reads the signature of
`training_step`, divides the loss by 1, and collects metrics that no code has logged. All this takes
as long as a step of a small network. Here the same hooks are called in the same order with the same
values, so results are equal to the bit. The loss is divided by 1 only where someone else's hook is
given it, which may change it in place.

Whatever is not known to be as Lightning has it takes Lightning's own path: another strategy than
that of one device, a loss scaler, a profiler, a restart in the middle of an epoch, a version of
Lightning that has not been compared. So does the optimization alone, of a module that overrides a
part of it or optimizes manually.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.fetchers import (
    _DataFetcher,
    _DataLoaderIterDataFetcher,
    _PrefetchDataFetcher,
)
from lightning.pytorch.loops.optimization.automatic import Closure, ClosureResult
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from lightning.pytorch.utilities.combined_loader import CombinedLoader, _MaxSizeCycle
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.optim import Optimizer

from lit_optim.training.batch_plan import BatchPlan, is_plain

NO_LOSS = "`training_step` returned `None`. If this was on purpose, ignore this warning..."
NO_BATCH = "train_dataloader yielded None. If this was on purpose, ignore this warning..."


class _Results(_ResultCollection):
    """Lightning's logged metrics, which note whether there are new ones.

    What is logged again with the same arguments is only added to its metric: Lightning makes and
    compares a description of it each time.
    """

    def __init__(self, training: bool) -> None:
        super().__init__(training)
        self.is_new = True
        self._known: dict[str, dict[str, Any]] = {}

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # as Lightning's
    def log(self, fx: str, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        self.is_new = True
        key = f"{fx}.{name}"
        metric = self.get(key)
        fixed = {k: argument for k, argument in kwargs.items() if k != "batch_size"}
        if (
            metric is not None
            and self.dataloader_idx is None
            and _is_alike(metric, value)
            and not args
            and fixed == self._known.get(key)
            and not fixed.get("enable_graph")
        ):
            batch_size = self._extract_batch_size(metric, kwargs.get("batch_size"), metric.meta)
            self.update_metrics(key, value.detach() if metric.is_tensor else value, batch_size)
            return
        super().log(fx, name, value, *args, **kwargs)
        self._known[key] = fixed

    def reset(self, *args: Any, **kwargs: Any) -> None:
        self.is_new = True
        super().reset(*args, **kwargs)


def _is_alike(metric: Any, value: Any) -> bool:
    """Whether a value is a tensor where the one before was, or the same metric of torchmetrics."""
    if metric.is_tensor:
        return type(value) is Tensor and metric.value.device == value.device
    return metric.value is value


class EpochLoop(_TrainingEpochLoop):
    """Lightning's loop, with a shorter path for what it does at every batch.

    To be set as `trainer.fit_loop.epoch_loop`, before the training.
    """

    def __init__(self, trainer: Trainer, min_steps: int | None = None, max_steps: int = -1) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self._results = self._logged = _Results(training=True)
        self._plan: BatchPlan | None = None
        self._has_one_loader = False
        self.val_loop = ValidationLoop(
            trainer, TrainerFn.FITTING, RunningStage.VALIDATING, verbose=False, inference_mode=False
        )

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        super().on_run_start(data_fetcher)
        self._logged.is_new = True
        is_usual = isinstance(data_fetcher, _DataLoaderIterDataFetcher)
        is_usual |= not is_plain(self.trainer)
        self._plan = None if is_usual else BatchPlan(self.trainer)
        loader = data_fetcher._combined_loader
        is_known = type(data_fetcher) is _PrefetchDataFetcher and type(loader) is CombinedLoader
        self._has_one_loader = is_known and bool(loader._spec.is_leaf())  # type: ignore[union-attr]

    def teardown(self) -> None:
        super().teardown()
        self._plan = None

    @property
    def global_step(self) -> int:
        if self._plan is None or not self._plan.is_automatic():
            return super().global_step
        return self.automatic_optimization.optim_progress.optimizer.step.total.completed

    def _should_accumulate(self) -> bool:
        return self.trainer.accumulate_grad_batches != 1 and super()._should_accumulate()

    def advance(self, data_fetcher: _DataFetcher) -> None:
        plan = self._plan
        if plan is None or self.restarting:
            self._logged.is_new = True
            super().advance(data_fetcher)
            return
        trainer, progress = self.trainer, self.batch_progress
        if self.val_loop.restarting:
            self.val_loop.restarting = False
        batch = self._fetch(data_fetcher)
        batch_idx = progress.current.ready
        progress.is_last_batch = data_fetcher.done
        batch = plan.transfer(batch)
        progress.increment_ready()
        if trainer._logger_connector._first_loop_iter is False:
            results = self._results
            results.batch, results.batch_size, results.dataloader_idx = batch, None, None
        else:
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

    def _fetch(self, fetcher: _DataFetcher) -> Any:
        """Fetch the next batch: from the loader, if there is one and its length is known."""
        cycle = fetcher._combined_loader._iterator if self._has_one_loader else None  # type: ignore[union-attr]
        if type(cycle) is not _MaxSizeCycle or fetcher.length is None or fetcher.done:
            return next(fetcher)[0]
        try:
            batch = next(cycle.iterators[0])
        except StopIteration:
            cycle._consumed[0] = fetcher.done = True
            raise
        cycle._idx += 1
        fetcher.fetched += 1
        fetcher.done = fetcher.fetched >= fetcher.length
        return batch

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        usual = self._plan is None or self.restarting or self._skip_next_val
        if usual or self.trainer.should_stop or self._should_check_val_fx(data_fetcher):
            super().on_advance_end(data_fetcher)
            self._logged.is_new = True  # a validation may have logged the same names
            return
        for config in self._plan.strategy.lr_scheduler_configs:  # type: ignore[union-attr]
            if config.reduce_on_plateau:
                self.update_lr_schedulers("step", update_plateau_schedulers=True)
                break
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

    def _step_schedulers(self, plan: BatchPlan) -> None:
        """Step the schedulers that follow updates, but those of a metric."""
        if self._should_accumulate() or not plan.is_automatic():
            return
        for config in plan.strategy.lr_scheduler_configs:
            is_due = config.interval == "step" and (self.batch_idx + 1) % config.frequency == 0
            if is_due and not config.reduce_on_plateau:
                self.scheduler_progress.increment_ready()
                plan.step_scheduler(config.scheduler)
                self.scheduler_progress.increment_completed()

    def _optimize(self, plan: BatchPlan, batch: Any, batch_idx: int) -> Mapping[str, Any]:
        """Compute the loss and its gradient, and make a step unless gradients are accumulated."""
        automatic = self.automatic_optimization
        if not plan.is_automatic():
            return self.manual_optimization.run(self._build_kwargs(OrderedDict(), batch, batch_idx))
        optimizer: Any = plan.strategy.optimizers[0]
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


class ValidationLoop(_EvaluationLoop):
    """Lightning's loop over the batches of a validation of a fit, with the same shorter path."""

    _plan: BatchPlan | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._results = _Results(training=False)

    def on_run_start(self) -> None:
        super().on_run_start()
        self._plan = None
        has_one_loader = not (self._is_sequential and self.num_dataloaders > 1)
        if is_plain(self.trainer) and has_one_loader:
            self._plan = BatchPlan(self.trainer)

    def _evaluation_step(
        self,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
        dataloader_iter: Iterator[Any] | None,
    ) -> None:
        plan, trainer = self._plan, self.trainer
        if plan is None or dataloader_iter is not None:
            super()._evaluation_step(batch, batch_idx, dataloader_idx, dataloader_iter)
            return
        batch = plan.transfer(batch)
        progress, connector = self.batch_progress, trainer._logger_connector
        progress.increment_ready()
        connector.on_batch_start(batch)
        plan.call("on_validation_batch_start", batch, batch_idx)
        progress.increment_started()
        output = plan.validation_step(batch, batch_idx)
        progress.increment_processed()
        plan.call("on_validation_batch_end", output, batch, batch_idx)
        has_logged = not all(result.has_reset for result in self._results.values())
        if has_logged:
            connector.on_batch_end()
        else:
            self._results.batch = self._results.batch_size = None
        progress.increment_completed()
        if not trainer.sanity_checking:
            self._has_run = True
            if has_logged:
                seen = self._seen_batches_per_dataloader[dataloader_idx]
                connector.update_eval_step_metrics(seen)
            self._seen_batches_per_dataloader[dataloader_idx] += 1
        if not progress.is_last_batch and trainer.received_sigterm:
            raise SIGTERMException


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
        self, plan: BatchPlan, progress: Any, optimizer: Optimizer, batch: Any, batch_idx: int
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
        if torch.is_grad_enabled():
            return self._compute()
        with torch.enable_grad():
            return self._compute()

    def _compute(self) -> Tensor | None:
        plan = self._plan
        batches = plan.trainer.accumulate_grad_batches
        output = plan.training_step(self._batch, self._batch_idx)
        self._result = result = _as_result(output, batches)
        loss = result.closure_loss
        if loss is None:
            self.warning_cache.warn(NO_LOSS)
        if self._batch_idx % batches == 0:
            self._clear_gradients()
        if loss is not None:
            if plan.shows_loss:
                loss = loss / 1  # Lightning's own, so that a hook may change it in place
            plan.call("on_before_backward", loss)
            plan.backward(loss)
            plan.call("on_after_backward")
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


def _as_result(output: Any, batches: int) -> ClosureResult:
    """What `training_step` has returned; the loss is divided by the batches of an update."""
    if batches == 1 and type(output) is dict and output.get("loss") is not None:
        extra = {key: value for key, value in output.items() if key != "loss"}
        return ClosureResult(output["loss"], extra=extra)
    if batches == 1 and isinstance(output, Tensor):
        return ClosureResult(output)
    return ClosureResult.from_training_step_output(output, batches)
