"""Layer-wise lr decay: an lr that falls from the head of a model to its first layer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from torch import nn

from lit_optim.param_groups.decay import no_decay, single, transformers
from lit_optim.param_groups.describe import describe_parameters
from lit_optim.param_groups.module_groups import ModuleGroups

BASES = {"no_decay": no_decay, "single": single, "transformers": transformers}


def layer_decay(
    module: nn.Module,
    decay: Annotated[float, "in (0, 1]"] = 0.75,
    base: Literal["no_decay", "single", "transformers"] = "no_decay",
) -> list[dict[str, Any]]:
    """Layer-wise lr decay: the lr of a layer is decay^(layers above it) times that of the last.

    Clark et al. 2020, ELECTRA, arXiv:2003.10555, App. A; as BEiT and MAE fine-tune.

    Layers are read from the module tree: they are the members of a ModuleList or Sequential that
    has several of one class, and those of stages inside stages; in a model without such containers,
    they are the children of the module. Embeddings and modules before the first layer are layer 0;
    the head and modules after the last layer are the last one. Frozen modules that are not part of
    the trained network are not layers of it.

    Returns:
        The groups of the base, divided by layer, with an `lr_mult`: `layer_00.decay`, ...

    Raises:
        UsageError: as the base.
    """
    infos = {info.name: info for info in describe_parameters(module)}
    groups: dict[tuple[int, str], dict[str, Any]] = {}
    for group in BASES[base](module):
        for name, p in zip(group["param_names"], group["params"], strict=True):
            depth = infos[name].depth
            layer_group = groups.setdefault(
                (depth, group["name"]),
                group
                | {"params": [], "param_names": [], "lr_mult": decay ** infos[name].height}
                | {"name": f"layer_{depth:02d}.{group['name']}"},
            )
            layer_group["params"].append(p)
            layer_group["param_names"].append(name)
    ordered = (groups[key] for key in sorted(groups, key=lambda key: key[0]))
    return ModuleGroups(ordered, module)


def depths_of(module: nn.Module) -> dict[str, int]:
    """Return the layer of each parameter by name, counted from 0 at the input."""
    return {info.name: info.depth for info in describe_parameters(module)}
