"""Algorithms that look at matrices; AdamW, as a part of the same optimizer, takes what is none.

Which is which, the `role` of a param group says: hidden (or no role) is the algorithm's, every
other AdamW's. Both parts share the param groups and the state of the one optimizer, so that a
schedule reaches all of them and the state dict is one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from lit_optim.errors import UsageError, suggest
from lit_optim.hyperparameters import check, plain, plain_values
from lit_optim.kernels.precision import clamp_to_dtype, compute_dtype
from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.base.groups import check_is_group, listed, with_names
from lit_optim.optimizers.base.optimizer import Batch, OptimizerBase
from lit_optim.optimizers.base.options import OPTIONS, Options, moved
from lit_optim.requirements import Need

LOG = logging.getLogger("lit_optim")

HIDDEN = "hidden"
#: Elements of matrices of one shape that are computed with at once, on a CPU and elsewhere.
AT_ONCE = {True: 1 << 19, False: 1 << 26}


class MatrixOptions(Options, total=False):
    """What every optimizer of matrices takes beside its own arguments.

    adamw_lr: of the parameters that are no hidden matrices; null: a share of lr that the
        optimizer's class has.
    adamw_betas: likewise.
    adamw_eps: likewise.
    adamw_weight_decay: likewise.
    roles: patterns of parameter names and who takes them, whatever the model says: hidden, the
        matrix method, or other, AdamW: {"*.gate.weight": other}.
    """

    adamw_lr: Annotated[float, ">= 0"] | None
    adamw_betas: Annotated[tuple[float, float], "in [0, 1)"]
    adamw_eps: Annotated[float, ">= 0"]
    adamw_weight_decay: Annotated[float, ">= 0"]
    roles: Mapping[str, Literal["hidden", "other"]] | None


class Matrixwise(OptimizerBase):
    """An optimizer of matrices, many of one shape at a time.

    A subclass writes `new_state`, `scalars` and `direction`. A convolution is the matrix of shape
    [out, in * height * width]; a parameter of a group with `split` is so many matrices, one below
    the other.
    """

    needs: ClassVar[tuple[Need, ...]] = ("dense", "roles", "whole")
    #: adamw_lr in units of lr, unless it is given.
    adamw_share: ClassVar[float] = 1.0

    def __init__(
        self,
        params: Iterable[Any],
        adamw_lr: float | None = None,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        adamw_weight_decay: float = 0.01,
        roles: Mapping[str, str] | None = None,
        **hyper: Any,
    ) -> None:
        aside = {
            "adamw_lr": adamw_lr,
            "adamw_betas": adamw_betas,
            "adamw_eps": adamw_eps,
            "adamw_weight_decay": adamw_weight_decay,
            "roles": roles,
        }
        check(type(self).__init__, aside | hyper)
        hyper = plain_values(hyper)
        adamw_lr, adamw_weight_decay = plain(adamw_lr), plain(adamw_weight_decay)
        lr = self.adamw_share * hyper["lr"] if adamw_lr is None else adamw_lr
        decided = {"lr": lr, "betas": adamw_betas, "weight_decay": adamw_weight_decay}
        options = {key: value for key, value in hyper.items() if key in OPTIONS}
        self._aside: dict[str, Any] = decided | {"eps": adamw_eps} | options
        #: AdamW, for the groups that are not hidden; None where there are none.
        self.rest: AdamW | None = None
        #: Decompositions that failed even in float64; what was there before was kept.
        self.failures = 0
        super().__init__(_with_roles(params, roles or {}), **hyper)
        if not any(self.owner(group) is self for group in self.param_groups):
            raise UsageError(
                f"{type(self).__name__} is for hidden matrices, and there are none among "
                "these parameters; AdamW (optimizer=adamw) is for any"
            )

    def owner(self, group: dict[str, Any]) -> OptimizerBase:  # noqa: D102
        hidden = group.get("role", HIDDEN) == HIDDEN
        return self if hidden or self.rest is None else self.rest

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group: to the algorithm's part, or to AdamW's by its `role`.

        Raises:
            ValueError: it asks for states or parameters at another precision.
        """
        check_is_group(param_group)
        if param_group.get("role", HIDDEN) == HIDDEN:
            super().add_param_group(param_group)
            for key in ("state_dtype", "master"):
                if self.param_groups[-1][key] != OPTIONS[key]:
                    raise UsageError(
                        f"{key}={self.param_groups[-1][key]} is for optimizers that look at one "
                        f"coordinate at a time, which {type(self).__name__} does not"
                    )
            return
        known = {id(p) for group in self.param_groups for p in group["params"]}
        if any(id(p) in known for p in with_names(param_group)["params"]):
            raise ValueError("some parameters appear in more than one parameter group")
        if self.rest is None:
            self.rest = AdamW([param_group], **self._aside)
            self._join()
        else:
            self.rest.add_param_group(param_group)
        self.param_groups.append(self.rest.param_groups[-1])

    def _join(self) -> None:
        """The part that is AdamW's knows the groups that are its own, and the state of all."""
        if self.rest is not None:
            self.rest.state = self.state
            self.rest.__dict__["label"] = f"{type(self).__name__}'s AdamW"  # in messages

    def start(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Give p its state.

        Raises:
            ValueError: it is no matrix, or cannot be split as the group says.
        """
        if p.ndim < 2 or p.shape[0] % group.get("split", 1):
            raise UsageError(
                f"{type(self).__name__} is for matrices, not for a parameter of shape "
                f"{list(p.shape)}{_split(group)}: give its group another role than hidden, "
                "and AdamW takes it"
            )
        return super().start(p, group)

    def direction(self, g: Tensor, p: Tensor, s: Any, h: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The algorithm: old states `s` in, direction u and new states out; s may be overwritten.

        Args:
            g: the gradients, [batch, m, n], at least float32.
            p: the parameters, likewise.
            s: the tensors of `new_state` by name, one below the other along the first dimension.
            h: the numbers of `scalars`, by name.
        """
        raise NotImplementedError

    def update(  # noqa: D102
        self, group: dict[str, Any], batch: Batch, h: SimpleNamespace, t: int
    ) -> None:
        split = group.get("split", 1)
        alike: dict[Any, list[int]] = {}
        for i, (p, g) in enumerate(zip(batch.params, batch.grads, strict=True)):
            self.refuse_sparse(g)
            rows, columns = p.shape[0] // split, p[0].numel()
            alike.setdefault((rows, columns, p.dtype, p.device), []).append(i)
        for (rows, columns, _, device), members in alike.items():
            size = max(1, AT_ONCE[device.type == "cpu"] // (split * rows * columns or 1))
            for first in range(0, len(members), size):
                self._update_alike(batch.part(members[first : first + size]), split, h)

    def _update_alike(self, batch: Batch, split: int, h: SimpleNamespace) -> None:
        xs = [p.to(compute_dtype(p)) for p in batch.params]
        gs = [g.to(x.dtype) for g, x in zip(batch.grads, xs, strict=True)]
        gs = [-g for g in gs] if h.maximize else gs
        gs = [g + h.l2 * x for g, x in zip(gs, xs, strict=True)] if h.coupled else gs
        names = [name for name, value in batch.states[0].items() if isinstance(value, Tensor)]
        s = {name: _below(batch.column(name), batch.params, split) for name in names}
        u, new = self.direction(
            _below(gs, batch.params, split),
            _below(xs, batch.params, split),
            SimpleNamespace(**s),
            h,
        )
        for k, (p, x, g) in enumerate(zip(batch.params, xs, gs, strict=True)):
            own = slice(k * split, (k + 1) * split)
            a, b, step = moved(u[own].reshape(p.shape), g, x, h)
            if x is p and isinstance(b, float):
                p.mul_(a).sub_(step, alpha=clamp_to_dtype(b, p.dtype))
            else:
                p.copy_(a * x - b * step)
            for name, value in new.items():
                state, after = batch.states[k][name], value[own]
                if after.data_ptr() != state.data_ptr():  # else it was written in place
                    state.copy_(after.reshape(state.shape))

    def unless_failed(self, what: str, new: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
        """The new matrices, or an old one where the new could not be found; that is counted.

        Args:
            what: they are, for the warning, which comes once.
            new: of shape [batch, k, k], not finite where it failed.
            old: likewise.

        Returns:
            the matrices, and which of them are new, [batch].
        """
        ok = new.isfinite().flatten(1).all(1)
        failed = int((~ok).sum())
        if failed and not self.failures:
            name = type(self).__name__
            LOG.warning("%s: %s failed, in float64 too; the last one is kept", name, what)
        self.failures += failed
        return torch.where(ok[:, None, None], new, old) if failed else new, ok

    def __getstate__(self) -> dict[str, Any]:
        kept = {"rest": self.rest, "_aside": self._aside, "failures": self.failures}
        return super().__getstate__() | kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({k: state[k] for k in ("rest",) if k in state})
        super().__setstate__(state)
        if self.rest is not None:
            self._join()
            aside = [group for group in self.param_groups if self.owner(group) is self.rest]
            self.rest.param_groups = aside


def sides(p: Tensor, group: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    """The sides of a matrix that are short enough for a factor: name, number of them, size."""
    parts = group.get("split", 1)
    for side, size in (("left", p.shape[0] // parts), ("right", p[0].numel())):
        if size <= group["max_precondition_dim"]:
            yield side, parts, size


def _below(xs: list[Tensor], params: list[Tensor], split: int) -> Tensor:
    """The matrices of some parameters, or states of them, one below the other: [batch, m, n]."""
    matrices = [
        x.reshape(split, p.shape[0] // split, -1) if x.shape == p.shape else x
        for x, p in zip(xs, params, strict=True)
    ]
    return matrices[0] if len(matrices) == 1 else torch.cat(matrices)


def _split(group: dict[str, Any]) -> str:
    parts = group.get("split", 1)
    return f" in {parts} parts" if parts > 1 else ""


def _with_roles(params: Iterable[Any], roles: Mapping[str, str]) -> list[Any]:
    """Params or groups, with the roles that patterns of names give them.

    Raises:
        UsageError: a pattern that fits no name.
    """
    given = listed(params)
    if not roles:
        return given
    if given and not isinstance(given[0], dict):
        given = [{"params": given}]
    groups = [with_names(group) for group in given]
    names = [name for group in groups for name in group.get("param_names", ())]
    # as torch has a compiled module's names; ours are those that its author wrote
    roles = {pattern.replace("_orig_mod.", ""): role for pattern, role in roles.items()}
    for pattern in roles:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = suggest(pattern, names) or f"; the names are {', '.join(names) or 'not given'}"
            raise UsageError(f"roles: no parameter is called {pattern!r}{near}")
    return [part for group in groups for part in _by_name(group, roles)]


def _by_name(group: dict[str, Any], roles: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    members: dict[str, list[int]] = {}
    own = group.get("role", HIDDEN)
    for i, name in enumerate(group.get("param_names", ())):
        fits = [role for pattern, role in roles.items() if fnmatchcase(name, pattern)]
        members.setdefault(fits[0] if fits else own, []).append(i)
    for role, places in members.items() or [(own, range(len(group["params"])))]:
        part: dict[str, Any] = {
            k: [group[k][i] for i in places] for k in ("params", "param_names") if k in group
        }
        if "name" in group and role != own:
            part["name"] = f"{group['name']}.as_{role}"
        yield group | part | {"role": role}
