"""One run: what the configuration names is built, trained, tested and reported."""

from __future__ import annotations

import inspect
import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import (
    Callback,
    LightningDataModule,
    LightningModule,
    Trainer,
    seed_everything,
)
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from lit_optim.config.check import BEST, check
from lit_optim.config.targets import (
    TARGET,
    build,
    check_arguments,
    deferred,
    locate,
    require,
)
from lit_optim.errors import UsageError
from lit_optim.lightning.callbacks import MetricHistory, best_mode
from lit_optim.lightning.checkpoint import Checkpoint
from lit_optim.lightning.configure import OptimizerMixin, configure_optimizers, global_batch
from lit_optim.lightning.lean import lean
from lit_optim.param_groups import decided, settings_of
from lit_optim.signatures import Signature, inspect_signature
from lit_optim.tensorboard import open_command, shown
from lit_optim.wrappers import Wrapped

#: What a model may take from us instead of being given a configure_optimizers.
OURS = ("optimizer", "scheduler", "param_groups", "lr_rule", "schedules")

PROCESSES_PER_CORE = 4  # that is still somebody's wish

#: Nothing that a user of these tasks could or should mend.
NOISE = (
    ".*does not have many workers.*",
    ".*recommended to use .*devices=1.*",
    ".*treespec, LeafSpec.*",
    ".*The dirpath has changed.*",  # a checkpoint that is tested was written by another run
    ".*smaller than the logging interval.*",  # not so: steps are counted across epochs
    ".*Total length of `list` across ranks is zero.*",
)


class Interrupted(Exception):
    """Ctrl-C was pressed while training; the newest checkpoint is written."""


@dataclass
class Result:
    """What came out of a run; `result.json` in its directory."""

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


def run(cfg: DictConfig, run_dir: Path, choices: Mapping[str, str]) -> Result:
    """Train and test as configured; print a table of what came out and write it down.

    Args:
        cfg: a composed configuration; `monitor` and `mode` are filled in.
        run_dir: the directory of this run.
        choices: the name of the choice of each group.

    Raises:
        UsageError: a mistake in the configuration, if possible before data and model are built.
        Interrupted: Ctrl-C.
    """
    check(cfg)
    _quiet()
    classes = {name: _locate_class(name, cfg) for name in ("data", "model")}
    _declare_monitor(cfg, classes["model"])
    made: dict[str, Any] = {"param_groups": deferred(cfg.param_groups)}
    made["optimizer"] = Wrapped(deferred(cfg.optimizer), deferred(cfg.wrapper))
    trial = {"param_names": ["weight"]}
    # its own checks, before all else; which names there are is not known yet
    rules = settings_of(_plain(cfg.param_groups).get("rules") or [])
    trials = [trial | {"params": [torch.nn.Parameter(torch.zeros(2, 2))]} | s for s in ({}, *rules)]
    made["optimizer"](trials, **({"roles": None} if "roles" in cfg.optimizer else {}))
    made["schedules"] = _plain(cfg.schedules)
    made["scheduler"], made["lr_rule"] = build(cfg.scheduler), build(cfg.lr_rule)

    _check_devices(cfg.trainer)
    seed_everything(cfg.seed, workers=True, verbose=False)
    history = MetricHistory(cfg.monitor, cfg.mode)
    loggers = [build(node) for node in cfg.logger.values()]
    callbacks = [build(node) for node in cfg.callbacks.values()]
    trainer = _build_trainer(cfg, loggers, [*callbacks, history], run_dir)
    data = build(cfg.data)
    model = _build_model(cfg, classes["model"], data, made)
    if isinstance(trainer.strategy, FSDPStrategy):
        made["param_groups"] = decided(made["param_groups"], model)
    _put_on(model, made, inspect_signature(classes["model"]))
    if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)

    result = Result(dict(choices), cfg.seed, cfg.monitor, cfg.mode, str(run_dir))
    ckpt = cfg.ckpt
    if cfg.train:
        _fit(trainer, model, data, history, result)
        if ckpt == BEST:
            ckpt = getattr(trainer.checkpoint_callback, "best_model_path", None)
            if not ckpt:
                raise UsageError("ckpt=best: this run has validated nothing, so none is the best")
    if cfg.test:
        _test(trainer, model, data, ckpt, result)
    if trainer.is_global_zero:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            _log_hparams(trainer.loggers, cfg, result)
            (run_dir / "result.json").write_text(json.dumps(asdict(result), indent=1))
        rule, batch = made["lr_rule"], global_batch(trainer) if result.steps else None
        _print(result, trainer, cfg, rule.factor(batch) if rule and batch else 1.0)
    return result


def _quiet() -> None:
    for pattern in NOISE:
        warnings.filterwarnings("ignore", pattern)
    for name in ("lightning.pytorch", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _locate_class(name: str, cfg: DictConfig) -> type:
    """The class of the model or the data, its arguments checked; nothing is built yet."""
    kind = LightningModule if name == "model" else LightningDataModule
    found = locate(name, cfg[name][TARGET])
    if not (inspect.isclass(found) and issubclass(found, kind)):
        raise UsageError(f"{name}.{TARGET}={cfg[name][TARGET]} is not a {kind.__name__}")
    signature, node = inspect_signature(found), _plain(cfg[name])
    check_arguments(name, node, signature)
    if name == "data":
        require(name, node, signature, given=set())
    return found


def _check_devices(trainer: DictConfig) -> None:
    """Lightning would start any number of processes on a CPU."""
    cores, devices = os.cpu_count() or 1, trainer.get("devices")
    on_cpu = trainer.get("accelerator") == "cpu" and isinstance(devices, int)
    if on_cpu and devices > PROCESSES_PER_CORE * cores:
        raise UsageError(f"trainer.devices={devices}, but this machine has {cores} cores")


def _build_trainer(
    cfg: DictConfig, loggers: list[Logger], callbacks: list[Callback], run_dir: Path
) -> Trainer:
    switches = {"enable_progress_bar": ProgressBar, "enable_checkpointing": ModelCheckpoint}
    off = tuple(kind for key, kind in switches.items() if cfg.trainer.get(key) is False)
    kept = [callback for callback in callbacks if not isinstance(callback, off)]
    try:
        trainer: Trainer = deferred(cfg.trainer)(
            logger=loggers or False, callbacks=kept, default_root_dir=run_dir
        )
    except (ValueError, TypeError) as error:
        raise UsageError(f"trainer: {error}") from error
    return lean(trainer)


def _declare_monitor(cfg: DictConfig, model_class: type) -> None:
    match getattr(model_class, "monitor", None):
        case (str(metric), "min" | "max" as mode):
            declared = {metric: mode}
        case _:
            metric, declared = "val/loss", {}
    with open_dict(cfg):
        cfg.monitor = cfg.monitor or metric
        cfg.mode = cfg.mode or declared.get(cfg.monitor) or best_mode(cfg.monitor)


def _build_model(
    cfg: DictConfig, model_class: type, data: LightningDataModule, made: Mapping[str, Any]
) -> LightningModule:
    signature = inspect_signature(model_class)
    node = cfg.model
    more = {name: made[name] for name in OURS if name in signature.parameters}
    for name, parameter in signature.parameters.items():
        if parameter.required and node.get(name) is None and name not in more:
            value = getattr(data, name, None)
            if value is not None and not callable(value):
                more[name] = value
    arguments = _plain(node) | {name: value for name, value in more.items() if name not in OURS}
    require("model", arguments, signature, given=set(more))
    check_arguments("model", arguments, signature)
    with open_dict(node):  # so that the run's config.yaml tells what was taken
        node.update({k: v for k, v in arguments.items() if isinstance(v, int | float | str | bool)})
    model: LightningModule = deferred(node)(**more)
    return model


def _plain(node: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _put_on(model: LightningModule, made: Mapping[str, Any], signature: Signature) -> None:
    """Give a model its optimizer: by the mixin's attributes, or as its configure_optimizers."""
    takes_ours = {"optimizer", "scheduler"} <= signature.parameters.keys()
    if isinstance(model, OptimizerMixin):
        for name in OURS:
            setattr(model, name, made[name])
    elif is_overridden("configure_optimizers", model) and takes_ours:
        pass  # its constructor has been given them
    elif is_overridden("configure_optimizers", model):
        raise UsageError(
            f"{type(model).__name__} has a configure_optimizers of its own, so optimizer and "
            "scheduler would have no effect; remove it, or use lit_optim.OptimizerMixin"
        )
    else:
        attached: Any = partial(configure_optimizers, model, **made)
        model.configure_optimizers = attached  # type: ignore[method-assign]


def _fit(
    trainer: Trainer,
    model: LightningModule,
    data: LightningDataModule,
    history: MetricHistory,
    result: Result,
) -> None:
    start = time.perf_counter()
    with _interruptible(trainer):
        trainer.fit(model, data)
    result.seconds = time.perf_counter() - start
    result.steps = trainer.global_step
    result.final, result.best = history.final, history.best


def _test(
    trainer: Trainer,
    model: LightningModule,
    data: LightningDataModule,
    ckpt: str | None,
    result: Result,
) -> None:
    """Test `ckpt`, or the weights as they are; a file without a test set is validated."""
    has_test = is_overridden("test_step", model) and is_overridden("test_dataloader", data)
    evaluate = trainer.test if has_test else trainer.validate
    if not has_test and result.steps:
        return  # validated while training
    try:
        with _interruptible(trainer):
            found = evaluate(model, data, ckpt_path=ckpt, verbose=False, weights_only=True)
    except RuntimeError as error:
        if not str(error).startswith("Error(s) in loading state_dict"):
            raise
        first = str(error).splitlines()[1].strip()
        raise UsageError(f"ckpt={ckpt} is not of this model: {first}") from None
    result.test = {name: value for metrics in found for name, value in metrics.items()}


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[None]:
    try:
        yield
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise  # somebody's own
        # Lightning's answer to Ctrl-C, after the callbacks have saved
        kept = [
            c.last_model_path for c in trainer.checkpoint_callbacks if isinstance(c, Checkpoint)
        ]
        at = f"; checkpoint: {kept[0]}" if kept and kept[0] else ""
        raise Interrupted(f"interrupted at step {trainer.global_step}{at}") from None


def _log_hparams(loggers: list[Logger], cfg: DictConfig, result: Result) -> None:
    """Fill TensorBoard's HPARAMS: choices and hyperparameters beside the final metrics."""
    hparams: dict[str, Any] = dict(result.choices) | {"seed": result.seed}
    for group in ("optimizer", "wrapper", "scheduler", "lr_rule", "model", "data"):
        for key, value in cfg[group].items():
            if key != TARGET:
                plain = value if isinstance(value, bool | int | float | str) else str(value)
                hparams[f"{group}.{key}"] = plain
    metrics: dict[str, float] = {}
    for stage, values in (("final", result.final), ("best", result.best), ("final", result.test)):
        metrics |= {f"{stage}/{name.replace('/', '_')}": value for name, value in values.items()}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(hparams, metrics, step=result.steps)
            logger.finalize("success")


def _print(result: Result, trainer: Trainer, cfg: DictConfig, of_lr: float) -> None:
    lr, around = cfg.optimizer.get("lr"), result.choices.get("wrapper", "none")
    told = {"optimizer": "" if around == "none" else f" in {around}"}
    told["optimizer"] += "" if lr is None else f"  lr {lr * of_lr:g}"
    table = Table(box=None, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)  # so that the last line can be copied
    groups = ("optimizer", "scheduler", "model", "data")
    for group in groups if result.steps else groups[2:]:
        table.add_row(group, f"{result.choices.get(group, '-')}{told.get(group, '')}")
    for name, value in result.final.items():
        table.add_row(name, f"{value:.4f}  (best {result.best[name]:.4f})")
    for name, value in result.test.items():
        table.add_row(name, f"{value:.4f}")
    if result.steps:
        table.add_row("steps", f"{result.steps:,}")
        table.add_row("time", f"{result.seconds:.1f} s")
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]
        table.add_row("run", shown(result.run_dir))
        if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
            table.add_row("curves", open_command(result.run_dir))
    wide = Console(width=10_000)  # whole paths: a terminal wraps a line, and copies it whole
    width = Measurement.get(wide, wide.options, table).maximum
    Console(width=width).print(table)
