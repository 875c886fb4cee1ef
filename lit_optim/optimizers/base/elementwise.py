"""Algorithms that look at one coordinate at a time: a rule in scalar arithmetic."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lit_optim.errors import UsageError
from lit_optim.kernels import cpu, cuda, precision, torch_executor
from lit_optim.kernels.ir import Rule
from lit_optim.kernels.precision import LOW_BITS, SCALE, State, as_real
from lit_optim.optimizers.base.optimizer import Batch, OptimizerBase
from lit_optim.optimizers.base.options import OPTIONS, moved

__all__ = ["Elementwise", "State"]

NOBODY = Batch()
#: So many sets of parameters with gradients are remembered; more come with experts or frozen parts.
MOST_PLANS = 16


class Plan:
    """Which parameters of a batch are stepped natively, in which tables, and which are not.

    Args:
        names: of the states.
        batch: of parameters.
        numbers: of all parameters, by id.
    """

    def __init__(self, names: tuple[str, ...], batch: Batch, numbers: dict[int, int]) -> None:
        self.names = names
        self.others: list[int] = []
        self.why_not: str | None = None
        kinds: dict[Any, list[int]] = {}
        rows = {}
        everyone = zip(batch.params, batch.grads, batch.states, strict=True)
        for i, (p, g, state) in enumerate(everyone):
            engine = cuda if p.is_cuda else cpu
            refusal = self._refusal(batch, i)
            if refusal is not None:
                self.others.append(i)
                self.why_not = refusal
                continue
            scales = [name + SCALE for name in names if name + SCALE in state]
            keys = (
                *names,
                *scales,
                *[LOW_BITS] * (LOW_BITS in state and p.dtype == torch.bfloat16),
            )
            rows[i] = [p, g, *(state[key] for key in keys)]
            kinds.setdefault((engine, p.device, keys, *(x.dtype for x in rows[i])), []).append(i)
        #: who steps them, their tensors, which of the batch they are, and what is kept for them
        self.calls: list[tuple[Any, cpu.PointerTable, list[int], tuple[str, ...]]] = []
        for (engine, _, keys, *_), members in kinds.items():
            ids = [numbers[id(batch.params[i])] for i in members]
            table = engine.PointerTable([rows[i] for i in members], ids)
            self.calls.append((engine, table, members, keys))

    def follow(self, batch: Batch) -> bool:
        """Whether this batch is like the one before; takes in where its gradients are now."""
        for _, table, members, keys in self.calls:
            part = batch if len(members) == len(batch.params) else batch.part(members)
            kept = [part.params, *map(part.column, keys)]
            if not table.follow(part.grads, kept):
                return False
        return not any(self._refusal(batch, i) is None for i in self.others)

    def _refusal(self, batch: Batch, i: int) -> str | None:
        p, state = batch.params[i], batch.states[i]
        engine: Any = cuda if p.is_cuda else cpu
        why: str | None = engine.unsupported_reason(
            [p, batch.grads[i], *(state[n] for n in self.names)]
        )
        return why


class Elementwise(OptimizerBase):
    """An optimizer whose rule is written once, in scalar arithmetic.

    A subclass declares `states` and writes `scalars` and `rule`.
    """

    takes_complex = True

    def states(self, group: dict[str, Any]) -> dict[str, State]:
        """The states of a parameter of this group, by torch's names for them."""
        raise NotImplementedError

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:
        """The algorithm, pure: old states `s` in, direction u and new states out.

        Python `if` only on the bools of `h`, which stay the same for a group; never on a number
        that a tensor carries. Who takes a `total` or `mean` has "whole" among its `needs`.
        """
        raise NotImplementedError

    def torchs(self, group: dict[str, Any], batch: Batch, t: int) -> bool:
        """Do the t-th update by torch's own fused step, if there is one for these; whether it was.

        Asked only where torch is to step, on tensors of one dtype and without options that torch
        does not have.
        """
        return False

    def new_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:  # noqa: D102
        tensors = {}
        for name, state in self.states(group).items():
            tensors[name] = precision.create_state(p, state, group["state_dtype"])
            if tensors[name].dtype in precision.EIGHT_BIT_DTYPES:
                tensors[name + SCALE] = precision.create_scales(tensors[name], state.initial or 0.0)
        if group["master"] == "split" and p.dtype == torch.bfloat16:
            tensors[LOW_BITS] = torch.zeros_like(p, dtype=torch.int16)
        return tensors

    def loaded(
        self, p: Tensor, group: dict[str, Any], saved: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The tensors kept for p from a saved state, which may be stored at another precision."""
        tensors = self.new_state(p, group)
        for name in self.states(group).keys() & saved.keys():
            now, value = tensors[name], saved[name].to(p.device)
            scale = saved.get(name + SCALE)
            if scale is not None:
                if now.dtype == value.dtype and now.stride() == value.stride():
                    now.copy_(value)
                    tensors[name + SCALE].copy_(scale)
                    continue
                codes, scale = precision.flat_view(value), scale.to(p.device)
                value = torch.empty_like(
                    value, dtype=precision.compute_dtype(p)
                )  # in the order of the codes
                precision.flat_view(value).copy_(precision.decode(codes, scale, value.dtype))
            value = torch.empty_like(now, dtype=precision.compute_dtype(p)).copy_(value)
            scale = tensors.get(name + SCALE)
            precision.encode(precision.flat_view(value), precision.flat_view(now), scale, None)
        if LOW_BITS in tensors and LOW_BITS in saved:
            tensors[LOW_BITS].copy_(saved[LOW_BITS])
        return tensors

    def update(  # noqa: D102
        self, group: dict[str, Any], batch: Batch, h: SimpleNamespace, t: int
    ) -> None:
        names = tuple(self.states(group))
        if self.takes_sparse:
            batch = self._without_sparse(group, batch, names, h, t)
        if batch.params and group["executor"] != "torch":
            batch = self.natively(group, batch, self._walked, names, h, t)
        if batch.params and not self._by_torch(group, batch, h, t):
            whole = "whole" in self.needs
            in_parts = not (whole or h.cautious or h.clipped or h.trusting or h.on_ball)
            for p, g in zip(batch.params, batch.grads, strict=True):
                self.refuse_sparse(g)
                if not in_parts and hasattr(p, "to_local"):
                    who = "cautious, clip_update, trust_ratio and hyperball look"
                    who = f"{type(self).__name__} looks" if whole else who
                    raise UsageError(f"{who} at whole tensors: not for sharded parameters")
            self.in_torch(batch, self._walked, names, h, t, in_parts)

    def _without_sparse(
        self,
        group: dict[str, Any],
        batch: Batch,
        names: tuple[str, ...],
        h: SimpleNamespace,
        t: int,
    ) -> Batch:
        """The batch with its sparse gradients made dense, or done here where rows are enough."""
        sparse = [i for i, g in enumerate(batch.grads) if g.layout is torch.sparse_coo]
        if not sparse:
            return batch
        asked = {key for key in OPTIONS if group[key] != OPTIONS[key]}  # type: ignore[literal-required]
        rows = self.stays_without_gradient(group) and not asked - {"executor", "maximize"}
        if not rows or h.coupled or h.a != 1.0 or group["executor"] == "native":
            grads = [g.to_dense() if g.layout is torch.sparse_coo else g for g in batch.grads]
            return Batch(batch.params, grads, batch.states)
        for i in sparse:
            p, g, state = batch.params[i], batch.grads[i].coalesce(), batch.states[i]
            place = tuple(g.indices())
            part = Batch([p[place]], [g.values()], [{n: state[n][place] for n in names}])
            self.in_torch(part, self._walked, names, h, t)
            p[place] = part.params[0]
            for name in names:
                state[name][place] = part.states[0][name]
        return batch.part([i for i in range(len(batch.params)) if i not in sparse])

    def stays_without_gradient(self, group: dict[str, Any]) -> bool:
        """Whether a gradient of 0 changes neither the parameter nor a state, options aside."""
        return False

    def go_over(
        self,
        group: dict[str, Any],
        batch: Batch,
        rule: Rule,
        names: tuple[str, ...],
        h: SimpleNamespace,
    ) -> dict[str, list[Any]]:
        """Do a rule of another kind than the update: natively what can be, the others in torch.

        Args:
            group: whose executor is asked.
            batch: parameters of the group.
            rule: as an executor calls it.
            names: of the states that it knows.
            h: its scalars.

        Returns:
            What it tells, which are sums beside new states: each of them, tensor by tensor.
        """
        found: dict[str, list[Any]] = {}
        if batch.params and group["executor"] != "torch":
            batch = self.natively(group, batch, rule, names, h, 1, found)
        self.in_torch(batch, rule, names, h, 1, found=found)
        return found

    def in_torch(
        self,
        batch: Batch,
        rule: Rule,
        names: tuple[str, ...],
        h: SimpleNamespace,
        t: int,
        in_parts: bool = True,
        found: dict[str, list[Any]] | None = None,
    ) -> None:
        """Let the torch executor go over the batch; see `torch_executor.step`."""
        numbers = self._numbers()
        for p, g, state in zip(batch.params, batch.grads, batch.states, strict=True):
            here = {k: _parts(_here(v)) for k, v in state.items() if isinstance(v, Tensor)}
            if p.dtype != torch.bfloat16:  # no longer: the model was converted
                here.pop(LOW_BITS, None)
            number = numbers.get(id(p), 0)  # rows of a parameter are none of them
            told = torch_executor.step(
                rule, _parts(_here(p)), as_real(_here(g)), here, names, h, t, number, in_parts
            )
            if found is not None:
                for name, value in told.items():
                    found.setdefault(name, []).append(value)

    def _walked(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, Any, Any, dict[str, Any]]:
        """The rule and the walk's options: a, b and u of p = a p − b u, and the new states."""
        g = -g if h.maximize else g
        g = g + h.l2 * p if h.coupled else g
        u, new = self.rule(g, p, s, h)
        return *moved(u, g, p, h), new

    def natively(
        self,
        group: dict[str, Any],
        batch: Batch,
        rule: Rule,
        names: tuple[str, ...],
        h: SimpleNamespace,
        t: int,
        found: dict[str, list[Any]] | None = None,
    ) -> Batch:
        """Go over what can be natively, all of one kind in one call; returns the others.

        Another rule knows other states, by `names`, than those that `states` gives. What it tells
        goes into `found`.
        """
        plan = self._plan(names, batch)
        others, why_not = plan.others, plan.why_not
        must = group["executor"] == "native"
        if must and others:
            self.refuse(why_not)
        for engine, table, members, _ in plan.calls:
            refusal = engine.step((type(self), names), rule, table, names, h, t)
            if refusal is not None:
                others, why_not = others + members, refusal
            elif found is not None:
                for name, values in table.told.items():
                    found.setdefault(name, []).extend(values)
        if must and others:
            self.refuse(why_not)
        self.tell(len(batch.params), len(others), why_not)
        return batch.part(others) if others else NOBODY

    def _plan(self, names: tuple[str, ...], batch: Batch) -> Plan:
        """Who is stepped with whom; kept, for the next step mostly asks for the same."""
        plans: dict[Any, Plan] = self.__dict__.setdefault("_plans", {})
        key = names, id(batch.params[0]), len(batch.params)
        plan = plans.get(key)
        if plan is None or not plan.follow(batch):
            if len(plans) == MOST_PLANS:
                plans.clear()
            plan = plans[key] = Plan(names, batch, self._numbers())
        return plan

    def _numbers(self) -> dict[int, int]:
        """The place of each parameter among all, by its id."""
        params = [p for group in self.param_groups for p in group["params"]]
        return {id(p): k for k, p in enumerate(params)}

    def _by_torch(self, group: dict[str, Any], batch: Batch, h: SimpleNamespace, t: int) -> bool:
        """Let torch's own fused step do it, where there is one for just this."""
        asked = {key for key in OPTIONS if group[key] != OPTIONS[key]}  # type: ignore[literal-required]
        if asked - {"executor", "maximize"}:
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
        return device.type in ("cpu", "cuda") and self.torchs(group, batch, t)


def _here(x: Tensor) -> Tensor:
    """The part of a sharded tensor that lies here; any other tensor itself."""
    return x.to_local() if hasattr(x, "to_local") else x


def _parts(x: Tensor) -> Tensor:
    """The parts of a complex tensor as a real one that shares its memory; any other itself."""
    return torch.view_as_real(x) if x.is_complex() else x
