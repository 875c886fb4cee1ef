"""Runs a rule as Triton kernels over all tensors of a call, on the GPU that has them.

Triton is looked for only when tensors on a GPU ask; its interpreter runs the same kernels on a CPU,
for tests.
"""

from __future__ import annotations

import hashlib
import math
import operator
import os
import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lit_optim.kernels import compiler, cpu
from lit_optim.kernels.codegen.triton import generate_triton, kernel_arguments
from lit_optim.kernels.ir import COMPARISONS, Program, Rule, trace_rule
from lit_optim.kernels.precision import FORMATS, is_dense

WARPS = 4

#: A kernel, or why there is none.
_kernels: dict[tuple[Any, ...], Kernel | str] = {}


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _interpreted() -> bool:
    """Whether Triton is asked to run on the CPU; it wants to know before it is imported."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on")


def unsupported_reason(row: Sequence[Tensor]) -> str | None:
    """Why these tensors of one parameter cannot be stepped natively; None if they can.

    Args:
        row: the parameter, its gradient and its states; not their scales.
    """
    p = row[0]
    if p.device.type != ("cpu" if _interpreted() else "cuda"):
        return f"a tensor is on {p.device.type}"
    if not _has_triton():
        return "triton is not installed"
    contiguous = p.is_contiguous()
    for tensor in row:
        if type(tensor) not in cpu.PLAIN_TENSORS:  # a DTensor has its elements elsewhere
            return f"a tensor is a {type(tensor).__name__}"
        if tensor.device != p.device:
            return f"a tensor is on {tensor.device}, its parameter on {p.device}"
        if tensor.dtype not in FORMATS:
            return f"{tensor.dtype} has no native kernel"
        if tensor.layout is not torch.strided:
            return f"a tensor is {tensor.layout}"
        same = tensor.is_contiguous() if contiguous else tensor.stride() == p.stride()
        if not same or tensor.shape != p.shape:
            return "a gradient or state lies otherwise in memory than its parameter"
    if p.dtype not in cpu.FLOAT_DTYPES or row[1].dtype not in cpu.FLOAT_DTYPES:
        return f"{p.dtype} has no native kernel"
    if not contiguous and not is_dense(p):
        return "a parameter has gaps in memory"
    return None


class PointerTable(cpu.PointerTable):
    """The tensors of a call as the kernels read them: made once, and followed from step to step.

    Args:
        rows: of each parameter itself, its gradient, its states, the scales of those in 8 bits and
            the lower half of the parameter, none of them refused, the dtypes of all rows alike, all
            on one device.
        numbers: of each parameter, for the chances of its roundings.
    """

    def __init__(self, rows: Sequence[Sequence[Tensor]], numbers: Sequence[int]) -> None:
        super().__init__(rows, numbers)
        self.device, self.count = rows[0][0].device, len(rows)
        chunks = torch.diff(_tensor(array("q", [0]) + self.arrays[0]))
        each = torch.arange(self.count, dtype=torch.int32, device="cpu")
        self.owners = each.repeat_interleave(chunks).to(self.device)
        self.sent = self.pointers[:]
        self.table = torch.cat([_tensor(x) for x in self.arrays]).to(self.device)
        self.sums = torch.empty(1, dtype=torch.float64, device=self.device)

    def on_device(self) -> Tensor:
        """The table where the kernels read it, with the gradients where they are now."""
        if self.pointers != self.sent:
            self.sent = self.pointers[:]
            # pinned memory that is given back is not used again before the copy is done
            now = _tensor(self.sent)
            now = now.pin_memory() if self.device.type == "cuda" else now
            self.table[-len(now) :].copy_(now, non_blocking=True)
        return self.table

    def parts(self, sums: int) -> Tensor:
        """Room for so many sums over each tensor and each chunk."""
        wanted = sums * (self.chunks + self.count)
        if len(self.sums) < wanted:
            self.sums = torch.empty(wanted, dtype=torch.float64, device=self.device)
        return self.sums

    def there(self) -> AbstractContextManager[Any]:
        """Within it kernels start on the GPU of the table."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()


def _tensor(numbers: array[int]) -> Tensor:
    return torch.frombuffer(numbers, dtype=torch.int64)


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
    if not table.chunks:
        return None
    switches = [(n, value if isinstance(value, bool) else None) for n, value in vars(h).items()]
    called = (key, *switches, table.formats, table.device)
    kernel = _kernels.get(called)
    if kernel is None:
        kernel = _kernels[called] = _made(rule, table, states, h, t)
    elif not isinstance(kernel, str):
        kernel.run(table, vars(h), t)
    return kernel if isinstance(kernel, str) else None


def _made(
    rule: Rule, table: PointerTable, states: Sequence[str], h: SimpleNamespace, t: int
) -> Kernel | str:
    """The kernel, after its first run: Triton compiles when it is called."""
    program = trace_rule(rule, states, vars(h))
    text = generate_triton(program, table.formats)
    try:
        kernel = Kernel(program, _module(text))
        kernel.run(table, vars(h), t)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # Triton raises what it likes; p is written by the last launch only
        return f"triton fails: {_in_short(error)}"
    return kernel


def _in_short(error: Exception) -> str:
    """One line of what can be pages; where a position in the text comes first, the last one."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    told = lines[-1] if lines[0].startswith("at ") else lines[0]
    return f"{type(error).__name__}: {told.strip()[:200]}"


def _module(text: str) -> ModuleType:
    """The text as a module. Triton reads it again from a file, so it is kept in one."""
    name = f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.py"
    cached = compiler.cache_dir()
    path = cached / name if cached else None
    try:
        is_there = path is not None and path.read_text("utf-8") == text
    except (OSError, UnicodeDecodeError):
        is_there = False
    if path is None or not is_there:
        path = compiler.store_in_cache(text.encode(), name)
    module = ModuleType(f"lit_optim_{path.stem}")
    module.__file__ = str(path)
    exec(compile(text, str(path), "exec"), module.__dict__)
    return module


class Kernel:
    """The passes of a rule.

    Args:
        program: the traced rule.
        module: its Triton text, run.
    """

    def __init__(self, program: Program, module: ModuleType) -> None:
        self.program, self.fold, self.update = program, module.fold, module.update
        self.sums = [
            (getattr(module, f"sums{k}"), len(places)) for k, places in enumerate(program.sums)
        ]
        self.handed = kernel_arguments(program)

    def run(self, table: PointerTable, h: Mapping[str, Any], t: int) -> None:
        """Every pass over the tensors of the table."""
        known = call_values(self.program, h)
        numbers = [float(known[place]) for place in self.handed]
        bits = struct.unpack(f"{len(numbers)}q", struct.pack(f"{len(numbers)}d", *numbers))
        of_all = sum(count for _, count in self.sums)
        sizes, grid, first = (table.count, table.chunks), (table.chunks,), 0
        with table.there():
            rows, parts = table.on_device(), table.parts(of_all)
            arguments = (rows, table.owners, parts, *sizes, t, *bits)
            for sums, count in self.sums:
                sums[grid](*arguments, num_warps=WARPS)
                self.fold[(table.count, count)](rows, parts, *sizes, of_all, first, num_warps=WARPS)
                first += count
            self.update[grid](*arguments, num_warps=WARPS)
        in_order = [place for places in self.program.sums for place in places]
        for name, place in self.program.told.items():
            first = in_order.index(place) * table.count
            table.told[name] = parts[first : first + table.count].tolist()


def call_values(program: Program, h: Mapping[str, Any]) -> dict[int, Any]:
    """What a program computes once per call, by place, in double precision.

    Args:
        program: the traced rule.
        h: the scalars by name.
    """
    known: dict[int, Any] = {}
    for place, node in enumerate(program.nodes):
        if node.per != "call":
            continue
        if node.op == "const":
            known[place] = float(node.value)
        elif node.op == "arg":
            known[place] = float(h[str(node.value).removeprefix("h.")])
        else:
            known[place] = ON_NUMBERS[node.op](*(known[i] for i in node.inputs))
    return known


def _divided(x: float, y: float) -> float:
    """The quotient as a processor has it."""
    if y != 0:
        return x / y
    return math.nan if x == 0 or math.isnan(x) else math.copysign(math.inf, x) * math.copysign(1, y)


ON_NUMBERS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "neg", *COMPARISONS)},
    "div": _divided,
    "sqrt": lambda x: math.sqrt(x) if x >= 0 else math.nan,
    "abs": abs,
    "sign": lambda x: float((x > 0) - (x < 0)),
    "max": lambda x, y: x if x > y or math.isnan(x) else y,
    "clamp": lambda x, low, high: low if x < low else high if x > high else x,
    "where": lambda condition, x, y: x if condition else y,
}
