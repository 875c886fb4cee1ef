"""ignite: the scheduler steps after each iteration."""

import torch
from ignite.engine import Events, create_supervised_trainer
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from lit_optim import Muon, schedule, schedules

torch.manual_seed(0)
x = torch.randn(512, 8)
y = x.sin().sum(1, keepdim=True)
loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
optimizer = Muon(model, lr=0.02)
scheduler = schedule(optimizer, schedules.cosine_warmup("5%"), steps=5 * len(loader))
trainer = create_supervised_trainer(model, optimizer, mse_loss)
trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: scheduler.step())

first_loss = mse_loss(model(x), y).item()
trainer.run(loader, max_epochs=5)
last_loss = mse_loss(model(x), y).item()
