"""Builds a run from its configuration: a trainer, data, and a model that has its optimizer."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import (
    Callback,
    LightningDataModule,
    LightningModule,
    Trainer,
    seed_everything,
)
from lightning.pytorch.accelerators import Accelerator, CUDAAccelerator, MPSAccelerator
from lightning.pytorch.callbacks import (
    LearningRateFinder,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
)
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy
from omegaconf import DictConfig, open_dict
from torch.optim import Optimizer

from lit_optim.callbacks.gradient_release import GradientRelease
from lit_optim.callbacks.lazy_layers import LazyLayers
from lit_optim.callbacks.metric_history import MetricHistory
from lit_optim.callbacks.precise_metrics import PreciseMetrics
from lit_optim.callbacks.ranks import Ranks
from lit_optim.callbacks.signals import Signals
from lit_optim.callbacks.summary import LayerSummary
from lit_optim.callbacks.threads import CpuThreads
from lit_optim.checkpoints.files import CheckpointFiles
from lit_optim.checkpoints.weights import load_weights
from lit_optim.config.targets import (
    TARGET,
    build,
    make_factory,
)
from lit_optim.config.trainer import OWN_KEYS
from lit_optim.environment import is_first
from lit_optim.errors import UsageError, first_line, how_many
from lit_optim.kernels.precision import DEVICES_WITHOUT_FLOAT64
from lit_optim.lightning.hparams import run_name_argument
from lit_optim.lightning.lr_rule import LrRule
from lit_optim.lightning.serving import ServedOptimizer
from lit_optim.param_groups import snapshot_groups
from lit_optim.runs.classes import check_step_method, locate_class, locate_configured_class, to_dict
from lit_optim.runs.model import attach_optimizer, build_model, has_lr, try_optimizer
from lit_optim.runs.monitor import declare_run_monitor, make_monitor_check
from lit_optim.signatures import inspect_signature
from lit_optim.training.loggers import choose_cards, flush_in_background, tolerate_io_errors
from lit_optim.training.overrides import shorten_epoch_loop, skip_noop_hooks
from lit_optim.training.profiler import NoProfiler
from lit_optim.training.sharded import ShardedStrategy

#: More processes on a CPU than this are a slip.
PROCESSES_PER_CORE = 4

#: What must be available for an accelerator.
GPUS: dict[str, tuple[type[Accelerator], ...]] = {
    "gpu": (CUDAAccelerator, MPSAccelerator),
    "cuda": (CUDAAccelerator,),
    "mps": (MPSAccelerator,),
}

#: Warnings of Lightning and torch about which the user can and should do nothing.
NOISE = (
    ".*does not have many workers.*",
    ".*recommended to use .*devices=1.*",
    ".*treespec, LeafSpec.*",
    ".*Checkpoint directory .* exists and is not empty.*",  # its own, when a run is resumed
    ".*ended before the epoch ended.*",  # our data resumes there; of others a line says so
    ".*The dirpath has changed.*",  # the tested checkpoint is of another run
    ".*smaller than the logging interval.*",  # wrong: steps are counted across epochs
    ".*Total length of `list` across ranks is zero.*",
)


@dataclass
class RunParts:
    """Everything that a run needs.

    Args:
        trainer: with the callbacks and loggers of the configuration.
        data: what it trains on.
        model: with its optimizer.
        history: the callback that records the metrics.
        lr_rule: scales the lr by the batch; or None.
    """

    trainer: Trainer
    data: LightningDataModule
    model: LightningModule
    history: MetricHistory
    lr_rule: LrRule | None


def build_run(
    cfg: DictConfig,
    run_dir: Path,
    more: Sequence[Callback] = (),
    without: tuple[type, ...] = (),
    logs: bool = True,
    scheduler: Any = None,
    begins: bool = True,
) -> RunParts:
    """Build a run; where possible a mistake is found before data and model are built.

    Args:
        cfg: a composed configuration that `check_config` has accepted; `monitor` and `mode` are
            filled in.
        run_dir: the directory of this run.
        more: further callbacks.
        without: kinds of callbacks to leave out.
        logs: whether to build the loggers.
        scheduler: replaces that of the configuration.
        begins: whether the run starts from `weights`; else a checkpoint will be loaded.

    Raises:
        UsageError: a mistake in the configuration.
    """
    threads = CpuThreads(cfg.trainer.get("threads"))
    _silence_warnings()
    classes = {name: locate_configured_class(name, cfg) for name in ("data", "model")}
    for name in cfg.callbacks:
        locate_class(f"callbacks.{name}", cfg.callbacks[name], Callback)
    for name in cfg.logger:
        locate_class(f"logger.{name}", cfg.logger[name], Logger)
    check_step_method(cfg.optimizer[TARGET], locate_class("optimizer", cfg.optimizer, Optimizer))
    has_monitor = cfg.monitor is not None or hasattr(classes["model"], "monitor")
    mode = declare_run_monitor(cfg, classes["model"])
    injected: dict[str, Any] = {"param_groups": make_factory(cfg.param_groups)}
    injected["optimizer"] = ServedOptimizer(make_factory(cfg.optimizer), make_factory(cfg.wrapper))
    try_optimizer(injected["optimizer"], cfg)
    injected["schedules"] = to_dict(cfg.schedules)
    injected["scheduler"], injected["lr_rule"] = (
        scheduler or build(cfg.scheduler),
        build(cfg.lr_rule),
    )

    _check_devices(cfg.trainer)
    seed_everything(cfg.seed, workers=True, verbose=False)
    loggers = [_build_logger(name, node, run_dir) for name, node in cfg.logger.items() if logs]
    named = {name: _build(f"callbacks.{name}", node) for name, node in cfg.callbacks.items()}
    named = {name: made for name, made in named.items() if not isinstance(made, without)}
    history = MetricHistory(cfg.monitor, mode)
    watchers = named | ({"": history} if has_monitor else {})
    callbacks = [*_make_summary(cfg, named, without), *named.values()]
    callbacks += [make_monitor_check(cfg, watchers), history]
    callbacks += [threads, Signals(), Ranks(), LazyLayers(), PreciseMetrics(), *more]
    callbacks += [GradientRelease()] * bool(cfg.trainer.get("gradient_release"))
    for logger in loggers:
        choose_cards(logger)
        flush_in_background(logger)
        tolerate_io_errors(logger)
    trainer = _build_trainer(cfg, loggers, callbacks, run_dir)
    data = build(cfg.data)
    model = build_model(cfg, classes["model"], data, injected)
    for name, callback in named.items():
        if isinstance(callback, LearningRateFinder) and not has_lr(model):
            raise UsageError(
                f"callbacks.{name}: LearningRateFinder looks for lr or learning_rate in the "
                f"module, and {type(model).__name__} has neither; lit-optim lr-range finds an "
                "optimizer.lr"
            )
    if cfg.weights is not None and begins:
        load_weights(model, cfg.weights)
    if isinstance(trainer.strategy, FSDPStrategy):
        injected["param_groups"] = snapshot_groups(injected["param_groups"], model)
    attach_optimizer(model, injected, inspect_signature(classes["model"]))
    return RunParts(trainer, data, model, history, injected["lr_rule"])


def _silence_warnings() -> None:
    for pattern in NOISE:
        warnings.filterwarnings("ignore", pattern)
    for name in ("lightning.pytorch", "lightning.fabric", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not is_first():  # the first one logs for all
        logging.getLogger("lit_optim").setLevel(logging.WARNING)


def _build(path: str, node: DictConfig) -> Any:
    """Build the object of a node; a package that it needs may not be installed."""
    try:
        return build(node)
    except ModuleNotFoundError as error:
        raise UsageError(f"{path}: {first_line(error)}") from error


def _build_logger(name: str, node: DictConfig, run_dir: Path) -> Logger:
    """Build a logger; if it names runs, the name is by default that of the run's directory."""
    key = run_name_argument(locate_class(f"logger.{name}", node, Logger), node)
    if key is not None:
        node = node.copy()
        with open_dict(node):
            node[key] = run_dir.name
    logger: Logger = _build(f"logger.{name}", node)
    return logger


def _check_devices(trainer: DictConfig) -> None:
    """Refuse a GPU that is not there, and far more processes than cores.

    Lightning names no key for the first, and would start any number.
    """
    accelerator = trainer.get("accelerator")
    if accelerator in GPUS and not any(kind.is_available() for kind in GPUS[accelerator]):
        raise UsageError(
            f"trainer.accelerator={accelerator}, but torch found no such device; use trainer=cpu "
            "or trainer=ddp_cpu, or run lit-optim doctor for details"
        )
    cores, devices = os.cpu_count() or 1, trainer.get("devices")
    on_cpu = accelerator == "cpu" and isinstance(devices, int)
    if on_cpu and devices > PROCESSES_PER_CORE * cores:
        raise UsageError(
            f"trainer.devices={devices}, but this machine has {cores} cores, which take at most "
            f"{PROCESSES_PER_CORE * cores} processes"
        )


def _make_summary(
    cfg: DictConfig, callbacks: Mapping[str, Callback], without: tuple[type, ...]
) -> list[Callback]:
    """Our summary of the model, unless it is switched off or the user configured another."""
    is_wanted = cfg.trainer.get("enable_model_summary", True) and not issubclass(
        LayerSummary, without
    )
    has_other = any(isinstance(callback, ModelSummary) for callback in callbacks.values())
    return [LayerSummary()] if is_wanted and not has_other else []


def _build_trainer(
    cfg: DictConfig, loggers: list[Logger], callbacks: list[Callback], run_dir: Path
) -> Trainer:
    switches = {"enable_progress_bar": ProgressBar, "enable_checkpointing": ModelCheckpoint}
    off = tuple(kind for key, kind in switches.items() if cfg.trainer.get(key) is False)
    kept = [callback for callback in callbacks if not isinstance(callback, off)]
    arguments: dict[str, Any] = {"callbacks": kept, "default_root_dir": run_dir}
    if cfg.trainer.get("num_sanity_val_steps") == 0:
        # one batch is validated before training: a metric that is not logged is found there
        arguments["num_sanity_val_steps"] = 1
    if cfg.trainer.get("profiler") is None:
        arguments["profiler"] = NoProfiler()
    try:
        make: Any = make_factory(cfg.trainer)  # a partial
        given = {key: value for key, value in make.keywords.items() if key not in OWN_KEYS}
        trainer: Trainer = make.func(**given | {"logger": loggers or False} | arguments)
    except (ValueError, TypeError) as error:
        raise UsageError(f"trainer: {error}") from error
    device = trainer.strategy.root_device.type
    if device in DEVICES_WITHOUT_FLOAT64 and str(trainer.precision).startswith("64"):
        raise UsageError(
            f"trainer.precision={trainer.precision}: {device} has no float64; 32-true is the most "
            "precise there, trainer=cpu has 64-true"
        )
    launched = int(os.environ.get("WORLD_SIZE", trainer.world_size))
    if launched != trainer.world_size:
        raise UsageError(
            f"the launcher starts {how_many(launched, 'process')}, but the trainer has "
            f"{trainer.world_size}: set trainer=ddp trainer.devices={launched}, or launch one"
        )
    whole = SingleDeviceStrategy | DDPStrategy | ShardedStrategy
    if isinstance(trainer.strategy, whole):  # others write in parts
        trainer.strategy.checkpoint_io = CheckpointFiles()
    return shorten_epoch_loop(skip_noop_hooks(trainer))
