"""The base of algorithms for hidden matrices; AdamW, within the same optimizer, updates the rest.

The `role` of a param group decides: the algorithm updates hidden groups and those without a role,
AdamW the others. Both share the param groups and the state of one optimizer, so that a schedule
reaches every group and there is one state dict.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lit_optim.errors import UsageError, show, suggest
from lit_optim.kernels.precision import State, clamp_to_dtype, compute_dtype
from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.base.batch import Batch
from lit_optim.optimizers.base.declared import setting
from lit_optim.optimizers.base.groups import check_is_group, follow_division, with_names
from lit_optim.optimizers.base.layout import Layout, check_layout
from lit_optim.optimizers.base.optimizer import OptimizerBase, zeros_for
from lit_optim.optimizers.base.options import OPTIONS, apply_update_options
from lit_optim.optimizers.base.parameters import (
    MissingRoles,
    check_parameters,
    divide_group,
    label_parameters,
    list_params_by_role,
)
from lit_optim.optimizers.base.types import Betas, Group, NonNegative, Params, TensorUpdate
from lit_optim.requirements import Requirement
from lit_optim.sharding import Steps, is_sharded

LOG = logging.getLogger("lit_optim")

HIDDEN = "hidden"
#: How many elements a batch of matrices of one shape has at most, on a CPU and elsewhere.
AT_ONCE = {True: 1 << 19, False: 1 << 26}


class Matrixwise(OptimizerBase):
    """An optimizer of matrices, which updates many of one shape at a time.

    A subclass declares `states`, `row_states` and `side_states`. It writes
    `direction`, and `scalars` for what it derives. A convolution is the matrix of shape
    [out, in * height * width]. In a group with `split` a parameter is that many matrices, stacked
    along their outputs, and in a `transposed` group it is stored as [in, out, ...].

    Args:
        adamw_lr: the lr of AdamW's parameters; null: a multiple of lr that depends on the class.
        adamw_betas: the betas of AdamW.
        adamw_eps: the eps of AdamW.
        adamw_weight_decay: the weight decay of AdamW's parameters.
        roles: patterns of parameter names and who updates them, whatever the model says: hidden,
            the matrix method, or other, AdamW: {"*.gate.weight": other}.
    """

    adamw_lr: NonNegative | None = setting(default=None, kw_only=True)
    adamw_betas: Betas = setting(default=(0.9, 0.95), kw_only=True)
    adamw_eps: NonNegative = setting(default=1e-8, kw_only=True)
    adamw_weight_decay: NonNegative = setting(default=0.01, kw_only=True)
    roles: Mapping[str, Literal["hidden", "other"]] | None = setting(default=None, kw_only=True)

    requirements: ClassVar[tuple[Requirement, ...]] = ("dense", "roles", "whole")
    #: The states of a parameter that have its shape, by torch's names for them.
    states: ClassVar[dict[str, State]] = {}
    #: The states that have one number for each row: [matrices, m, 1].
    row_states: ClassVar[tuple[str, ...]] = ()
    #: The square states of each side that is at most max_precondition_dim long, [matrices, m, m] of
    #: `left` and [matrices, n, n] of `right`: their suffixes, and the numbers on their diagonals.
    side_states: ClassVar[dict[str, float]] = {}
    needs_shapes: ClassVar[bool] = True
    exchanges_matrices: ClassVar[bool] = True
    #: adamw_lr in units of lr, unless it is given.
    adamw_share: ClassVar[float] = 1.0

    def set_up(self, params: Params, values: dict[str, Any]) -> None:
        of_adamw = {name: values.pop(f"adamw_{name}") for name in ("lr", "betas", "eps")}
        of_adamw["weight_decay"] = values.pop("adamw_weight_decay")
        if of_adamw["lr"] is None:
            of_adamw["lr"] = self.adamw_share * values["lr"]
        roles = values.pop("roles") or {}
        self._adamw_defaults = of_adamw | {k: v for k, v in values.items() if k in OPTIONS}
        #: AdamW, for the groups that are not hidden; None where there are none.
        self.adamw: AdamW | None = None
        #: How many decompositions failed even in float64; the previous result was kept.
        self.failures = 0
        super().set_up(_with_roles(params, roles), values)
        if not any(self.owner(group) is self for group in self.param_groups):
            raise UsageError(
                f"{type(self).__name__} is for hidden matrices, and there are none among "
                "these parameters; AdamW (optimizer=adamw) is for any"
            )

    def new_state(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        layout, dtype = Layout.of(group), compute_dtype(p)
        rows, columns = layout.shape(p)
        state = {name: zeros_for(p) for name in self.states}
        for name in self.row_states:
            state[name] = p.new_zeros((layout.split, rows, 1), dtype=dtype)
        for side, size in (("left", rows), ("right", columns)) if self.side_states else ():
            if size > group["max_precondition_dim"]:
                continue  # too long for a factor
            for suffix, diagonal in self.side_states.items():
                square = state[side + suffix] = p.new_zeros((layout.split, size, size), dtype=dtype)
                square.diagonal(dim1=-2, dim2=-1).fill_(diagonal)
        return state

    def owner(self, group: Group) -> OptimizerBase:
        hidden = group.get("role", HIDDEN) == HIDDEN
        return self if hidden or self.adamw is None else self.adamw

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, to the matrix method or to AdamW, by its `role`.

        A group of a module, or of its untouched generator, becomes one for each role.

        Raises:
            MissingRoles: it has no role, and not all of its parameters are matrices.
            ValueError: it sets another precision of states or parameters, or it is hidden and a
                parameter is not a matrix or cannot be split as it says.
        """
        check_is_group(param_group)
        param_group = _read_use_muon(param_group)
        first, *others = divide_group(param_group)
        if first is not param_group:
            for part in (first, *others):
                self.add_param_group(part)
            return
        if param_group.get("role", HIDDEN) == HIDDEN:
            param_group = with_names(param_group)
            self._check_matrices(param_group)
            super().add_param_group(param_group)
            for key in ("state_dtype", "master"):
                if self.param_groups[-1][key] != OPTIONS[key]:
                    raise UsageError(
                        f"{key}={self.param_groups[-1][key]} is for optimizers that look at one "
                        f"coordinate at a time, which {type(self).__name__} does not"
                    )
            return
        param_group = with_names(param_group)
        check_parameters(self, param_group)
        if self.adamw is None:
            self.adamw = AdamW([param_group], **self._adamw_defaults)
            self._join()
        else:
            self.adamw.add_param_group(param_group)
        self.param_groups.append(self.adamw.param_groups[-1])

    def _join(self) -> None:
        """Let AdamW share the state; its own param groups are those that are not hidden."""
        if self.adamw is not None:
            self.adamw.state = self.state
            self.adamw.__dict__["label"] = f"{type(self).__name__}'s AdamW"  # in messages

    def _check_matrices(self, group: Group) -> None:
        check_layout(group)
        name, layout = type(self).__name__, Layout.of(group)
        check_parameters(self, group)
        for label, p in label_parameters(group):
            what = f"parameter {label} has shape {list(p.shape)}"
            if p.ndim < 2 and "role" not in group:
                raise MissingRoles(
                    f"{name} updates hidden matrices, but {what}: pass the model, {name}(model), "
                    "or groups from lit_optim.param_groups(model), which add_param_group takes one "
                    "by one, so that AdamW takes the others"
                )
            if p.ndim < 2:
                raise UsageError(
                    f"{name} updates hidden matrices, but {what}: give its group another role "
                    "than hidden, and AdamW takes it"
                )
            if (rows := layout.rows(p)) % layout.split:
                raise UsageError(
                    f"split={layout.split} does not divide the {rows} outputs of parameter {label} "
                    f"of shape {list(p.shape)}{' (transposed)' if layout.transposed else ''}"
                )
        if "role" not in group and not self.__dict__.get("_has_warned"):
            self.__dict__["_has_warned"] = True
            LOG.warning(
                "%s: parameters without roles are all taken as hidden matrices; %s(model), or "
                "groups from lit_optim.param_groups(model), leave embeddings and the head to AdamW",
                name,
                name,
            )

    def direction(self, g: Tensor, p: Tensor, s: Any, h: Any) -> TensorUpdate:
        """The algorithm: returns the direction u and the new states; may overwrite the old ones.

        Args:
            g: the gradients, [batch, m, n], at least float32.
            p: the parameters, of the same shape and dtype.
            s: the tensors of `new_state` by name, stacked along the first dimension.
            h: the hyperparameters, and what `scalars` derives from them, by name.
        """
        raise NotImplementedError

    def update(self, group: Group, batch: Batch, h: SimpleNamespace, t: int) -> None:
        layout = Layout.of(group)
        alike: dict[Any, list[int]] = {}
        for i, (p, g) in enumerate(zip(batch.params, batch.grads, strict=True)):
            self.reject_sparse(g)
            if not p.numel():
                continue
            alike.setdefault((*layout.shape(p), p.dtype, p.device), []).append(i)
        for (rows, columns, _, device), members in alike.items():
            size = max(1, AT_ONCE[device.type == "cpu"] // (layout.split * rows * columns or 1))
            for first in range(0, len(members), size):
                self._update_stack(batch.select(members[first : first + size]), layout, h)

    def update_shards(self, group: Group, batch: Batch, h: SimpleNamespace, t: int) -> Steps:
        self.update(group, batch, h, t)  # DTensors send what each operation needs
        yield from ()

    def _update_stack(self, batch: Batch, layout: Layout, h: SimpleNamespace) -> None:
        xs = [p.to(compute_dtype(p)) for p in batch.params]
        gs = [g.to(x.dtype) for g, x in zip(batch.grads, xs, strict=True)]
        gs = [-g for g in gs] if h.maximize else gs
        gs = [g + h.l2 * x for g, x in zip(gs, xs, strict=True)] if h.coupled else gs
        names = [name for name, value in batch.states[0].items() if isinstance(value, Tensor)]
        s = {name: _stack_matrices(batch.column(name), batch.params, layout) for name in names}
        u, new = self.direction(
            _stack_matrices(gs, batch.params, layout),
            _stack_matrices(xs, batch.params, layout),
            SimpleNamespace(**s),
            h,
        )
        for k, (p, x, g) in enumerate(zip(batch.params, xs, gs, strict=True)):
            own = slice(k * layout.split, (k + 1) * layout.split)
            a, b, step = apply_update_options(layout.to_parameter(u[own], p), g, x, h)
            if x is p and isinstance(b, float):
                p.mul_(a).sub_(step, alpha=clamp_to_dtype(b, p.dtype))
            else:
                p.copy_(a * x - b * step)
            for name, value in new.items():
                state, after = batch.states[k][name], value[own]
                if (
                    is_sharded(state) or after.data_ptr() != state.data_ptr()
                ):  # else it was written in place
                    has_shape = state.shape == p.shape
                    state.copy_(layout.to_parameter(after, p) if has_shape else after)

    def _load(self, state_dict: dict[str, Any]) -> None:
        # earlier versions did not know all transposed or fused weights, and had other groups
        may_join = not (self.row_states or self.side_states)
        groups = follow_division(state_dict["param_groups"], self.param_groups, may_join)
        super()._load(state_dict | {"param_groups": groups})

    def keep_if_failed(self, what: str, new: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
        """Replace results that failed by the previous ones, and count the failures.

        Args:
            what: what failed, for the warning, which is logged once.
            new: results of shape [batch, k, k], not finite where the computation failed.
            old: the previous results, of the same shape.

        Returns:
            the results, and which of them are new, [batch].
        """
        ok = new.isfinite().flatten(1).all(1)
        failed = int((~ok).sum())
        if failed and not self.failures:
            name = type(self).__name__
            LOG.warning("%s: %s failed, in float64 too; the last one is kept", name, what)
        self.failures += failed
        return torch.where(ok[:, None, None], new, old) if failed else new, ok

    def __getstate__(self) -> dict[str, Any]:
        names = ("adamw", "_adamw_defaults", "failures")
        return super().__getstate__() | {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for old, new in (("rest", "adamw"), ("_aside", "_adamw_defaults")):  # of earlier pickles
            if old in state:
                state[new] = state.pop(old)
        if "adamw" in state:
            self.adamw = state["adamw"]
        super().__setstate__(state)
        if self.adamw is not None:
            self._join()
            own = [group for group in self.param_groups if self.owner(group) is self.adamw]
            self.adamw.param_groups = own


def _stack_matrices(xs: list[Tensor], params: list[Tensor], layout: Layout) -> Tensor:
    """The matrices of some parameters, or of states of them, stacked: [batch, m, n]."""
    matrices = [
        layout.to_matrices(x) if x.shape == p.shape else x for x, p in zip(xs, params, strict=True)
    ]
    return matrices[0] if len(matrices) == 1 else torch.cat(matrices)


def _with_roles(params: Params, roles: Mapping[str, str]) -> list[Any]:
    """Params or groups, with the roles that patterns of names give them.

    Raises:
        UsageError: a pattern matches no name.
    """
    given = list_params_by_role(params)
    if not roles:
        return given
    if given and not isinstance(given[0], dict):
        given = [{"params": given}]
    groups = [with_names(part) for group in given for part in divide_group(_read_use_muon(group))]
    names = [name for group in groups for name in group.get("param_names", ())]
    # torch prefixes the names of a compiled module; ours are those of the source
    roles = {pattern.replace("_orig_mod.", ""): role for pattern, role in roles.items()}
    for pattern in roles:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = suggest(pattern, names) or f"; the names are {', '.join(names) or 'not given'}"
            raise UsageError(f"roles: no parameter is called {pattern!r}{near}")
    return [part for group in groups for part in _by_name(group, roles)]


def _read_use_muon(group: Group) -> Group:
    """A group with the role that `use_muon` means, as groups of Keller Jordan's Muon have it.

    Raises:
        UsageError: it is neither True nor False, or contradicts the role.
    """
    if "use_muon" not in group:
        return group
    given = group["use_muon"]
    if not isinstance(given, bool):
        raise UsageError(f"use_muon must be True or False, got {show(given)}")
    role = group.get("role", HIDDEN if given else "other")
    if (role == HIDDEN) is not given:
        raise UsageError(f"use_muon={given} contradicts role={role} of the same group")
    return group | {"role": role}


def _by_name(group: Group, roles: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    members: dict[str | None, list[int]] = {}
    own = group.get("role")
    for i, name in enumerate(group.get("param_names", ())):
        fits = [role for pattern, role in roles.items() if fnmatchcase(name, pattern)]
        members.setdefault(fits[0] if fits else own, []).append(i)
    for role, places in members.items() or [(own, range(len(group["params"])))]:
        part: dict[str, Any] = {
            k: [group[k][i] for i in places] for k in ("params", "param_names") if k in group
        }
        if "name" in group and role != own:
            part["name"] = f"{group['name']}.as_{role}"
        if role is None and all(p.ndim > 1 for p in part["params"]):
            role = HIDDEN  # the patterns name those that are not
        yield group | part | ({} if role is None else {"role": role})
