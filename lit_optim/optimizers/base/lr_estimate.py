"""The base of optimizers that estimate their lr from all gradients, as Prodigy does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from lit_optim.optimizers.base.batch import Batch
from lit_optim.optimizers.base.elementwise import Elementwise
from lit_optim.optimizers.base.groups import check_is_group
from lit_optim.optimizers.base.types import Group, Scalars, Value
from lit_optim.requirements import Requirement
from lit_optim.sharding import Sharding, Steps, Sums, run_together

LOG = logging.getLogger("lit_optim")

#: A number, and the sharding of the tensors that it is a sum over.
Number: TypeAlias = tuple[Sharding | None, Any]


class LrEstimating(Elementwise):
    """An optimizer whose step size is the estimate d, which starts at its hyperparameter d0.

    Each step first estimates the next d, from sums over the parameters of all groups, and then
    updates the parameters. All groups have the same estimates, as keys: d, what `initial_estimates`
    adds, and `k`, the number of updates.

    A subclass writes `_estimate`, which calls `reduce_gradients`. While parameters are updated the
    groups still have the previous estimates; `next_estimate` gives the new ones.
    """

    requirements: ClassVar[tuple[Requirement, ...]] = ("dense", "lr_of_1", "one_lr", "whole")
    lr_range: ClassVar[tuple[float, float]] = (1e-1, 1e1)
    reads_values: ClassVar[bool] = True
    collects_first: ClassVar[bool] = True
    needs_all_gradients: ClassVar[bool] = True

    def initial_estimates(self, group: Group) -> Scalars:
        """The estimates before the first update beside d."""
        return {}

    def _estimate(self) -> Scalars | None:
        """Compute those estimates that change, by name; None if the step should do nothing."""
        raise NotImplementedError

    def next_estimate(self, group: Group, name: str) -> Any:
        """The estimate after this update; between steps it is the current one."""
        return self.__dict__.get("_next_estimates", group).get(name, group[name])

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, with the estimates of the existing ones."""
        check_is_group(param_group)
        hyper = self.defaults | param_group
        initial = {"d": hyper["d0"], **self.initial_estimates(hyper), "k": 0}
        self.defaults = initial | self.defaults
        current = self.param_groups[0] if self.param_groups else initial
        super().add_param_group({key: current[key] for key in initial} | param_group)
        self._warn_of_low_precision(self.param_groups[-1])

    def _warn_of_low_precision(self, group: Group) -> None:
        """Warn that parameters, and so d, do not move if rounding loses the first steps."""
        low = {p.dtype for p in group["params"]} & {torch.bfloat16, torch.float16}
        if low and group["master"] == "none" and not self.__dict__.get("_has_warned"):
            self.__dict__["_has_warned"] = True
            names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in low))
            LOG.warning(
                "%s: first steps of about d0=%g are lost in %s parameters, so that d stays "
                "there; keep them in float32 (precision bf16-mixed)%s or raise d0",
                type(self).__name__, group["d0"], names,
                ", master=split" if torch.bfloat16 in low else "",
            )  # fmt: skip

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Estimate d, then update every parameter that has a gradient."""
        if closure is None and self.is_initializing():
            return super().step()
        with torch.enable_grad():
            loss = None if closure is None else closure()
        estimates = self._estimate()
        if estimates is None:
            return loss
        self.__dict__["_next_estimates"] = estimates
        try:
            super().step()
        finally:
            del self.__dict__["_next_estimates"]
            for group in self.param_groups:
                group.update(estimates)
        for group in self.param_groups:
            group["k"] += 1
        return loss

    def reduce_gradients(
        self,
        group: Group,
        reduction: Callable[[Value, Value, Value, Value], dict[str, Value]],
        **scalars: float,
    ) -> Reductions:
        """Reduce the gradients of a group to numbers, and update states that collect them.

        Args:
            group: the group.
            reduction: called like a `rule`; returns new states and reductions by name. Its states
                are `other_states`.
            scalars: its scalars.
        """

        def run(g: Value, p: Value, s: Value, h: Value) -> tuple[Any, Any, Any, dict[str, Value]]:
            g = -g if h.maximize else g
            g = g + h.weight_decay * p if h.coupled else g
            return 1.0, 0.0, 0.0, reduction(g, p, s, h)  # p does not change

        params = [p for p in group["params"] if p.grad is not None]
        states = [self.state[p] or self.start(p, group) for p in params]
        batch = Batch(params, [p.grad for p in params], states)
        decay, names = group["weight_decay"], tuple(self.other_states)
        coupled = self.is_coupled(group) and decay != 0
        scalars |= {"weight_decay": decay, "coupled": coupled, "maximize": group["maximize"]}
        h, places = SimpleNamespace(**scalars), dict[Sharding | None, list[int]]()
        for i, p in enumerate(params):
            places.setdefault(Sharding.of(p), []).append(i)
        return Reductions(
            [
                (sharding, self.run_rule(group, batch.select(members), run, names, h))
                for sharding, members in places.items()
            ]
        )


@dataclass(frozen=True)
class Reductions:
    """What `LrEstimating.reduce_gradients` found.

    Args:
        parts: of the tensors of each sharding the values by name, tensor by tensor; of those that
            are spread over processes, over the shards of this one.
    """

    parts: list[tuple[Sharding | None, dict[str, list[Any]]]]

    def column(self, name: str, factor: float = 1.0) -> list[Number]:
        """The values of this name, each times a factor."""
        return [
            (sharding, factor * x)
            for sharding, found in self.parts
            for x in found.get(name) or [0.0]  # also of shards that are all empty
        ]


def add_up(*columns: list[Number]) -> list[float]:
    """Add up columns of numbers, those over shards over all processes by one message."""
    shardings = {sharding: None for column in columns for sharding, _ in column}
    totals = [0.0] * len(columns)

    def add(sharding: Sharding | None) -> Steps:
        own = [_add_up([x for where, x in column if where == sharding]) for column in columns]
        if sharding is not None:
            own = (yield Sums(torch.tensor(own, dtype=torch.float64), sharding)).tolist()
        totals[:] = [total + x for total, x in zip(totals, own, strict=True)]

    run_together(add(sharding) for sharding in shardings)
    return totals


def _add_up(numbers: list[Any]) -> float:
    """Add up numbers, some of them on devices, each of which is synchronized once."""
    total = float(sum(x for x in numbers if not isinstance(x, Tensor)))
    by_device: dict[torch.device, list[Tensor]] = {}
    for x in numbers:
        if isinstance(x, Tensor):
            by_device.setdefault(x.device, []).append(x)
    return total + sum(sum(torch.stack(tensors).tolist()) for tensors in by_device.values())
