"""Sharded parameters in plain torch: torchrun --nproc-per-node=2 examples/fsdp2.py."""

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn import Linear, Sequential, Tanh
from torch.nn.functional import mse_loss

from lit_optim import Muon, schedule, schedules

dist.init_process_group("gloo")  # on GPUs: "nccl", and move the model and the data there
torch.manual_seed(0)  # the same weights and data everywhere
x = torch.randn(512, 8)
y = x.sin().sum(1, keepdim=True)
x, y = (part.chunk(dist.get_world_size())[dist.get_rank()] for part in (x, y))
model = Sequential(Linear(8, 64), Tanh(), Linear(64, 64), Tanh(), Linear(64, 1))
for layer in (model[0], model[2], model[4]):
    fully_shard(layer)
fully_shard(model)
optimizer = Muon(model, lr=0.02)
scheduler = schedule(optimizer, schedules.cosine_warmup("5%"), steps=40)

first_loss = mse_loss(model(x), y).item()
for _ in range(40):
    mse_loss(model(x), y).backward()
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
last_loss = mse_loss(model(x), y).item()
dist.destroy_process_group()
