"""The base walks, the algorithm points.

The walk owns everything that is no algorithm's own: the loop over groups and parameters, the step
count of each parameter, weight decay, p = a p − b u, and the state dict. What the direction u is,
`elementwise` and `tensorwise` ask of the algorithm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, TypedDict

import torch
from torch import Tensor

from lit_optim.errors import UsageError
from lit_optim.hyperparameters import check, hints_of
from lit_optim.kernels.arithmetic import where
from lit_optim.optimizers.groups import BOOKKEEPING, accepted

#: Keys of torch's groups that say how it computes, not what; the last one is AdamW's usual.
TORCHS_OWN = {"foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"}

#: The scalars of a rule, and a and b of p = a p − b u.
Prepared = tuple[SimpleNamespace, float, float]
#: A parameter, its gradient and its state.
Member = tuple[Tensor, Tensor, dict[str, Any]]


class Options(TypedDict, total=False):
    """What every optimizer takes beside its own arguments.

    executor: who computes: native, compiled kernels; torch, without a compiler; auto, native where
        that can be.
    maximize: climb instead of descend.
    decay: how a decoupled weight decay follows the lr. decoupled: lr * weight_decay, as in AdamW;
        independent: (lr / peak) * weight_decay, so that the lr does not set its strength;
        corrected: (lr² / peak) * weight_decay, for layers that a norm follows (Defazio 2025, Why
        Gradients Rapidly Increase Near the End of Training, arXiv:2506.02285). The peak is the lr
        that the group was given, before any schedule.
    cautious_weight_decay: decay only coordinates that the update moves towards zero, or not at all:
        u p >= 0 (Chen et al. 2025, Cautious Weight Decay, arXiv:2510.12402, Alg. 1).
    """

    executor: Literal["auto", "native", "torch"]
    maximize: bool
    decay: Literal["decoupled", "independent", "corrected"]
    cautious_weight_decay: bool


OPTIONS: Options = {
    "executor": "auto",
    "maximize": False,
    "decay": "decoupled",
    "cautious_weight_decay": False,
}


class Walk(torch.optim.Optimizer):
    """What all our optimizers share.

    A subclass names its hyperparameters in `__init__`, with their ranges as annotations, and
    passes them on.
    """

    #: True where the paper adds weight_decay * p to the gradient; decoupled decay otherwise. A
    #: hyperparameter `decoupled_weight_decay` lets the user choose.
    coupled_weight_decay: ClassVar[bool] = False
    #: Hyperparameters of a base class that are not left to the user, and what they are.
    fixed: ClassVar[dict[str, Any]] = {}

    def __init__(self, params: Iterable[Any], **hyper: Any) -> None:
        known = hints_of(type(self).__init__).keys() | self.fixed.keys()
        for key in hyper.keys() - known:
            raise TypeError(f"{type(self).__name__} got an unexpected keyword argument {key!r}")
        check(type(self).__init__, hyper)
        super().__init__(params, hyper | {k: v for k, v in OPTIONS.items() if k not in hyper})

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
            peak = group.get("initial_lr", group["lr"])
            strength *= (b if group["decay"] == "corrected" else 1.0) / peak
        return 1.0 - strength * group.get("weight_decay", 0.0), b

    def couples(self, group: dict[str, Any]) -> bool:
        """Whether weight decay goes through the gradient."""
        return self.coupled_weight_decay and not group.get("decoupled_weight_decay", False)

    def new_state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """The tensors kept for p, by torch's names, before its first update."""
        raise NotImplementedError

    def update(self, group: dict[str, Any], members: list[Member], prepared: Prepared) -> None:
        """One update of parameters of a group that are at the same step, and of their tensors."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; the gradients are not written."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            first = self.carried(group)
            alike: dict[tuple[float, ...], list[Member]] = {}
            for p in group["params"]:
                g = p.grad
                if g is not None:
                    state = self.state[p] or self.start(p, group)
                    key = (state["step"] + 1, *[state[name] for name in first])
                    alike.setdefault(key, []).append((p, g, state))
            for (t, *numbers), members in alike.items():  # most parameters share their step
                t, carried = int(t), dict(zip(first, numbers, strict=True))
                self.update(group, members, self._prepare(group, t, carried))
                after = self.carry(group, t, carried) | {"step": t}
                for _, _, state in members:
                    state.update(after)
        return loss

    def _prepare(self, group: dict[str, Any], t: int, carried: dict[str, float]) -> Prepared:
        a, b = self.coefficients(group, t, carried)
        l2 = group.get("weight_decay", 0.0) if self.couples(group) else 0.0
        h = SimpleNamespace(**self.scalars(group, t, carried), l2=l2, coupled=l2 != 0)
        h.maximize, h.cautious = group["maximize"], bool(group["cautious_weight_decay"] and b)
        if h.cautious:  # what a would do to all coordinates, the direction does to some
            h.shrink, a = (1.0 - a) / b, 1.0
        return h, a, b

    def start(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Give p its state.

        Raises:
            RuntimeError: its gradient is sparse, or it is complex.
        """
        if p.grad is not None and p.grad.is_sparse:
            raise RuntimeError(
                f"{type(self).__name__} takes no sparse gradients; set sparse=False on the layer"
            )
        if p.is_complex():
            raise RuntimeError(f"{type(self).__name__} does not take complex parameters")
        state: dict[str, Any] = self.state[p]
        state["step"] = 0
        state.update(self.carried(group))
        state.update(self.new_state(p, group))
        return state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; a key that is no hyperparameter of this optimizer is refused.

        Raises:
            ValueError: naming the key and what is allowed.
        """
        super().add_param_group(accepted(self, param_group))
        group = self.param_groups[-1]
        own = type(self).coefficients is not Walk.coefficients  # it decays in a way of its own
        if own or self.couples(group) or "weight_decay" not in group:
            for key in ("decay", "cautious_weight_decay"):
                if group[key] != OPTIONS[key]:
                    raise UsageError(
                        f"{key}={group[key]} is for decoupled weight decay, "
                        f"which {type(self).__name__} does not have"
                    )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load ours or torch's state dict of the same algorithm, states at their own precision."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            self._drop_foreign(group)
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
            numbers = self.carried(group)
            for name, value in saved.items():
                if name in numbers:
                    state[name] = float(value)
                elif isinstance(value, Tensor):
                    # torch casts states to the parameter's dtype: bfloat16 would lose them
                    state[name] = value.to(p.device, wide(p), copy=True)

    def _drop_foreign(self, group: dict[str, Any]) -> None:
        """Leave out of a loaded group what torch has and we do not; refuse what would matter."""
        for key in set(group) - set(self.defaults) - BOOKKEEPING:
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
            for key, value in self.defaults.items():
                group.setdefault(key, value)


def decayed(u: Any, p: Any, h: Any) -> Any:
    """The direction with a cautious weight decay in it, where that is asked for."""
    return u + h.shrink * where(u * p >= 0, p, 0.0) if h.cautious else u


def wide(p: Tensor) -> torch.dtype:
    """What we compute and keep states in: at least float32."""
    return torch.float64 if p.dtype == torch.float64 else torch.float32
