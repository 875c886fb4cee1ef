"""The states of algorithms for matrices, and where they are if parameters are sharded.

What is computed for each element by itself stays with the shards. The rest, and its states, is the
owner's: each matrix has one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from lit_optim.errors import UsageError
from lit_optim.kernels.precision import State, compute_dtype
from lit_optim.optimizers.base.layout import Layout
from lit_optim.optimizers.base.optimizer import OptimizerBase, zeros_for
from lit_optim.optimizers.base.refreshes import Refresh, take_turns
from lit_optim.optimizers.base.types import Group, Params
from lit_optim.sharding import is_sharded, local_tensor
from lit_optim.sharding.boxes import Box
from lit_optim.sharding.exchange import scatter
from lit_optim.sharding.owners import Owners, Part, held_by_rank
from lit_optim.sharding.saved import gather

#: The hyperparameters that the turns of refreshes depend on.
PLANNED = ("precondition_frequency", "max_precondition_dim", "block_size", "split", "transposed")

#: Those of them that the shapes of the states depend on.
OF_SIDES = ("max_precondition_dim", "block_size")


class MatrixStates(OptimizerBase):
    """The part of `Matrixwise` that makes, saves and loads states.

    A subclass declares `states`, `prepared`, `row_states` and `side_states`.
    """

    #: The states of a parameter that have its shape, by torch's names for them.
    states: ClassVar[dict[str, State]] = {}
    #: Those of them that `prepare` updates; `direction` updates the others.
    prepared: ClassVar[tuple[str, ...]] = ()
    #: The states that have one number for each row: [matrices, m, 1].
    row_states: ClassVar[tuple[str, ...]] = ()
    #: The square states of each side that is at most max_precondition_dim long, [matrices, m, m] of
    #: `left` and [matrices, n, n] of `right`: their suffixes, and the numbers on their diagonals.
    #: Each side is refreshed every precondition_frequency updates, in a turn of its own.
    side_states: ClassVar[dict[str, float]] = {}

    def set_up(self, params: Params, values: dict[str, Any]) -> None:
        #: Who owns the matrices of parameters that are spread over processes.
        self.matrix_owners = Owners()
        super().set_up(params, values)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"matrix_owners": self.matrix_owners}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if not hasattr(self, "matrix_owners"):
            state = {"matrix_owners": Owners()} | state
        super().__setstate__(state)

    def flops(self, m: int, n: int, group: Group) -> float:
        """The work of `direction` for a matrix [m, n], on average over many updates."""
        return float(m * n * min(m, n))

    def new_state(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        if not is_sharded(p):
            state = {name: zeros_for(p) for name in self.states}
            return state | self._new_states_of_matrices(p, Layout.of(group).split, p, group)
        state = {name: zeros_for(p) for name in self.prepared}
        owned = sum(part.is_mine for part in self.parts(p, group))
        local, sides = local_tensor(p), Layout.of(group).shape(p)
        for name in (name for name in self.states if name not in state):
            state[name] = local.new_zeros((owned, *sides), dtype=compute_dtype(p))
        return state | self._new_states_of_matrices(local, owned, p, group)

    def _new_states_of_matrices(
        self, like: Tensor, count: int, p: Tensor, group: Group
    ) -> dict[str, Tensor]:
        """The states of some matrices that do not have their shape."""
        (rows, columns), dtype = Layout.of(group).shape(p), compute_dtype(p)
        state = {name: like.new_zeros((count, rows, 1), dtype=dtype) for name in self.row_states}
        for side, (height, size) in self.side_shapes(rows, columns, group).items():
            for suffix, diagonal in self.side_states.items():
                square = state[side + suffix] = like.new_zeros((count, height, size), dtype=dtype)
                if diagonal:
                    square.diagonal(dim1=-2, dim2=-1).fill_(diagonal)
        return state

    def side_shapes(self, m: int, n: int, group: Group) -> dict[str, tuple[int, int]]:
        """The shape of the square states of each side of a matrix [m, n] that has them.

        Where a side has several, they are below each other.
        """
        if not self.side_states:
            return {}
        sides = {"left": m, "right": n}
        return {s: (k, k) for s, k in sides.items() if k <= group["max_precondition_dim"]}

    def is_due(self, turn: int, t: int, group: Group) -> bool:
        """Whether a side with this turn is refreshed in the t-th update."""
        return (t - turn) % group["precondition_frequency"] == 0  # type: ignore[no-any-return]

    def find_due(
        self, params: list[Tensor], each: int, t: int, group: Group
    ) -> dict[str, list[int]]:
        """Which matrices of some parameters are refreshed now, by side.

        Args:
            params: of the group, at the same update.
            each: how many matrices each of them has.
            t: the number of the update.
            group: the group.
        """
        due: dict[str, list[int]] = {"left": [], "right": []}
        turns = self._find_turns(params)
        for k, p in enumerate(params):
            for side, turn in turns[p].items():
                if self.is_due(turn, t, group):
                    due[side] += range(k * each, (k + 1) * each)
        return due

    def _find_turns(self, params: list[Tensor]) -> dict[Tensor, dict[str, int]]:
        """The turns of each side of all matrices, among which those of these parameters are."""
        groups = self.__dict__.get("whole_optimizer", self).param_groups
        groups = [group for group in groups if self.owner(group) is self]
        key = [[len(group["params"]), *(group.get(name) for name in PLANNED)] for group in groups]
        known, turns = self.__dict__.get("_turns", (None, {}))
        if key == known and all(p in turns for p in params):
            return turns  # type: ignore[no-any-return]
        turns, places, refreshes = {}, [], []
        for group in groups:
            layout = Layout.of(group)
            for p in group["params"] if self.side_states else ():
                turns[p] = {}
                shapes = self.side_shapes(*layout.shape(p), group)
                self._check_sides(p, shapes)
                for side, (height, size) in shapes.items():
                    places.append((p, side))
                    cost = float(layout.split) * height * size**2
                    refreshes.append(Refresh(cost, group["precondition_frequency"]))
        for (p, side), turn in zip(places, take_turns(refreshes), strict=True):
            turns[p][side] = turn
        self.__dict__["_turns"] = key, turns
        return turns

    def _check_sides(self, p: Tensor, shapes: dict[str, tuple[int, int]]) -> None:
        """Check that the states of a parameter are still those that its group asks for.

        Raises:
            UsageError: a hyperparameter that decides on them has changed since its first update.
        """
        state = self.state.get(p) or {}
        found = {side: tuple(state[side].shape[-2:]) for side in ("left", "right") if side in state}
        if state and found != shapes:
            keys = " or ".join(key for key in OF_SIDES if key in self.defaults)
            raise UsageError(
                f"{keys} has changed since the first step, but the states of a parameter "
                f"{[*p.shape]} are for the value before: {_describe(found)}, not "
                f"{_describe(shapes)}; set it before the first step"
            )

    def whole_shapes(self, p: Tensor, group: Group) -> dict[str, tuple[int, ...]]:
        """The shapes of the states of a parameter that no process shares with others."""
        split = Layout.of(group).split
        others = self._new_states_of_matrices(p.new_empty(0, device="meta"), split, p, group)
        return {name: tuple(p.shape) for name in self.states} | {
            name: tuple(x.shape) for name, x in others.items()
        }

    def owned_bytes(self, p: Tensor, group: Group) -> int:
        """The bytes of the states of a sharded parameter that the owners of its matrices keep."""
        shapes = self.whole_shapes(p, group)
        count = sum(math.prod(shape) for name, shape in shapes.items() if name not in self.prepared)
        return count * compute_dtype(p).itemsize

    def _states_of_matrices(self, state: dict[str, Any]) -> dict[str, Tensor]:
        return {
            name: x
            for name, x in state.items()
            if isinstance(x, Tensor) and name not in self.prepared
        }

    def spread_states(self, p: Tensor, group: Group, state: dict[str, Any]) -> dict[str, Any]:
        """The state of a parameter that is spread over processes, with nothing left to owners.

        All processes call it together. States of the parameter's shape are placed as it is; the
        others are divided by the rows of their matrices.
        """
        if not is_sharded(p):
            return state
        layout, parts = Layout.of(group), self.parts(p, group)
        turned, found = Layout(transposed=layout.transposed), dict(state)
        for name, shape in self.whole_shapes(p, group).items():
            if name in self.prepared:
                continue
            target, places = zeros_for(p), parts
            if name not in self.states:
                target = _zeros_by_rows(p, shape)
                sides, held = [(0, side) for side in shape[1:]], held_by_rank(target)
                places = [
                    replace(part, box=((k, k + 1), *sides), held=held)
                    for k, part in enumerate(parts)
                ]
            own = iter(state[name])
            wholes: list[Tensor | None] = [None] * len(places)
            for k, part in enumerate(places):
                if part.is_mine:
                    x = next(own).unsqueeze(0)
                    is_like = name in self.states
                    wholes[k] = turned.to_parameter(x, x.new_empty(part.shape)) if is_like else x
            scatter(places, wholes, local_tensor(target))
            found[name] = target
        return found

    def load_tensors(
        self, p: Tensor, group: Group, saved: dict[str, Tensor], label: str
    ) -> dict[str, Tensor]:
        if not is_sharded(p):
            return super().load_tensors(p, group, saved, label)
        layout, found = Layout.of(group), self.new_state(p, group)
        mine = [k for k, part in enumerate(self.parts(p, group)) if part.is_mine]
        for name, shape in self.whole_shapes(p, group).items():
            if name not in saved:
                self._reject_state(name)
            what = f"{name} of parameter {label}"
            if name in self.prepared:
                self.copy_saved(found[name], saved[name], what)
                continue
            if saved[name].shape != shape:
                self._reject_shape(what, saved[name], shape)
            whole = gather(saved[name], p)
            is_like = name in self.states
            found[name].copy_((layout.to_matrices(whole) if is_like else whole)[mine])
        return found

    def parts(self, p: Tensor, group: Group) -> list[Part]:
        """The matrices of a parameter that is spread over processes."""
        if p not in self.matrix_owners.ranks:
            self.matrix_owners.assign(self._costs(p))
        return self.matrix_owners.parts(p, Layout.of(group).boxes(p))

    def _costs(self, needed: Tensor) -> Iterable[tuple[Tensor, list[Box], list[float]]]:
        """The work of each matrix of all parameters that are trained, or needed now."""
        for group in self.param_groups:
            layout = Layout.of(group)
            for p in group["params"] if self.owner(group) is self else ():
                if is_sharded(p) and (p.requires_grad or p is needed):
                    cost = self.flops(*layout.shape(p), group)
                    yield p, layout.boxes(p), [cost] * layout.split


def _describe(shapes: dict[str, tuple[int, int]]) -> str:
    return " and ".join(f"{side} {[*shape]}" for side, shape in shapes.items()) or "none"


def _zeros_by_rows(p: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor of zeros, [matrices, rows, columns], its rows divided over the mesh of p."""
    from torch.distributed.tensor import Shard, zeros

    mesh = p.device_mesh  # type: ignore[attr-defined]
    return zeros(shape, dtype=compute_dtype(p), device_mesh=mesh, placements=[Shard(1)] * mesh.ndim)
