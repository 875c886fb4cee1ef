"""Freezing and unfreezing under DDP, at any time: two processes train what one trains."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import BackboneFinetuning
from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lit_optim
from lit_optim import AdamW
from lit_optim.callbacks.lazy_layers import LazyLayers
from lit_optim.param_groups import by_rules, single
from tests.lightning.modules import trainer

BATCHES, EPOCHS = 4, 2


class Lazy(nn.LazyLinear):
    """Has the same weights in every instance."""

    def reset_parameters(self):
        torch.manual_seed(1)
        super().reset_parameters()


class Net(LightningModule):
    def __init__(self, rank=0, ranks=1, rules=(), freeze="never", lazy=False):
        super().__init__()
        torch.manual_seed(0)
        first = Lazy(4) if lazy else nn.Linear(3, 4)
        self.backbone = nn.Sequential(first, nn.Tanh(), nn.Linear(4, 4)).double()
        self.head = nn.Linear(4, 2).double()
        self.rank, self.ranks, self.rules, self.freeze_in = rank, ranks, rules, freeze

    def training_step(self, batch, batch_idx):
        return (self.head(self.backbone(batch[0])) - 1).square().mean()

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(BATCHES, 8, 3, dtype=torch.float64, generator=generator)
        mine = x[:, self.rank :: self.ranks].flatten(0, 1)
        return DataLoader(TensorDataset(mine), batch_size=8 // self.ranks)

    def configure_optimizers(self):
        if self.freeze_in == "before":
            self.backbone.requires_grad_(False)
        groups = partial(by_rules, rules=self.rules, base="single") if self.rules else single
        made = lit_optim.configure_optimizers(self, partial(AdamW, lr=0.05), None, groups)
        if self.freeze_in == "after":
            self.backbone.requires_grad_(False)
        return made

    def on_fit_start(self):
        if self.freeze_in == "fit":
            self.backbone[0].requires_grad_(False)

    def on_train_epoch_start(self):
        if self.freeze_in == "epoch":  # frozen, and unfrozen again
            self.backbone.requires_grad_(self.current_epoch != 0)


class Thaw(Callback):
    """Unfreezes in the middle of an epoch, and of an accumulation."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 1):
            pl_module.backbone.requires_grad_(True)


RULES = [{"name": "backbone.0.*", "frozen": True}]
#: arguments of the module, callbacks, arguments of the trainer
CASES = {
    "rules": ({"rules": RULES}, [], {}),
    "before": ({"freeze": "before"}, [], {}),
    "after": ({"freeze": "after"}, [], {}),
    "fit": ({"freeze": "fit"}, [], {}),
    "epoch": ({"freeze": "epoch"}, [], {}),
    "backbone": ({}, [partial(BackboneFinetuning, 1, lambda epoch: 1.0)], {}),
    "thaw": ({"freeze": "before"}, [Thaw], {"accumulate_grad_batches": 2}),
    "lazy": ({"lazy": True, "rules": RULES}, [LazyLayers], {}),
}


def fit(path, case, rank=0, ranks=1, **more):
    module_arguments, callbacks, arguments = CASES[case]
    module = Net(rank, ranks, **module_arguments)
    run = trainer(
        path, max_epochs=EPOCHS, callbacks=[make() for make in callbacks],
        use_distributed_sampler=False, **arguments, **more,
    )  # fmt: skip
    run.fit(module)
    return module


def on_a_rank(rank, path, port):
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), NODE_RANK=str(rank), LOCAL_RANK="0"
    )
    rank_zero_only.rank = rank
    for case in CASES:
        module = fit(path, case, rank, 2, strategy="ddp", devices=1, num_nodes=2)
        torch.save(module.state_dict(), f"{path}/{case}_{rank}.pt")
    # gloo's threads abort now and then while a process goes down; what was asked is answered
    os._exit(0)


@pytest.mark.filterwarnings("ignore")
def test_two_processes_train_what_one_trains(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        on_a_rank, (os.fspath(tmp_path), port), nprocs=2, start_method="forkserver"
    )
    for case in CASES:
        expected = fit(tmp_path, case).state_dict()
        for rank in range(2):
            found = torch.load(tmp_path / f"{case}_{rank}.pt")
            torch.testing.assert_close(found, expected, msg=f"{case}, rank {rank}")
