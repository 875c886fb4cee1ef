"""`lit-optim explain`: what a run would do, without training."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ModelSummary, ProgressBar
from omegaconf import DictConfig
from rich.table import Table
from torch.optim import Optimizer

from lit_optim.callbacks.learning_rates import LearningRates
from lit_optim.callbacks.parameter_table import (
    ParameterTable,
    count_parameters,
    format_bytes,
    header_of,
    parameter_rows,
    state_bytes,
)
from lit_optim.callbacks.threads import CpuThreads
from lit_optim.command_line.combinations import compose_one
from lit_optim.config.check import to_plain
from lit_optim.config.lr import lr_origin
from lit_optim.errors import UsageError, how_many
from lit_optim.group_fields import initial_lr
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.printing import Console
from lit_optim.reports.lr_plot import notable_updates, sparkline
from lit_optim.reports.memory import memory_of
from lit_optim.reports.sharding_plan import describe_sharding, matrix_owners, pretend_processes
from lit_optim.requirements import is_far_lr
from lit_optim.runs.build import build_run
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.curve import Curve
from lit_optim.schedules.durations import Duration, parse_duration
from lit_optim.schedules.phase_curve import PhasesCurve
from lit_optim.sharding import is_sharded
from lit_optim.training.lengths import run_length
from lit_optim.training.requirements import find_warnings, requirements_of
from lit_optim.training.sharded import ShardedStrategy
from lit_optim.wrappers import Wrapper, unwrap

BARS = 60
SILENT = (ModelCheckpoint, ModelSummary, ProgressBar, LearningRates, ParameterTable)


class _Ready(Exception):
    """The optimizer is built, and training would begin."""


class _Halt(Callback):
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise _Ready


def explain(lines: list[str], console: Console) -> None:
    """Print the horizon, the schedule, the groups, the state, and what looks like a mistake.

    Args:
        lines: overrides as for train.py, of one run.
        console: to print to.

    Raises:
        UsageError: a mistake in them.
    """
    explain_run(compose_one(lines), console)


def explain_run(cfg: DictConfig, console: Console) -> None:
    """Explain a configuration that was checked.

    Raises:
        UsageError: it does not train, or cannot.
    """
    logging.getLogger("lit_optim").setLevel(logging.ERROR)  # warnings are printed at the end
    plain = to_plain(cfg)
    if plain["trainer"].get("fast_dev_run"):
        raise UsageError(
            "explain does not train: leave out trainer.fast_dev_run (debug=fast), and it explains "
            "the whole run"
        )
    with pretend_processes(cfg):
        _explain(cfg, plain, console)


def _explain(cfg: DictConfig, plain: Mapping[str, Any], console: Console) -> None:
    parts = build_run(cfg, Path.cwd(), [_Halt()], SILENT, logs=False)
    trainer, model = parts.trainer, parts.model
    with suppress(_Ready):
        trainer.fit(model, parts.data)
    if not trainer.is_global_zero:
        return
    [optimizer] = trainer.optimizers
    schedule = next((c.scheduler for c in trainer.lr_scheduler_configs), None)
    adapter = schedule if isinstance(schedule, ScheduledLR) else None
    choices = cfg.hydra.runtime.choices
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    for group in ("optimizer", "wrapper", "scheduler", "lr_rule", "model", "data"):
        if choices[group] != "none" or group == "scheduler":
            lr = plain["optimizer"].get("lr") if group == "optimizer" else None
            more = "" if lr is None else f"  lr {lr:g} ({lr_origin(cfg, cfg.hydra)})"
            table.add_row(group, f"{choices[group]}{more}")
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    [threads] = [one for one in callbacks if isinstance(one, CpuThreads)]
    for key, text in _describe_run(trainer, plain, adapter, optimizer):
        table.add_row(key, text)
    table.add_row("threads", threads.describe(trainer, model))
    console.print(table)
    groups, caption = _groups(optimizer, model)
    console.print(groups)
    console.print(caption, highlight=False)
    released = bool(plain["trainer"].get("gradient_release"))
    if isinstance(optimizer, Wrapper):
        optimizer.begin_update()  # makes what it keeps
    if isinstance(trainer.strategy, ShardedStrategy):
        _print_sharding(optimizer, model, released, console)
    elif "unknown" not in caption:
        memory = memory_of(optimizer, model, released).describe()
        console.print(f"memory without activations: {memory}", highlight=False)
    warnings = list(_mistakes(trainer, plain, adapter, optimizer))
    for warning in warnings:
        console.print(f"[bold yellow]likely a mistake[/]  {warning}", highlight=False)
    if not warnings:
        console.print("no problems found")


def _describe_run(
    trainer: Trainer, plain: Mapping[str, Any], adapter: ScheduledLR | None, optimizer: Optimizer
) -> Iterator[tuple[str, str]]:
    yield "run", _length(trainer, plain)
    if adapter is None:
        return
    curve, own = adapter.curve, max(g["initial_lr"] for g in optimizer.param_groups)

    def lr(t: int) -> float:
        return curve(t, own)

    total = plain["scheduler"].get("total")
    yield (
        "horizon",
        f"{how_many(curve.total, 'update')}, from "
        + ("the run" if total is None else "scheduler.total"),
    )
    if (warmup := warmup_of(curve)) is not None:
        yield "warmup", how_many(warmup, "update")
    steps = max(1, curve.total)
    middles = [min(steps - 1, int((k + 0.5) * steps / BARS)) for k in range(BARS)]
    values = [lr(t) for t in middles]
    yield "lr", sparkline(values, max(values))
    marks = notable_updates(lr, [t for t in curve.milestones() if t < steps])
    for t in marks:
        yield "", f"update {t:>7,}  lr {lr(t):.4g}"
    if curve.metric is not None:
        yield "", f"as long as {curve.metric.monitor} does not change it"
    for one in adapter.hyperparameters:
        place, own_value = next(iter(one.base_values.items()))
        updates = (0, steps // 2, steps - 1)
        ends = [one.value_at(t, place, lr(t) / own if own else 1.0) for t in updates]
        lrs = ", ".join(f"{value:.4g}" for value in ends)
        yield one.key, f"{lrs} at the first, middle and last update (its own is {own_value:g})"


def _length(trainer: Trainer, plain: Mapping[str, Any]) -> str:
    steps = run_length(trainer)
    given = plain["trainer"]
    if given.get("max_epochs") in (None, -1):
        return f"{how_many(steps, 'update')}, as trainer.max_steps says"
    batches, accumulated = trainer.num_training_batches, trainer.accumulate_grad_batches
    each = f"{how_many(given['max_epochs'], 'epoch')} of {how_many(batches, 'batch')}"
    each += f", {accumulated} to an update" if accumulated != 1 else ""
    if given.get("max_steps", -1) == steps:
        each += f", but trainer.max_steps={steps} ends the run before that"
    return f"{how_many(steps, 'update')}: {each}"


def warmup_of(curve: Curve) -> int | None:
    """The updates of the first phase if it is a warmup, else 0; None without phases."""
    if not isinstance(curve, PhasesCurve) or not curve.segments:
        return None
    first = curve.segments[0]
    return round(first.length) if getattr(first.segment, "name", "") == "warmup" else 0


def _groups(optimizer: Optimizer, model: LightningModule) -> tuple[Table, str]:
    within = unwrap(optimizer)
    if not isinstance(within, OptimizerBase):
        _step_a_copy(within)
    rows = parameter_rows(within, model)
    state = sum(
        state_bytes(within, group, p) for group in within.param_groups for p in group["params"]
    )
    known = isinstance(within, OptimizerBase) or state > 0
    trained, frozen = count_parameters(within, model)
    here = " on rank 0" if any(map(is_sharded, model.parameters())) else ""
    size = f"{format_bytes(state)} of state{here}" if known else "a state of unknown size"
    caption = f"{trained:,} parameters are trained, {frozen:,} are not; {size}"
    kept = getattr(optimizer, "tensors", ()) if optimizer is not within else ()
    if kept:
        caption += f", and {type(optimizer).__name__} keeps a copy of the weights"
    header = [name for name in header_of(rows) if known or name != "state"]
    table = Table(*header, box=None, padding=(0, 2, 0, 0))
    for column in table.columns[3:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row[: len(header)])
    return table, caption


def _print_sharding(
    optimizer: Optimizer, model: LightningModule, released: bool, console: Console
) -> None:
    owners = matrix_owners(optimizer, model)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    for key, text in describe_sharding(optimizer, model, released):
        table.add_row(key, text)
    console.print(table)
    if owners is not None:
        console.print(owners)


def _step_a_copy(optimizer: Optimizer) -> None:
    """Find the state of a class that is not ours, by a step of a copy with zero gradients."""
    try:
        twin = copy.deepcopy(optimizer)
        for group in twin.param_groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p) if p.requires_grad else None
        twin.step()
    except Exception:  # it needs a closure, or other gradients: its state stays unknown
        return
    for group, other in zip(optimizer.param_groups, twin.param_groups, strict=True):
        for p, q in zip(group["params"], other["params"], strict=True):
            if q in twin.state:
                optimizer.state[p] = twin.state[q]


def _mistakes(
    trainer: Trainer, plain: Mapping[str, Any], adapter: ScheduledLR | None, optimizer: Optimizer
) -> Iterator[str]:
    within = unwrap(optimizer)
    groups = optimizer.param_groups
    curve = adapter.curve if adapter is not None else None
    yield from find_warnings(requirements_of(within), type(within).__name__, groups, curve)
    steppers = [
        within.owner(group) if isinstance(within, OptimizerBase) else within for group in groups
    ]
    lrs = [initial_lr(group) for group in groups]
    for kind, lr in dict.fromkeys(zip(map(type, steppers), lrs, strict=True)):
        low, high = getattr(kind, "lr_range", (0.0, math.inf))
        if lr and is_far_lr(lr, (low, high)):
            yield f"lr={lr:g} is far from {kind.__name__}'s usual range, {low:g} to {high:g}"
    if curve is None:
        return
    steps = run_length(trainer)
    every = getattr(curve, "every", 1)  # updates of an epoch, where these are counted
    if curve.depends_on_length and curve.total != every * math.ceil(steps / every):
        yield (
            f"the schedule has {how_many(curve.total, 'update')} and the run {steps:,}: "
            + ("it ends before its floor" if curve.total > steps else "the rest stays at its end")
        )
    yield from _no_warmup(trainer, plain["scheduler"].get("warmup"), curve)


def _no_warmup(trainer: Trainer, warmup: Duration | None, curve: Curve) -> Iterator[str]:
    if warmup is None or warmup_of(curve) is None:
        return
    if parse_duration("warmup", warmup)[0] > 0 and warmup_of(curve) == 0:
        yield (
            f"scheduler.warmup={warmup} of {how_many(curve.total, 'update')} is less than one: "
            "there is no warmup"
        )
