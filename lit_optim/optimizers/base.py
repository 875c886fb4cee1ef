"""The base walks, the algorithm points.

An algorithm gives a rule in scalar arithmetic: from gradient, parameter and old states to a
direction u and new states. The base owns everything else: the loop over groups and parameters,
the step count of each parameter, weight decay, p = a p − b u, and the state dict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lit_optim.errors import UsageError
from lit_optim.hyperparameters import check
from lit_optim.kernels import torch_executor

#: Keys of a param group that are no hyperparameters.
BOOKKEEPING = {"params", "name", "param_names", "initial_lr"}
#: Keys of torch's groups that say how it computes, not what; the last one is AdamW's usual.
TORCHS_OWN = {"foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"}


@dataclass(frozen=True)
class State:
    """A tensor that the optimizer keeps for each parameter, of the parameter's shape."""

    kind: Literal["signed", "non-negative", "weight-like"] = "signed"
    initial: float = 0.0


class Elementwise(torch.optim.Optimizer):
    """An optimizer whose rule looks at one coordinate at a time.

    A subclass names its hyperparameters in `__init__`, with their ranges as annotations, and
    passes them on; it declares `states` and writes `scalars` and `rule`.
    """

    #: True where the paper adds weight_decay * p to the gradient; decoupled decay otherwise.
    coupled_weight_decay: ClassVar[bool] = False

    def __init__(self, params: Iterable[Any], **hyper: Any) -> None:
        check(type(self).__init__, hyper)
        super().__init__(params, hyper)

    def states(self, group: dict[str, Any]) -> dict[str, State]:
        """The states of a parameter of this group, by torch's names for them."""
        raise NotImplementedError

    def scalars(self, group: dict[str, Any], t: int) -> dict[str, Any]:
        """What the rule needs to know on the t-th update of a parameter (t = 1, 2, ...)."""
        raise NotImplementedError

    def rule(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:
        """The algorithm, pure: old states `s` in, direction u and new states out.

        Python `if` only on the bools of `h`, which stay the same for a group; never on a number
        that a tensor carries.
        """
        raise NotImplementedError

    def effective_lr(self, group: dict[str, Any], t: int) -> float:
        """B of p = a p − b u on the t-th update: lr, unless the algorithm scales it itself."""
        return float(group["lr"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; the gradients are not written."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            prepared: dict[int, tuple[SimpleNamespace, float, float]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p] or self._start(p, group)
                state["step"] = t = state["step"] + 1
                if t not in prepared:  # most parameters share their step
                    prepared[t] = self._prepare(group, t)
                tensors = {name: state[name] for name in self.states(group)}
                torch_executor.step(self._direction, p, p.grad, tensors, *prepared[t])
        return loss

    def _prepare(self, group: dict[str, Any], t: int) -> tuple[SimpleNamespace, float, float]:
        b = self.effective_lr(group, t)
        decay = group.get("weight_decay", 0.0)
        h = SimpleNamespace(
            **self.scalars(group, t), l2=decay if self.coupled_weight_decay else 0.0
        )
        return h, (1.0 if self.coupled_weight_decay else 1.0 - b * decay), b

    def _direction(self, g: Any, p: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:
        return self.rule(g + h.l2 * p if h.l2 else g, p, s, h)

    def _start(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        if p.grad is not None and p.grad.is_sparse:
            raise RuntimeError(
                f"{type(self).__name__} takes no sparse gradients; set sparse=False on the layer"
            )
        if p.is_complex():
            raise RuntimeError(f"{type(self).__name__} does not take complex parameters")
        state: dict[str, Any] = self.state[p]
        state["step"] = 0
        for name, declared in self.states(group).items():
            state[name] = torch.full_like(p, declared.initial, dtype=_state_dtype(p))
        return state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; a key that is no hyperparameter of this optimizer is refused.

        Raises:
            ValueError: naming the key and what is allowed.
        """
        hyper = {key: value for key, value in param_group.items() if key not in BOOKKEEPING}
        for key in hyper:
            if key not in self.defaults:
                allowed = ", ".join(self.defaults)
                raise UsageError(
                    f"{type(self).__name__} has no {key!r}; a param group may set {allowed}"
                )
        check(type(self).__init__, hyper)
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load ours or torch's state dict of the same algorithm, states at their own precision."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            self._drop_foreign(group)
        saved_ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(saved_ids, params, strict=True):
            saved = {k: v for k, v in state_dict["state"].get(i, {}).items() if v is not None}
            if not saved:
                self.state.pop(p, None)
                continue
            # torch's SGD keeps no count: a state that exists has been stepped at least once
            self.state[p]["step"] = int(saved.get("step", 1))
            for name, value in saved.items():
                if name != "step" and isinstance(value, Tensor):
                    # torch casts states to the parameter's dtype: bfloat16 would lose them
                    self.state[p][name] = value.to(p.device, _state_dtype(p), copy=True)

    def _drop_foreign(self, group: dict[str, Any]) -> None:
        """Leave out of a loaded group what torch has and we do not; refuse what would matter."""
        for key in set(group) - set(self.defaults) - BOOKKEEPING:
            value = group.pop(key)
            coupled = key == "decoupled_weight_decay" and self.coupled_weight_decay
            if (value and key not in TORCHS_OWN) or (value and coupled):
                raise UsageError(f"{type(self).__name__} has no {key}, but the state has {value!r}")

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # an older state dict may lack a hyperparameter
            for key, value in self.defaults.items():
                group.setdefault(key, value)


def _state_dtype(p: Tensor) -> torch.dtype:
    return torch.float64 if p.dtype == torch.float64 else torch.float32
