"""A run on several processes that is stopped in the middle of an update, and resumed."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lit_optim
from lit_optim.callbacks.checkpoint import Checkpoint
from lit_optim.callbacks.resumable import Resumable
from lit_optim.callbacks.signals import Signals
from lit_optim.checkpoints.files import CheckpointFiles
from lit_optim.schedules.library import cosine_warmup
from lit_optim.training.sharded import ShardedStrategy
from tests.lightning.modules import trainer

BATCHES, ACCUMULATED, STEPS = 12, 4, 6


class Net(LightningModule):
    """Its dropout differs on each process, as the random states do."""

    monitor = ("val/loss", "min")

    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = nn.Linear(3, 5), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 2)
        self.net = nn.Sequential(*layers).double()
        self.seen: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append(batch[0].sum().item())
        return (self.net(batch[0]) - 1).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = (self.net(batch[0]) - 1).square().mean()
        self.log("val/loss", loss, sync_dist=True)

    def configure_optimizers(self) -> Any:
        make = partial(lit_optim.AdamW, lr=0.05)
        return lit_optim.configure_optimizers(self, make, cosine_warmup())


class Stop(Callback):
    """Sends a signal to this process, or raises an error, at the n-th call of a hook."""

    def __init__(self, call: int, by: int | None, hook: str = "on_train_batch_end") -> None:
        self.left, self.by = call, by
        setattr(self, hook, self._stop)

    def _stop(self, *_: Any, **more: Any) -> None:
        self.left -= 1
        if self.left == 0:
            if self.by is None:
                raise RuntimeError("of the user")
            os.kill(os.getpid(), self.by)


class DifferentRandomNumbers(Callback):
    def on_train_start(self, trainer: Any, module: Any) -> None:
        torch.manual_seed(trainer.global_rank)


def loader(rank: int, size: int, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCHES, 12, 3, dtype=torch.float64, generator=generator)
    mine = x[:, rank::size].flatten(0, 1)
    return DataLoader(TensorDataset(mine), batch_size=12 // size)


class Skips(DataLoader):
    """Begins its first epoch at a batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.place = 0

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"] % len(self)

    def __iter__(self) -> Any:
        skipped, self.place = self.place, 0
        for batch in list(super().__iter__())[skipped:]:
            self.place = (skipped := skipped + 1)
            yield batch


def run(
    kind: str,
    place: str,
    at: tuple[int, int, int | None] | tuple[int, int, int | None, str] | None,
    ckpt: str | None,
    dropout: float,
    every: int = 5,
) -> dict[str, Any]:
    """Train on each process of the group.

    Args:
        kind: of the strategy: ddp or fsdp.
        place: directory of the run.
        at: the rank (-1: all) and the call at which the run is stopped, the signal (None: an error)
            and the hook that is called, if it is not that of the end of a batch.
        ckpt: name of the checkpoint to resume from.
        dropout: of the network.
        every: the batches between two validations.

    Returns:
        how the run has ended, the batches that it has seen, and the weights.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    strategy: Any = "auto" if size == 1 else DDPStrategy() if kind == "ddp" else ShardedStrategy()
    more = [DifferentRandomNumbers()] if ckpt is None else []
    if at is not None and at[0] in (rank, -1):
        more.append(Stop(*at[1:]))
    callbacks = [Checkpoint(place, monitor="val/loss"), Resumable(), Signals(), *more]
    fitted = trainer(
        place, max_steps=STEPS, max_epochs=-1, strategy=strategy, devices=size,
        callbacks=callbacks, accumulate_grad_batches=ACCUMULATED, val_check_interval=every,
        use_distributed_sampler=False, limit_val_batches=2, num_sanity_val_steps=0,
        enable_checkpointing=True,
    )  # fmt: skip
    fitted.strategy.checkpoint_io = CheckpointFiles()
    module = Net(dropout)
    train = loader(rank, size, 0)
    batches = Skips(train.dataset, batch_size=train.batch_size)
    path = ckpt and Path(place, ckpt)
    end = "finished"
    try:
        fitted.fit(module, batches, loader(rank, size, 1), ckpt_path=path, weights_only=True)
    except (SIGTERMException, SystemExit, RuntimeError) as error:
        end = type(error).__name__
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    weights = fitted.strategy.lightning_module_state_dict() if end == "finished" else {}
    return {"end": end, "seen": module.seen, "weights": weights, "steps": fitted.global_step}
