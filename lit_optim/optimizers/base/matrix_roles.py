"""Which parameters an optimizer of matrices takes, and which are AdamW's, by their roles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from lit_optim.errors import UsageError, show, suggest
from lit_optim.optimizers.base.groups import with_names
from lit_optim.optimizers.base.parameters import divide_group, list_params_by_role
from lit_optim.optimizers.base.types import Group, Params

HIDDEN = "hidden"


def with_roles(params: Params, roles: Mapping[str, str]) -> list[Any]:
    """Params or groups, with the roles that patterns of names give them.

    Raises:
        UsageError: a pattern matches no name.
    """
    given = list_params_by_role(params)
    if not roles:
        return given
    if given and not isinstance(given[0], dict):
        given = [{"params": given}]
    groups = [with_names(part) for group in given for part in divide_group(read_use_muon(group))]
    names = [name for group in groups for name in group.get("param_names", ())]
    # torch prefixes the names of a compiled module; ours are those of the source
    roles = {pattern.replace("_orig_mod.", ""): role for pattern, role in roles.items()}
    for pattern in roles:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = suggest(pattern, names) or f"; the names are {', '.join(names) or 'not given'}"
            raise UsageError(f"roles: no parameter is called {pattern!r}{near}")
    return [part for group in groups for part in _by_name(group, roles)]


def read_use_muon(group: Group) -> Group:
    """A group with the role that `use_muon` means, as groups of Keller Jordan's Muon have it.

    Raises:
        UsageError: it is neither True nor False, or contradicts the role.
    """
    if "use_muon" not in group:
        return group
    given = group["use_muon"]
    if not isinstance(given, bool):
        raise UsageError(f"use_muon must be True or False, got {show(given)}")
    role = group.get("role", HIDDEN if given else "other")
    if (role == HIDDEN) is not given:
        raise UsageError(f"use_muon={given} contradicts role={role} of the same group")
    return group | {"role": role}


def _by_name(group: Group, roles: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    members: dict[str | None, list[int]] = {}
    own = group.get("role")
    for i, name in enumerate(group.get("param_names", ())):
        fits = [role for pattern, role in roles.items() if fnmatchcase(name, pattern)]
        members.setdefault(fits[0] if fits else own, []).append(i)
    for role, places in members.items() or [(own, range(len(group["params"])))]:
        part: dict[str, Any] = {
            k: [group[k][i] for i in places] for k in ("params", "param_names") if k in group
        }
        if "name" in group and role != own:
            part["name"] = f"{group['name']}.as_{role}"
        if role is None and all(p.ndim > 1 for p in part["params"]):
            role = HIDDEN  # the patterns name those that are not
        yield group | part | ({} if role is None else {"role": role})
