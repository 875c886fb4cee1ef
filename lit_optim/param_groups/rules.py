"""Param groups by rules in order, as a user writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

from lit_optim.errors import UsageError, show, suggest
from lit_optim.param_groups.decay import no_decay, single, transformers
from lit_optim.param_groups.describe import ParameterInfo, describe_parameters
from lit_optim.param_groups.layers import layer_decay

BASES = {
    "no_decay": no_decay,
    "single": single,
    "transformers": transformers,
    "layer_decay": layer_decay,
}
#: The attribute of a parameter that a rule has frozen.
FROZEN_HERE = "_frozen_by_rules"
#: Keys of a rule that say which parameters it is about; a parameter fits if all of them fit.
MATCH = ("name", "regex", "module", "role", "ndim")
#: What a rule sets itself, beside hyperparameters.
OWN = ("lr_mult", "frozen")


def by_rules(
    module: nn.Module,
    rules: Sequence[Mapping[str, Any]] = (),
    base: Literal["no_decay", "single", "transformers", "layer_decay"] = "no_decay",
) -> list[dict[str, Any]]:
    """What the base decides, changed by rules in their order.

        rules:
          - {role: head, lr_mult: 10}
          - {name: "blocks.0.*", frozen: true}
          - {module: Embedding, weight_decay: 0}

    A rule is about the parameters that fit all of its `name` (shell-style), `regex` (found anywhere
    in the name), `module` (the class of the layer that has it, or a base of that), `role` and
    `ndim`; each may be a list of which one fits, and of a shared parameter any of its names may
    fit. It sets `lr_mult` (a factor of lr),
    `frozen` (not trained; kept in a group, so that thawing it later changes none) or any
    hyperparameter of the optimizer. Of several rules about a parameter all count, and for each
    key the first. Rules that freeze come before all else: layers, roles and the rules about them
    are those of what is left to train.

    Returns:
        the groups of the base, divided where rules say different things; the names tell by which.

    Raises:
        UsageError: a rule about no parameter, one that says nothing, or nothing left to train.
    """
    read = [_divided(rule, index) for index, rule in enumerate(rules)]
    for p in module.parameters():
        if getattr(p, FROZEN_HERE, False):  # by an earlier call: it is decided anew
            p.requires_grad_(True)
            delattr(p, FROZEN_HERE)
    # what to freeze is decided by the model as it was built, all else by the network that is left
    before = describe_parameters(module)
    freezing = [i for i, (_, settings) in enumerate(read) if "frozen" in settings]
    fits = {info.name: [i for i in freezing if _fits(read[i][0], info)] for info in before}
    for info in before:
        if fits[info.name] and read[fits[info.name][0]][1]["frozen"] and info.is_trainable:
            info.parameter.requires_grad_(False)
            setattr(info.parameter, FROZEN_HERE, True)
    if not any(info.parameter.requires_grad for info in before):
        raise UsageError("param_groups.rules freeze every parameter: nothing is left to train")
    infos = {info.name: info for info in describe_parameters(module)}
    others = [i for i in range(len(read)) if i not in freezing]
    for name, info in infos.items():
        fits[name] = sorted(fits[name] + [i for i in others if _fits(read[i][0], info)])
    for i, (match, _) in enumerate(read):
        if not any(i in found for found in fits.values()):
            raise UsageError(
                f"param_groups.rules.{i} is about no parameter: {_told(match)}{_near(match, infos)}"
            )
    groups: dict[Any, dict[str, Any]] = {}
    for number, group in enumerate(BASES[base](module)):
        for name, p in zip(group["param_names"], group["params"], strict=True):
            settings: dict[str, Any] = {}
            for i in fits[name]:
                settings = read[i][1] | settings
            settings.pop("frozen", None)
            title = "+".join(_title(read[i][0]) for i in fits[name])
            made = groups.setdefault(
                (number, title),
                group | settings | {"name": f"{group['name']}.{title}" if title else group["name"]}
                | {"params": [], "param_names": []},
            )  # fmt: skip
            made["params"].append(p)
            made["param_names"].append(name)
    return list(groups.values())


def read_rule_settings(rules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each rule gives a param group, without a model; for an early check.

    Raises:
        UsageError: a rule that says nothing, or about nothing.
    """
    read = [_divided(rule, index)[1] for index, rule in enumerate(rules)]
    return [{k: v for k, v in settings.items() if k != "frozen"} for settings in read]


def _divided(rule: Mapping[str, Any], index: int) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Which parameters, and what they get."""
    where = f"param_groups.rules.{index}"
    match = {key: _listed(rule[key]) for key in MATCH if key in rule}
    settings = {key: value for key, value in rule.items() if key not in MATCH}
    if not match:
        raise UsageError(
            f"{where} must say which parameters it is about: one of {', '.join(MATCH)}"
        )
    if not settings:
        raise UsageError(
            f"{where} sets nothing: give lr_mult, frozen or a hyperparameter of the optimizer"
        )
    for key in settings:
        if key not in OWN and (near := suggest(key, OWN)):
            raise UsageError(
                f"{where} has no {key!r}{near} A rule sets {', '.join(OWN)} or a hyperparameter of "
                "the optimizer"
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
                f"{where}.regex={pattern!r} is no regular expression: {error}"
            ) from None
    return match, settings


def _fits(match: dict[str, list[Any]], info: ParameterInfo) -> bool:
    names = (*info.names, *info.raw_names)
    facts: dict[str, Sequence[Any]] = {
        "module": info.classes,
        "role": [info.role],
        "ndim": [info.parameter.ndim],
    }
    for key, wanted in match.items():
        if key == "name":
            fits = any(fnmatchcase(name, pattern) for name in names for pattern in wanted)
        elif key == "regex":
            fits = any(re.search(pattern, name) for name in names for pattern in wanted)
        else:
            fits = any(value in wanted for value in facts[key])
        if not fits:
            return False
    return True


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _told(match: Mapping[str, list[Any]]) -> str:
    return ", ".join(f"{key}={'|'.join(map(str, values))}" for key, values in match.items())


def _title(match: Mapping[str, list[Any]]) -> str:
    """For the name of a group: a tag of TensorBoard and a file name can hold it."""
    words = "_".join(str(value) for values in match.values() for value in values)
    return re.sub(r"[^\w.]+", "_", words).strip("_.") or "rule"


def _near(match: Mapping[str, list[Any]], infos: Mapping[str, ParameterInfo]) -> str:
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
