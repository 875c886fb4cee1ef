"""Where the elements of a DTensor are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from lit_optim.errors import UsageError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Sharding(NamedTuple):
    """The processes that a tensor is spread over. Equal for tensors that can be summed together.

    Args:
        mesh: the device mesh of the tensor.
        dims: the dimensions of the mesh over which the tensor is divided; over the others each
            process has a copy.
    """

    mesh: Any
    dims: tuple[int, ...]

    @classmethod
    def of(cls, p: Tensor) -> Sharding | None:
        """The sharding of a DTensor; None for any other tensor."""
        if not is_sharded(p):
            return None
        placements = enumerate(p.placements)  # type: ignore[attr-defined]
        dims = tuple(k for k, placement in placements if not placement.is_replicate())
        return cls(p.device_mesh, dims)  # type: ignore[attr-defined]

    @property
    def device_type(self) -> str:
        """Where messages between the processes are."""
        return str(self.mesh.device_type)

    def groups(self) -> list[ProcessGroup]:
        """The process groups, one after the other, over which sums of shards have to be added."""
        return [self.mesh.get_group(dim) for dim in self.dims]


def is_sharded(x: Any) -> bool:
    """Whether it is a DTensor. Nothing is imported: without one torch need not load the class."""
    return hasattr(x, "device_mesh") and hasattr(x, "placements")


def local_tensor(x: Tensor) -> Tensor:
    """The shard of a DTensor that this process has, always the same object; others themselves."""
    if not is_sharded(x):
        return x
    local: Tensor = x._local_tensor  # type: ignore[attr-defined]
    if type(local) is not Tensor:  # one that still waits for its communication
        local = x.to_local()  # type: ignore[attr-defined]
    return local


class Runs(NamedTuple):
    """Where the elements of a shard are in the whole tensor: in runs, equally far apart.

    Args:
        first: the position of the first element.
        length: the number of consecutive elements of a run; at least 1.
        gap: the number of elements of other shards between two runs.
    """

    first: int
    length: int
    gap: int


def runs_of(x: Tensor) -> Runs:
    """The runs of this process's shard; a whole tensor is one.

    Of a shard that is cut along more than one dimension after the first they are those of the last
    such dimension.
    """
    if not is_sharded(x):
        return Runs(0, max(x.numel(), 1), 0)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, placements = x.device_mesh, x.placements  # type: ignore[attr-defined]
    own, offsets = compute_local_shape_and_global_offset(x.shape, mesh, placements)
    first = 0
    for size, offset in zip(x.shape, offsets, strict=True):
        first = first * size + offset
    length = gap = 1
    for dim in reversed(range(x.ndim)):
        length *= own[dim]
        if dim and own[dim] != x.shape[dim]:
            gap *= x.shape[dim] - own[dim]
            return Runs(first, max(length, 1), gap)
        gap *= x.shape[dim]
    return Runs(first, max(length, 1), 0)


def local_gradient(p: Tensor, g: Tensor) -> Tensor:
    """The shard of a gradient that belongs to the local shard of its parameter.

    Raises:
        UsageError: one of the two is a DTensor and the other is not.
    """
    if is_sharded(g) != is_sharded(p):
        raise UsageError(
            f"a parameter of shape {list(p.shape)} is a DTensor and its gradient is none, or the "
            "reverse: they must be spread over the same processes"
        )
    if is_sharded(g) and g.placements != p.placements:  # type: ignore[attr-defined]
        g = g.redistribute(p.device_mesh, p.placements)  # type: ignore[attr-defined]
    return local_tensor(g)
