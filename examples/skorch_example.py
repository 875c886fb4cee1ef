"""skorch: the optimizer as a class, the schedule as the policy of skorch's LRScheduler."""

import torch
from skorch import NeuralNetRegressor
from skorch.callbacks import LRScheduler

from lit_optim import AdamW, lr_schedulers

torch.manual_seed(0)
x = torch.randn(512, 8)
y = x.sin().sum(1, keepdim=True)
net = NeuralNetRegressor(
    torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1)),
    optimizer=AdamW,
    lr=0.01,
    batch_size=32,
    max_epochs=5,
    train_split=None,
    callbacks=[("lr", LRScheduler(lr_schedulers.cosine_warmup, warmup="5%", steps=5 * 16))],
    verbose=0,
)
net.fit(x, y)
first_loss, last_loss = net.history[0, "train_loss"], net.history[-1, "train_loss"]
optimizer, scheduler = net.optimizer_, dict(net.callbacks_)["lr"].lr_scheduler_
