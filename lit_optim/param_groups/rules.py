"""Param groups by rules in order, as a user writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

from lit_optim.errors import UsageError, suggest
from lit_optim.param_groups.decay import no_decay, single, transformers
from lit_optim.param_groups.layers import layer_decay
from lit_optim.param_groups.roles import roles as roles_of

BASES = {
    "no_decay": no_decay,
    "single": single,
    "transformers": transformers,
    "layer_decay": layer_decay,
}
#: Keys of a rule that say which parameters it is about; a parameter fits if all of them fit.
MATCH = ("name", "regex", "module", "role", "ndim")


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
    `ndim`; each may be a list of which one fits. It sets `lr_mult` (a factor of lr),
    `frozen` (not trained; kept in a group, so that thawing it later changes none) or any
    hyperparameter of the optimizer. Of several rules about a parameter all count, and for each
    key the first.

    Returns:
        the groups of the base, divided where rules say different things; the names tell by which.

    Raises:
        UsageError: a rule about no parameter, one that says nothing, or nothing left to train.
    """
    read = [_divided(rule, index) for index, rule in enumerate(rules)]
    owners = _owners(module)
    roles = {name: place.role for name, place in roles_of(module).items()}
    found: list[set[str]] = [set() for _ in read]
    groups: dict[Any, dict[str, Any]] = {}
    for number, group in enumerate(BASES[base](module)):
        for name, p in zip(group["param_names"], group["params"], strict=True):
            facts: dict[str, list[Any]] = {
                "module": owners[name],
                "role": [roles[name]],
                "ndim": [p.ndim],
            }
            fits = [i for i, (match, _) in enumerate(read) if _fits(match, name, facts)]
            settings: dict[str, Any] = {}
            for i in fits:
                found[i].add(name)
                settings = read[i][1] | settings
            if settings.pop("frozen", False):
                p.requires_grad_(False)
                settings["frozen"] = True
            title = "+".join(_title(read[i][0]) for i in fits)
            made = groups.setdefault(
                (number, title),
                group | settings | {"name": f"{group['name']}.{title}" if title else group["name"]}
                | {"params": [], "param_names": []},
            )  # fmt: skip
            made["params"].append(p)
            made["param_names"].append(name)
    for i, names in enumerate(found):
        if not names:
            raise UsageError(
                f"param_groups.rules.{i} is about no parameter: {_told(read[i][0])}"
                f"{_near(read[i][0], owners, roles)}"
            )
    if not any(p.requires_grad for p in module.parameters()):
        raise UsageError("param_groups.rules freeze every parameter: nothing is left to train")
    for made in groups.values():
        made.pop("frozen", None)
    return list(groups.values())


def settings_of(rules: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
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
    mult, frozen = settings.get("lr_mult", 1.0), settings.get("frozen", False)
    if type(mult) not in (int, float) or not 0 < mult < float("inf"):
        raise UsageError(f"{where}.lr_mult must be a number > 0, got {mult!r}")
    if type(frozen) is not bool:
        raise UsageError(f"{where}.frozen must be true or false, got {frozen!r}")
    for pattern in match.get("regex", ()):
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise UsageError(
                f"{where}.regex={pattern!r} is no regular expression: {error}"
            ) from None
    return match, settings


def _fits(match: dict[str, list[Any]], name: str, facts: Mapping[str, Sequence[Any]]) -> bool:
    for key, wanted in match.items():
        if key == "name":
            fits = any(fnmatchcase(name, pattern) for pattern in wanted)
        elif key == "regex":
            fits = any(re.search(pattern, name) for pattern in wanted)
        else:
            fits = any(value in wanted for value in facts[key])
        if not fits:
            return False
    return True


def _owners(module: nn.Module) -> dict[str, list[str]]:
    """The classes of the layer that has each parameter."""
    return {
        name: [cls.__name__ for cls in type(layer).__mro__]
        for prefix, layer in module.named_modules()
        for name, _ in layer.named_parameters(prefix, recurse=False)
    }


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _told(match: Mapping[str, list[Any]]) -> str:
    return ", ".join(f"{key}={'|'.join(map(str, values))}" for key, values in match.items())


def _title(match: Mapping[str, list[Any]]) -> str:
    """For the name of a group: a tag of TensorBoard and a file name can hold it."""
    words = "_".join(str(value) for values in match.values() for value in values)
    return re.sub(r"[^\w.]+", "_", words).strip("_.") or "rule"


def _near(
    match: Mapping[str, list[Any]], owners: Mapping[str, list[str]], roles: Mapping[str, str]
) -> str:
    known = {
        "name": list(owners),
        "module": [classes[0] for classes in owners.values()],
        "role": list(roles.values()),
    }
    for key, values in match.items():
        for value in values:
            if key in known and (near := suggest(str(value), dict.fromkeys(known[key]))):
                return near
    return ""
