"""An lr that falls from the head of a model down to its first layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from torch import nn

from lit_optim.param_groups.decay import no_decay, single, transformers
from lit_optim.param_groups.roles import roles

CONTAINERS = (nn.ModuleList, nn.Sequential)
BASES = {"no_decay": no_decay, "single": single, "transformers": transformers}


def layer_decay(
    module: nn.Module,
    decay: Annotated[float, "in (0, 1]"] = 0.75,
    base: Literal["no_decay", "single", "transformers"] = "no_decay",
) -> list[dict[str, Any]]:
    """Layer-wise lr decay: the lr of a layer is decay^(layers above it) times that of the last.

    Clark et al. 2020, ELECTRA, arXiv:2003.10555, App. A; as BEiT and MAE fine-tune.

    What counts as a layer is read from the module tree: the members of a ModuleList or Sequential
    that has several of one class, those of stages within stages; where there is none, the children
    of the module. Embeddings and what stands before the first layer are layer 0; the head and what
    stands behind the last are the last one.

    Returns:
        the groups of the base, divided by layer, with an `lr_mult`: `layer_00.decay`, ...

    Raises:
        ValueError: as the base.
    """
    depths = depths_of(module)
    top = max(depths.values())
    groups: dict[tuple[int, str], dict[str, Any]] = {}
    for group in BASES[base](module):
        for name, p in zip(group["param_names"], group["params"], strict=True):
            depth = depths[name]
            made = groups.setdefault(
                (depth, group["name"]),
                group
                | {"params": [], "param_names": [], "lr_mult": decay ** (top - depth)}
                | {"name": f"layer_{depth:02d}.{group['name']}"},
            )
            made["params"].append(p)
            made["param_names"].append(name)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def depths_of(module: nn.Module) -> dict[str, int]:
    """The layer of each parameter, by name, from 0 at the input."""
    layers = list(_layers(module, "")) or [
        name for name, child in module.named_children() if any(True for _ in child.parameters())
    ]
    places = roles(module)
    depths, begun = {}, 0
    for name, place in places.items():
        inside = [i for i, layer in enumerate(layers, 1) if name.startswith(f"{layer}.")]
        begun = max([begun, *inside])
        behind = len(layers) + 1 if begun == len(layers) else begun
        depths[name] = inside[0] if inside else behind
        if place.role == "embedding":
            depths[name] = 0
        elif place.role == "head" and not inside:
            depths[name] = len(layers) + 1
    used = sorted(set(depths.values()))
    return {name: used.index(depth) for name, depth in depths.items()}


def _layers(module: nn.Module, prefix: str) -> Iterator[str]:
    """The names of the layers, from the input on."""
    children = [(n, c) for n, c in module.named_children() if any(True for _ in c.parameters())]
    kinds = [type(child) for _, child in children]
    repeats = isinstance(module, CONTAINERS) and len(set(kinds)) < len(kinds)
    for name, child in children:
        stage = isinstance(child, CONTAINERS) or "stage" in type(child).__name__.lower()
        # what a block is made of are no layers
        within = list(_layers(child, f"{prefix}{name}.")) if stage or not repeats else []
        yield from within or ([f"{prefix}{name}"] if repeats else [])
