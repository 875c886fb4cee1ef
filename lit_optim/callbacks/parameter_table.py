"""Prints which optimizer, lr and weight decay each parameter gets."""

from __future__ import annotations

import re
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from torch import Tensor

from lit_optim.group_fields import initial_lr
from lit_optim.lightning_classes import Callback, LightningModule, Trainer, is_a
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.param_groups import describe_parameters
from lit_optim.wrappers import unwrap

HEADER = ("parameters", "role", "optimizer", "lr", "weight decay", "count", "state")
#: A part of a name that numbers layers.
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")


class ParameterTable(Callback):
    """Prints the table of parameter groups before training, if an optimizer divides them by role.

    TensorBoard shows the same table under Text.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        divided = [
            optimizer
            for optimizer in trainer.optimizers
            if any("role" in group for group in optimizer.param_groups)
        ]
        if not divided or not trainer.is_global_zero:
            return
        rows = [
            row for optimizer in divided for row in parameter_rows(unwrap(optimizer), pl_module)
        ]
        table = Table(*HEADER, box=box.SIMPLE)
        for column in table.columns[3:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*row)
        wide = Console(width=10_000)  # do not truncate names: a terminal wraps long lines
        Console(width=Measurement.get(wide, wide.options, table).maximum).print(table)
        markdown = "\n".join(
            f"| {' | '.join(cells)} |" for cells in [HEADER, ["---"] * len(HEADER), *rows]
        )
        for logger in trainer.loggers:
            if is_a(logger, "loggers.TensorBoardLogger"):
                logger.experiment.add_text("routing", markdown)


def parameter_rows(optimizer: Any, module: torch.nn.Module) -> list[list[str]]:
    """Return a row for each pattern of names within each group, in the order of the groups.

    Frozen parameters have rows of their own, without lr and state. Parameters that are in no group
    come last, trainable ones included.
    """
    infos = {info.parameter: info for info in describe_parameters(module)}
    grouped = {p for group in optimizer.param_groups for p in group["params"]}
    rows: dict[tuple[int, str, bool], list[Tensor]] = {}
    for index, group in enumerate(optimizer.param_groups):
        for p in group["params"]:
            pattern = NUMBER.sub("*", infos[p].name if p in infos else "?")
            rows.setdefault((index, pattern, p.requires_grad), []).append(p)
    for p, info in infos.items():
        if p not in grouped:
            rows.setdefault((-1, NUMBER.sub("*", info.name), p.requires_grad), []).append(p)
    table = []
    for (index, pattern, is_trainable), params in rows.items():
        info = infos.get(params[0])  # type: ignore[call-overload]
        name = info.name if info is not None and len(params) == 1 else pattern
        count = f"{sum(p.numel() for p in params):,}"
        if index < 0:
            status = "in no group" if is_trainable else "frozen"
            table.append([name, "" if info is None else info.role, status, "-", "-", count, "-"])
            continue
        group = optimizer.param_groups[index]
        role = group.get("role", "") + (f" x {group['split']}" if "split" in group else "")
        if not is_trainable:
            table.append([name, role, "frozen", "-", "-", count, "-"])
            continue
        owner = optimizer.owner(group) if isinstance(optimizer, OptimizerBase) else optimizer
        lr, decay = float(initial_lr(group)), float(group.get("weight_decay", 0))
        size = format_bytes(sum(state_bytes(optimizer, group, p) for p in params))
        table.append([name, role, type(owner).__name__, f"{lr:g}", f"{decay:g}", count, size])
    return table


def count_parameters(optimizer: Any, module: torch.nn.Module) -> tuple[int, int]:
    """Count the trained and the other numbers in the parameters of a module, shared ones once.

    Trained parameters are in a group of the optimizer and not frozen.
    """
    grouped = {p for group in optimizer.param_groups for p in group["params"]}
    trained = {p for p in grouped if p.requires_grad}
    rest = {p for p in module.parameters() if p not in trained}
    return sum(p.numel() for p in trained), sum(p.numel() for p in rest)


def state_bytes(optimizer: Any, group: dict[str, Any], p: Tensor) -> int:
    """Return the bytes of state that an optimizer will keep for p.

    For the optimizer of another package, it is the state that it has already. A frozen parameter
    has no gradient, hence no state.
    """
    if not p.requires_grad:
        return 0
    if not isinstance(optimizer, OptimizerBase):
        return sum(x.nbytes for x in optimizer.state.get(p, {}).values() if torch.is_tensor(x))
    owner = optimizer.owner(group)
    state = owner.new_state(torch.empty_like(p, device="meta"), owner.hyperparameters_for(p, group))
    return sum(x.nbytes for x in state.values())


def format_bytes(count: int) -> str:
    """Format a number of bytes, such as 2.6 kB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count = count / 1000  # type: ignore[assignment]
    return f"{count:.3g} GB"
