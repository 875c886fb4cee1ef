"""accelerate: everything is created first, and prepared at once."""

import torch
from accelerate import Accelerator
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from lit_optim import Muon, schedule, schedules

torch.manual_seed(0)
x = torch.randn(512, 8)
y = x.sin().sum(1, keepdim=True)
accelerator = Accelerator(cpu=True)
model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
optimizer = Muon(model, lr=0.02)
loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
scheduler = schedule(optimizer, schedules.cosine_warmup("5%"), steps=5 * len(loader))
model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)

first_loss = mse_loss(model(x), y).item()
for _epoch in range(5):
    for inputs, targets in loader:
        with accelerator.accumulate(model):
            accelerator.backward(mse_loss(model(inputs), targets))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
last_loss = mse_loss(model(x), y).item()
