"""Floor 1: the parameters of a module -> param groups."""

from lit_optim.param_groups.decay import (
    MakeGroups,
    decided,
    group,
    no_decay,
    single,
    transformers,
)
from lit_optim.param_groups.describe import ParameterInfo, Role, describe_parameters
from lit_optim.param_groups.layers import layer_decay
from lit_optim.param_groups.roles import by_role, roles
from lit_optim.param_groups.rules import by_rules, settings_of

__all__ = [
    "MakeGroups",
    "ParameterInfo",
    "Role",
    "by_role",
    "by_rules",
    "decided",
    "describe_parameters",
    "group",
    "layer_decay",
    "no_decay",
    "roles",
    "settings_of",
    "single",
    "transformers",
]
