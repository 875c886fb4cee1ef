"""Divides the parameters of a module into param groups."""

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
from lit_optim.param_groups.roles import by_role, roles
from lit_optim.param_groups.rules import by_rules, read_rule_settings

__all__ = [
    "MakeGroups",
    "ParameterInfo",
    "Role",
    "by_role",
    "by_rules",
    "describe_parameters",
    "layer_decay",
    "make_group",
    "no_decay",
    "read_rule_settings",
    "roles",
    "single",
    "snapshot_groups",
    "transformers",
]
