"""Floor 1: the parameters of a module -> param groups."""

from lit_optim.param_groups.decay import (
    MakeGroups,
    decided,
    group,
    no_decay,
    single,
    transformers,
)
from lit_optim.param_groups.roles import Role, by_role, roles

__all__ = [
    "MakeGroups",
    "Role",
    "by_role",
    "decided",
    "group",
    "no_decay",
    "roles",
    "single",
    "transformers",
]
