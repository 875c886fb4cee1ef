"""Which parameter gets what: a table before training."""

from __future__ import annotations

import re
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from torch import Tensor

from lit_optim.optimizers.walk import Walk
from lit_optim.wrappers import unwrapped

HEADER = ("parameters", "role", "optimizer", "lr", "weight decay", "count", "state")
#: A part of a name that counts layers.
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")


class Routing(Callback):
    """Prints the routing of parameters at the start, where an optimizer divides them by role.

    TensorBoard has the same table under Text.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        divided = [
            optimizer
            for optimizer in trainer.optimizers
            if any("role" in group for group in optimizer.param_groups)
        ]
        if not divided or not trainer.is_global_zero:
            return
        rows = [row for optimizer in divided for row in routing(unwrapped(optimizer), pl_module)]
        table = Table(*HEADER, box=box.SIMPLE)
        for column in table.columns[3:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*row)
        wide = Console(width=10_000)  # whole names, as a terminal would wrap them
        Console(width=Measurement.get(wide, wide.options, table).maximum).print(table)
        markdown = "\n".join(
            f"| {' | '.join(cells)} |" for cells in [HEADER, ["---"] * len(HEADER), *rows]
        )
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("routing", markdown)


def routing(optimizer: Any, module: torch.nn.Module) -> list[list[str]]:
    """A row for each pattern of names within each group, in the order of the groups."""
    names: dict[Tensor, str] = {p: name for name, p in module.named_parameters()}
    rows: dict[tuple[int, str], list[Tensor]] = {}
    for index, group in enumerate(optimizer.param_groups):
        for p in group["params"]:
            pattern = NUMBER.sub("*", names.get(p, "?"))
            rows.setdefault((index, pattern), []).append(p)
    table = []
    for (index, pattern), params in rows.items():
        group = optimizer.param_groups[index]
        owner = optimizer.owner(group) if isinstance(optimizer, Walk) else optimizer
        role = group.get("role", "") + (f" x {group['split']}" if "split" in group else "")
        name = pattern if len(params) > 1 else names.get(params[0], "?")
        cells = [name, role, type(owner).__name__, f"{group.get('initial_lr', group['lr']):g}"]
        cells += [f"{group.get('weight_decay', 0):g}", f"{sum(p.numel() for p in params):,}"]
        table.append([*cells, size_told(sum(state_bytes(optimizer, group, p) for p in params))])
    return table


def state_bytes(optimizer: Any, group: dict[str, Any], p: Tensor) -> int:
    """What an optimizer will keep for p; of one that is not ours, what it keeps already."""
    if not isinstance(optimizer, Walk):
        return sum(x.nbytes for x in optimizer.state.get(p, {}).values() if torch.is_tensor(x))
    owner = optimizer.owner(group)
    state = owner.new_state(torch.empty_like(p, device="meta"), owner.seen_by(p, group))
    return sum(x.nbytes for x in state.values())


def size_told(count: int) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count = count / 1000  # type: ignore[assignment]
    return f"{count:.3g} GB"
