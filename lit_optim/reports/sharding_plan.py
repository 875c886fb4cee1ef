"""What a sharded run keeps and sends, measured in one process, without starting the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import StrategyRegistry
from omegaconf import DictConfig, open_dict
from rich.table import Table
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from lit_optim.callbacks.parameter_table import NUMBER, format_bytes
from lit_optim.errors import UsageError, how_many
from lit_optim.optimizers.base.matrix_states import MatrixStates
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.param_groups.describe import parameter_names
from lit_optim.reports.memory import memory_of
from lit_optim.sharding import is_sharded
from lit_optim.training.requirements import requirements_of
from lit_optim.training.sharded import NAME, ShardedStrategy
from lit_optim.wrappers import unwrap

PRETENDED = f"{NAME}_pretended"
#: The collective operations whose first argument is written, and whose second is sent.
OUTPUT_FIRST = ("alltoall", "allgather", "reduce_scatter", "gather", "scatter")


class PretendedStrategy(ShardedStrategy):
    """Shards as rank 0 of processes of which the others are not there: nothing is sent.

    Args:
        processes: on this machine.
    """

    def __init__(self, processes: int) -> None:
        super().__init__()
        self._processes = processes

    @property
    def num_processes(self) -> int:
        """The pretended processes of this machine."""
        return self._processes

    def _configure_launcher(self) -> None:
        """Start no process."""

    def _setup_distributed(self) -> None:
        from torch.testing._internal.distributed.fake_pg import FakeStore

        self.set_world_ranks()
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=self.world_size)

    def barrier(self, name: str | None = None) -> None:
        """Wait for nobody."""

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """Send to nobody."""
        return obj

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Get nothing from others."""
        return tensor

    def _share_buffers(self) -> None:
        """There are no others."""


StrategyRegistry.register(PRETENDED, PretendedStrategy, processes=1)


@contextmanager
def pretend_processes(cfg: DictConfig) -> Iterator[None]:
    """Let a run whose trainer shards be built in this process, on the CPU.

    Args:
        cfg: changed, if its trainer shards.

    Raises:
        UsageError: the number of processes is that of the devices, and this machine has none.
    """
    if cfg.trainer.get("strategy") != NAME:
        yield
        return
    processes = _count_processes(cfg.trainer.get("devices"), cfg.trainer.get("accelerator"))
    StrategyRegistry.register(PRETENDED, PretendedStrategy, override=True, processes=processes)
    with open_dict(cfg):
        cfg.trainer.update(accelerator="cpu", devices=1, strategy=PRETENDED)
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _count_processes(devices: Any, accelerator: str) -> int:
    if isinstance(devices, str) and devices.lstrip("-").isdecimal():
        devices = int(devices)
    if isinstance(devices, int) and devices > 0:
        return devices
    if not isinstance(devices, int | str):
        return len(devices)
    found = 1 if accelerator == "cpu" else torch.cuda.device_count()
    if not found:
        raise UsageError(
            f"trainer.devices={devices}: this machine has no GPU to count; set trainer.devices=8 "
            "to explain a run on 8"
        )
    return found


def describe_sharding(
    optimizer: Optimizer, module: nn.Module, is_released: bool = False
) -> Iterator[tuple[str, str]]:
    """Yield lines about what a process keeps and sends, each with its title.

    It makes a step of the optimizer, with gradients of 0.

    Args:
        optimizer: of parameters that are sharded over pretended processes.
        module: the model.
        is_released: whether gradients are released.
    """
    params = [p for p in dict.fromkeys(module.parameters()) if is_sharded(p)]
    world = dist.get_world_size()
    groups = sum(isinstance(part, FSDPModule) for part in module.modules())
    layers = f"{groups - 1} layers one by one, then the rest" if groups > 1 else "all at once"
    yield "sharded", f"over {world} processes by FSDP2, which gathers {layers}"
    within = unwrap(optimizer)
    trained = [p for p in params if p.requires_grad]
    yield "on rank 0", memory_of(optimizer, module, is_released).describe()
    gathered = 2 * sum(p.nbytes for p in params) * (world - 1) // world
    reduced = sum(p.nbytes for p in trained) * (world - 1) // world
    yield (
        "received per pass",
        f"{format_bytes(gathered)} of parameters, forward and backward, and "
        f"{format_bytes(reduced)} of gradients",
    )
    sent = _step_and_count(optimizer, trained)
    name = type(within).__name__
    if sent is None:
        yield "sent in a step", f"unknown: {type(optimizer).__name__} needs more than gradients"
    else:
        messages, size = sent
        what = f"{format_bytes(size)} in {how_many(messages, 'message')}" if messages else "nothing"
        yield "sent in a step", f"{what} by {name}, from rank 0"


def matrix_owners(optimizer: Optimizer, module: nn.Module) -> Table | None:
    """A table of who computes with which matrices and keeps their states; None if nobody does.

    What is beside these on a process, the states that stay with the shards too, is about as much on
    each; rank 0 has no less of it than the others.
    """
    within, names = unwrap(optimizer), parameter_names(module)
    held: dict[int, dict[str, list[str]]] = {}
    works: list[float] = []
    kept = [0] * dist.get_world_size()
    for group in within.param_groups:
        owner = within.owner(group) if isinstance(within, OptimizerBase) else None
        if not isinstance(owner, MatrixStates):
            continue
        for p in group["params"]:
            if not (is_sharded(p) and p.requires_grad):
                continue
            parts = owner.parts(p, group)
            for part in parts:
                kept[part.owner] += owner.owned_bytes(p, group) // len(parts)
                name = names.get(p, "?")
                numbers = held.setdefault(part.owner, {}).setdefault(NUMBER.sub("*", name), [])
                numbers += NUMBER.findall(name)[:1]
            [works] = owner.matrix_owners.loads.values()
    if not held:
        return None
    table = Table("rank", "work", "state", "matrices", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[:3]:
        column.justify = "right"
    for rank in range(dist.get_world_size()):
        share = works[rank] / sum(works)
        texts = [
            f"{pattern} ({', '.join(dict.fromkeys(numbers))})" if numbers else pattern
            for pattern, numbers in held.get(rank, {}).items()
        ]
        size = format_bytes(kept[rank])
        table.add_row(str(rank), f"{100 * share:.1f} %", size, ", ".join(texts) or "-")
    return table


class _Messages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what collective operations send, and their bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count, self.size = 0, 0

    def note(self, sent: Tensor) -> None:
        """Count a message."""
        self.count, self.size = self.count + 1, self.size + sent.nbytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.__name__.lstrip("_")
        if func.namespace in ("c10d", "_c10d_functional") and not name.startswith("wait"):
            is_second = func.namespace == "c10d" and name.startswith(OUTPUT_FIRST)
            sent = args[is_second]
            for x in sent if isinstance(sent, list | tuple) else [sent]:
                self.note(x)
        return func(*args, **(kwargs or {}))


class _Done:
    """A message that has arrived."""

    def wait(self) -> None:
        """There is nothing to wait for."""


def _step_and_count(optimizer: Optimizer, params: list[nn.Parameter]) -> tuple[int, int] | None:
    """Make a step with gradients of 0; return the messages and their bytes, None if it fails."""
    needs_closure, step = "closure" in requirements_of(optimizer), cast(Any, optimizer.step)
    messages, send = _Messages(), dist.all_to_all_single

    def note(output: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> _Done:
        # what it tests of its arguments does not hold without the others
        messages.note(input)
        return _Done()

    dist.all_to_all_single = note
    try:
        for p in params:
            p.grad = torch.zeros_like(p)
        with messages:
            step(*([lambda: torch.zeros(())] if needs_closure else []))
    except Exception:
        if isinstance(unwrap(optimizer), OptimizerBase):
            raise
        return None  # one of another package may look at what the others would send
    finally:
        dist.all_to_all_single = send
    return messages.count, messages.size
