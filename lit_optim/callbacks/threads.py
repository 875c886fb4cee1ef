"""Sets the threads that torch computes with, before the first update of a run."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from lit_optim.checkpoints.format import check_state, is_count
from lit_optim.lightning_classes import Callback, LightningModule, Trainer
from lit_optim.system import usable_cpus
from lit_optim.threads import Threads, choose_threads, has_requested_threads, read_cpus

LOG = logging.getLogger("lit_optim")
#: Why the threads of several processes are not chosen.
DIVIDED = "as Lightning divides them"


class CpuThreads(Callback):
    """Chooses the number of threads of a run on a CPU by the size of its work and the idle CPUs.

    A number that the user has set takes precedence: `trainer.threads`, OMP_NUM_THREADS, or
    `torch.set_num_threads` in code. With several processes, Lightning sets the threads of each. A
    resumed run keeps its number if there are enough CPUs, since sums may depend on it.

    The work is counted in the batch that is validated before training; without one it is that of
    applying each parameter once to each sample.

    Args:
        count: set by the user; None: chosen.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count
        self._initial = torch.get_num_threads()
        self._is_requested = has_requested_threads()
        self._chosen: Threads | None = None
        self._resumed: int | None = None
        self._counter: WorkCounter | None = None

    def state_dict(self) -> dict[str, Any]:
        return {} if self._chosen is None else {"threads": self._chosen.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check_state(state_dict, {"threads": lambda count: is_count(count) and count > 0})
        self._resumed = state_dict.get("threads")

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.reason_not_to_choose(trainer) is None:
            self._counter = WorkCounter(pl_module)

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._counter is not None:
            self._counter.end()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.count is not None:
            torch.set_num_threads(self.count)
        elif self.reason_not_to_choose(trainer) is None:
            self._chosen = self.choose(trainer, pl_module)
            torch.set_num_threads(self._chosen.count)
            LOG.debug(
                f"threads: {self._chosen.count}, {self._chosen.reason}; "
                "trainer.threads=... sets another"
            )

    def reason_not_to_choose(self, trainer: Trainer) -> str | None:
        """Who decides instead, in a few words; None: this callback does."""
        if self.count is not None:
            return "as trainer.threads says"
        if self._is_requested:
            return "as OMP_NUM_THREADS or MKL_NUM_THREADS says"
        if trainer.strategy.root_device.type != "cpu":
            return "torch's default, as the work is not on the CPU"
        if trainer.world_size > 1:
            return DIVIDED
        is_told = torch.get_num_threads() != self._initial
        return "as torch.set_num_threads was told" if is_told else None

    def describe(self, trainer: Trainer, pl_module: LightningModule) -> str:
        """Before a run: its threads, as far as they are known without a batch."""
        reason = self.reason_not_to_choose(trainer)
        if reason == DIVIDED:  # not yet in this process, which only describes the run
            here = trainer.world_size // trainer.num_nodes
            return f"{max(1, usable_cpus() // here)} in each process, {reason}"
        if reason is not None:
            return f"{self.count or torch.get_num_threads()}, {reason}"
        least = self.choose(trainer, pl_module)
        most = choose_threads(None, at_most=self._initial)
        if least.count == most.count:
            return f"{least.count}, {least.reason}"
        return f"{least.count}, or {most.count} if a batch shows that operations are large"

    def choose(self, trainer: Trainer, pl_module: LightningModule) -> Threads:
        """The number for this run."""
        if self._resumed is not None and self._resumed <= read_cpus().usable:
            return Threads(self._resumed, "as before")
        work = None
        if self._counter is not None and self._counter.work is not None:
            work = self._counter.work * _batch_ratio(trainer)
        return choose_threads(work or _least_work(trainer, pl_module), at_most=self._initial)


class WorkCounter:
    """Counts the multiplications of weights in a forward pass: how large an operation is.

    Args:
        module: its layers are watched until `end`.
    """

    def __init__(self, module: nn.Module) -> None:
        self.products = self.operations = 0
        hooks: list[RemovableHandle] = []
        if not any(map(_is_compiled, module.modules())):  # it would be compiled once more
            hooks += [
                one.register_forward_hook(self._count)
                for one in module.modules()
                if one._parameters and not isinstance(one, torch.jit.ScriptModule)
            ]
        self._hooks = hooks

    @property
    def work(self) -> float | None:
        """The mean number of multiplications of an operation; None if none was seen."""
        return self.products / self.operations if self.operations else None

    def end(self) -> None:
        """Watch no longer."""
        for hook in self._hooks:
            hook.remove()

    def _count(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        """Each weight meets each position of the output: samples, tokens, pixels."""
        out = output[0] if isinstance(output, tuple) and output else output
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag) or not isinstance(out, Tensor):
            return
        for p in layer.parameters(recurse=False):
            if p.ndim >= 2 and out.ndim >= 2 and out.numel():
                channels = out.shape[1 if p.ndim > 2 else -1]
                self.products += p.numel() * (out.numel() // channels)
                self.operations += 1


def _is_compiled(module: nn.Module) -> bool:
    """By torch.compile, which wraps a module, or of Lightning's calls its steps."""
    names = ("_orig_mod", "_compiled_call_impl", "_compiler_ctx")
    return any(getattr(module, name, None) is not None for name in names)


def _batch_ratio(trainer: Trainer) -> float:
    """How much larger a batch of training is than one of validation, as far as that is known."""
    loaders = trainer.val_dataloaders
    first = loaders[0] if isinstance(loaders, list | tuple) and loaders else loaders
    of_training, of_validation = _batch_size(trainer.train_dataloader), _batch_size(first)
    return of_training / of_validation if of_training and of_validation else 1.0


def _batch_size(loader: Any) -> int | None:
    """The samples of a batch of a loader or of a data module; None if it does not say."""
    for one in (loader, getattr(loader, "sampler", None)):
        if isinstance(size := getattr(one, "batch_size", None), int):
            return size
    return None


def _least_work(trainer: Trainer, pl_module: LightningModule) -> float | None:
    """The mean of each weight times the samples of a batch; None if they are not known yet."""
    params = list(pl_module.parameters())
    batch = _batch_size(trainer.train_dataloader) or _batch_size(getattr(trainer, "datamodule", 0))
    if batch is None or not params or any(is_lazy(p) for p in params):
        return None
    weights = [p.numel() for p in params if p.ndim > 1]
    return sum(weights) * batch / max(1, len(weights))
