"""Runs a rule as a compiled loop over all tensors of a call, on as many threads as torch uses."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_optim.kernels import pointer_table
from lit_optim.kernels.codegen.c import generate_c
from lit_optim.kernels.compiler import CannotCompile, load_kernel
from lit_optim.kernels.ir import Passes, Rule, trace_rule
from lit_optim.kernels.pointer_table import PointerTable, address_of
from lit_optim.system import call_after_fork

#: The least number of elements for a thread: with fewer, starting it costs more than it saves.
ELEMENTS_PER_THREAD = 1 << 17


class CompiledKernel(NamedTuple):
    """The C function of a rule.

    Args:
        function: to call with the addresses of a table and of the scalars.
        sums: the number of sums over a tensor.
        passes: the number of those that each pass before the last computes.
        reductions: the names of the sums that the rule returns; they come last.
    """

    function: Any
    sums: int
    passes: tuple[int, ...]
    reductions: tuple[str, ...]


_kernels: dict[tuple[Any, ...], CompiledKernel] = {}
_failure: CannotCompile | None = None
_is_forked = False


def _after_fork() -> None:
    """The threads of the parent do not exist here, and their OpenMP runtime does not know it."""
    global _is_forked
    _is_forked = True


call_after_fork(_after_fork)


def count_threads(size: int) -> int:
    """How many threads share this many elements; always one in a forked process."""
    most = size // ELEMENTS_PER_THREAD
    return 1 if _is_forked else max(1, min(torch.get_num_threads(), most))


def unsupported_reason(row: Sequence[Tensor]) -> str | None:
    """Return why the CPU's kernels cannot update these tensors, or None if they can.

    Args:
        row: the parameter, its gradient and its states; not their scales.
    """
    return pointer_table.unsupported_reason(row, "cpu")


def step(
    key: Any, rule: Rule, table: PointerTable, states: Sequence[str], h: SimpleNamespace, t: int
) -> str | None:
    """Update many tensors once, in place; see `torch_executor.step`.

    Args:
        key: what the rule depends on besides h: the same key means the same rule.
        rule: pure; traced at its first call.
        table: of the tensors.
        states: the names of the states.
        h: the scalars. Numbers may change from call to call; other bools need another kernel.
        t: the number of this update.

    Returns:
        None, or why no kernel can be compiled; then nothing was changed.
    """
    kernel, numbers = _prepare(key, rule, table, states, h, by_pass=False)
    if isinstance(kernel, str):
        return kernel
    kernel.function(address_of(table.call), address_of(numbers), t, count_threads(table.size))
    if kernel.reductions:
        sums, reductions = kernel.sums, kernel.reductions
        first, end = sums - len(reductions), sums * table.call[0]
        table.reductions = {
            name: list(table.scratch[first + k : end : sums]) for k, name in enumerate(reductions)
        }
    return None


def step_by_pass(
    key: Any, rule: Rule, table: PointerTable, states: Sequence[str], h: SimpleNamespace, t: int
) -> Passes | str:
    """The same for tensors that are shards: their sums are completed by the caller.

    Returns:
        What makes the step, pass by pass; or why no kernel can be compiled.
    """
    kernel, numbers = _prepare(key, rule, table, states, h, by_pass=True)
    return kernel if isinstance(kernel, str) else _make_passes(kernel, table, numbers, t)


def _make_passes(
    kernel: CompiledKernel, table: PointerTable, numbers: array[float], t: int
) -> Passes:
    calls = address_of(table.call), address_of(numbers), t, count_threads(table.size)
    rows, first = table.call[0], 0
    try:
        for number, count in enumerate((*kernel.passes, 0), 1):
            table.call[-1] = number
            kernel.function(*calls)
            if count:
                scratch = torch.frombuffer(table.scratch, dtype=torch.float64)
                sums = scratch[: rows * kernel.sums].view(rows, -1)[:, first : first + count]
                sums.copy_((yield sums.clone()))
                first += count
    finally:
        table.call[-1] = 0


def _prepare(
    key: Any,
    rule: Rule,
    table: PointerTable,
    states: Sequence[str],
    h: SimpleNamespace,
    by_pass: bool,
) -> tuple[CompiledKernel | str, array[float]]:
    """The kernel, or why there is none, and the numbers that it is called with."""
    values = vars(h)
    # compared rather than asked for their type, which takes twice as long
    scalars = [one for one in values.values() if one is not True and one is not False]
    switches = tuple([one if one is True or one is False else None for one in values.values()])
    kernel_key = key, tuple(values), switches, table.formats, by_pass
    kernel = _kernels.get(kernel_key)
    if kernel is None:
        kernel = None if _failure else _compile_rule(rule, table.formats, states, h, by_pass)
        if kernel is None:
            return str(_failure), array("d")
        _kernels[kernel_key] = kernel
    table.reserve_scratch(kernel.sums)
    return kernel, array("d", scalars)


def _compile_rule(
    rule: Rule, formats: Sequence[str], states: Sequence[str], h: SimpleNamespace, by_pass: bool
) -> CompiledKernel | None:
    global _failure
    program = trace_rule(rule, states, vars(h))
    sums = sum(map(len, program.sums_by_pass))
    try:
        function = load_kernel(generate_c(program, formats, by_pass))
    except CannotCompile as error:
        _failure = error
        return None
    return CompiledKernel(
        function, sums, tuple(map(len, program.passes)), tuple(program.reductions)
    )
