"""Rules that look at whole tensors, run on shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lit_optim.kernels.ir import Passes, Program, Rule, trace_rule
from lit_optim.kernels.precision import LOW_BITS, accumulation_dtype, as_real
from lit_optim.kernels.torch_passes import Shard, step_by_pass
from lit_optim.optimizers.base.batch import Batch
from lit_optim.sharding import Steps, Sums


def find_program(
    programs: dict[Any, Program], rule: Rule, names: tuple[str, ...], h: SimpleNamespace
) -> Program:
    """The program of a rule, kept in `programs` for the next step."""
    switches = ((name, x if isinstance(x, bool) else None) for name, x in vars(h).items())
    key = names, *switches
    if key not in programs:
        programs[key] = trace_rule(rule, names, vars(h))
    return programs[key]


def step_in_torch(
    program: Program, batch: Batch, h: SimpleNamespace, t: int, numbers: Mapping[int, int]
) -> Passes:
    """Update shards by the torch executor.

    Args:
        program: the traced rule.
        batch: the shards.
        h: the scalars.
        t: the number of the update.
        numbers: the number of each parameter, by its id.
    """
    shards = []
    for i, (p, g, state) in enumerate(zip(batch.params, batch.grads, batch.states, strict=True)):
        local = {k: as_real_view(x) for k, x in state.items() if isinstance(x, Tensor)}
        if p.dtype != torch.bfloat16:
            local.pop(LOW_BITS, None)
        number = numbers.get(id(batch.whole(i)), 0)
        shards.append(Shard(as_real_view(p), as_real(g), local, number, batch.place(i)))
    return step_by_pass(program, shards, h, t)


def complete_sums(
    parts: Sequence[tuple[list[int], Passes]], program: Program, batch: Batch
) -> Steps:
    """Run parts of a step of one program together; what they add up is added up over the shards.

    No matter which process runs what, the message is the same in every process: all sums of a
    pass over all parameters of the batch.

    Args:
        parts: each of some members of the batch, which are all members together.
        program: the traced rule.
        batch: the shards.
    """
    assert batch.sharding is not None
    device = batch.params[0].device
    answers: list[Tensor | None] = [None] * len(parts)
    for sums in program.passes:
        size = len(batch.params), len(sums)
        local = torch.zeros(size, dtype=accumulation_dtype(device), device=device)
        for (members, passes), answer in zip(parts, answers, strict=True):
            local[members] = next(passes) if answer is None else passes.send(answer)
        totals = (yield Sums(local.view(-1), batch.sharding)).view(size)
        answers = [totals[members] for members, _ in parts]
    for (_, passes), answer in zip(parts, answers, strict=True):
        try:
            next(passes) if answer is None else passes.send(answer)
        except StopIteration:
            continue


def as_real_view(x: Tensor) -> Tensor:
    """A complex tensor as a real one that shares its memory; any other tensor itself."""
    return torch.view_as_real(x) if x.is_complex() else x
