"""The part of a module that an optimizer is for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lit_optim.errors import UsageError, describe_value
from lit_optim.param_groups.describe import parameter_names

OF = "a submodule, such as self.generator, or a list of submodules or parameters"


@dataclass(frozen=True)
class Part:
    """The parameters that an optimizer is for.

    Args:
        params: some parameters of a module.
        networks: the submodules that have them, if it was given submodules.
    """

    params: Sequence[Tensor]
    networks: tuple[nn.Module, ...] = ()

    def restrict(self, groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the groups with only these parameters; those in no group form another group."""
        return list(_restrict(groups, self.params))


def read_part(module: nn.Module, of: Any) -> Part:
    """Read the argument `of` of `configure_optimizers`.

    Args:
        module: the whole module, whose layers have their shapes.
        of: a submodule, a parameter, or an iterable of these.

    Raises:
        UsageError: it is none of these, has no trainable parameter, or is not of the module.
    """
    params: dict[Tensor, None] = {}
    networks = []
    for one in _list(of):
        if isinstance(one, tuple) and len(one) == 2:  # of named_parameters
            one = one[1]
        if isinstance(one, nn.Module):
            networks.append(one)
            params |= dict.fromkeys(one.parameters())
        elif isinstance(one, Tensor):
            params[one] = None
        else:
            raise UsageError(f"of must be {OF}, got {describe_value(of)}")
    names = parameter_names(module)
    if other := [p for p in params if p not in names]:
        raise UsageError(
            f"of has a parameter of shape {list(other[0].shape)} that is not one of "
            f"{type(module).__name__}'s: assign its module to an attribute of self"
        )
    if not any(p.requires_grad for p in params):
        raise UsageError("of has no trainable parameters")
    return Part(list(params), tuple(network for network in networks if network is not module))


def _list(of: Any) -> list[Any]:
    if isinstance(of, nn.ModuleList | nn.ParameterList | nn.Module | Tensor):
        return [of]
    if isinstance(of, dict):
        return list(of.values())
    if isinstance(of, str) or not isinstance(of, Iterable):
        raise UsageError(f"of must be {OF}, got {describe_value(of)}")
    return list(of)


def _restrict(
    groups: Iterable[dict[str, Any]], params: Iterable[Tensor]
) -> Iterator[dict[str, Any]]:
    left = dict.fromkeys(params)
    wanted = set(left)
    for group in groups:
        places = [i for i, p in enumerate(group["params"]) if p in wanted]
        kept = {k: [group[k][i] for i in places] for k in ("params", "param_names") if k in group}
        for p in kept["params"]:
            left.pop(p, None)
        if places:
            yield group | kept
    if left:
        yield {"name": "other", "params": [*left]}
