"""Runs a rule as a compiled loop over all tensors of a call, on the threads that torch has."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from operator import attrgetter, is_
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lit_optim.kernels.codegen.c import generate_c
from lit_optim.kernels.compiler import CannotCompile, load_kernel
from lit_optim.kernels.ir import Rule, trace_rule
from lit_optim.kernels.precision import FORMATS, is_dense
from lit_optim.system import call_after_fork

#: Elements that a thread should have: with fewer, another one costs more than it gives.
ELEMENTS_PER_THREAD = 1 << 17
#: Elements that one thread does at a time, as in the C text.
CHUNK = 4096

#: Faster than an attribute in a loop, which many small tensors feel.
DTYPE, LAYOUT = attrgetter("dtype"), attrgetter("layout")
PLAIN_TENSORS = (Tensor, torch.nn.Parameter)
#: Scales are short, whatever lies beside them.
FLOAT_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

_kernels: dict[tuple[Any, ...], Any] = {}
_failure: CannotCompile | None = None
_forked = False


def _after_fork() -> None:
    """The threads of the parent are not here, and their runtime does not know it."""
    global _forked
    _forked = True


call_after_fork(_after_fork)


def count_threads(size: int) -> int:
    """How many threads share so many elements; a forked process has no team of them to ask."""
    return 1 if _forked else max(1, min(torch.get_num_threads(), size // ELEMENTS_PER_THREAD))


def unsupported_reason(row: Sequence[Tensor]) -> str | None:
    """Why these tensors of one parameter cannot be stepped natively; None if they can.

    Args:
        row: the parameter, its gradient and its states; not their scales.
    """
    p = row[0]
    contiguous = p.is_contiguous()
    for tensor in row:
        if type(tensor) not in PLAIN_TENSORS:  # a DTensor has its elements elsewhere
            return f"a tensor is a {type(tensor).__name__}"
        if not (tensor.is_cpu and tensor.dtype in FORMATS):
            if tensor.is_cpu:
                return f"{tensor.dtype} has no native kernel"
            return f"a tensor is on {tensor.device.type}"
        if tensor.layout is not torch.strided:
            return f"a tensor is {tensor.layout}"
        same = tensor.is_contiguous() if contiguous else tensor.stride() == p.stride()
        if not same or tensor.shape != p.shape:
            return "a gradient or state lies otherwise in memory than its parameter"
    if p.dtype not in FLOAT_DTYPES or row[1].dtype not in FLOAT_DTYPES:
        return f"{p.dtype} has no native kernel"
    if not contiguous and not is_dense(p):
        return "a parameter has gaps in memory"
    return None


class PointerTable:
    """The tensors of a call as the kernel reads them: made once, and followed from step to step.

    Args:
        rows: of each parameter itself, its gradient, its states, the scales of those in 8 bits and
            the lower half of the parameter, none of them refused, the dtypes of all rows alike.
        numbers: of each parameter, for the chances of its roundings.
    """

    def __init__(self, rows: Sequence[Sequence[Tensor]], numbers: Sequence[int]) -> None:
        columns = [list(column) for column in zip(*rows, strict=True)]
        self.formats = tuple(FORMATS[tensor.dtype] for tensor in rows[0])
        self.width = len(columns)
        self.kept = [columns[0], *columns[2:]]  # gradients come and go
        self.places = [list(map(Tensor.data_ptr, column)) for column in self.kept]
        self.dtype = columns[1][0].dtype
        self.layouts = None if all(g.is_contiguous() for g in columns[1]) else [
            g.stride() for g in columns[1]
        ]  # fmt: skip
        self.pointers = array("Q", bytes(8 * self.width * len(rows)))
        for k, places in zip((0, *range(2, self.width)), self.places, strict=True):
            self.pointers[k :: self.width] = array("Q", places)
        self._point(columns[1])
        sizes = [p.numel() for p in columns[0]]
        self.size = sum(sizes)
        ends, end = array("q"), 0
        for size in sizes:
            end += -(-size // CHUNK)
            ends.append(end)
        self.arrays = [ends, array("q", sizes), array("q", numbers), self.pointers]
        self.chunks = end
        self.scratch = array("d")
        #: What the rule of the last call has told: of each tensor.
        self.told: dict[str, list[float]] = {}
        self.call = array("Q", [len(rows), 0, end, *map(_address, self.arrays), 0])

    def follow(self, gradients: list[Tensor], kept: Sequence[list[Tensor]]) -> bool:
        """Take in where the gradients are now.

        Args:
            gradients: of each parameter.
            kept: the parameters, and what is kept for them, column by column.

        Returns:
            Whether all else is what and where it was; if not, another table has to be made.
        """
        for now, before, places in zip(kept, self.kept, self.places, strict=True):
            if len(now) != len(before) or not all(map(is_, now, before)):
                return False
            if list(map(Tensor.data_ptr, now)) != places:
                return False
        kinds = (
            set(map(DTYPE, gradients)),
            set(map(LAYOUT, gradients)),
            set(map(type, gradients)),
        )
        if kinds != ({self.dtype}, {torch.strided}, {Tensor}):
            return False
        if self.layouts is None:
            if not all(map(Tensor.is_contiguous, gradients)):
                return False
        elif list(map(Tensor.stride, gradients)) != self.layouts:
            return False
        self._point(gradients)
        return True

    def _point(self, gradients: Sequence[Tensor]) -> None:
        self.pointers[1 :: self.width] = array("Q", map(Tensor.data_ptr, gradients))

    def room(self, sums: int) -> None:
        """Have scratch for so many sums over each tensor."""
        wanted = sums * (self.chunks + self.call[0])
        if len(self.scratch) < wanted:
            self.scratch = array("d", bytes(8 * wanted))
            self.call[-1] = _address(self.scratch)


def _address(numbers: array[Any]) -> int:
    return numbers.buffer_info()[0]


def step(
    key: Any, rule: Rule, table: PointerTable, states: Sequence[str], h: SimpleNamespace, t: int
) -> str | None:
    """One update of many tensors, in place; see `torch_executor.step`.

    Args:
        key: what the rule depends on beside h: the same key, the same rule.
        rule: pure, traced at its first call.
        table: of the tensors.
        states: the names of the states.
        h: the scalars; numbers may change from call to call, bools make another kernel.
        t: which update of these parameters it is.

    Returns:
        None, or why no kernel can be made; then nothing is done.
    """
    numbers: list[float] = []
    switches: list[tuple[str, Any]] = []
    for name, value in vars(h).items():
        if isinstance(value, bool):
            switches.append((name, value))
        else:
            switches.append((name, None))
            numbers.append(value)
    called = (key, *switches, table.formats)
    made = _kernels.get(called)
    if made is None:
        if _failure:
            return str(_failure)
        made = _made(rule, table.formats, states, h)
        if made is None:
            return str(_failure)
        _kernels[called] = made
    kernel, sums, told = made
    table.room(sums)
    scalars = array("d", numbers)
    kernel(_address(table.call), _address(scalars), t, count_threads(table.size))
    if told:  # they stand behind the others
        first, end = sums - len(told), sums * table.call[0]
        table.told = {
            name: list(table.scratch[first + k : end : sums]) for k, name in enumerate(told)
        }
    return None


def _made(
    rule: Rule, formats: Sequence[str], states: Sequence[str], h: SimpleNamespace
) -> tuple[Any, int, tuple[str, ...]] | None:
    global _failure
    program = trace_rule(rule, states, vars(h))
    try:
        return (
            load_kernel(generate_c(program, formats)),
            sum(map(len, program.sums)),
            tuple(program.told),
        )
    except CannotCompile as error:
        _failure = error
        return None
