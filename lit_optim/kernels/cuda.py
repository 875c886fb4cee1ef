"""Runs a rule as Triton kernels over all tensors of a call, on the GPU that holds them.

Triton is imported only when tensors on a GPU need it. For tests, its interpreter runs the same
kernels on a CPU (TRITON_INTERPRET=1).
"""

from __future__ import annotations

import hashlib
import os
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lit_optim.kernels import compiler, pointer_table
from lit_optim.kernels.codegen.triton import generate_triton, kernel_arguments
from lit_optim.kernels.ir import Passes, Program, Rule, trace_rule
from lit_optim.kernels.precision import Place
from lit_optim.kernels.primitives import PRIMITIVES

#: A kernel, or why there is none.
_kernels: dict[tuple[Any, ...], Kernel | str] = {}


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _is_interpreted() -> bool:
    """Whether Triton is to run on the CPU; the variable must be set before triton is imported."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on")


def unsupported_reason(row: Sequence[Tensor]) -> str | None:
    """Return why Triton kernels cannot update these tensors, or None if they can.

    Args:
        row: the parameter, its gradient and its states; not their scales.
    """
    device_type = "cpu" if _is_interpreted() else "cuda"
    if row[0].device.type == device_type and not _has_triton():
        return "triton is not installed"
    return pointer_table.unsupported_reason(row, device_type)


class PointerTable(pointer_table.PointerTable):
    """The addresses of the tensors of a call, on the GPU that holds the tensors.

    Args:
        rows: as for the base class, all tensors on one device.
        numbers: the number of each parameter, from which its rounding bits are derived.
        places: as for the base class.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[Tensor]],
        numbers: Sequence[int],
        places: Sequence[Place] | None = None,
    ) -> None:
        super().__init__(rows, numbers, places)
        self.device, self.count = rows[0][0].device, len(rows)
        chunks = torch.diff(_as_tensor(array("q", [0]) + self.arrays[0]))
        each = torch.arange(self.count, dtype=torch.int32, device="cpu")
        #: the row of each chunk
        self.owners = each.repeat_interleave(chunks).to(self.device)
        self.uploaded = self.pointers[:]
        self.table = torch.cat([_as_tensor(x) for x in self.arrays]).to(self.device)
        self.sums = torch.empty(1, dtype=torch.float64, device=self.device)

    def upload(self) -> Tensor:
        """Return the table on the GPU, with the addresses that the gradients have now."""
        if self.pointers != self.uploaded:
            self.uploaded = self.pointers[:]
            # pinned memory that is freed is not reused before the copy has finished
            pointers = _as_tensor(self.uploaded)
            pointers = pointers.pin_memory() if self.device.type == "cuda" else pointers
            self.table[-len(pointers) :].copy_(pointers, non_blocking=True)
        return self.table

    def reserve_sums(self, sums: int) -> Tensor:
        """Return memory for this many sums over each tensor and each chunk."""
        size = sums * (self.chunks + self.count)
        if len(self.sums) < size:
            self.sums = torch.empty(size, dtype=torch.float64, device=self.device)
        return self.sums

    def select_device(self) -> AbstractContextManager[Any]:
        """Return a context in which kernels start on the GPU of the table."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()


def _as_tensor(numbers: array[int]) -> Tensor:
    return torch.frombuffer(numbers, dtype=torch.int64)


def step(
    key: Any, rule: Rule, table: PointerTable, states: Sequence[str], h: SimpleNamespace, t: int
) -> str | None:
    """Update many tensors once, in place; arguments and result are those of `cpu.step`."""
    if not table.chunks:
        return None
    kernel = _find_kernel(key, rule, table, states, h, t, by_pass=False)
    if isinstance(kernel, str):
        return kernel
    for _ in kernel.run(table, vars(h), t):
        pass
    return None


def step_by_pass(
    key: Any, rule: Rule, table: PointerTable, states: Sequence[str], h: SimpleNamespace, t: int
) -> Passes | str:
    """The same for shards; arguments and result are those of `cpu.step_by_pass`."""
    kernel = _find_kernel(key, rule, table, states, h, t, by_pass=True)
    return kernel if isinstance(kernel, str) else _make_passes(kernel, table, vars(h), t)


def _make_passes(kernel: Kernel, table: PointerTable, h: Mapping[str, Any], t: int) -> Passes:
    for sums in kernel.run(table, h, t):
        sums.copy_((yield sums.clone()))


def _find_kernel(
    key: Any,
    rule: Rule,
    table: PointerTable,
    states: Sequence[str],
    h: SimpleNamespace,
    t: int,
    by_pass: bool,
) -> Kernel | str:
    switches = [(n, value if isinstance(value, bool) else None) for n, value in vars(h).items()]
    kernel_key = (key, *switches, table.formats, table.device, by_pass)
    if kernel_key not in _kernels:
        _kernels[kernel_key] = _compile(rule, table, states, h, t, by_pass)
    return _kernels[kernel_key]


def _compile(
    rule: Rule,
    table: PointerTable,
    states: Sequence[str],
    h: SimpleNamespace,
    t: int,
    by_pass: bool,
) -> Kernel | str:
    """Return the kernel, or its error; Triton compiles at a call, which here has no chunks."""
    program = trace_rule(rule, states, vars(h))
    text = generate_triton(program, table.formats, by_pass)
    try:
        kernel = Kernel(program, load_module(text))
        for _ in kernel.run(table, vars(h), t, is_trial=True):
            pass
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of any class
        return f"triton fails: {_summarize(error)}"
    return kernel


def _summarize(error: Exception) -> str:
    """Reduce an error to one line: its first, or its last where a position in the text is first."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    message = lines[-1] if lines[0].startswith("at ") else lines[0]
    return f"{type(error).__name__}: {message.strip()[:200]}"


def load_module(text: str) -> ModuleType:
    """Execute the text as a module. Triton reads it again from a file, so it is stored in one."""
    name = f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.py"
    cached = compiler.cache_dir()
    path = cached / name if cached else None
    try:
        is_stored = path is not None and path.read_text("utf-8") == text
    except (OSError, UnicodeDecodeError):
        is_stored = False
    if path is None or not is_stored:
        path = compiler.store_in_cache(text.encode(), name)
    module = ModuleType(f"lit_optim_{path.stem}")
    module.__file__ = str(path)
    exec(compile(text, str(path), "exec"), module.__dict__)
    return module


class Kernel:
    """The passes of a rule.

    Args:
        program: the traced rule.
        module: its Triton text, executed.
    """

    def __init__(self, program: Program, module: ModuleType) -> None:
        self.program, self.combine, self.update = program, module.combine, module.update
        self.sums = [
            (getattr(module, f"sums{k}"), len(sums)) for k, sums in enumerate(program.sums_by_pass)
        ]
        self.arguments, self.warps = kernel_arguments(program), module.WARPS

    def run(
        self, table: PointerTable, h: Mapping[str, Any], t: int, is_trial: bool = False
    ) -> Iterator[Tensor]:
        """Run every pass over the tensors of the table.

        Args:
            table: the tensors.
            h: the scalars by name.
            t: the number of the update.
            is_trial: launch no programs: everything is compiled, and nothing computed.

        Yields:
            Before each pass but the first, the sums of the previous one, [tensors, sums]. They may
            be changed.
        """
        known = call_values(self.program, h)
        numbers = [float(known[index]) for index in self.arguments]
        bits = struct.unpack(f"{len(numbers)}q", struct.pack(f"{len(numbers)}d", *numbers))
        all_sums = sum(count for _, count in self.sums)
        sizes, rows, first = (table.count, table.chunks), 0 if is_trial else table.count, 0
        grid = (0 if is_trial else table.chunks,)
        with table.select_device():
            addresses, scratch = table.upload(), table.reserve_sums(all_sums)
        arguments = (addresses, table.owners, scratch, *sizes, t, *bits)
        for sums, count in self.sums:
            with table.select_device():
                sums[grid](*arguments, num_warps=self.warps)
                self.combine[(rows, count)](
                    addresses, scratch, *sizes, all_sums, first, num_warps=self.warps
                )
            yield scratch[first * table.count :][: count * table.count].view(count, -1).t()
            first += count
        with table.select_device():
            self.update[grid](*arguments, num_warps=self.warps)
        in_order = [index for sums in self.program.sums_by_pass for index in sums]
        for name, index in self.program.reductions.items():
            first = in_order.index(index) * table.count
            table.reductions[name] = scratch[first : first + table.count].tolist()


def call_values(program: Program, h: Mapping[str, Any]) -> dict[int, Any]:
    """Compute what a program needs once per call, in double precision.

    Args:
        program: the traced rule.
        h: the scalars by name.

    Returns:
        The value of each node of the scope `call`, by its index.
    """
    known: dict[int, Any] = {}
    for index, node in enumerate(program.nodes):
        if node.scope != "call":
            continue
        if node.op == "const":
            known[index] = float(node.value)
        elif node.op == "arg":
            known[index] = float(h[str(node.value).removeprefix("h.")])
        else:
            known[index] = PRIMITIVES[node.op].number(*(known[i] for i in node.operands))
    return known
