"""Divides the parameters of a module into param groups.

The package itself can be called: `lit_optim.param_groups(model)` returns groups for any optimizer.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import nn

from lit_optim.lazy_names import no_attribute, suggest_in_imports
from lit_optim.param_groups.decay import (
    MakeGroups,
    make_group,
    no_decay,
    single,
    snapshot_groups,
    transformers,
)
from lit_optim.param_groups.describe import ParameterInfo, Role, describe_parameters
from lit_optim.param_groups.layers import layer_decay
from lit_optim.param_groups.module_groups import ModuleGroups
from lit_optim.param_groups.roles import by_role, roles
from lit_optim.param_groups.rules import Base, by_rules, divide_parameters, read_rule_settings

__all__ = [
    "MakeGroups",
    "ModuleGroups",
    "ParameterInfo",
    "Role",
    "by_role",
    "by_rules",
    "describe_parameters",
    "divide_parameters",
    "layer_decay",
    "make_group",
    "no_decay",
    "read_rule_settings",
    "roles",
    "single",
    "snapshot_groups",
    "transformers",
]


class _CallablePackage(ModuleType):
    """This package, which can be called like `divide_parameters`.

    As a function has, it has a `__module__` and a `__qualname__`, and it can be pickled.
    """

    def __call__(
        self,
        module: nn.Module,
        base: Base = "no_decay",
        rules: Sequence[Mapping[str, Any]] = (),
    ) -> list[dict[str, Any]]:
        return divide_parameters(module, base, rules)

    def __getattr__(self, name: str) -> Any:
        raise no_attribute(self.__name__, name, __all__)

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (self.__name__,)


__module__, __qualname__ = __name__.rsplit(".", 1)

sys.modules[__name__].__class__ = _CallablePackage
suggest_in_imports(__name__, lambda: __all__)
