"""What a configuration names, built: a trainer, data, and a model that has its optimizer."""

from __future__ import annotations

import inspect
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from lightning.pytorch.callbacks import (
    LearningRateFinder,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
)
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig, OmegaConf, open_dict
from torch.optim import Optimizer

from lit_optim.callbacks.lazy_layers import LazyLayers
from lit_optim.callbacks.metric_history import MetricHistory
from lit_optim.callbacks.monitor_check import MonitorCheck
from lit_optim.callbacks.ranks import Ranks
from lit_optim.callbacks.signals import Signals
from lit_optim.callbacks.summary import LayerSummary
from lit_optim.callbacks.threads import CpuThreads
from lit_optim.checkpoints.files import CheckpointFiles
from lit_optim.checkpoints.weights import load_weights
from lit_optim.config.targets import (
    TARGET,
    build,
    check_arguments,
    check_required,
    locate,
    make_factory,
)
from lit_optim.environment import is_first
from lit_optim.errors import UsageError, first_line
from lit_optim.kernels.precision import DEVICES_WITHOUT_FLOAT64
from lit_optim.lightning.configure import OptimizerMixin, configure_optimizers
from lit_optim.lightning.hparams import run_name_argument
from lit_optim.lightning.lr_rule import LrRule
from lit_optim.lightning.making import make_optimizer
from lit_optim.lightning.serving import ServedOptimizer, serve
from lit_optim.metric_names import Direction
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.param_groups import read_rule_settings, snapshot_groups
from lit_optim.signatures import Signature, inspect_signature
from lit_optim.training.monitor import resolve_monitor
from lit_optim.training.overrides import skip_noop_hooks, tolerate_io_errors
from lit_optim.wrappers import Wrapped

#: What a model may take from us instead of being given a configure_optimizers.
INJECTED = ("optimizer", "scheduler", "param_groups", "lr_rule", "schedules")

#: Where the models are that ship.
TASKS_PREFIX = "lit_optim.tasks."
PROCESSES_PER_CORE = 4  # that is still somebody's wish

#: Nothing that a user of these tasks could or should mend.
NOISE = (
    ".*does not have many workers.*",
    ".*recommended to use .*devices=1.*",
    ".*treespec, LeafSpec.*",
    ".*Checkpoint directory .* exists and is not empty.*",  # the run's own, when it goes on
    ".*ended before the epoch ended.*",  # ours go on where they were; others are told of in a line
    ".*The dirpath has changed.*",  # a checkpoint that is tested was written by another run
    ".*smaller than the logging interval.*",  # not so: steps are counted across epochs
    ".*Total length of `list` across ranks is zero.*",
)


@dataclass
class RunParts:
    """Everything that a run needs.

    Args:
        trainer: with the callbacks and loggers of the configuration.
        data: what it trains on.
        model: with its optimizer.
        history: the callback that notes the metrics.
        lr_rule: the lr by the batch, or None.
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
    """Build it; a mistake is told before data and model are, where that is possible.

    Args:
        cfg: a composed configuration that `check_config` has accepted; `monitor` and `mode` are
            filled in.
        run_dir: the directory of this run.
        more: callbacks beside those of the configuration.
        without: kinds of callbacks that are left out.
        logs: whether there are loggers.
        scheduler: instead of that of the configuration.
        begins: whether the run begins with `weights`; else a checkpoint is going to be loaded.

    Raises:
        UsageError: a mistake in the configuration.
    """
    threads = CpuThreads(cfg.get("threads"))
    _silence_warnings()
    classes = {name: _locate_class(name, cfg) for name in ("data", "model")}
    for name in cfg.callbacks:
        _locate(f"callbacks.{name}", cfg.callbacks[name], Callback)
    for name in cfg.logger:
        _locate(f"logger.{name}", cfg.logger[name], Logger)
    _check_steps(cfg.optimizer[TARGET], _locate("optimizer", cfg.optimizer, Optimizer))
    asked_for = cfg.monitor is not None or hasattr(classes["model"], "monitor")
    mode = _declare_monitor(cfg, classes["model"])
    made: dict[str, Any] = {"param_groups": make_factory(cfg.param_groups)}
    made["optimizer"] = ServedOptimizer(make_factory(cfg.optimizer), make_factory(cfg.wrapper))
    _try_optimizer(made["optimizer"], cfg)
    made["schedules"] = _to_dict(cfg.schedules)
    made["scheduler"], made["lr_rule"] = scheduler or build(cfg.scheduler), build(cfg.lr_rule)

    _check_devices(cfg.trainer)
    seed_everything(cfg.seed, workers=True, verbose=False)
    loggers = [_build_logger(name, node, run_dir) for name, node in cfg.logger.items() if logs]
    named = {name: _build(f"callbacks.{name}", node) for name, node in cfg.callbacks.items()}
    named = {name: made for name, made in named.items() if not isinstance(made, without)}
    history = MetricHistory(cfg.monitor, mode)
    watchers = named | ({"": history} if asked_for else {})
    callbacks = [*_summary(cfg, named, without), *named.values()]
    callbacks += [_monitor_check(cfg, watchers), history]
    callbacks += [threads, Signals(), Ranks(), LazyLayers(), *more]
    for logger in loggers:
        tolerate_io_errors(logger)
    trainer = _build_trainer(cfg, loggers, callbacks, run_dir)
    data = build(cfg.data)
    model = _build_model(cfg, classes["model"], data, made)
    for name, callback in named.items():
        if isinstance(callback, LearningRateFinder) and not _has_lr(model):
            raise UsageError(
                f"callbacks.{name}: LearningRateFinder looks for lr or learning_rate in the "
                f"module, and {type(model).__name__} has neither; lit-optim lr-range finds an "
                "optimizer.lr"
            )
    if cfg.weights is not None and begins:
        load_weights(model, cfg.weights)
    if isinstance(trainer.strategy, FSDPStrategy):
        made["param_groups"] = snapshot_groups(made["param_groups"], model)
    _attach_optimizer(model, made, inspect_signature(classes["model"]))
    return RunParts(trainer, data, model, history, made["lr_rule"])


def _has_lr(model: LightningModule) -> bool:
    return any(
        hasattr(model, name) or name in getattr(model, "hparams", {})
        for name in ("lr", "learning_rate")
    )


def _try_optimizer(make: Wrapped, cfg: DictConfig) -> None:
    """The optimizer's own checks, before all else; which names there are is not known yet."""
    trial = {"param_names": ["weight"]}
    rules = read_rule_settings(_to_dict(cfg.param_groups).get("rules") or [])
    trials = [trial | {"params": [torch.nn.Parameter(torch.zeros(2, 2))]} | s for s in ({}, *rules)]
    own = {"roles": None} if "roles" in cfg.optimizer else {}
    try:
        make_optimizer(partial(make, **own), trials)
    except UsageError:
        if not rules or issubclass(locate("optimizer", cfg.optimizer[TARGET]), OptimizerBase):
            raise
        make_optimizer(make, trials[1:])  # of a class that wants keys which the rules set


def _silence_warnings() -> None:
    for pattern in NOISE:
        warnings.filterwarnings("ignore", pattern)
    for name in ("lightning.pytorch", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not is_first():  # the first tells what all do
        logging.getLogger("lit_optim").setLevel(logging.WARNING)


def _build(path: str, node: DictConfig) -> Any:
    """The object of a node, where it may want a package that is not there."""
    try:
        return build(node)
    except ModuleNotFoundError as error:
        raise UsageError(f"{path}: {first_line(error)}") from error


def _build_logger(name: str, node: DictConfig, run_dir: Path) -> Logger:
    """A logger; where its runs have names, this one has that of its directory by default."""
    key = run_name_argument(_locate(f"logger.{name}", node, Logger), node)
    if key is not None:
        node = node.copy()
        with open_dict(node):
            node[key] = run_dir.name
    logger: Logger = _build(f"logger.{name}", node)
    return logger


def _locate(path: str, node: DictConfig, kind: type) -> type:
    """The class of a node; nothing is built yet."""
    found = locate(path, node[TARGET])
    if not (inspect.isclass(found) and issubclass(found, kind)):
        raise UsageError(f"{path}.{TARGET}={node[TARGET]} is no {kind.__name__}")
    if inspect.isabstract(found):
        raise UsageError(f"{path}.{TARGET}={node[TARGET]} is abstract: name a class made of it")
    return found


def _check_steps(target: str, optimizer: type) -> None:
    """An optimizer must have a `step`, and one that Lightning can call."""
    step = optimizer.step  # type: ignore[attr-defined]
    if step is Optimizer.step:
        raise UsageError(f"optimizer.{TARGET}={target} is abstract: it has no step of its own")
    if not {"closure", "kwargs"} & set(inspect.signature(step).parameters):
        raise UsageError(
            f"optimizer.{TARGET}={target}: its step takes no closure, which Lightning gives it"
        )


def _locate_class(name: str, cfg: DictConfig) -> type:
    """The class of the model or the data, its arguments checked."""
    found = _locate(name, cfg[name], LightningModule if name == "model" else LightningDataModule)
    signature, node = inspect_signature(found), _to_dict(cfg[name])
    check_arguments(name, node, signature)
    if name == "data":
        check_required(name, node, signature, given=set())
    return found


def _check_devices(trainer: DictConfig) -> None:
    """Lightning would start any number of processes on a CPU."""
    cores, devices = os.cpu_count() or 1, trainer.get("devices")
    on_cpu = trainer.get("accelerator") == "cpu" and isinstance(devices, int)
    if on_cpu and devices > PROCESSES_PER_CORE * cores:
        raise UsageError(f"trainer.devices={devices}, but this machine has {cores} cores")


def _summary(
    cfg: DictConfig, callbacks: Mapping[str, Callback], without: tuple[type, ...]
) -> list[Callback]:
    """Our summary of the model, unless it is switched off or the user has another."""
    is_wanted = cfg.trainer.get("enable_model_summary", True) and not issubclass(
        LayerSummary, without
    )
    there = any(isinstance(callback, ModelSummary) for callback in callbacks.values())
    return [LayerSummary()] if is_wanted and not there else []


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
    try:
        trainer: Trainer = make_factory(cfg.trainer)(logger=loggers or False, **arguments)
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
            f"{launched} processes were launched, but the trainer has {trainer.world_size}: say "
            f"trainer=ddp trainer.devices={launched}, or launch one"
        )
    if isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):  # others write in parts
        trainer.strategy.checkpoint_io = CheckpointFiles()
    return skip_noop_hooks(trainer)


def _declare_monitor(cfg: DictConfig, model_class: type) -> Direction | None:
    """Fill in the metric that the run is judged by, and its direction as far as it is known.

    What follows another metric than the run's does not get the direction of the run's.

    Returns:
        The direction that was typed or declared; None: the metric itself will say.
    """
    with open_dict(cfg):
        cfg.monitor, cfg.mode = resolve_monitor(model_class, cfg.monitor, cfg.mode)
        mode: Direction | None = cfg.mode
        for node in (cfg.scheduler, *cfg.callbacks.values()):
            if node.get("monitor") not in (None, cfg.monitor) and _refers_to_setting(node, "mode"):
                node.mode = None
    return mode


def _refers_to_setting(node: DictConfig, key: str) -> bool:
    """Whether a value is that of the run's setting of the same name."""
    return bool(OmegaConf.to_container(node, resolve=False).get(key) == f"${{{key}}}")  # type: ignore[union-attr]


def _monitor_check(cfg: DictConfig, callbacks: Mapping[str, Callback]) -> MonitorCheck:
    """What the callbacks, by their names in the configuration, ask of the first validation."""
    watched: dict[str, str] = {}
    undirected: list[Callback] = []
    mode_keys: dict[str, str] = {}
    for name, callback in callbacks.items():
        monitor = getattr(callback, "monitor", None)
        if not isinstance(monitor, str):
            continue
        own = monitor != cfg.monitor
        watched[monitor] = f"callbacks.{name}.monitor" if own else "monitor"
        mode_keys[monitor] = f"callbacks.{name}.mode" if own else "mode"
        given = OmegaConf.select(cfg, f"callbacks.{name}.mode") if name else cfg.mode
        if hasattr(callback, "mode") and given is None:
            undirected.append(callback)
    return MonitorCheck(watched, undirected, mode_keys)


def _build_model(
    cfg: DictConfig, model_class: type, data: LightningDataModule, made: Mapping[str, Any]
) -> LightningModule:
    signature = inspect_signature(model_class)
    node = cfg.model
    more = {name: made[name] for name in INJECTED if name in signature.parameters}
    for name, parameter in signature.parameters.items():
        if parameter.required and node.get(name) is None and name not in more:
            value = getattr(data, name, None)
            if value is not None and not callable(value):
                more[name] = value
    arguments = _to_dict(node) | {
        name: value for name, value in more.items() if name not in INJECTED
    }
    check_required("model", arguments, signature, given=set(more))
    check_arguments("model", arguments, signature)
    with open_dict(node):  # so that the run's config.yaml tells what was taken
        node.update({k: v for k, v in arguments.items() if isinstance(v, int | float | str | bool)})
    make = make_factory(node)
    try:
        model: LightningModule = make(**more)
    except UsageError:
        raise
    except (RuntimeError, OverflowError, TypeError, ValueError, MemoryError) as error:
        if not node[TARGET].startswith(TASKS_PREFIX):
            raise  # somebody's own code, which a traceback tells more about
        given = ", ".join(f"model.{name}={value!r}" for name, value in arguments.items()
                          if name != TARGET)  # fmt: skip
        raise UsageError(f"the model cannot be built ({first_line(error)}): {given}") from error
    return model


def _to_dict(node: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _attach_optimizer(
    model: LightningModule, made: Mapping[str, Any], signature: Signature
) -> None:
    """Give a model its optimizer: by the mixin's attributes, or as its configure_optimizers."""
    takes_ours = {"optimizer", "scheduler"} <= signature.parameters.keys()
    if isinstance(model, OptimizerMixin):
        for name in INJECTED:
            setattr(model, name, made[name])
    elif is_overridden("configure_optimizers", model) and takes_ours:
        _serve(model, made)  # its constructor has been given them
    elif is_overridden("configure_optimizers", model):
        raise UsageError(
            f"{type(model).__name__} has a configure_optimizers of its own, so optimizer and "
            "scheduler would have no effect; remove it, or use lit_optim.OptimizerMixin"
        )
    else:
        attached: Any = partial(configure_optimizers, model, **made)
        model.configure_optimizers = attached  # type: ignore[method-assign]


def _serve(model: LightningModule, made: Mapping[str, Any]) -> None:
    """Let a model that calls what it was given get what fits this run."""
    more = {name: made[name] for name in ("lr_rule", "schedules")}
    own = model.configure_optimizers
    served: Any = partial(serve, model, own, made["scheduler"], made["param_groups"], more)
    model.configure_optimizers = served  # type: ignore[method-assign]
