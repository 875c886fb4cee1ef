"""The base of the optimizers: everything about a step that is not the algorithm.

The base loops over groups and parameters, counts the updates of each parameter, applies the weight
decay and p = a p − b u, and keeps the state dict; `StateLoading` loads one. `Elementwise`,
`Tensorwise` and `Matrixwise` ask the algorithm for the direction u.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from lit_optim.errors import UsageError
from lit_optim.hyperparameters import check, hints_of
from lit_optim.kernels.pointer_table import PLAIN_TENSORS
from lit_optim.kernels.precision import compute_dtype
from lit_optim.optimizers.base.batch import Batch
from lit_optim.optimizers.base.declared import (
    drop_execution,
    plain_arguments,
)
from lit_optim.optimizers.base.groups import check_group
from lit_optim.optimizers.base.options import (
    OPTIONS,
    Options,
    check_options,
    option_scalars,
)
from lit_optim.optimizers.base.parameters import check_first_step, label_parameters, list_params
from lit_optim.optimizers.base.scalars import peak_lr
from lit_optim.optimizers.base.state_loading import StateLoading
from lit_optim.optimizers.base.state_saving import StateSaving
from lit_optim.optimizers.base.types import Group, Params, Scalars
from lit_optim.requirements import Requirement
from lit_optim.sharding import Sharding, Steps, has_nonzero, run_together
from lit_optim.torch_hooks import with_step_hooks

LOG = logging.getLogger("lit_optim")

#: How rules call the betas.
BETAS = ("b1", "b2", "b3")


class OptimizerBase(Options, StateSaving, StateLoading):
    """The base of all optimizers that are implemented here.

    A subclass declares its hyperparameters as annotated attributes, with their ranges.
    """

    #: What the optimizer requires of a training loop; see `lit_optim.requirements`.
    requirements: ClassVar[tuple[Requirement, ...]] = ("dense",)
    #: Whether gradients may be sparse; coordinates without an entry are then left unchanged.
    takes_sparse: ClassVar[bool] = False
    #: Whether parameters may be complex; each is computed as two real ones.
    takes_complex: ClassVar[bool] = False
    #: Whether a step reads values on the host, which a parameter on the meta device does not have.
    reads_values: ClassVar[bool] = False
    #: Whether states collect something before the first update.
    collects_first: ClassVar[bool] = False
    #: Whether parameters must have a shape when the optimizer is made.
    needs_shapes: ClassVar[bool] = False
    #: torch's hooks of a step, without the range of its profiler where nothing is profiled.
    profile_hook_step = staticmethod(with_step_hooks)  # type: ignore[assignment]
    #: Whether an update of one parameter depends on the gradients of others.
    needs_all_gradients: ClassVar[bool] = False
    #: The lr of a group whose lr is null, in optimizers that allow it.
    lr_if_null: ClassVar[float] = 1.0
    #: The range in which to search for its lr.
    lr_range: ClassVar[tuple[float, float]] = (1e-4, 1e-1)

    def __init__(self, params: Params, **values: Any) -> None:
        known = hints_of(type(self).__init__).keys() | self.fixed.keys() | OPTIONS.keys()
        values = drop_execution(type(self).__name__, values)
        for key in values.keys() - known:
            raise TypeError(f"{type(self).__name__} got an unexpected keyword argument {key!r}")
        check(type(self).__init__, values)
        self.construct(params, plain_arguments(values))

    def set_up(self, params: Params, values: dict[str, Any]) -> None:
        options = {name: value for name, value in OPTIONS.items() if name not in values}
        torch.optim.Optimizer.__init__(self, list_params(params), values | self.fixed | options)
        self._check_masters()
        self.check_arguments(values)

    def check_arguments(self, values: dict[str, Any]) -> None:
        """Reject arguments of the constructor that contradict each other; see `require`."""

    def check_hyperparameters(self, group: Group) -> None:
        """Reject hyperparameters of a new group that contradict each other; see `require`."""

    def _check_masters(self) -> None:
        dtypes = {p.dtype for g in self.param_groups if g["master"] != "none" for p in g["params"]}
        if dtypes and torch.bfloat16 not in dtypes:
            names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
            raise UsageError(f"master=split is for bfloat16 parameters, these are {names}")

    def scalars(self, group: Group, t: int) -> Scalars:
        """Numbers and switches of the t-th update (t = 1, 2, ...), derived from hyperparameters.

        A rule finds them in h, beside the hyperparameters of the group.
        """
        return {}

    def initial_scalars(self, group: Group) -> dict[str, float]:
        """Numbers kept for each parameter beside its tensors, before the first update.

        For what has no closed form in t, such as a product over past hyperparameters. The group
        that other methods are given has their current values.
        """
        return {}

    def next_scalars(self, group: Group, t: int) -> dict[str, float]:
        """The numbers of `initial_scalars` after the t-th update."""
        return {}

    def effective_lr(self, group: Group, t: int) -> float:
        """The step size of the t-th update: lr, unless the algorithm scales it."""
        return float(group["lr"])

    def coefficients(self, group: Group, t: int) -> tuple[float, float]:
        """The coefficients a and b of p = a p − b u in the t-th update."""
        b = self.effective_lr(group, t)
        if self.is_coupled(group):
            return 1.0, b
        strength = b
        if group["decay"] != "decoupled":
            peak = peak_lr(group)
            strength *= (b if group["decay"] == "corrected" else 1.0) / peak if peak else 0.0
        return 1.0 - strength * group.get("weight_decay", 0.0), b

    def is_coupled(self, group: Group) -> bool:
        """Whether weight decay is a part of the gradient."""
        return self.coupled_weight_decay and not group.get("decoupled_weight_decay", False)

    def vector_hyperparameters(self, group: Group) -> Group:
        """The hyperparameters of vectors and scalars: the group, unless the paper has others.

        They may have further keys; all methods are then given them in place of the group.
        """
        return group

    def hyperparameters_for(self, p: Tensor, group: Group) -> Group:
        """The hyperparameters of one parameter."""
        return group if p.ndim > 1 else self.vector_hyperparameters(group)

    def rule_scalars(self, group: Group) -> Scalars:
        """What h has without `scalars`: the declared hyperparameters, and betas as b1, b2, ..."""
        h = {name: group[name] for name in self._rule_names()}
        h.update(zip(BETAS, group.get("betas", ()), strict=False))
        return h

    def _rule_names(self) -> list[str]:
        """The keys of a group that h has."""
        names: list[str] | None = self.__dict__.get("_names_of_rule")
        if names is None:
            known = hints_of(type(self).__init__)
            own = [name for name in self.defaults if name in known and name not in OPTIONS]
            names = [*own, *self.fixed, *self.initial_scalars(self.defaults)]
            self.__dict__["_names_of_rule"] = names
        return names

    def update(self, group: Group, batch: Batch, h: SimpleNamespace, t: int) -> None:
        """Make the t-th update of parameters of a group and of their states.

        Args:
            group: their hyperparameters.
            batch: the parameters.
            h: scalars and options.
            t: the number of the update.
        """
        raise NotImplementedError

    def update_shards(self, group: Group, batch: Batch, h: SimpleNamespace, t: int) -> Steps:
        """The same for parameters that are spread over processes, all with `batch.sharding`.

        It yields what it needs from other processes; see `lit_optim.sharding`.
        """
        raise NotImplementedError

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; the gradients are not written."""
        check_first_step(self)
        loss = None
        if closure is not None:
            with nullcontext() if torch.is_grad_enabled() else torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            if closure is not None or not self.is_initializing():
                run_together(self._begin_groups())
                return loss
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        self._ensure_state(p, group)
        return None

    def _begin_groups(self) -> Iterator[Steps]:
        for group in self.param_groups:
            owner = self.owner(group)
            if not owner.repeat_step(group):
                yield from owner.begin_step(group)

    def repeat_step(self, group: Group) -> bool:
        """Make the step of a group as the one before, if it can be; see `repeats`."""
        return False

    @torch.no_grad()
    def step_parameters(self, group: Group, params: list[Tensor]) -> None:
        """Update some parameters of a group, as `step` updates all that have a gradient.

        Args:
            group: one of the optimizer's.
            params: some of its `stacks`.
        """
        check_first_step(self)
        run_together(self.owner(group).begin_step(group | {"params": params}))

    def stacks(self, group: Group) -> list[list[Tensor]]:
        """The parameters of a group, divided into those that are updated together."""
        return [[p] for p in group["params"]]

    def owner(self, group: Group) -> OptimizerBase:
        """The optimizer that steps this group: itself, or a part of it."""
        return self

    def begin_step(self, group: Group) -> Iterator[Steps]:
        """The parts of a step of a group: together they update each parameter with a gradient."""
        if isinstance(group["lr"], Tensor):
            group = group | {"lr": float(group["lr"])}
        kept = list(self.initial_scalars(group))
        pairs = [(p, g) for p in group["params"] if (g := p.grad) is not None]
        params, grads = [p for p, _ in pairs], [g for _, g in pairs]
        states = list(map(self.state.__getitem__, params))
        if not all(state.get("step") for state in states):
            states = [self._get_state(p, group) for p in params]
        for batch in self._split_by_step(group, Batch(params, grads, states), kept):
            yield self._step_batch(group, batch, kept)

    def _get_state(self, p: Tensor, group: Group) -> dict[str, Any]:
        state = self.state[p]
        # one that was only made for a checkpoint to be loaded is made again, with the present lr
        return (
            state if state.get("step") or (state and self.collects_first) else self.start(p, group)
        )

    def _split_by_step(self, group: Group, batch: Batch, kept: list[str]) -> list[Batch]:
        """Batches within which all scalars and shardings are equal; most often there is one."""
        keys = [state["step"] for state in batch.states]
        shardings: list[Sharding | None] = [None] * len(batch.params)
        if not set(map(type, batch.params)).issubset(PLAIN_TENSORS):
            shardings = [Sharding.of(p) for p in batch.params]
        by_shape = group["hyperball"] or self.vector_hyperparameters(group) is not group
        if kept or by_shape or any(shardings):
            keys = [
                (state["step"], where, by_shape and p.ndim > 1, *[state[name] for name in kept])
                for p, state, where in zip(batch.params, batch.states, shardings, strict=True)
            ]
        if len(set(keys)) == 1:
            batch.sharding = shardings[0]
            return [batch]
        kinds: dict[Any, list[int]] = {}
        for i, key in enumerate(keys):
            kinds.setdefault(key, []).append(i)
        batches = []
        for places in kinds.values():
            batches.append(batch.select(places))
            batches[-1].sharding = shardings[places[0]]
        return batches

    def _step_batch(self, group: Group, batch: Batch, kept: list[str]) -> Steps:
        p, state = batch.params[0], batch.states[0]
        group, t = self.hyperparameters_for(p, group), state["step"] + 1
        if kept:
            group = group | {name: state[name] for name in kept}
        a, b = self.coefficients(group, t)
        l2 = group.get("weight_decay", 0.0) if self.is_coupled(group) else 0.0
        on_ball, wd = group["hyperball"] and p.ndim > 1, (1.0 - a) / b if b else 0.0
        scalars = self.rule_scalars(group)
        scalars.update(self.scalars(group, t))
        scalars.update(option_scalars(group, b))
        scalars.update(a=a, b=b, wd=wd, l2=l2, coupled=l2 != 0, on_ball=on_ball)
        if batch.sharding is None:
            self.update(group, batch, SimpleNamespace(**scalars), t)
        else:
            yield from self.update_shards(group, batch, SimpleNamespace(**scalars), t)
        if kept:
            after = self.next_scalars(group, t)
            for state in batch.states:
                state.update(after)
        for state in batch.states:
            state["step"] = t

    def start(self, p: Tensor, group: Group) -> dict[str, Any]:
        """Create the state of p.

        Raises:
            RuntimeError: its gradient is sparse, or its dtype is not a floating-point one.
            ValueError: hyperball should keep its norm, which is 0.
        """
        if p.grad is not None:
            self.reject_sparse(p.grad)
        if not (p.is_floating_point() or p.is_complex()):
            kind = str(p.dtype).removeprefix("torch.")
            raise RuntimeError(f"{type(self).__name__} does not take {kind} parameters")
        if group["hyperball"] and p.ndim > 1 and p.numel() and not has_nonzero(p):
            raise UsageError(
                f"hyperball=True keeps the norm of a matrix, so one of shape {list(p.shape)} that "
                "is all 0 would never move: initialize it, or leave it to another group"
            )
        state: dict[str, Any] = self.state[p]
        state["step"] = 0
        group = self.hyperparameters_for(p, group)
        state.update(self.initial_scalars(group))
        state.update(self.new_state(p, group))
        return state

    def reject_sparse(self, g: Tensor) -> None:
        """Raise an error for a sparse gradient that the optimizer does not take."""
        is_taken = self.takes_sparse and g.layout is torch.sparse_coo
        if g.layout is not torch.strided and not is_taken:
            raise RuntimeError(
                f"{type(self).__name__} does not support sparse gradients; set sparse=False on "
                "the layer"
            )

    def reject_native(self, reason: str | None) -> NoReturn:
        """Raise the error of executor=native where that is impossible."""
        raise UsageError(f"executor=native: {type(self).__name__} cannot: {reason}")

    def log_executor(self, total: int, in_torch: int, reason: str | None) -> None:
        """Log how many parameters have native kernels, at first and when that changes.

        Args:
            total: the number of parameters.
            in_torch: how many of them torch steps.
            reason: why torch steps these.
        """
        if self.__dict__.get("_logged") != bool(in_torch):
            self.__dict__["_logged"] = bool(in_torch)
            label = self.__dict__.get("label", type(self).__name__)
            line = f"{label}: native kernels"
            if in_torch:
                line += f" for {total - in_torch} of {total} parameters"
                line += f"; torch for the others, because {reason}"
            LOG.info(line)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group.

        Raises:
            ValueError: a key is not a hyperparameter of this optimizer, or out of range.
        """
        group = check_group(self, param_group)
        for key, value in self.defaults.items():
            group.setdefault(key, value)
        self.check_hyperparameters(group)
        self._set_null_lr(group)
        super().add_param_group(group)
        group = self.param_groups[-1]
        if any(p.is_complex() for p in group["params"]):
            self._check_complex(group)
        own_step = type(self).coefficients is not OptimizerBase.coefficients
        decoupled = "weight_decay" in group and not self.is_coupled(group)
        check_options(type(self).__name__, group, own_step, decoupled)

    def _set_null_lr(self, group: Group) -> None:
        if "lr" in group and group["lr"] is None:
            group["lr"] = self.lr_if_null

    def _check_complex(self, group: Group) -> None:
        if not self.takes_complex:
            label = next(label for label, p in label_parameters(group) if p.is_complex())
            raise UsageError(
                f"{type(self).__name__} does not support complex parameters, such as {label}"
            )
        for key in ("state_dtype", "master"):
            if group[key] != OPTIONS[key]:
                raise UsageError(
                    f"{key}={group[key]} is for real parameters, and these are complex"
                )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch has just put it there
        for group in self.param_groups:  # an older state dict may lack a hyperparameter
            for key, value in self.owner(group).defaults.items():
                group.setdefault(key, value)
            self._set_null_lr(group)  # transformers' Adafactor saves it


def zeros_for(p: Tensor) -> Tensor:
    """A state of zeros for a parameter, in the dtype of its computation."""
    return torch.zeros_like(p, dtype=compute_dtype(p))
