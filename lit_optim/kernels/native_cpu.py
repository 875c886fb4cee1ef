"""Runs a rule as a compiled loop over all tensors of a call, on the threads that torch has."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lit_optim.kernels.c_source import STORED, source
from lit_optim.kernels.compiler import CannotCompile, load
from lit_optim.kernels.trace import Rule, trace

#: Below so many elements a second thread costs more than it gives.
ALONE = 1 << 15

#: What is stored how, by torch's dtypes.
DTYPES = {getattr(torch, name): name for name in STORED}

PLAIN = (Tensor, torch.nn.Parameter)

_kernels: dict[tuple[Any, ...], Any] = {}
_failure: CannotCompile | None = None
_forked = False


def _after_fork() -> None:
    """The threads of the parent are not here, and their runtime does not know it."""
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_after_fork)


def refusal(tensors: Sequence[Tensor]) -> str | None:
    """Why these tensors of one parameter cannot be stepped natively; None if they can.

    Args:
        tensors: the parameter, its gradient and its states.
    """
    p = tensors[0]
    contiguous = p.is_contiguous()
    for tensor in tensors:
        if type(tensor) not in PLAIN:  # a DTensor has its elements elsewhere
            return f"a tensor is a {type(tensor).__name__}"
        if not (tensor.is_cpu and tensor.dtype in DTYPES):
            if tensor.is_cpu:
                return f"{tensor.dtype} has no native kernel"
            return f"a tensor is on {tensor.device.type}"
        same = tensor.is_contiguous() if contiguous else tensor.stride() == p.stride()
        if not same:
            return "a gradient or state lies otherwise in memory than its parameter"
    if not contiguous and not _is_dense(p):
        return "a parameter has gaps in memory"
    return None


def _is_dense(p: Tensor) -> bool:
    """Whether its elements fill a stretch of memory, in whatever order (channels_last)."""
    expected = 1
    for stride, size in sorted(zip(p.stride(), p.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def step(
    key: Any,
    rule: Rule,
    rows: Sequence[Sequence[Tensor]],
    states: Sequence[str],
    h: SimpleNamespace,
    a: float,
    b: float,
) -> str | None:
    """One update of many tensors of the same dtypes, in place; see `torch_executor.step`.

    Args:
        key: what the rule depends on beside h: the same key, the same rule.
        rule: pure, traced at its first call.
        rows: of each parameter itself, its gradient and its states, none of them refused.
        states: the names of the states.
        h: the scalars; numbers may change from call to call, bools make another kernel.
        a: what the parameters are multiplied by.
        b: what the direction is multiplied by.

    Returns:
        None, or why no kernel can be made; then nothing is done.
    """
    numbers = [a, b]
    switches: list[tuple[str, Any]] = []
    for name, value in vars(h).items():
        if isinstance(value, bool):
            switches.append((name, value))
        else:
            switches.append((name, None))
            numbers.append(value)
    dtypes = [DTYPES[tensor.dtype] for tensor in rows[0]]
    called = (key, *switches, *dtypes)
    kernel = _kernels.get(called)
    if kernel is None:
        if _failure:
            return str(_failure)
        kernel = _made(rule, dtypes, states, h)
        if kernel is None:
            return str(_failure)
        _kernels[called] = kernel
    ends, total = array("q"), 0
    pointers = array("Q")
    for row in rows:
        total += row[0].numel()
        ends.append(total)
        pointers.extend(map(Tensor.data_ptr, row))
    threads = 1 if total < ALONE or _forked else torch.get_num_threads()
    scalars = array("d", numbers)
    kernel(
        len(rows),
        ends.buffer_info()[0],
        pointers.buffer_info()[0],
        scalars.buffer_info()[0],
        threads,
    )
    return None


def _made(rule: Rule, dtypes: Sequence[str], states: Sequence[str], h: SimpleNamespace) -> Any:
    global _failure
    program = trace(rule, states, vars(h))
    try:
        return load(source(program, dtypes[0], dtypes[1], dtypes[2:]))
    except CannotCompile as error:
        _failure = error
        return None
