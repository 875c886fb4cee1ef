"""A module, data and a callback as a user writes them; the fixture `user_code` writes the file."""

from __future__ import annotations

USER_CODE = """
    import os
    import torch
    from lightning.pytorch import Callback, LightningDataModule, LightningModule
    from torch.utils.data import DataLoader, TensorDataset

    class Module(LightningModule):
        def __init__(self, width: int, crash: str = "no"):
            super().__init__()
            self.save_hyperparameters()
            self.net = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Linear(width, 1))
            self.crash = crash

        def training_step(self, batch, batch_idx):
            if self.crash == "exit":
                raise SystemExit(3)
            if self.crash == "raise":
                raise RuntimeError("my own mistake")
            if self.crash == "diverge":
                return self.net(batch[0]).mean() * float("nan")
            if self.crash == "segfault":
                os.kill(os.getpid(), 11)
            if self.crash == "kill":
                os.kill(os.getpid(), 9)
            loss = self.net(batch[0]).square().mean()
            return loss * float("nan") if self.crash == "infinite" else loss

        def validation_step(self, batch, batch_idx):
            self.log("val/loss", self.net(batch[0]).square().mean())

    class Owner(Module):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Data(LightningDataModule):
        def __init__(self, size: int = 32):
            super().__init__()
            self.size = size

        def train_dataloader(self):
            x = torch.randn(self.size, 3, generator=torch.Generator().manual_seed(0))
            return DataLoader(TensorDataset(x), batch_size=4)

        val_dataloader = train_dataloader

    class Spy(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            with open(f"lrs_{trainer.global_rank}.txt", "a") as file:
                print(trainer.optimizers[0].param_groups[0]["lr"], file=file)
"""
CUSTOM = (
    "model=custom",
    "model._target_=user_code.Module",
    "data=custom",
    "data._target_=user_code.Data",
    "allow=[user_code]",
    "trainer.max_steps=10",
)
