"""Fabric: model and optimizer are set up, the schedule is not."""

import lightning as L
import torch
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from lit_optim import Ema, Muon, schedule, schedules

torch.manual_seed(0)
x = torch.randn(512, 8)
y = x.sin().sum(1, keepdim=True)
fabric = L.Fabric(accelerator="cpu", devices=1)
fabric.launch()
model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
model, optimizer = fabric.setup(model, Ema(Muon(model, lr=0.02), decay=0.9))
loader = fabric.setup_dataloaders(DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True))
scheduler = schedule(optimizer, schedules.cosine_warmup("5%"), steps=5 * len(loader))

first_loss = mse_loss(model(x), y).item()
for _epoch in range(5):
    for inputs, targets in loader:
        fabric.backward(mse_loss(model(inputs), targets))
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
optimizer.eval()  # the average of the weights
last_loss = mse_loss(model(x), y).item()
