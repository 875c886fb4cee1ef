"""Optimizers as other people write them: what they leave behind does not tell what they did."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch.optim import Optimizer


class Consumes(torch.optim.SGD):
    """Leaves no gradient, as heavyball's do."""

    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None
        return loss


class Hookless(Optimizer):
    """Never runs `Optimizer.__init__`, as timm's Lookahead does not; its hooks do not exist."""

    def __init__(self, params, lr):
        self._inner = torch.optim.SGD(params, lr=lr)
        self.defaults = self._inner.defaults
        self.state = defaultdict(dict)

    @property
    def param_groups(self):
        return self._inner.param_groups

    def step(self, closure=None):
        return self._inner.step(closure)

    def zero_grad(self, set_to_none=True):
        self._inner.zero_grad(set_to_none)


class Calls(torch.optim.SGD):
    """Calls the closure itself, then the step of its base, whose hooks run once more."""

    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        super().step()
        return loss


class InBackward(Optimizer):
    """LOMO: updates in the backward pass, and has a `step` that does nothing."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})
        for p in self.all():
            p.register_post_accumulate_grad_hook(self._update)

    def all(self):
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def _update(self, p):
        p.data.add_(p.grad, alpha=-self.param_groups[0]["lr"])
        p.grad = None

    def step(self, closure=None):
        return None if closure is None else closure()


class InTensorHooks(InBackward):
    """The first LOMO: each hook updates the parameters whose gradients came before it."""

    def __init__(self, params, lr):
        Optimizer.__init__(self, params, {"lr": lr})
        for p in self.all():
            p.register_hook(self._flush)

    def _flush(self, g):
        for p in self.all():
            if p.grad is not None:
                self._update(p)
        return g

    def step(self, closure=None):
        loss = None if closure is None else closure()
        self._flush(None)  # the last ones
        return loss


class StepsParameters(torch.optim.SGD):
    """optimi's gradient release: hooks call `step(param=p)`; `step()` does nothing."""

    def __init__(self, params, lr):
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            for p in group["params"]:
                p.register_post_accumulate_grad_hook(lambda p: self.step(param=p))

    def step(self, closure=None, param=None):
        if param is not None:
            param.data.add_(param.grad, alpha=-self.param_groups[0]["lr"])
            param.grad = None
        return None if closure is None else closure()


def clears_in_a_hook(params, lr):
    """SGD with a user's hook that clears the gradients after every step."""
    optimizer = torch.optim.SGD(params, lr=lr)
    optimizer.register_step_post_hook(lambda opt, args, kwargs: opt.zero_grad())
    return optimizer


def replaced_step(params, lr):
    """SGD whose `step` a user has replaced by a plain function."""
    optimizer = torch.optim.SGD(params, lr=lr)
    step = optimizer.step
    optimizer.step = lambda *args, **kwargs: step(*args, **kwargs)
    return optimizer


#: All of them do what SGD does.
OTHERS = {
    "torch": torch.optim.SGD,
    "fused": lambda params, lr: torch.optim.SGD(params, lr=lr, fused=True),
    "consumes": Consumes,
    "hookless": Hookless,
    "calls": Calls,
    "clears_in_a_hook": clears_in_a_hook,
    "replaced_step": replaced_step,
    "in_backward": InBackward,
    "in_tensor_hooks": InTensorHooks,
    "in_steps_of_parameters": StepsParameters,
}
