"""Prints which optimizer, lr and weight decay each parameter gets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from rich import box
from rich.measure import Measurement
from rich.table import Table
from torch import Tensor

from lit_optim.group_fields import initial_lr
from lit_optim.lightning_classes import Callback, LightningModule, Trainer, is_a
from lit_optim.optimizers.base.matrix_states import MatrixStates
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.param_groups import describe_parameters
from lit_optim.printing import Console
from lit_optim.sharding import is_sharded, local_tensor
from lit_optim.wrappers import unwrap

HEADER = ("parameters", "role", "optimizer", "lr", "weight decay", "count", "state")
#: With sharded parameters; the state is that of rank 0, which prints the table.
SHARDED_HEADER = (*HEADER[:-1], "state of rank 0", "shards")
#: A part of a name that numbers layers.
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")


class ParameterTable(Callback):
    """Prints the table of parameter groups before training, if an optimizer divides them by role.

    TensorBoard shows the same table under Text. If parameters are sharded, it says how, and which
    ranks compute with whole matrices.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        divided = [
            optimizer
            for optimizer in trainer.optimizers
            if any("role" in group for group in optimizer.param_groups)
        ]
        if not divided:
            return
        rows = [  # on all ranks: with some meshes of shards they have to meet
            row for optimizer in divided for row in parameter_rows(unwrap(optimizer), pl_module)
        ]
        if not trainer.is_global_zero:
            return
        header = header_of(rows)
        table = Table(*header, box=box.SIMPLE)
        for column in table.columns[3:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*row)
        wide = Console(width=10_000)  # do not truncate names: a terminal wraps long lines
        Console(width=Measurement.get(wide, wide.options, table).maximum).print(table)
        markdown = "\n".join(
            f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows]
        )
        for logger in trainer.loggers:
            if is_a(logger, "loggers.TensorBoardLogger"):
                logger.experiment.add_text("routing", markdown)


def parameter_rows(optimizer: Any, module: torch.nn.Module) -> list[list[str]]:
    """Return a row for each pattern of names within each group, in the order of the groups.

    Frozen parameters have rows of their own, without lr and state. Parameters that are in no group
    come last, trainable ones included. If any parameter is sharded, `SHARDED_HEADER` tells the
    cells, else `HEADER`.
    """
    infos = {info.parameter: info for info in describe_parameters(module)}
    grouped = {p for group in optimizer.param_groups for p in group["params"]}
    is_any_sharded = any(map(is_sharded, (*infos, *grouped)))
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
        shards = [] if not is_any_sharded else [describe_shards(params)]
        if index < 0:
            status, role = "in no group" if is_trainable else "frozen", info.role if info else ""
            table.append([name, role, status, "-", "-", count, "-", *shards])
            continue
        group = optimizer.param_groups[index]
        role = group.get("role", "") + (f" x {group['split']}" if "split" in group else "")
        if not is_trainable:
            table.append([name, role, "frozen", "-", "-", count, "-", *shards])
            continue
        owner = optimizer.owner(group) if isinstance(optimizer, OptimizerBase) else optimizer
        lr, decay = float(initial_lr(group)), float(group.get("weight_decay", 0))
        size = format_bytes(sum(state_bytes(optimizer, group, p) for p in params))
        computed = computing_ranks(optimizer, group, params)
        shards = [text + (f", owner {computed}" if computed else "") for text in shards]
        cells = [name, role, type(owner).__name__, f"{lr:g}", f"{decay:g}", count, size]
        table.append([*cells, *shards])
    return table


def header_of(rows: list[list[str]]) -> tuple[str, ...]:
    """The header of the rows of `parameter_rows`."""
    return SHARDED_HEADER if rows and len(rows[0]) == len(SHARDED_HEADER) else HEADER


def describe_shards(params: Sequence[Tensor]) -> str:
    """How parameters are spread over processes, such as `dim 0 / 4`; `-` for whole ones."""
    return ", ".join(dict.fromkeys(map(_describe_shard, params)))


def _describe_shard(p: Tensor) -> str:
    if not is_sharded(p):
        return "-"
    sizes = p.device_mesh.mesh.shape  # type: ignore[attr-defined]
    parts = [
        f"dim {one.dim} / {size}" if one.is_shard() else f"{size} copies"
        for one, size in zip(p.placements, sizes, strict=True)  # type: ignore[attr-defined]
    ]
    return " x ".join(parts)


def computing_ranks(optimizer: Any, group: dict[str, Any], params: Sequence[Tensor]) -> str:
    """The ranks that compute with the whole matrices of parameters; empty if shards are enough."""
    owner = optimizer.owner(group) if isinstance(optimizer, OptimizerBase) else None
    if not isinstance(owner, MatrixStates):
        return ""
    shared = [p for p in params if is_sharded(p)]
    ranks = sorted({part.owner for p in shared for part in owner.parts(p, group)})
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}" if ranks else ""


def count_parameters(optimizer: Any, module: torch.nn.Module) -> tuple[int, int]:
    """Count the trained and the other numbers in the parameters of a module, shared ones once.

    Trained parameters are in a group of the optimizer and not frozen.
    """
    grouped = {p for group in optimizer.param_groups for p in group["params"]}
    trained = {p for p in grouped if p.requires_grad}
    rest = {p for p in module.parameters() if p not in trained}
    return sum(p.numel() for p in trained), sum(p.numel() for p in rest)


def state_bytes(optimizer: Any, group: dict[str, Any], p: Tensor) -> int:
    """Return the bytes of state that an optimizer will keep for p, of a sharded one on this rank.

    For the optimizer of another package, it is the state that it has already. A frozen parameter
    has no gradient, hence no state.
    """
    if not p.requires_grad:
        return 0
    if not isinstance(optimizer, OptimizerBase):
        kept = optimizer.state.get(p, {}).values()
        return sum(local_tensor(x).nbytes for x in kept if torch.is_tensor(x))
    owner = optimizer.owner(group)
    like = p if is_sharded(p) else torch.empty_like(p, device="meta")
    state = owner.new_state(like, owner.hyperparameters_for(p, group))
    return sum(local_tensor(x).nbytes for x in state.values())


def format_bytes(count: int) -> str:
    """Format a number of bytes, such as 2.6 kB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count = count / 1000  # type: ignore[assignment]
    return f"{count:.3g} GB"
