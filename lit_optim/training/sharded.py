"""Lightning's ModelParallelStrategy for any module: sharded by FSDP2, with one checkpoint file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_optim.errors import UsageError, first_line
from lit_optim.param_groups.describe import parameter_names, repeated_layers
from lit_optim.sharding import gather_wholes, shard_like

#: The name by which `trainer.strategy` chooses it.
NAME = "fsdp2"
#: What Lightning calls instead of `forward`.
STEPS = ("training_step", "validation_step", "test_step", "predict_step")


class ShardedStrategy(ModelParallelStrategy):
    """Shards the parameters of a module over all processes, as FSDP2 of torch does.

    Each repeated layer (the blocks of a transformer) is gathered for its own forward and backward,
    and everything else for the whole of a step. The module is built whole, and in the same way on
    all processes, as the seed of a run ensures. Optimizers get DTensors. As under DDP, buffers are
    those of rank 0.

    A checkpoint is the one file that a run without sharding writes, so that runs resume from it on
    any number of processes.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(save_distributed_checkpoint=False, **more)

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    @property
    def _module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        self._tensor_parallel_size = 1
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        assert self.accelerator is not None
        if getattr(self.precision_plugin, "scaler", None) is not None:
            raise UsageError(
                f"precision={trainer.precision}: each process would scale its loss by "
                "a different factor; use bf16-mixed, or DDP (trainer=ddp)"
            )
        self.accelerator.setup(trainer)
        if not is_sharded_module(self._module):
            self.precision_plugin.convert_module(self._module)
            shard_module(self._module, self.device_mesh["data_parallel"])
            self.model_to_device()
        self.model = self._module
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def _share_buffers(self) -> None:
        buffers = [b for b in self._module.buffers() if b.numel()]
        if buffers and self.world_size > 1:
            group = self.device_mesh["data_parallel"].get_group()
            for buffer in buffers:
                dist.broadcast(buffer, group=group, group_src=0)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._share_buffers()

    def _begin_evaluation(self) -> None:
        """Free what a forward gathers: no backward does it, and others may change the weights."""
        self._share_buffers()
        self._module.set_reshard_after_forward(True, recurse=False)  # type: ignore[operator]

    def _end_evaluation(self) -> None:
        self._module.set_reshard_after_forward(False, recurse=False)  # type: ignore[operator]

    def on_validation_start(self) -> None:
        self._begin_evaluation()

    def on_validation_end(self) -> None:
        self._end_evaluation()

    def on_test_start(self) -> None:
        self._begin_evaluation()

    def on_test_end(self) -> None:
        self._end_evaluation()

    def on_predict_start(self) -> None:
        self._begin_evaluation()

    def on_predict_end(self) -> None:
        self._end_evaluation()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the whole weights on rank 0, and none of them elsewhere."""
        whole: dict[str, Any] = gather_wholes(self._module.state_dict())
        return whole

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the state dict with whole tensors on rank 0, and without tensors elsewhere."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer._optimizer
        whole: dict[str, Any] = gather_wholes(optimizer.state_dict())
        return whole

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        plain = weights_only is not False
        # the processes of a machine share the memory of a file that is mapped
        return torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=plain)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        # before it is sharded it may have another precision than the file
        self.precision_plugin.convert_module(self._module)
        own = self._module.state_dict()
        saved = {
            name: shard_like(value, own[name]) if name in own else value
            for name, value in checkpoint["state_dict"].items()
        }
        self._module.load_state_dict(saved, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)


def is_sharded_module(module: nn.Module) -> bool:
    """Whether `fully_shard` was called on it."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def shard_module(module: LightningModule, mesh: Any) -> None:
    """Shard the parameters of a module over a mesh, each repeated layer for itself.

    Raises:
        UsageError: it has a parameter that FSDP2 cannot shard.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    names = parameter_names(module)
    for p in module.parameters():
        if not p.ndim:
            raise UsageError(
                f"FSDP2 cannot shard the parameter {names[p]}, a single number without a "
                "dimension: make it torch.ones(1), or choose DDP (trainer=ddp)"
            )
    try:
        for layer in layers_to_gather(module):
            fully_shard(layer, mesh=mesh)
        fully_shard(module, mesh=mesh)
    except (ValueError, NotImplementedError) as error:
        raise UsageError(
            f"FSDP2 cannot shard {type(module).__name__}: {first_line(error)}"
        ) from error
    for name in STEPS:
        if is_overridden(name, module):
            register_fsdp_forward_method(module, name)


def layers_to_gather(module: nn.Module) -> list[nn.Module]:
    """Return the repeated layers of a module that share no parameter with others."""
    users: dict[Tensor, set[int]] = {}
    layers = repeated_layers(module)
    for k, layer in enumerate(layers):
        for p in layer.parameters():
            users.setdefault(p, set()).add(k)
    inside = {id(part) for layer in layers for part in layer.modules()}
    for part in module.modules():
        if id(part) not in inside:
            for p in part.parameters(recurse=False):
                users.setdefault(p, set()).add(-1)
    return [
        layer for k, layer in enumerate(layers) if all(users[p] == {k} for p in layer.parameters())
    ]


StrategyRegistry.register(NAME, ShardedStrategy, description="FSDP2, with one checkpoint file")
