"""The step of algorithms for matrices: many of one shape at a time, each whole.

If a parameter is spread over processes, each matrix goes to its owner, which computes the
direction; see `matrix_states`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import repeat
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lit_optim.kernels.ir import Program
from lit_optim.kernels.precision import clamp_to_dtype, compute_dtype
from lit_optim.optimizers.base.batch import Batch
from lit_optim.optimizers.base.layout import Layout
from lit_optim.optimizers.base.matrix_states import MatrixStates
from lit_optim.optimizers.base.options import OF_UPDATE, apply_update_options
from lit_optim.optimizers.base.shards import complete_sums, find_program, step_in_torch
from lit_optim.optimizers.base.types import Group, Scalars, TensorUpdate, Value
from lit_optim.sharding import Steps
from lit_optim.sharding.exchange import Exchange
from lit_optim.sharding.owners import count_processes

#: How many elements a batch of matrices of one shape has at most, on a CPU and elsewhere.
AT_ONCE = {True: 1 << 19, False: 1 << 26}

#: The shape, dtype and device of a matrix.
Kind: TypeAlias = tuple[tuple[int, ...], torch.dtype, torch.device]

#: How directions move shards, for each set of options.
_programs: dict[Any, Program] = {}


class MatrixStep(MatrixStates):
    """The part of `Matrixwise` that updates matrices.

    A subclass writes `direction`, and `scalars` for what it derives; and `prepare` for what it
    computes for each element by itself.
    """

    def prepare(self, g: Tensor, p: Tensor, s: Any, h: Any) -> TensorUpdate:
        """What is computed for each element by itself, before the whole matrix is needed.

        Args:
            g: the gradient, or any part of it, at least float32.
            p: the parameter, of the same shape and dtype.
            s: the states in `prepared`, by name, of the same shape.
            h: the hyperparameters, and what `scalars` derives from them, by name.

        Returns:
            what `direction` needs whole, and the new states.
        """
        return g, {}

    def direction(self, x: Tensor, s: Any, h: Any) -> TensorUpdate:
        """The algorithm: returns the direction u and the new states; may overwrite the old ones.

        Args:
            x: what `prepare` returns, [batch, m, n], at least float32.
            s: the other tensors of `new_state` by name, stacked along the first dimension.
            h: the hyperparameters, and what `scalars` derives from them, by name; with side
                states also `due`: the places of the matrices that are refreshed now, by side.
        """
        raise NotImplementedError

    def stacks(self, group: Group) -> list[list[Tensor]]:
        return [[group["params"][i] for i in places] for places in self._stacks(group)]

    def _stacks(self, group: Group) -> list[list[int]]:
        """The places of the parameters of a group that are updated together, with or without grads.

        They have one shape, and are at most so many that they have AT_ONCE elements on each process
        that they are spread over.
        """
        layout, params = Layout.of(group), group["params"]
        kinds = [((layout.split, *layout.shape(p)), p.dtype, p.device) for p in params]
        return self._divide(kinds, group, list(map(count_processes, params)))

    def _numbers_of_stacks(self, group: Group) -> dict[int, int]:
        """The number of the stack of each parameter of a group, by id."""
        stacks = enumerate(self.stacks(group))
        return {id(p): number for number, stack in stacks for p in stack}

    def _divide(
        self, kinds: Sequence[Kind], group: Group, processes: Sequence[int] = ()
    ) -> list[list[int]]:
        """The places of equal kinds, at most so many together that they have AT_ONCE elements.

        Square states count as well: they are copied, and may be much larger than the matrix.

        Args:
            kinds: of matrices, or of equally many together.
            group: theirs.
            processes: how many share the work on each; nothing: it is all done by this one.
        """
        alike: dict[Any, list[int]] = {}
        for i, key in enumerate(zip(kinds, processes or repeat(1), strict=False)):
            alike.setdefault(key, []).append(i)
        stacks = []
        for (((*many, m, n), _, device), shared), members in alike.items():
            sides = self.side_shapes(m, n, group).values() if m * n else ()
            each = m * n + len(self.side_states) * sum(height * k for height, k in sides)
            size = shared * max(1, AT_ONCE[device.type == "cpu"] // max(1, math.prod(many) * each))
            stacks += [members[first : first + size] for first in range(0, len(members), size)]
        return stacks

    def update(self, group: Group, batch: Batch, h: SimpleNamespace, t: int) -> None:
        layout, numbers = Layout.of(group), self._numbers_of_stacks(group)
        stacks: dict[int, list[int]] = {}
        for i, (p, g) in enumerate(zip(batch.params, batch.grads, strict=True)):
            self.reject_sparse(g)
            if p.numel():
                stacks.setdefault(numbers[id(p)], []).append(i)
        for members in stacks.values():
            part = batch.select(members)
            values, grads, xs = self._prepare(part, h)
            us = self._find_directions(
                [layout.to_matrices(x.to(p.dtype)) for x, p in zip(xs, values, strict=True)],
                [self._states_of_matrices(state) for state in part.states],
                self._with_due(h, part.params, layout.split, t, group),
                layout,
            )
            for p, x, g, u in zip(part.params, values, grads, us, strict=True):
                move(p, x, g, layout.to_parameter(u, p), h)

    def _prepare(
        self, batch: Batch, h: SimpleNamespace
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The parameters and the gradients as they are computed with, and what `prepare` returns.

        Without `prepare` that is the gradient, in its own dtype if it is in no sum.
        """
        values = [p.to(compute_dtype(p)) for p in batch.params]
        given = [-g for g in batch.grads] if h.maximize else batch.grads
        grads = [g.to(x.dtype) for g, x in zip(given, values, strict=True)]
        if h.coupled:
            given = grads = [g + h.l2 * x for g, x in zip(grads, values, strict=True)]
        if type(self).prepare is MatrixStep.prepare:
            return values, grads, given
        xs = []
        for x, g, state in zip(values, grads, batch.states, strict=True):
            s = SimpleNamespace(**{name: state[name] for name in self.prepared})
            ready, new = self.prepare(g, x, s, h)
            xs.append(ready)
            for name, value in new.items():
                state[name].copy_(value)
        return values, grads, xs

    def _with_due(
        self, h: SimpleNamespace, params: list[Tensor], each: int, t: int, group: Group
    ) -> SimpleNamespace:
        """The scalars, with what is refreshed now as `due`, where anything ever is."""
        if not self.side_states:
            return h
        return SimpleNamespace(**vars(h), due=self.find_due(params, each, t, group))

    def _find_directions(
        self,
        xs: list[Tensor],
        states: list[dict[str, Tensor]],
        h: SimpleNamespace,
        layout: Layout | None = None,
    ) -> list[Tensor]:
        """The directions of matrices of one shape; their states are updated.

        Args:
            xs: equally many matrices each, [k, m, n].
            states: of each.
            h: scalars and options.
            layout: how states of a parameter's shape store matrices; None: they are [k, m, n].
        """
        layouts = dict.fromkeys(self.states, layout)
        s = {}
        for name in states[0]:
            column, stored = [state[name] for state in states], layouts.get(name)
            s[name] = _stack([stored.to_matrices(x) if stored else x for x in column])
        u, new = self.direction(_stack(xs), SimpleNamespace(**s), h)
        size = len(xs[0])
        for k, state in enumerate(states):
            for name, value in new.items():
                kept, after = state[name], value[k * size : (k + 1) * size]
                if after.data_ptr() != kept.data_ptr():  # else it was written in place
                    stored = layouts.get(name)
                    kept.copy_(stored.to_parameter(after, kept) if stored else after)
        return [u[k * size : (k + 1) * size] for k in range(len(states))]

    def update_shards(self, group: Group, batch: Batch, h: SimpleNamespace, t: int) -> Steps:
        for g in batch.grads:
            self.reject_sparse(g)
        batch = batch.select([i for i, p in enumerate(batch.params) if p.numel()])
        if not batch.params:
            return
        local, parts = batch.local(), [self.parts(p, group) for p in batch.params]
        # of each matrix of the batch: its parameter, and its place among those that are owned here
        places = []
        for i, own in enumerate(parts):
            mine = [part.is_mine for part in own]
            places += [(i, sum(mine[:k])) for k in range(len(own))]
        layout = Layout(transposed=Layout.of(group).transposed)
        values, grads, xs = self._prepare(local, h)

        def compute(numbers: list[int], wholes: list[Tensor]) -> list[Tensor]:
            us: dict[int, Tensor] = {}
            dtypes = [values[places[number][0]].dtype for number in numbers]
            pairs = zip(wholes, dtypes, strict=True)
            shapes = [(layout.shape(x), dtype, x.device) for x, dtype in pairs]
            for stack in self._divide(shapes, group):
                matrices = [layout.to_matrices(wholes[k].to(dtypes[k])) for k in stack]
                owners = [batch.params[places[numbers[k]][0]] for k in stack]
                found = self._find_directions(
                    matrices,
                    [self._states_at(batch, *places[numbers[k]]) for k in stack],
                    self._with_due(h, owners, 1, t, group),
                )
                us |= {
                    k: layout.to_parameter(u, wholes[k]) for k, u in zip(stack, found, strict=True)
                }
            return [us[k] for k in range(len(numbers))]

        numbers = self._numbers_of_stacks(group)
        stacks = [numbers[id(p)] for p in batch.params]
        us = yield Exchange(xs, parts, compute, [x.dtype for x in values], stacks)
        moved = Batch(local.params, grads, [{"u": u} for u in us], batch.sharding, local.wholes)
        options = SimpleNamespace(**{name: getattr(h, name) for name in OF_UPDATE})
        program = find_program(_programs, _move_by_option, ("u",), options)
        passes = step_in_torch(program, moved, options, t, {})
        yield from complete_sums([(list(range(len(us))), passes)], program, moved)

    def _states_at(self, batch: Batch, i: int, k: int) -> dict[str, Tensor]:
        """The states of the k-th matrix, of those owned here, of a parameter."""
        states = self._states_of_matrices(batch.states[i])
        return {name: x[k : k + 1] for name, x in states.items()}


def _stack(xs: list[Tensor]) -> Tensor:
    return xs[0] if len(xs) == 1 else torch.cat(xs)


def _move_by_option(g: Value, p: Value, s: Value, h: Value) -> tuple[Value, Value, Value, Scalars]:
    """A parameter is moved by its direction, `s.u`, as a rule of executors."""
    return *apply_update_options(s.u, g, p, h), {}


def move(p: Tensor, x: Tensor, g: Tensor, u: Tensor, h: SimpleNamespace) -> None:
    """Move a parameter, whose value is x, by a direction u."""
    a, b, step = apply_update_options(u, g, x, h)
    if x is p and isinstance(b, float):
        p = p if a == 1 else p.mul_(a)
        p.sub_(step, alpha=clamp_to_dtype(b, p.dtype))
    else:
        p.copy_(a * x - b * step)
