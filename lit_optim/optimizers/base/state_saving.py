"""Makes the state dict of an optimizer, which any number of processes can load."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_optim.optimizers.base.types import Group
from lit_optim.sharding import are_zero, is_sharded
from lit_optim.torch_hooks import (
    run_save_post_hooks,
    run_save_pre_hooks,
    without_hooks,
)


class StateSaving(torch.optim.Optimizer):
    """The part of `OptimizerBase` that makes a state dict."""

    #: Whether parameters that were never updated have states in the state dict, as torch's do.
    saves_unstepped: ClassVar[bool] = False

    def owner(self, group: Group) -> Any:
        """The optimizer that steps this group: itself, or a part of it."""
        return self

    def start(self, p: Tensor, group: Group) -> dict[str, Any]:
        """Create the state of p."""
        raise NotImplementedError

    def spread_states(self, p: Tensor, group: Group, state: dict[str, Any]) -> dict[str, Any]:
        """The state of p as a state dict has it: what any number of processes can read.

        Where p is spread over processes, all of them call it, and tensors that they have a part of
        are DTensors in it.
        """
        return state

    @torch.no_grad()
    def state_dict(self) -> dict[str, Any]:
        """The states and the groups, in torch's form.

        Where parameters are spread over processes, all of them have to call it.
        """
        run_save_pre_hooks(self)
        members = [(p, group) for group in self.param_groups for p in group["params"]]
        for p, group in members:
            # torch.distributed.checkpoint loads only what has a place in the state dict
            if self.saves_unstepped or (is_sharded(p) and p.requires_grad):
                self._ensure_state(p, group)
        with without_hooks(self):
            saved = super().state_dict()
        states = saved["state"]
        for i, (p, group) in enumerate(members):
            if i in states:
                states[i] = self.owner(group).spread_states(p, group, states[i])
        return run_save_post_hooks(self, saved)

    def is_initializing(self) -> bool:
        """Whether a step is to make the states only, as torch.distributed.checkpoint does it.

        It is the first one, all lrs and all gradients are 0, and there are no states yet.
        """
        if self.state or any(float(group["lr"]) for group in self.param_groups):
            return False
        params = [p for group in self.param_groups for p in group["params"]]
        grads = [p.grad for p in params if p.grad is not None]
        return bool(grads) and all(g.layout is torch.strided for g in grads) and are_zero(grads)

    def _ensure_state(self, p: Tensor, group: Group) -> None:
        if not self.state.get(p) and (p.is_floating_point() or p.is_complex()):
            self.owner(group).start(p, group)
