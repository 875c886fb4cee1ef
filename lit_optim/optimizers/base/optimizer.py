"""The base walks, the algorithm points.

The walk owns everything that is no algorithm's own: the loop over groups and parameters, the step
count of each parameter, weight decay, p = a p − b u, and the state dict. What the direction u is,
`elementwise` and `tensorwise` ask of the algorithm.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from lit_optim.errors import UsageError
from lit_optim.hyperparameters import check, hints_of, plain, plain_values
from lit_optim.kernels.precision import compute_dtype
from lit_optim.optimizers.base import options
from lit_optim.optimizers.base.groups import BOOKKEEPING, accepted, is_hyperparameter
from lit_optim.optimizers.base.options import HOW, OPTIONS
from lit_optim.requirements import Need

LOG = logging.getLogger("lit_optim")

#: Keys of torch's groups that say how it computes, not what; the last one is AdamW's usual.
TORCHS_OWN = {"foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"}


@dataclass
class Batch:
    """Parameters of a group that are at the same step, their gradients and their states."""

    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)

    def part(self, members: list[int]) -> Batch:
        """Those at these places."""
        columns = self.params, self.grads, self.states
        return Batch(*([column[i] for i in members] for column in columns))  # type: ignore[arg-type]

    def column(self, name: str) -> list[Tensor]:
        """A state of each of them."""
        return [state[name] for state in self.states]

    def steps(self, t: int) -> list[Tensor]:
        """The counts of t - 1 updates as torch keeps them."""
        return list(torch.full((len(self.params),), t - 1.0, device=self.params[0].device))


class OptimizerBase(torch.optim.Optimizer):
    """What all our optimizers share.

    A subclass names its hyperparameters in `__init__`, with their ranges as annotations, and
    passes them on.
    """

    #: True where the paper adds weight_decay * p to the gradient; decoupled decay otherwise. A
    #: hyperparameter `decoupled_weight_decay` lets the user choose.
    coupled_weight_decay: ClassVar[bool] = False
    #: Hyperparameters of a base class that are not left to the user, and what they are.
    fixed: ClassVar[dict[str, Any]] = {}
    #: What it asks of those who use it, as `requirements` explains.
    needs: ClassVar[tuple[Need, ...]] = ("dense",)
    #: Whether gradients may be sparse: coordinates without an entry then stay as they are.
    takes_sparse: ClassVar[bool] = False
    #: Whether parameters may be complex: each is then two real ones.
    takes_complex: ClassVar[bool] = False
    #: Where a search for its lr looks.
    lr_range: ClassVar[tuple[float, float]] = (1e-4, 1e-1)

    def __init__(self, params: Iterable[Any], **hyper: Any) -> None:
        known = hints_of(type(self).__init__).keys() | self.fixed.keys()
        for key in hyper.keys() - known:
            raise TypeError(f"{type(self).__name__} got an unexpected keyword argument {key!r}")
        check(type(self).__init__, hyper)
        hyper = plain_values(hyper)
        super().__init__(params, hyper | {k: v for k, v in OPTIONS.items() if k not in hyper})
        self._check_masters()

    def _check_masters(self) -> None:
        dtypes = {p.dtype for g in self.param_groups if g["master"] != "none" for p in g["params"]}
        if dtypes and torch.bfloat16 not in dtypes:
            names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
            raise UsageError(f"master=split is for bfloat16 parameters, these are {names}")

    def scalars(self, group: dict[str, Any], t: int, carried: dict[str, float]) -> dict[str, Any]:
        """What the rule needs to know on the t-th update of a parameter (t = 1, 2, ...)."""
        raise NotImplementedError

    def carried(self, group: dict[str, Any]) -> dict[str, float]:
        """Numbers kept for each parameter beside its tensors, as they are before the first update.

        Only for what is no closed form of t, such as a product over past hyperparameters.
        """
        return {}

    def carry(self, group: dict[str, Any], t: int, carried: dict[str, float]) -> dict[str, float]:
        """`carried` after the t-th update."""
        return {}

    def effective_lr(self, group: dict[str, Any], t: int, carried: dict[str, float]) -> float:
        """The step size of the t-th update: lr, unless the algorithm scales it itself."""
        return float(group["lr"])

    def coefficients(
        self, group: dict[str, Any], t: int, carried: dict[str, float]
    ) -> tuple[float, float]:
        """A and b of p = a p − b u on the t-th update."""
        b = self.effective_lr(group, t, carried)
        if self.couples(group):
            return 1.0, b
        strength = b
        if group["decay"] != "decoupled":
            peak = peak_lr(group)
            strength *= (b if group["decay"] == "corrected" else 1.0) / peak if peak else 0.0
        return 1.0 - strength * group.get("weight_decay", 0.0), b

    def couples(self, group: dict[str, Any]) -> bool:
        """Whether weight decay goes through the gradient."""
        return self.coupled_weight_decay and not group.get("decoupled_weight_decay", False)

    def for_vectors(self, group: dict[str, Any]) -> dict[str, Any]:
        """The hyperparameters of what is no matrix; the group itself unless the paper has others.

        They may hold further keys: whatever is asked for vectors and scalars is asked with these.
        """
        return group

    def seen_by(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """The hyperparameters of a parameter."""
        return group if p.ndim > 1 else self.for_vectors(group)

    def new_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """The tensors kept for p, by torch's names, before its first update."""
        raise NotImplementedError

    def update(self, group: dict[str, Any], batch: Batch, h: SimpleNamespace, t: int) -> None:
        """The t-th update of parameters of a group and of their tensors; h: scalars and options."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; the gradients are not written."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self.owner(group).step_group(group)
        return loss

    def owner(self, group: dict[str, Any]) -> OptimizerBase:
        """Who steps this group: another one where several optimizers are one."""
        return self

    def step_group(self, group: dict[str, Any]) -> None:
        """Update every parameter of a group that has a gradient."""
        names = list(self.carried(group))
        found = [(p, g) for p in group["params"] if (g := p.grad) is not None]
        params, grads = [p for p, _ in found], [g for _, g in found]
        states = [self.state[p] or self.start(p, group) for p in params]
        batch = Batch(params, grads, states)
        for alike in self._alike(group, batch, names):
            self._step_batch(group, alike, names)

    def _alike(self, group: dict[str, Any], batch: Batch, names: list[str]) -> list[Batch]:
        """The batch in parts for which all numbers are the same; mostly it is one."""
        keys = [state["step"] for state in batch.states]
        apart = group["hyperball"] or self.for_vectors(group) is not group
        if names or apart:
            keys = [
                (state["step"], apart and p.ndim > 1, *[state[name] for name in names])
                for p, state in zip(batch.params, batch.states, strict=True)
            ]
        if len(set(keys)) == 1:
            return [batch]
        kinds: dict[Any, list[int]] = {}
        for i, key in enumerate(keys):
            kinds.setdefault(key, []).append(i)
        return [batch.part(members) for members in kinds.values()]

    def _step_batch(self, group: dict[str, Any], batch: Batch, names: list[str]) -> None:
        one, group = batch.states[0], self.seen_by(batch.params[0], group)
        t, carried = one["step"] + 1, {name: one[name] for name in names}
        a, b = self.coefficients(group, t, carried)
        l2 = group.get("weight_decay", 0.0) if self.couples(group) else 0.0
        walks = options.switches(group, b) | {"l2": l2, "coupled": l2 != 0}
        walks["on_ball"] = group["hyperball"] and batch.params[0].ndim > 1
        walks |= {"a": a, "b": b, "wd": (1.0 - a) / b if b else 0.0}
        h = SimpleNamespace(**self.scalars(group, t, carried), **walks)
        self.update(group, batch, h, t)
        if names:
            after = self.carry(group, t, carried)
            for state in batch.states:
                state.update(after)
        for state in batch.states:
            state["step"] = t

    def start(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Give p its state.

        Raises:
            RuntimeError: its gradient is sparse, or it is no floating-point number.
            ValueError: hyperball is to keep its norm, which is 0.
        """
        if p.grad is not None:
            self.refuse_sparse(p.grad)
        if not (p.is_floating_point() or p.is_complex()):
            kind = str(p.dtype).removeprefix("torch.")
            raise RuntimeError(f"{type(self).__name__} does not take {kind} parameters")
        if group["hyperball"] and p.ndim > 1 and p.numel() and not p.any():
            raise UsageError(
                f"hyperball=True keeps the norm of a matrix, so one of shape {list(p.shape)} that "
                "is all 0 would never move: initialize it, or leave it to another group"
            )
        state: dict[str, Any] = self.state[p]
        state["step"] = 0
        group = self.seen_by(p, group)
        state.update(self.carried(group))
        state.update(self.new_state(p, group))
        return state

    def refuse_sparse(self, g: Tensor) -> None:
        """Raise if a gradient is sparse, and the optimizer does not take it."""
        taken = self.takes_sparse and g.layout is torch.sparse_coo
        if g.layout is not torch.strided and not taken:
            raise RuntimeError(
                f"{type(self).__name__} takes no sparse gradients; set sparse=False on the layer"
            )

    def refuse(self, why_not: str | None) -> NoReturn:
        """Refuse executor=native, which cannot be."""
        raise UsageError(f"executor=native: {type(self).__name__} cannot: {why_not}")

    def tell(self, all_: int, others: int, why_not: str | None) -> None:
        """One line about who steps what; again only where that changes."""
        if self.__dict__.get("_told") != bool(others):
            self.__dict__["_told"] = bool(others)
            label = self.__dict__.get("label", type(self).__name__)
            line = f"{label}: native kernels"
            if others:
                line += f" for {all_ - others} of {all_} parameters"
                line += f"; torch for the others, because {why_not}"
            LOG.info(line)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; a key that is no hyperparameter of this optimizer is refused.

        Raises:
            ValueError: naming the key and what is allowed.
        """
        super().add_param_group(accepted(self, param_group))
        group = self.param_groups[-1]
        if any(p.is_complex() for p in group["params"]):
            self._check_complex(group)
        own = (
            type(self).coefficients is not OptimizerBase.coefficients
        )  # it steps in a way of its own
        decoupled = "weight_decay" in group and not self.couples(group)
        options.refuse(type(self).__name__, group, own, decoupled)

    def _check_complex(self, group: dict[str, Any]) -> None:
        if not self.takes_complex:
            raise UsageError(f"{type(self).__name__} takes no complex parameters")
        for key in ("state_dtype", "master"):
            if group[key] != OPTIONS[key]:
                raise UsageError(
                    f"{key}={group[key]} is for real parameters, and these are complex"
                )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load ours or torch's state dict of the same algorithm, states at their own precision."""
        how = [{key: group[key] for key in HOW} for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, kept in zip(self.param_groups, how, strict=True):
            group.update(kept)
            group.update({k: plain(v) for k, v in group.items() if k != "params"})
            self.owner(group)._drop_foreign(group)
        saved_ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        owners = [(p, group) for group in self.param_groups for p in group["params"]]
        for i, (p, group) in zip(saved_ids, owners, strict=True):
            saved = {k: v for k, v in state_dict["state"].get(i, {}).items() if v is not None}
            if not saved:
                self.state.pop(p, None)
                continue
            # torch's SGD keeps no count: a state that exists has been stepped at least once
            state: dict[str, Any] = {"step": int(saved.pop("step", 1))}
            self.state[p] = state
            owner = self.owner(group)
            numbers = {name for name in owner.carried(group) if name in saved}
            state.update({name: float(saved.pop(name)) for name in numbers})
            tensors = {name: value for name, value in saved.items() if isinstance(value, Tensor)}
            state.update(owner.loaded(p, owner.seen_by(p, group), tensors))

    def loaded(
        self, p: Tensor, group: dict[str, Any], saved: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The tensors kept for p, from a saved state."""
        # torch casts states to the parameter's dtype: bfloat16 would lose them
        return {
            name: value.to(p.device, compute_dtype(p), copy=True) for name, value in saved.items()
        }

    def _drop_foreign(self, group: dict[str, Any]) -> None:
        """Leave out of a loaded group what torch has and we do not; refuse what would matter.

        What is no hyperparameter stays: schedulers keep their own there.
        """
        for key in set(group) - set(self.defaults) - BOOKKEEPING:
            if key not in TORCHS_OWN and not is_hyperparameter(key):
                continue
            value = group.pop(key)
            coupled = key == "decoupled_weight_decay" and self.coupled_weight_decay
            if (value and key not in TORCHS_OWN) or (value and coupled):
                raise UsageError(f"{type(self).__name__} has no {key}, but the state has {value!r}")
        for key, value in self.fixed.items():
            if group[key] != value:
                raise UsageError(
                    f"{type(self).__name__} has {key}={value}, but the state has {group[key]!r}"
                )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch has just put it there
        for group in self.param_groups:  # an older state dict may lack a hyperparameter
            for key, value in self.owner(group).defaults.items():
                group.setdefault(key, value)


def peak_lr(group: dict[str, Any]) -> float:
    """The lr that the group was given, before any schedule; 0 only where the lr is 0 too."""
    return float(group.get("initial_lr") or group["lr"])


def power(base: float, exponent: float) -> float:
    """The power, infinite where Python raises OverflowError."""
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf
