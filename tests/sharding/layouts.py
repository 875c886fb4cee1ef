"""How a model is spread over processes, by name; each function runs in every one of them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.sharding.nets import loss_of


class Trained:
    """A model in a loop of training, on one process.

    Args:
        net: the model, whose parameters the optimizer is given.
        forward: the module that is called; the model, or what DDP makes of it.
        group: the processes that share a batch; None where each has all of it.
        zero: whether ZeroRedundancyOptimizer divides the optimizer among them.
    """

    def __init__(
        self,
        net: nn.Module,
        forward: nn.Module | None = None,
        group: Any = None,
        zero: bool = False,
    ) -> None:
        self.net, self.forward, self.group, self.zero = net, forward or net, group, zero

    def backward(self, step: int, part: int, share: float) -> Tensor:
        """Add the gradients of a share of the loss; returns it for the whole batch."""
        rank, size = (
            (dist.get_rank(self.group), dist.get_world_size(self.group)) if self.group else (0, 1)
        )
        loss = loss_of(self.forward, step, part, rank, size) * share
        loss.backward()
        loss = loss.detach() / size
        if self.group:
            dist.all_reduce(loss, group=self.group)
        return loss

    def clip(self, norm: float) -> None:
        """Clip the gradients to a norm."""
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), norm)

    def weights(self) -> list[Tensor]:
        """The parameters, whole."""
        return gather(list(self.net.parameters()))


class OnMeshes(Trained):
    """A model with parameters on several meshes, whose norms torch cannot put together."""

    def clip(self, norm: float) -> None:
        grads = [p.grad for p in self.net.parameters() if p.grad is not None]
        total = torch.stack([whole(g).norm() for g in grads]).norm()
        for g in grads:
            g.mul_(torch.clamp(norm / (total + 1e-6), max=1.0).item())


class Gathered(Trained):
    """DTensors of any placements: a copy that has them whole computes the gradients."""

    def __init__(self, net: nn.Module, copy: nn.Module) -> None:
        super().__init__(net)
        self.copy = copy

    def backward(self, step: int, part: int, share: float) -> Tensor:
        from torch.distributed.tensor import distribute_tensor

        pairs = list(zip(self.copy.parameters(), self.net.parameters(), strict=True))
        for (own, p), value in zip(pairs, self.weights(), strict=True):
            own.grad, own.data = None, value.view_as(p)
        loss = loss_of(self.copy, step, part) * share
        loss.backward()
        for own, p in pairs:
            if own.grad is not None:
                g = distribute_tensor(own.grad, p.device_mesh, p.placements, src_data_rank=None)
                p.grad = g if p.grad is None else p.grad + g
        return loss.detach()


def whole(x: Tensor) -> Tensor:
    """A tensor with the shards of all processes."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def local(p: Tensor) -> Tensor:
    """The part of a parameter that this process has."""
    p = p.detach()
    return p.to_local() if hasattr(p, "to_local") else p


def gather(params: list[nn.Parameter]) -> list[Tensor]:
    """Copies of parameters, whole; those that are boxes of a tensor come in one message."""
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    found = [p.detach() for p in params]
    meshes = {x.device_mesh: 0 for x in found if hasattr(x, "device_mesh")}
    for mesh in meshes:
        boxes = {}
        for k, x in enumerate(found):
            if getattr(x, "device_mesh", None) == mesh:
                places = x.placements
                if all(type(place) is Shard or place.is_replicate() for place in places):
                    boxes[k] = x
        message = [torch.zeros(x.shape, dtype=x.dtype) for x in boxes.values()]
        for buffer, x in zip(message, boxes.values(), strict=True):
            shape, at = compute_local_shape_and_global_offset(x.shape, mesh, x.placements)
            copies = torch.Size(
                mesh.size(d) for d, place in enumerate(x.placements) if place.is_replicate()
            ).numel()
            own = buffer[tuple(slice(o, o + n) for o, n in zip(at, shape, strict=True))]
            own.copy_(x.to_local() / copies)
        flat = torch.cat([buffer.ravel() for buffer in message])
        for d in range(mesh.ndim):
            dist.all_reduce(flat, group=mesh.get_group(d))
        parts = flat.split([x.numel() for x in boxes.values()])
        for (k, x), part in zip(boxes.items(), parts, strict=True):
            found[k] = part.view(x.shape)
    return [whole(x).clone() for x in found]


class Layout(NamedTuple):
    """The sizes of a mesh of processes, and what spreads a model over them."""

    sizes: tuple[int, ...]
    place: Callable[[nn.Module, Any], Trained]

    @property
    def size(self) -> int:
        """The number of processes."""
        return torch.Size(self.sizes).numel()

    def spread(self, net: nn.Module) -> Trained | None:
        """The model in this process; None where it is not one of the first `size`."""
        mesh = make_mesh(self.sizes)
        if dist.get_rank() >= self.size:
            return None
        return self.place(net, mesh)


@cache
def make_mesh(sizes: tuple[int, ...]) -> Any:
    """A mesh of the first processes; its dimensions are called `a` and `b`."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=("a", "b")[: len(sizes)])
    if len(sizes) > 1:
        mesh._flatten("all")
    return mesh


def fsdp2(net: nn.Module, mesh: Any) -> Trained:
    """FSDP2; HSDP over a mesh of two dimensions."""
    from torch.distributed.fsdp import fully_shard

    for block in net.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return Trained(net, None, (mesh["all"] if mesh.ndim > 1 else mesh).get_group())


def fsdp2_and_tp(net: nn.Module, mesh: Any) -> Trained:
    """FSDP2 over the first dimension of a mesh, tensor parallelism over the second."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    for block in net.blocks:
        if hasattr(block, "up"):
            plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
            parallelize_module(block, mesh["b"], plan)
        fully_shard(block, mesh=mesh["a"])
    fully_shard(net, mesh=mesh["a"])
    return OnMeshes(net, None, mesh.get_group("a"))


def ddp(net: nn.Module, mesh: Any, zero: bool = False) -> Trained:
    """Every process has everything."""
    from torch.nn.parallel import DistributedDataParallel

    group, is_late = mesh.get_group(), getattr(net, "has_late", False)
    wrapped = DistributedDataParallel(net, process_group=group, find_unused_parameters=is_late)
    return Trained(net, wrapped, group, zero)


def zero(net: nn.Module, mesh: Any) -> Trained:
    """DDP, with an optimizer of which each process has a part."""
    return ddp(net, mesh, zero=True)


def placed(placements: Callable[[Tensor], list[Any]]) -> Callable[[nn.Module, Any], Trained]:
    """Parameters with the placements that a function says."""

    def place(net: nn.Module, mesh: Any) -> Trained:
        from torch.distributed.tensor import distribute_tensor

        copy = deepcopy(net)
        made: dict[Tensor, nn.Parameter] = {}
        for module in net.modules():
            for name, p in list(module.named_parameters(recurse=False)):
                if p not in made:
                    shard = distribute_tensor(p.detach(), mesh, placements(p), src_data_rank=None)
                    made[p] = nn.Parameter(shard, requires_grad=p.requires_grad)
                setattr(module, name, made[p])
        return Gathered(net, copy)

    return place


def rows(p: Tensor) -> list[Any]:
    from torch.distributed.tensor import Shard

    return [Shard(0)]


def columns(p: Tensor) -> list[Any]:
    from torch.distributed.tensor import Shard

    return [Shard(min(1, p.ndim - 1))]


def copies(p: Tensor) -> list[Any]:
    from torch.distributed.tensor import Replicate

    return [Replicate()]


def blocks(p: Tensor) -> list[Any]:
    """Rows over one dimension of the mesh, columns over the other."""
    from torch.distributed.tensor import Replicate, Shard

    return [Shard(0), Shard(1) if p.ndim > 1 else Replicate()]


def mixed(p: Tensor) -> list[Any]:
    """Each parameter in another way."""
    return [rows, columns, copies][p.numel() % 3](p)


LAYOUTS = {
    "fsdp2 of 2": Layout((2,), fsdp2),
    "fsdp2 of 3": Layout((3,), fsdp2),
    "fsdp2 of 4": Layout((4,), fsdp2),
    "hsdp of 2 x 2": Layout((2, 2), fsdp2),
    "fsdp2 and tp of 2 x 2": Layout((2, 2), fsdp2_and_tp),
    "rows of 4": Layout((4,), placed(rows)),
    "columns of 4": Layout((4,), placed(columns)),
    "copies of 2": Layout((2,), placed(copies)),
    "blocks of 2 x 2": Layout((2, 2), placed(blocks)),
    "mixed of 2": Layout((2,), placed(mixed)),
    "ddp of 2": Layout((2,), ddp),
    "zero of 2": Layout((2,), zero),
    "zero of 3": Layout((3,), zero),
}
