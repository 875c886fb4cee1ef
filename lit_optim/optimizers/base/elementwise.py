"""The base of algorithms that compute each coordinate by itself: a rule in scalar arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_optim.kernels import torch_executor
from lit_optim.kernels.dispatch import DispatchTable, NativeCall
from lit_optim.kernels.ir import Passes, Program, Rule
from lit_optim.kernels.precision import LOW_BITS, State, as_real
from lit_optim.optimizers.base.batch import Batch
from lit_optim.optimizers.base.elementwise_states import ElementwiseStates
from lit_optim.optimizers.base.optimizer import BETAS, OptimizerBase
from lit_optim.optimizers.base.options import apply_update_options, chosen_options
from lit_optim.optimizers.base.repeats import Repeat, is_plain
from lit_optim.optimizers.base.shards import (
    as_real_view,
    complete_sums,
    find_program,
    step_in_torch,
)
from lit_optim.optimizers.base.torch_step import TorchStep
from lit_optim.optimizers.base.types import Group, Scalars, Update, Value
from lit_optim.sharding import Steps

__all__ = ["Elementwise", "State"]

EMPTY = Batch()
#: How many times the optimizer's parameters are in a plan, one set of them in each: experts and
#: frozen parts make several, and gradient release one for each parameter.
MOST_PLANNED = 16


class Elementwise(ElementwiseStates):
    """An optimizer whose rule is written once, in scalar arithmetic.

    A subclass declares `states` and writes `rule`, and `scalars` for what it derives.
    """

    takes_complex = True
    #: torch's own step, where it computes the same; the torch executor then prefers it.
    torch_step: ClassVar[TorchStep | None] = None
    #: Whether a gradient of 0 leaves the states unchanged. Without states, it always does.
    ignores_zeros: ClassVar[bool] = False

    def rule(self, g: Value, p: Value, s: Value, h: Value) -> Update:
        """The algorithm as a pure function: returns the direction u and the new states.

        It may branch (`if`) on the bools of `h`, which are constant for a group, but not on
        numbers. A rule that uses `total` or `mean` has "whole" among its `requirements`.

        Args:
            g: the gradient.
            p: the parameter.
            s: the states, by name.
            h: the hyperparameters, and what `scalars` derives from them, by name.
        """
        raise NotImplementedError

    def fused_torch_step(self, group: Group, batch: Batch, t: int) -> bool:
        """Make the t-th update by torch's fused step; False if torch has none for these.

        Called only for the torch executor, with tensors of one dtype, and without options that
        torch does not have.
        """
        if self.torch_step is None:
            return False
        names = tuple(self.states_for(group))
        return self.torch_step.run(group, batch, names, t, self.is_coupled(group))

    def rule_scalars(self, group: Group) -> Scalars:
        """The hyperparameters that are numbers or bools: a kernel takes no others."""
        h = {name: x for name in self._rule_names() if hasattr(x := group[name], "__float__")}
        h.update(zip(BETAS, group.get("betas", ()), strict=False))
        return h

    def update_shards(self, group: Group, batch: Batch, h: SimpleNamespace, t: int) -> Steps:
        names, batch = tuple(self.states_for(group)), batch.local()
        program = find_program(self._programs(), self._traced_update, names, h)
        if not program.passes:
            self.update(group, batch, h, t)
            return
        parts, left = list[tuple[list[int], Passes]](), list(range(len(batch.params)))

        def begin(call: NativeCall) -> str | None:
            passes = call.engine.step_by_pass(
                (type(self), names), self._traced_update, call.table, names, h, t
            )
            if not isinstance(passes, str):
                parts.append((call.members, passes))
            return passes if isinstance(passes, str) else None

        if group["executor"] != "torch":
            left = self._run_calls(group, batch, names, begin)
        if left:
            parts.append((left, step_in_torch(program, batch.select(left), h, t, self._numbers())))
        yield from complete_sums(parts, program, batch)

    def update(self, group: Group, batch: Batch, h: SimpleNamespace, t: int) -> None:
        names = tuple(self.states_for(group))
        if self.takes_sparse:
            batch = self._without_sparse(group, batch, names, h, t)
        if batch.params and group["executor"] != "torch":
            given = batch
            batch = self.run_native(group, given, self._traced_update, names, h, t)
            if batch is EMPTY:
                self._prepare_repeat(group, given, names, h, t)
        if batch.params and not self._try_fused_torch(group, batch, h, t):
            whole = "whole" in self.requirements
            in_parts = not (whole or h.cautious or h.clipped or h.trusting or h.on_ball)
            for g in batch.grads:
                self.reject_sparse(g)
            self.run_torch(batch, self._traced_update, names, h, t, in_parts)

    def repeat_step(self, group: Group) -> bool:
        repeat: Repeat | None = self.__dict__.get("_repeats", {}).get(id(group))
        return repeat is not None and repeat.group is group and repeat.run(self)

    def _prepare_repeat(
        self, group: Group, batch: Batch, names: tuple[str, ...], h: SimpleNamespace, t: int
    ) -> None:
        """Have the next step of a group repeat this one, if nothing else is a part of it."""
        repeats: dict[int, Repeat] = self.__dict__.setdefault("_repeats", {})
        own, kind, params = self.param_groups, type(self), group["params"]
        for stale in repeats.keys() - {*map(id, own)}:
            del repeats[stale]
        # the group itself: this may be a copy with the numbers of the states, or a part of one
        whole = next((one for one in own if one["params"] is params), None)
        calls = self._plan(names, batch).calls
        if (
            whole is not None
            and len(calls) == 1
            and batch.sharding is None
            and len(batch.params) == len(params)
            and not group["hyperball"]
            and all(getattr(kind, name) is usual for name, usual in USUAL.items())
            and is_plain(whole)
        ):
            repeats[id(whole)] = Repeat(self, whole, calls[0], names, vars(h), t)

    def run_update(
        self, call: NativeCall, names: tuple[str, ...], h: SimpleNamespace, t: int
    ) -> str | None:
        """Make the t-th update of the parameters of a call, or return why that is impossible."""
        key, update = (type(self), names), self._traced_update
        refusal: str | None = call.engine.step(key, update, call.table, names, h, t)
        return refusal

    def _without_sparse(
        self,
        group: Group,
        batch: Batch,
        names: tuple[str, ...],
        h: SimpleNamespace,
        t: int,
    ) -> Batch:
        """Make sparse gradients dense, or update only their rows where that is equivalent.

        Returns:
            the batch that is left to update.
        """
        sparse = [i for i, g in enumerate(batch.grads) if g.layout is torch.sparse_coo]
        if not sparse:
            return batch
        rows = self.is_still_without_gradient(group) and not self._has_other_options(group)
        if not rows or h.coupled or h.a != 1.0 or group["executor"] == "native":
            grads = [g.to_dense() if g.layout is torch.sparse_coo else g for g in batch.grads]
            return Batch(batch.params, grads, batch.states)
        for i in sparse:
            p, g, state = batch.params[i], batch.grads[i].coalesce(), batch.states[i]
            place = tuple(g.indices())
            part = Batch([p[place]], [g.values()], [{n: state[n][place] for n in names}])
            self.run_torch(part, self._traced_update, names, h, t)
            p[place] = part.params[0]
            for name in names:
                state[name][place] = part.states[0][name]
        return batch.select([i for i in range(len(batch.params)) if i not in sparse])

    def is_still_without_gradient(self, group: Group) -> bool:
        """Whether a gradient of 0 changes neither the parameter nor a state, options aside."""
        return self.ignores_zeros or not self.states_for(group)

    def run_rule(
        self,
        group: Group,
        batch: Batch,
        rule: Rule,
        names: tuple[str, ...],
        h: SimpleNamespace,
    ) -> dict[str, list[Any]]:
        """Run another rule than the update: natively where possible, the rest in torch.

        Args:
            group: the group, which has the executor.
            batch: parameters of the group.
            rule: as an executor calls it.
            names: the names of the states that it uses.
            h: its scalars.

        Returns:
            the reductions that the rule returns beside new states: for each, its value by tensor.
        """
        reductions: dict[str, list[Any]] = {}
        batch = batch.local()
        if batch.params and group["executor"] != "torch":
            batch = self.run_native(group, batch, rule, names, h, 1, reductions)
        self.run_torch(batch, rule, names, h, 1, reductions=reductions)
        return reductions

    def run_torch(
        self,
        batch: Batch,
        rule: Rule,
        names: tuple[str, ...],
        h: SimpleNamespace,
        t: int,
        in_parts: bool = True,
        reductions: dict[str, list[Any]] | None = None,
    ) -> None:
        """Run a rule on the batch by the torch executor; see `torch_executor.step`."""
        numbers = self._numbers()
        batch = batch.local()
        for i, (p, g, state) in enumerate(
            zip(batch.params, batch.grads, batch.states, strict=True)
        ):
            local = {k: as_real_view(v) for k, v in state.items() if isinstance(v, Tensor)}
            if p.dtype != torch.bfloat16:  # no longer: the model was converted
                local.pop(LOW_BITS, None)
            number = numbers.get(id(batch.whole(i)), 0)  # rows of a parameter have no number
            row, place = (as_real_view(p), as_real(g), local), batch.place(i)
            found = torch_executor.step(rule, *row, names, h, t, number, in_parts, place)
            if reductions is not None:
                for name, value in found.items():
                    reductions.setdefault(name, []).append(value)

    def _traced_update(
        self, g: Value, p: Value, s: Value, h: Value
    ) -> tuple[Value, Value, Value, dict[str, Value]]:
        """The rule with the options applied: a, b and u of p = a p − b u, and the new states."""
        g = -g if h.maximize else g
        g = g + h.l2 * p if h.coupled else g
        u, new = self.rule(g, p, s, h)
        return *apply_update_options(u, g, p, h), new

    def run_native(
        self,
        group: Group,
        batch: Batch,
        rule: Rule,
        names: tuple[str, ...],
        h: SimpleNamespace,
        t: int,
        reductions: dict[str, list[Any]] | None = None,
    ) -> Batch:
        """Run a rule by native kernels, all tensors of one kind in one call.

        Args:
            group: the group, which has the executor.
            batch: parameters of the group.
            rule: as an executor calls it.
            names: the names of the states that it uses.
            h: its scalars.
            t: the number of the update.
            reductions: takes the reductions that the rule returns, tensor by tensor.

        Returns:
            the batch that is left for torch.
        """

        def run(call: NativeCall) -> str | None:
            refusal: str | None = call.engine.step(
                (type(self), names), rule, call.table, names, h, t
            )
            if refusal is None and reductions is not None:
                for name, values in call.table.reductions.items():
                    reductions.setdefault(name, []).extend(values)
            return refusal

        fallback = self._run_calls(group, batch, names, run)
        return batch.select(fallback) if fallback else EMPTY

    def _run_calls(
        self,
        group: Group,
        batch: Batch,
        names: tuple[str, ...],
        run: Callable[[NativeCall], str | None],
    ) -> list[int]:
        """Run the native calls of a batch; returns the positions of what is left for torch.

        Args:
            group: the group, which has the executor.
            batch: parameters of the group.
            names: the names of the states.
            run: runs a call, or returns why that is impossible.
        """
        plan = self._plan(names, batch)
        fallback, reason = plan.fallback, plan.reason
        must = group["executor"] == "native"
        if must and fallback:
            self.reject_native(reason)
        for call in plan.calls:
            refusal = run(call)
            if refusal is not None:
                fallback, reason = fallback + call.members, refusal
        if must and fallback:
            self.reject_native(reason)
        self.log_executor(len(batch.params), len(fallback), reason)
        return fallback

    def _plan(self, names: tuple[str, ...], batch: Batch) -> DispatchTable:
        """The plan of a batch, kept for the next step, which is most often the same."""
        plans: dict[Any, DispatchTable] = self.__dict__.setdefault("_plans", {})
        key = names, id(batch.params[0]), len(batch.params)
        plan = plans.get(key)
        if plan is None or not plan.refresh(batch):
            numbers = self._numbers()
            if sum(count for *_, count in plans) > MOST_PLANNED * len(numbers):
                plans.clear()
            plan = plans[key] = DispatchTable(names, batch, numbers)
        return plan

    def _numbers(self) -> dict[int, int]:
        """The number of each parameter of the optimizer, by its id."""
        whole = self.__dict__.get("whole_optimizer", self)
        params = [p for group in whole.param_groups for p in group["params"]]
        return {id(p): k for k, p in enumerate(params)}

    def _programs(self) -> dict[Any, Program]:
        programs: dict[Any, Program] = self.__dict__.setdefault("_traced", {})
        return programs

    def _has_other_options(self, group: Group) -> bool:
        """Whether the group sets an option that torch does not have."""
        return bool(set(chosen_options(group)) - {"executor", "maximize"})

    def _try_fused_torch(self, group: Group, batch: Batch, h: SimpleNamespace, t: int) -> bool:
        """Make the update by torch's fused step, where torch computes exactly the same."""
        if self._has_other_options(group):
            return False
        kinds = set()
        for p, g, state in zip(batch.params, batch.grads, batch.states, strict=True):
            tensors = [p, g, *(x for x in state.values() if isinstance(x, Tensor))]
            kinds |= {(x.dtype, x.device) for x in tensors}
            if any(x.stride() != p.stride() for x in tensors):
                return False  # torch's kernels go by memory, not by element
        [(dtype, device), *more] = kinds
        if more or dtype not in (torch.float32, torch.float64):  # in 16 bits torch rounds midway
            return False
        return device.type in ("cpu", "cuda") and self.fused_torch_step(group, batch, t)


#: The methods by which a step is one update of all parameters; another one may do more.
USUAL = {
    "begin_step": OptimizerBase.begin_step,
    "hyperparameters_for": OptimizerBase.hyperparameters_for,
    "vector_hyperparameters": OptimizerBase.vector_hyperparameters,
    "rule_scalars": Elementwise.rule_scalars,
    "update": Elementwise.update,
    "run_native": Elementwise.run_native,
}
