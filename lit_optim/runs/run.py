"""One run: builds what the configuration names, trains, tests and reports."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig

from lit_optim.callbacks.checkpoint import Checkpoint
from lit_optim.callbacks.history_file import HistoryFile
from lit_optim.callbacks.metric_history import MetricHistory
from lit_optim.callbacks.nonfinite import find_divergence
from lit_optim.callbacks.pruning import Pruning
from lit_optim.callbacks.ranks import end_ranks
from lit_optim.callbacks.signals import is_interrupted, is_terminated
from lit_optim.checkpoints.files import CheckpointFiles, find_damage
from lit_optim.config.check import BEST, to_plain
from lit_optim.errors import Diverged, TrainingFailed, UsageError, first_line
from lit_optim.interrupts import INTERRUPTED, interruptible
from lit_optim.lightning.failures import explain_failure
from lit_optim.lightning.hparams import HyperparameterLog
from lit_optim.metric_names import infer_direction
from lit_optim.programs import format_path, open_command
from lit_optim.runs.build import RunParts, build_run
from lit_optim.runs.failures import Interrupted
from lit_optim.runs.hparams import describe_hparams
from lit_optim.runs.layout import HISTORY, RESULT, STOP
from lit_optim.runs.log_file import print_summary
from lit_optim.runs.start import Start, find_start, record_config
from lit_optim.system import termination_code
from lit_optim.temporary import write_whole
from lit_optim.training.lengths import global_batch, total_updates
from lit_optim.training.overrides import skip_noop_hooks

LOG = logging.getLogger("lit_optim")
MISFIT = "Error(s) in loading state_dict"  # torch's words


@dataclass
class Result:
    """What came out of a run, as in its `result.json`.

    Args:
        choices: of each group.
        seed: of the run.
        monitor: the metric by which it is judged.
        mode: `min` or `max`.
        run_dir: its directory.
        steps: updates made.
        seconds: of the last start, from the first batch to the last validation.
        final: the last value of each validation metric.
        best: the best value of each.
        test: the metrics of the test.
        stopped: why it ended early, if it did.
        diverged: whether the loss, a gradient or the last value of `monitor` was not finite.
        value: the last value of `monitor`; if it diverged, the worst finite one known, that of the
            untrained model included. NaN: there is none.
        pruned: whether a search has stopped it.
        evaluations: backward passes; None: an earlier version began the run.
    """

    choices: dict[str, str]
    seed: int
    monitor: str
    mode: str
    run_dir: str
    steps: int = 0
    seconds: float = 0.0
    final: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    stopped: str = ""
    diverged: bool = False
    value: float = math.nan
    pruned: bool = False
    evaluations: int | None = None


def run(
    cfg: DictConfig,
    run_dir: Path,
    choices: Mapping[str, str],
    overrides: Sequence[str] = (),
    lr_origin: str = "",
) -> Result:
    """Train and test as configured; print and record what came out.

    Args:
        cfg: a composed configuration; `monitor` and `mode` are filled in.
        run_dir: the directory of this run.
        choices: the name of the choice of each group.
        overrides: as typed.
        lr_origin: where the lr comes from, such as `typed` or `preset digits`.

    Raises:
        UsageError: a mistake in the configuration, if possible before data and model are built.
        Diverged: the loss or its gradient is no longer finite; the result is written.
        TrainingFailed: training cannot continue.
        Interrupted: Ctrl-C.
    """
    plain = to_plain(cfg)
    start, log = find_start(cfg, run_dir), HyperparameterLog()
    costs = HistoryFile(run_dir / HISTORY)
    pruning = Pruning(run_dir / STOP)
    callbacks = [start.callback, log, costs, pruning]
    parts = build_run(cfg, run_dir, callbacks, begins=start.checkpoint is None)
    trainer, history = parts.trainer, parts.history
    costs.monitor = history.monitor
    trainer.callbacks.append(costs.restart)  # type: ignore[attr-defined]
    skip_noop_hooks(trainer)
    writes = trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]
    if writes:
        record_config(cfg, run_dir, plain, overrides)

    mode = cfg.mode or infer_direction(cfg.monitor) or "min"
    result = Result(dict(choices), cfg.seed, cfg.monitor, mode, str(run_dir))
    has_test = bool(cfg.test) and _has_test(parts)
    hparams = describe_hparams(to_plain(cfg), choices, overrides, run_dir, has_test)
    log.start(trainer.loggers if writes else [], hparams)
    try:
        _train_and_test(cfg, parts, start, result, pruning)
    except BaseException as error:
        result.steps, result.final, result.best = trainer.global_step, history.final, history.best
        result.diverged = isinstance(error, Diverged)
        _add_value(result, history, costs)
        log.end(_metrics(result), result.steps, None if isinstance(error, Interrupted) else False)
        if isinstance(error, Diverged):
            error.value, result.stopped = result.value, first_line(error)
            if writes:
                with suppress(TrainingFailed):  # that it diverged is told anyway
                    _write_result(run_dir, result)
        raise
    _add_value(result, history, costs)
    log.end(_metrics(result), result.steps, not result.diverged)
    lr_factor = 1.0
    if parts.lr_rule and result.steps and (batch := global_batch(trainer)):  # on every rank
        lr_factor = parts.lr_rule.factor(batch)
    if trainer.is_global_zero:
        _print(result, trainer, cfg, lr_factor, lr_origin)
        check_saved(trainer)  # before the result says that there is nothing left to do
        if writes:
            _write_result(run_dir, result)
    return result


def _add_value(result: Result, history: MetricHistory, costs: HistoryFile) -> None:
    """Fill in what a sweep judges the run by."""
    result.mode = history.mode or result.mode
    last = result.final.get(result.monitor)
    if last is not None and not math.isfinite(last):  # nothing has watched the loss
        result.diverged = True
    worst = history.worst("max" if result.mode == "max" else "min")
    result.value = worst if result.diverged else math.nan if last is None else last
    result.evaluations = None if math.isnan(costs.evaluations) else round(costs.evaluations)


def _write_result(run_dir: Path, result: Result) -> None:
    try:
        write_whole(run_dir / RESULT, json.dumps(asdict(result), indent=1))
    except OSError as error:
        raise TrainingFailed(
            f"{run_dir / RESULT} could not be written: {error.strerror}; resume the run for it"
        ) from error


def _train_and_test(
    cfg: DictConfig, parts: RunParts, start: Start, result: Result, pruning: Pruning
) -> None:
    trainer, data, model, history = parts.trainer, parts.data, parts.model, parts.history
    ckpt = cfg.ckpt
    if cfg.train:
        _fit(trainer, model, data, history, result, start.checkpoint)
        if pruning.has_pruned:
            result.pruned, result.stopped = True, "pruned by the search"
            return
        if ckpt == BEST:
            ckpt = getattr(trainer.checkpoint_callback, "best_model_path", None)
            if not ckpt:
                raise UsageError(
                    "ckpt=best: this run has not validated, so no checkpoint is the best"
                )
    if cfg.test:
        _test(parts, ckpt, result)


def _has_test(parts: RunParts) -> bool:
    model, data = parts.model, parts.data
    return is_overridden("test_step", model) and is_overridden("test_dataloader", data)


def check_saved(trainer: Trainer) -> None:
    """Fail if the last checkpoint of a run could not be written.

    Raises:
        TrainingFailed: naming the reason.
    """
    files = trainer.strategy.checkpoint_io
    if isinstance(files, CheckpointFiles) and files.failure is not None:
        if not files.written:
            raise TrainingFailed(f"no checkpoint of this run could be written: {files.failure}")
        raise TrainingFailed(
            f"the last checkpoint of this run could not be written: {files.failure}; resume it"
        )


def _fit(
    trainer: Trainer,
    model: LightningModule,
    data: LightningDataModule,
    history: MetricHistory,
    result: Result,
    checkpoint: Path | None,
) -> None:
    start = time.perf_counter()
    try:
        with _interruptible(trainer):
            trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    finally:
        result.seconds = time.perf_counter() - start
    result.steps = trainer.global_step
    result.stopped = early_stop(trainer)
    result.final, result.best = history.final, history.best


def early_stop(trainer: Trainer) -> str:
    """Why a run ended early; empty if it did not."""
    planned = total_updates(trainer)
    if planned is None or trainer.global_step >= planned:
        return ""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.stopped_epoch:
            return (callback.stopping_reason_message or "by EarlyStopping").rstrip(".")
        left = callback.time_remaining() if isinstance(callback, Timer) else None
        if left is not None and left <= 0:
            return "trainer.max_time has passed"
    return "by a callback or the model" if trainer.should_stop else ""


def _test(parts: RunParts, ckpt: str | None, result: Result) -> None:
    """Test `ckpt` or the present weights; where there is no test set, validate a file."""
    trainer, has_test = parts.trainer, _has_test(parts)
    evaluate = trainer.test if has_test else trainer.validate
    if not has_test and result.steps:
        return  # validated while training
    if ckpt and (why_not := find_damage(Path(ckpt))) is not None:
        raise UsageError(f"ckpt={ckpt} {why_not}")
    with _interruptible(trainer):
        found = evaluate(parts.model, parts.data, ckpt_path=ckpt, verbose=False, weights_only=True)
    result.test = {name: value for metrics in found for name, value in metrics.items()}


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[None]:
    try:
        with interruptible():
            yield
    except SystemExit as end:
        by_user = isinstance(end.__context__, KeyboardInterrupt) or is_interrupted(trainer)
        if not by_user and not isinstance(end, SIGTERMException):
            raise  # the user's own
        # Lightning's answer to a signal, after the callbacks have saved
        raise _make_interrupted(trainer, by_user) from None
    except (UsageError, TrainingFailed):
        end_ranks(trainer)
        raise
    except Exception as error:
        # a worker or rank that the same signal ended
        if (by_user := is_interrupted(trainer)) or is_terminated(trainer):
            raise _make_interrupted(trainer, by_user) from None
        if (text := str(error)).startswith(MISFIT):
            raise UsageError(
                f"the checkpoint does not belong to this model: {text.splitlines()[1].strip()}"
            ) from error
        message = explain_failure(error, trainer)
        end_ranks(trainer)
        is_fitting = trainer.state.fn == TrainerFn.FITTING
        if message is None and is_fitting and (what := find_divergence(trainer)) is not None:
            raise Diverged(f"{what} at step {trainer.global_step}") from error
        if message is None:
            if is_fitting:
                batch = trainer.fit_loop.epoch_loop.batch_idx
                LOG.error(f"failed in epoch {trainer.current_epoch}, at or after its batch {batch}")
            raise
        raise TrainingFailed(message) from error


def _make_interrupted(trainer: Trainer, by_user: bool) -> Interrupted:
    kept = [c.last_model_path for c in trainer.checkpoint_callbacks if isinstance(c, Checkpoint)]
    path = kept[0] if kept else ""
    at = f"; checkpoint: {path}" if path else ""
    what, code = ("interrupted", INTERRUPTED) if by_user else ("terminated", termination_code())
    return Interrupted(f"{what} at step {trainer.global_step}{at}", code, bool(path))


def _metrics(result: Result) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for stage, values in (("final", result.final), ("best", result.best), ("final", result.test)):
        metrics |= {f"{stage}/{name.replace('/', '_')}": value for name, value in values.items()}
    return metrics


def _print(
    result: Result, trainer: Trainer, cfg: DictConfig, lr_factor: float, lr_origin: str
) -> None:
    lr, wrapper = cfg.optimizer.get("lr"), result.choices.get("wrapper", "none")
    details = {"optimizer": "" if wrapper == "none" else f" in {wrapper}"}
    details["scheduler"] = "" if cfg.branch_from is None else f", then cooldown={cfg.cooldown}"
    details["optimizer"] += "" if lr is None else f"  lr {lr * lr_factor:g}"
    details["optimizer"] += f" ({lr_origin})" if lr is not None and lr_origin else ""
    rows: list[tuple[str, str]] = []
    groups = ("optimizer", "scheduler", "model", "data")
    for group in groups if result.steps else groups[2:]:
        rows.append((group, f"{result.choices.get(group, '-')}{details.get(group, '')}"))
    for name, value in result.final.items():
        best = result.best.get(name)
        rows.append((name, f"{value:.4f}" + ("" if best is None else f"  (best {best:.4f})")))
    for name, value in result.test.items():
        rows.append((name, f"{value:.4f}"))
    if result.steps:
        stopped = f", stopped early: {result.stopped}" if result.stopped else ""
        rows.append(("steps", f"{result.steps:,}{stopped}"))
        rows.append(("time", f"{result.seconds:.1f} s"))
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]
        rows.append(("run", format_path(result.run_dir)))
        if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
            rows.append(("curves", open_command(result.run_dir)))
    print_summary(rows)
