"""Prints a table of the model's layers before training."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.table import Table
from torch import nn
from torch.nn.parameter import is_lazy

from lit_optim.callbacks.parameter_table import format_bytes
from lit_optim.lightning_classes import LightningModule, ModelSummary, Trainer
from lit_optim.printing import Console, natural_width

#: The most layers that are listed; the others are counted.
MAX_LAYERS = 25


@dataclass(frozen=True)
class Layer:
    """A part of a model.

    Args:
        name: the name in the module.
        kind: the name of the class.
        sizes: the number of elements of each parameter, by name; None for a lazy parameter.
        bytes: the size of all parameters.
    """

    name: str
    kind: str
    sizes: dict[str, int | None]
    bytes: int


class LayerSummary(ModelSummary):
    """Prints the layers that have parameters, with their numbers of parameters and frozen ones.

    Parameters are counted before the training, since sharded parameters lose their size, and the
    table is printed after the optimizer was configured, which may freeze parameters.
    """

    def __init__(self) -> None:
        super().__init__(max_depth=1)
        self._layers: list[Layer] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._layers = layers_of(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        frozen = {name for name, p in pl_module.named_parameters() if not p.requires_grad}
        table = draw_summary(self._layers, frozen)
        console = Console()
        # do not truncate names: a terminal wraps long lines and copies them whole
        Console(file=console.file, width=natural_width(table), height=100).print(table)


def layers_of(module: nn.Module) -> list[Layer]:
    """Return the layers of a module that have parameters; a single child is divided further.

    A parameter that several layers share counts for the first one.
    """
    prefix, parts = "", _parts(module)
    while len(parts) == 1 and parts[0][1] is not module and list(parts[0][1].children()):
        prefix, module = f"{prefix}{parts[0][0]}.", parts[0][1]
        parts = _parts(module)
    seen: set[int] = set()
    layers: list[Layer] = []
    for name, part in parts:
        own = part is module  # parameters that belong to no child
        start = prefix if own else f"{prefix}{name}."
        new = {
            f"{start}{key}": p
            for key, p in part.named_parameters(recurse=not own)
            if id(p) not in seen
        }
        seen |= set(map(id, new.values()))
        if new:
            sizes: dict[str, int | None] = {
                key: None if is_lazy(p) else p.numel() for key, p in new.items()
            }
            size = sum(p.nbytes for p in new.values() if not is_lazy(p))
            label = prefix.removesuffix(".") if own else f"{prefix}{name}"
            layers.append(Layer(label, type(part).__name__, sizes, size))
    return layers


def _parts(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the children that have parameters, after the module itself if it has its own."""
    own = [("", module)] if list(module.parameters(recurse=False)) else []
    return own + [
        (name, child) for name, child in module.named_children() if list(child.parameters())
    ]


def draw_summary(layers: list[Layer], frozen: set[str]) -> Table:
    """Draw a row for each layer, and one for the total.

    Args:
        layers: of a model.
        frozen: the names of frozen parameters.
    """
    some = any(name in frozen for layer in layers for name in layer.sizes)
    table = Table("layer", "type", "parameters", *(["frozen"] if some else []), box=box.SIMPLE)
    for column in table.columns[2:]:
        column.justify = "right"
    for layer in layers[:MAX_LAYERS]:
        table.add_row(layer.name or "(itself)", layer.kind, *_counts([layer], frozen, some))
    if len(layers) > MAX_LAYERS:
        rest = layers[MAX_LAYERS:]
        table.add_row(f"{len(rest)} more", "", *_counts(rest, frozen, some))
    table.add_section()
    size = format_bytes(sum(layer.bytes for layer in layers))
    table.add_row("total", size, *_counts(layers, frozen, some))
    return table


def _counts(layers: list[Layer], frozen: set[str], some: bool) -> list[str]:
    """Return the cells with the number of parameters and, if `some` are frozen, of frozen ones."""
    sizes = [(name, size) for layer in layers for name, size in layer.sizes.items()]
    known = sum(size for _, size in sizes if size is not None)
    is_open = any(size is None for _, size in sizes)
    cells = ["with the first batch" if is_open and not known else f"{known:,}"]
    if is_open and known:
        cells[0] += " and more with the first batch"
    if some:
        cells.append(f"{sum(size for name, size in sizes if name in frozen and size):,}")
    return cells
