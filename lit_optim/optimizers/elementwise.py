"""Algorithms that look at one coordinate at a time: a rule in scalar arithmetic."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from lit_optim.errors import UsageError
from lit_optim.kernels import native_cpu, torch_executor
from lit_optim.optimizers.walk import Member, Prepared, Walk, decayed, wide

LOG = logging.getLogger("lit_optim")


@dataclass(frozen=True)
class State:
    """A tensor that the optimizer keeps for each parameter, of the parameter's shape."""

    kind: Literal["signed", "non-negative", "weight-like"] = "signed"
    initial: float = 0.0


class Elementwise(Walk):
    """An optimizer whose rule is written once, in scalar arithmetic.

    A subclass declares `states` and writes `scalars` and `rule`.
    """

    def states(self, group: dict[str, Any]) -> dict[str, State]:
        """The states of a parameter of this group, by torch's names for them."""
        raise NotImplementedError

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:
        """The algorithm, pure: old states `s` in, direction u and new states out.

        Python `if` only on the bools of `h`, which stay the same for a group; never on a number
        that a tensor carries.
        """
        raise NotImplementedError

    def new_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:  # noqa: D102
        return {
            name: torch.full_like(p, declared.initial, dtype=wide(p))
            for name, declared in self.states(group).items()
        }

    def update(  # noqa: D102
        self, group: dict[str, Any], members: list[Member], prepared: Prepared
    ) -> None:
        names = tuple(self.states(group))
        if group["executor"] != "torch":
            members = self._native(names, members, prepared, group["executor"] == "native")
        for p, g, state in members:
            tensors = {name: state[name] for name in names}
            torch_executor.step(self._direction, p, g, tensors, *prepared)

    def _native(
        self, names: tuple[str, ...], members: list[Member], prepared: Prepared, must: bool
    ) -> list[Member]:
        """Step natively what can be, all of one kind in one call; returns the others."""
        kinds: dict[tuple[torch.dtype, torch.dtype], list[tuple[Member, list[Tensor]]]] = {}
        others, why_not = [], None
        for member in members:
            p, g, state = member
            row = [p, g, *[state[name] for name in names]]
            refusal = native_cpu.refusal(row)
            if refusal is None:  # states of one optimizer are stored alike
                kinds.setdefault((p.dtype, g.dtype), []).append((member, row))
            else:
                others.append(member)
                why_not = refusal
        if others and must:
            self._refuse(why_not)
        key = (type(self), names)
        for alike in kinds.values():
            rows = [row for _, row in alike]
            refusal = native_cpu.step(key, self._direction, rows, names, *prepared)
            if refusal is not None and must:
                self._refuse(refusal)
            if refusal is not None:
                others += [member for member, _ in alike]
                why_not = refusal
        self._tell(len(members) - len(others), others, why_not)
        return others

    def _refuse(self, why_not: str | None) -> NoReturn:
        raise UsageError(f"executor=native: {type(self).__name__} cannot: {why_not}")

    def _tell(self, native: int, others: list[Member], why_not: str | None) -> None:
        """One line about who steps what; again only where that changes."""
        name = type(self).__name__
        line = f"{name}: native kernels for {native} of {native + len(others)} parameters"
        if others:
            line += f"; torch for the others, because {why_not}"
        if self.__dict__.get("_told") != bool(others):
            self.__dict__["_told"] = bool(others)
            LOG.info(line if others else f"{name}: native kernels")

    def _direction(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:
        g = -g if h.maximize else g
        u, new = self.rule(g + h.l2 * p if h.coupled else g, p, s, h)
        return decayed(u, p, h), new
