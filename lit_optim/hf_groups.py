"""The param groups of a Trainer of transformers, whose subclasses may train more than the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any

from torch import Tensor, nn

from lit_optim.param_groups import MakeGroups, transformers

Groups = list[dict[str, Any]]


def make_groups(trainer: Any, model: nn.Module, make: MakeGroups) -> tuple[Groups, nn.Module]:
    """Make the groups of what a Trainer trains; frozen parameters are left out.

    Where `make` is the rule of transformers, a subclass may have changed it, in the methods that
    transformers has for that.

    Args:
        trainer: a Trainer.
        model: what it gives to its `create_optimizer`.
        make: module -> groups.

    Returns:
        The groups, and a module that has all of their parameters: the model, or one with a loss
        that has parameters of its own.
    """
    own = _groups_of_subclass(trainer, model)
    module = _find_module(trainer, model, own)
    groups = own if own and make is transformers else make(module)
    return _leave_out_frozen(groups), module


def _groups_of_subclass(trainer: Any, model: nn.Module) -> Groups:
    """The groups that a subclass of the Trainer makes; [] if it makes none of its own.

    That of sentence-transformers, for example, adds the parameters of the loss, and the lrs of
    learning_rate_mapping. A group has a weight decay only if it is not that of all.
    """
    from transformers import Trainer
    from transformers.training_args import OptimizerNames

    kind, groups = type(trainer), None
    if kind.get_optimizer_cls_and_kwargs is not Trainer.get_optimizer_cls_and_kwargs:
        given, trainer.args = trainer.args, copy(trainer.args)
        trainer.args.optim, trainer.args.optim_args = OptimizerNames.ADAMW_TORCH, None
        trainer.args.weight_decay = math.nan  # marks the groups that have the general one
        try:
            _, values = trainer.get_optimizer_cls_and_kwargs(trainer.args, model)
        finally:
            trainer.args = given
        groups = values.get("optimizer_dict", values.get("params"))
    elif kind.get_decay_parameter_names is not Trainer.get_decay_parameter_names:
        names, params = (
            set(trainer.get_decay_parameter_names(model)),
            dict(model.named_parameters()),
        )
        groups = [
            {"params": [p for name, p in params.items() if name in names]},
            {"params": [p for name, p in params.items() if name not in names], "weight_decay": 0.0},
        ]
    return _name_groups(groups or [])


def _name_groups(groups: Iterable[Any]) -> Groups:
    given = list(groups)
    if any(isinstance(group, Tensor) for group in given):
        given = [{"params": given}]
    named: Groups = []
    for group in given:
        settings = {k: v for k, v in group.items() if k != "weight_decay" or not math.isnan(v)}
        name = "decay" if settings.get("weight_decay", 1.0) else "no_decay"
        number = sum(other["name"].split("-")[0] == name for other in named)
        named.append({"name": f"{name}-{number}" if number else name} | settings)
    return [group for group in named if group["params"]]


def _find_module(trainer: Any, model: nn.Module, groups: Groups) -> nn.Module:
    """The model, or one with those modules of the Trainer, too, whose parameters are in groups."""
    known = set(model.parameters())
    missing = {p: None for group in groups for p in group["params"] if p not in known}  # in order
    parts: dict[str, nn.Module] = {"model": model}
    for name, value in vars(trainer).items():
        modules = value.values() if isinstance(value, Mapping) else [value]
        for number, module in enumerate(modules):
            own = set(module.parameters()) if isinstance(module, nn.Module) else set()
            if own & missing.keys():
                parts[f"{name}_{number}" if number else name] = module
                missing = {p: None for p in missing if p not in own}
    if missing:
        parts["others"] = nn.ParameterList(missing)
    return nn.ModuleDict(parts) if len(parts) > 1 else model


def _leave_out_frozen(groups: Groups) -> Groups:
    """The groups with only what trains, as the Trainer has them."""
    kept = []
    for group in groups:
        places = [i for i, p in enumerate(group["params"]) if p.requires_grad]
        by_parameter = {key: group[key] for key in ("params", "param_names") if key in group}
        if places:
            kept.append(group | {k: [v[i] for i in places] for k, v in by_parameter.items()})
    return kept
