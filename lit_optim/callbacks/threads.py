"""Sets the threads that torch computes with, before the first update of a run."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from lit_optim.lightning_classes import Callback, LightningModule, Trainer
from lit_optim.threads import Threads, choose_threads, has_requested_threads, read_cpus

LOG = logging.getLogger("lit_optim")


class CpuThreads(Callback):
    """Chooses the number of threads of a run on a CPU by the size of the model and the idle CPUs.

    A number that the user has set takes precedence: `threads`, OMP_NUM_THREADS, or
    `torch.set_num_threads` in code. With several processes, Lightning sets the threads of each. A
    resumed run keeps its number if there are enough CPUs, since sums may depend on it.

    Args:
        count: set by the user; None: chosen.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count
        self._initial = torch.get_num_threads()
        self._is_requested = has_requested_threads()
        self._chosen: Threads | None = None
        self._resumed: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return {} if self._chosen is None else {"threads": self._chosen.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed = state_dict.get("threads")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.count is not None:
            torch.set_num_threads(self.count)
            return
        is_set = self._is_requested or torch.get_num_threads() != self._initial
        on_cpu = trainer.strategy.root_device.type == "cpu"
        if is_set or not on_cpu or trainer.world_size > 1:
            return
        self._chosen = self._choose(_work(trainer, pl_module))
        torch.set_num_threads(self._chosen.count)
        LOG.debug(f"threads: {self._chosen.count}, {self._chosen.reason}; threads=... sets another")

    def _choose(self, work: float | None) -> Threads:
        if self._resumed is not None and self._resumed <= read_cpus().usable:
            return Threads(self._resumed, "as before")
        return choose_threads(work)


def _work(trainer: Trainer, pl_module: LightningModule) -> float | None:
    """Return the parameters times the samples of a batch; None if they are not known yet."""
    params = list(pl_module.parameters())
    loader = trainer.train_dataloader
    batch = getattr(loader, "batch_size", None)
    if batch is None:
        batch = getattr(getattr(loader, "sampler", None), "batch_size", None)
    if batch is None or any(is_lazy(p) for p in params):
        return None
    return float(sum(p.numel() for p in params) * batch)
