"""Plain torch: any optimizer with any schedule, in a loop of your own."""

import torch
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from lit_optim import Ema, Muon, schedule, schedules

torch.manual_seed(0)
x = torch.randn(512, 8)
y = x.sin().sum(1, keepdim=True)
loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
optimizer = Ema(Muon(model, lr=0.02), decay=0.9)
scheduler = schedule(optimizer, schedules.cosine_warmup("5%"), steps=5 * len(loader))

first_loss = mse_loss(model(x), y).item()
for _epoch in range(5):
    for inputs, targets in loader:
        optimizer.zero_grad()
        mse_loss(model(inputs), targets).backward()
        optimizer.step()
        scheduler.step()
optimizer.eval()  # the average of the weights
last_loss = mse_loss(model(x), y).item()
