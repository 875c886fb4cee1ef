"""The tensors of a call as kernels read them: a table of their addresses."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

from lit_optim.kernels.precision import FORMATS, Place, is_dense

#: The number of elements that a kernel processes at a time.
CHUNK = 4096
PLAIN_TENSORS = (Tensor, torch.nn.Parameter)
#: What parameters and gradients may be stored in.
FLOAT_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

#: Faster in a loop than attribute access, which matters for many small tensors.
get_dtype = attrgetter("dtype")


def unsupported_reason(row: Sequence[Tensor], device_type: str) -> str | None:
    """Return why no native kernel can update these tensors of one parameter, or None if one can.

    Args:
        row: the parameter, its gradient and its states; not their scales.
        device_type: where the kernel runs.
    """
    p = row[0]
    if p.device.type != device_type:
        return f"a tensor is on {p.device.type}"
    is_contiguous = p.is_contiguous()
    for tensor in row:
        if type(tensor) not in PLAIN_TENSORS:  # the elements of a DTensor are elsewhere
            return f"a tensor is a {type(tensor).__name__}"
        if tensor.device != p.device:
            return f"a tensor is on {tensor.device}, its parameter on {p.device}"
        if tensor.dtype not in FORMATS:
            return f"{tensor.dtype} has no native kernel"
        if tensor.layout is not torch.strided:
            return f"a tensor is {tensor.layout}"
        has_layout = tensor.is_contiguous() if is_contiguous else tensor.stride() == p.stride()
        if not has_layout or tensor.shape != p.shape:
            return "a gradient or state has another memory layout than its parameter"
    if p.dtype not in FLOAT_DTYPES or row[1].dtype not in FLOAT_DTYPES:
        return f"{p.dtype} has no native kernel"
    if not is_contiguous and not is_dense(p):
        return "a parameter has gaps in memory"
    return None


class PointerTable:
    """The addresses of the tensors of a call, as a kernel reads them.

    A table is built once and refreshed at each step, since only gradients usually move.

    Args:
        rows: for each parameter the parameter, its gradient, its states, the scales of those in
            8 bits and the low bits of the parameter. All are supported, and the dtypes of all rows
            are the same.
        numbers: the number of each parameter, from which its rounding bits are derived.
        places: where each parameter is in its whole tensor; None: all are whole.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[Tensor]],
        numbers: Sequence[int],
        places: Sequence[Place] | None = None,
    ) -> None:
        columns = [list(column) for column in zip(*rows, strict=True)]
        self.formats = tuple(FORMATS[tensor.dtype] for tensor in rows[0])
        self.width = len(columns)
        self.kept = [columns[0], *columns[2:]]  # all but the gradients, which come and go
        self.addresses = [list(map(Tensor.data_ptr, column)) for column in self.kept]
        self.gradient_dtype = columns[1][0].dtype
        #: None if all gradients are contiguous
        self.gradient_strides = None if all(g.is_contiguous() for g in columns[1]) else [
            g.stride() for g in columns[1]
        ]  # fmt: skip
        self.pointers = array("Q", bytes(8 * self.width * len(rows)))
        for k, addresses in zip((0, *range(2, self.width)), self.addresses, strict=True):
            self.pointers[k :: self.width] = array("Q", addresses)
        self._point_to_gradients(columns[1])
        sizes = [p.numel() for p in columns[0]]
        self.size = sum(sizes)
        ends, end = array("q"), 0
        for size in sizes:
            end += -(-size // CHUNK)
            ends.append(end)
        places = places or [Place(0, size, size) for size in sizes]
        where = [array("q", column) for column in zip(*places, strict=True)]
        self.arrays = [ends, array("q", sizes), array("q", numbers), *where, self.pointers]
        self.chunks = end
        self.scratch = array("d")
        #: The sums that the rule returned at the last call, tensor by tensor.
        self.reductions: dict[str, list[float]] = {}
        self.call = array("Q", [len(rows), 0, end, *map(address_of, self.arrays), 0, 0])

    def refresh(self, gradients: list[Tensor], kept: Sequence[Iterable[Tensor]]) -> bool:
        """Store the addresses that the gradients have now.

        Args:
            gradients: of each parameter.
            kept: the parameters, and their states, column by column, as many as gradients.

        Returns:
            Whether everything else is unchanged; if not, a new table has to be built.
        """
        if {*map(type, gradients)} != {Tensor} or len(gradients) != len(self.kept[0]):
            return False
        for now, before, addresses in zip(kept, self.kept, self.addresses, strict=True):
            if not all(map(is_, now, before)) or list(map(Tensor.data_ptr, before)) != addresses:
                return False
        if {*map(get_dtype, gradients)} != {self.gradient_dtype}:
            return False
        try:
            self._point_to_gradients(gradients)
        except RuntimeError:  # one has no memory of its own, as those that are sparse
            return False
        if self.gradient_strides is None:
            return all(map(Tensor.is_contiguous, gradients))
        return list(map(Tensor.stride, gradients)) == self.gradient_strides

    def _point_to_gradients(self, gradients: Sequence[Tensor]) -> None:
        self.pointers[1 :: self.width] = array("Q", map(Tensor.data_ptr, gradients))

    def reserve_scratch(self, sums: int) -> None:
        """Allocate scratch memory for this many sums over each tensor."""
        size = sums * (self.chunks + self.call[0])
        if len(self.scratch) < size:
            self.scratch = array("d", bytes(8 * size))
            self.call[-2] = address_of(self.scratch)


def address_of(numbers: array[Any]) -> int:
    """Return the memory address of an array."""
    return numbers.buffer_info()[0]
