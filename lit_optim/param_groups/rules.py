"""Param groups by an ordered list of rules that a user writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

from lit_optim.errors import UsageError, show, suggest
from lit_optim.hyperparameters import plain
from lit_optim.param_groups.decay import no_decay, single, transformers
from lit_optim.param_groups.describe import ParameterInfo, describe_parameters
from lit_optim.param_groups.layers import layer_decay
from lit_optim.param_groups.module_groups import ModuleGroups
from lit_optim.param_groups.roles import by_role
from lit_optim.param_groups.tree import check_module

Base = Literal["no_decay", "single", "transformers", "layer_decay"]
BASES = {
    "no_decay": no_decay,
    "single": single,
    "transformers": transformers,
    "layer_decay": layer_decay,
}
#: The attribute that marks a parameter frozen by a rule.
FROZEN_BY_RULE = "_frozen_by_rules"
#: The keys of a rule that select parameters; a parameter has to match all of them.
MATCH_KEYS = ("name", "regex", "module", "role", "ndim")
#: What a rule can set besides hyperparameters.
SETTING_KEYS = ("lr_mult", "frozen", "split", "transposed")


def divide_parameters(
    module: nn.Module,
    base: Base = "no_decay",
    rules: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Divide the parameters of a module into groups that fit every optimizer.

    Norms, biases and other 1-D parameters have no weight decay, and each group has the `role` of
    its parameters, by which Muon and similar optimizers know what is a hidden matrix; other
    optimizers ignore it. `lit_optim.param_groups(module)` is the same.

    Args:
        module: the model.
        base: no_decay; transformers, weight decay as in its Trainer; single, one group before it is
            divided by role; or layer_decay.
        rules: as `by_rules` reads them.

    Raises:
        UsageError: no parameter is trainable, a layer has no shape yet, an unknown base, or a rule
            that does not fit.
    """
    if base not in BASES:
        raise UsageError(f"param_groups: base must be one of {', '.join(BASES)}, got {show(base)}")
    groups = by_rules(module, rules, base) if rules else BASES[base](module)
    return by_role(groups, module)


def by_rules(
    module: nn.Module,
    rules: Sequence[Mapping[str, Any]] = (),
    base: Base = "no_decay",
) -> list[dict[str, Any]]:
    """Change the groups of the base by rules, in their order.

        rules:
          - {role: head, lr_mult: 10}
          - {name: "blocks.0.*", frozen: true}
          - {module: Embedding, weight_decay: 0}

    A rule applies to the parameters that match all of its keys: `name` (a shell pattern), `regex`
    (found anywhere in the name), `module` (the class of its layer or a base class), `role` and
    `ndim`. A key may have a list, of which one has to match, and of a shared parameter any name may
    match. A rule sets `lr_mult` (a factor of the lr), `frozen` (not trained, but in a group, so
    that unfreezing it later changes no group) or any hyperparameter of the optimizer; and for
    optimizers of matrices `split` (the number of equal matrices that are stacked in a parameter,
    along its outputs) and `transposed` (it is stored as [in, out]), where the layer does not tell.
    If several rules match a parameter, all apply, and the first one wins for each key. Rules that
    freeze are applied first: layers and roles, and the rules about them, are those of the remaining
    network.

    Side effects: sets `requires_grad` of the parameters that rules freeze, and marks them, so that
    another call can undo it.

    Returns:
        The groups of the base, divided where rules differ, and named by the rules.

    Raises:
        UsageError: a rule matches no parameter or sets nothing, or no parameter is left to train.
    """
    read = [_parse_rule(plain(rule), index) for index, rule in enumerate(rules)]
    check_module(module)
    for p in module.parameters():
        if getattr(p, FROZEN_BY_RULE, False):  # by an earlier call, whose decision is undone
            p.requires_grad_(True)
            delattr(p, FROZEN_BY_RULE)
    # what to freeze is decided by the model as built, everything else by the remaining network
    before = describe_parameters(module)
    freezing = [i for i, (_, settings) in enumerate(read) if "frozen" in settings]
    fits = {info.name: [i for i in freezing if _matches(read[i][0], info)] for info in before}
    for info in before:
        if fits[info.name] and read[fits[info.name][0]][1]["frozen"] and info.is_trainable:
            info.parameter.requires_grad_(False)
            setattr(info.parameter, FROZEN_BY_RULE, True)
    if not any(info.parameter.requires_grad for info in before):
        raise UsageError("param_groups.rules freeze every parameter: nothing is left to train")
    infos = {info.name: info for info in describe_parameters(module)}
    unfrozen = [i for i in range(len(read)) if i not in freezing]
    for name, info in infos.items():
        fits[name] = sorted(fits[name] + [i for i in unfrozen if _matches(read[i][0], info)])
    for i, (match, _) in enumerate(read):
        if not any(i in found for found in fits.values()):
            raise UsageError(
                f"param_groups.rules.{i} matches no parameter: {_describe(match)}"
                f"{_suggest_match(match, infos)}"
            )
    groups: dict[Any, dict[str, Any]] = {}
    for number, group in enumerate(BASES[base](module)):
        for name, p in zip(group["param_names"], group["params"], strict=True):
            settings: dict[str, Any] = {}
            for i in fits[name]:
                settings = read[i][1] | settings
            settings.pop("frozen", None)
            combined = group | settings
            if combined.get("lr") is not None and "lr_mult" in combined:
                combined["lr"] *= combined.pop("lr_mult")
            title = "+".join(_title(read[i][0]) for i in fits[name])
            new_group = groups.setdefault(
                (number, title),
                combined
                | {"name": f"{group['name']}.{title}" if title else group["name"]}
                | {"params": [], "param_names": []},
            )
            new_group["params"].append(p)
            new_group["param_names"].append(name)
    return ModuleGroups(groups.values(), module)


def read_rule_settings(rules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the settings of each rule for a param group; needs no model, for an early check.

    Raises:
        UsageError: a rule sets nothing or matches nothing.
    """
    read = [_parse_rule(rule, index)[1] for index, rule in enumerate(rules)]
    return [{k: v for k, v in settings.items() if k != "frozen"} for settings in read]


def _parse_rule(rule: Mapping[str, Any], index: int) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return the keys that select parameters, as lists, and the settings of a rule."""
    where = f"param_groups.rules.{index}"
    match = {key: _as_list(rule[key]) for key in MATCH_KEYS if key in rule}
    settings = {key: value for key, value in rule.items() if key not in MATCH_KEYS}
    if not match:
        raise UsageError(
            f"{where} must say which parameters it matches: one of {', '.join(MATCH_KEYS)}"
        )
    if not settings:
        raise UsageError(
            f"{where} sets nothing: give lr_mult, frozen or a hyperparameter of the optimizer"
        )
    for key in settings:
        if key not in SETTING_KEYS and (near := suggest(key, SETTING_KEYS)):
            raise UsageError(
                f"{where} has no {key!r}{near} A rule sets {', '.join(SETTING_KEYS)} or a "
                "hyperparameter of the optimizer"
            )
    mult, frozen = settings.get("lr_mult", 1.0), settings.get("frozen", False)
    if type(mult) not in (int, float) or not 0 < mult < float("inf"):
        raise UsageError(f"{where}.lr_mult must be a number > 0, got {show(mult)}")
    if type(frozen) is not bool:
        raise UsageError(f"{where}.frozen must be true or false, got {show(frozen)}")
    for pattern in match.get("regex", ()):
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise UsageError(
                f"{where}.regex={pattern!r} is not a regular expression: {error}"
            ) from None
    return match, settings


def _matches(match: dict[str, list[Any]], info: ParameterInfo) -> bool:
    names = (*info.names, *info.raw_names)
    facts: dict[str, Sequence[Any]] = {
        "module": info.classes,
        "role": [info.role],
        "ndim": [info.parameter.ndim],
    }
    for key, allowed in match.items():
        if key == "name":
            is_match = any(fnmatchcase(name, pattern) for name in names for pattern in allowed)
        elif key == "regex":
            is_match = any(re.search(pattern, name) for name in names for pattern in allowed)
        else:
            is_match = any(value in allowed for value in facts[key])
        if not is_match:
            return False
    return True


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _describe(match: Mapping[str, list[Any]]) -> str:
    return ", ".join(f"{key}={'|'.join(map(str, values))}" for key, values in match.items())


def _title(match: Mapping[str, list[Any]]) -> str:
    """Return a part of a group's name that is valid in TensorBoard tags and file names."""
    words = "_".join(str(value) for values in match.values() for value in values)
    return re.sub(r"[^\w.]+", "_", words).strip("_.") or "rule"


def _suggest_match(match: Mapping[str, list[Any]], infos: Mapping[str, ParameterInfo]) -> str:
    known: dict[str, list[str]] = {
        "name": list(infos),
        "module": [info.classes[0] for info in infos.values()],
        "role": [info.role for info in infos.values()],
    }
    for key, values in match.items():
        for value in values:
            if key in known and (near := suggest(str(value), dict.fromkeys(known[key]))):
                return near
    return ""
