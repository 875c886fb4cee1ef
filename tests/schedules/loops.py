"""Parts of training loops in which a schedule is compared with torch's."""

from __future__ import annotations

from typing import Any

import torch

STEPS = 24


def model_and_optimizer(make=torch.optim.SGD, as_tensor=False):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2).double()
    lrs: list[Any] = [0.1, 0.05]
    if as_tensor:
        lrs = [torch.tensor(lr, dtype=torch.float64) for lr in lrs]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(model.parameters(), lrs, strict=True)]
    return model, make(groups, lr=0.1)


def backward(model):
    model(torch.ones(2, 3, dtype=torch.float64)).square().sum().backward()


def lrs_of(optimizer):
    return [float(group["lr"]) for group in optimizer.param_groups]


class Recorder:
    """Records the lrs that each update uses: after all hooks, as the optimizer reads them."""

    def __init__(self):
        self.seen = []

    def of(self, optimizer):
        def before(opt, args, kwargs):
            if any(p.grad is not None for group in opt.param_groups for p in group["params"]):
                self.seen.append(lrs_of(opt))

        optimizer.register_step_pre_hook(before)
        return optimizer
