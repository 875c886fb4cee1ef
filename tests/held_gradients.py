"""The memory that gradients hold."""

from __future__ import annotations

import torch
from torch import nn

from lit_optim import release_gradients
from lit_optim.optimizers import find_optimizer
from lit_optim.sharding import local_tensor
from scripts import memory


def gradients_held(name, shard=None):
    """The bytes of released gradients that are there together at most: found, and computed."""
    layers = [nn.Sequential(nn.Linear(24, 48), nn.Tanh(), nn.Linear(48, 24)) for _ in range(4)]
    model = nn.Sequential(nn.Linear(24, 24), *layers, nn.Linear(24, 4))
    for part in (*layers, model) if shard else ():
        shard(part)
    optimizer = find_optimizer(name)(model)
    params, most = [p for group in optimizer.param_groups for p in group["params"]], 0

    def hook(_):
        nonlocal most
        storages = [local_tensor(p.grad).untyped_storage() for p in params if p.grad is not None]
        most = max(most, sum({x.data_ptr(): x.nbytes() for x in storages}.values()))

    for p in params:
        p.register_post_accumulate_grad_hook(hook)
    release_gradients(model, optimizer)
    model(torch.randn(8, 24)).square().sum().backward()
    optimizer.step()
    return most, memory.memory_of(optimizer, model, is_released=True).gradients
