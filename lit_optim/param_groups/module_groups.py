"""Param groups that know the module whose parameters they divide."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


class ModuleGroups(list[dict[str, Any]]):
    """The param groups of a module: a list, in which an optimizer with roles can look them up.

    Args:
        groups: the groups.
        module: the module that has their parameters.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], module: nn.Module) -> None:
        super().__init__(groups)
        self.module = module
