"""Runs a traced rule on torch tensors pass by pass, as shards need it: sums come from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lit_optim.kernels import torch_executor
from lit_optim.kernels.arithmetic import total
from lit_optim.kernels.ir import Passes, Program, Rule
from lit_optim.kernels.precision import Place, accumulation_dtype
from lit_optim.kernels.primitives import PRIMITIVES


@dataclass
class Shard:
    """A shard of a parameter; see `torch_executor.step`.

    Args:
        p: the parameter.
        g: its gradient.
        state: the optimizer's tensors for it.
        number: the number of the parameter.
        place: where the shard is in the whole tensor.
    """

    p: Tensor
    g: Tensor
    state: dict[str, Tensor]
    number: int
    place: Place


def step_by_pass(program: Program, shards: Sequence[Shard], h: SimpleNamespace, t: int) -> Passes:
    """Update shards once, in place, by a program without reductions.

    Args:
        program: the traced rule.
        shards: all on one device.
        h: the scalars.
        t: the number of this update.
    """
    known: list[dict[int, Any]] = [{} for _ in shards]

    def run(k: int, rule: Rule) -> dict[str, Tensor]:
        one = shards[k]
        return torch_executor.step(
            rule, one.p, one.g, one.state, program.states, h, t, one.number, place=one.place
        )

    for sums in program.passes:
        device = shards[0].p.device
        local = torch.zeros(len(shards), len(sums), dtype=accumulation_dtype(device), device=device)
        for k, one in enumerate(shards):
            found = run(k, _summing(program, sums, known[k], one.place.numel))
            for j, index in enumerate(sums):
                local[k, j] = found.get(str(index), 0.0)
        totals = yield local
        for k in range(len(shards)):
            known[k].update(zip(sums, totals[k].unbind(), strict=True))
    for k, one in enumerate(shards):
        run(k, _updating(program, known[k], one.place.numel))


def _summing(program: Program, sums: Sequence[int], known: Mapping[int, Any], numel: int) -> Rule:
    """A rule that changes nothing and returns the sums over the elements that it is given."""
    summands = [program.nodes[index].operands[0] for index in sums]

    def rule(g: Any, p: Any, s: Any, h: Any) -> tuple[Any, Any, Any, dict[str, Any]]:
        found = _evaluate(program, summands, (g, p, s, h), known, numel)
        pairs = zip(sums, summands, strict=True)
        return 1.0, 0.0, 0.0, {str(index): total(found[summand]) for index, summand in pairs}

    return rule


def _updating(program: Program, known: Mapping[int, Any], numel: int) -> Rule:
    """The rule of a program whose sums are known."""
    targets = [program.a, program.b, program.u, *(index for _, index in program.outputs)]

    def rule(g: Any, p: Any, s: Any, h: Any) -> tuple[Any, Any, Any, dict[str, Any]]:
        found = _evaluate(program, targets, (g, p, s, h), known, numel)
        a, b, u = (found[index] for index in targets[:3])
        return a, b, u, {name: found[index] for name, index in program.outputs}

    return rule


def _evaluate(
    program: Program,
    targets: Sequence[int],
    inputs: tuple[Any, Any, Any, Any],
    known: Mapping[int, Any],
    numel: int,
) -> dict[int, Any]:
    """Compute the nodes that `targets` are computed from.

    Args:
        program: the traced rule.
        targets: the indices of nodes.
        inputs: g, p, s and h.
        known: the sums that they are computed from, by index.
        numel: the number of elements of the whole tensor.
    """
    g, p, s, h = inputs
    by_name = {"g": g, "p": p, "numel": float(numel)}
    by_name |= {f"s.{name}": value for name, value in vars(s).items()}
    by_name |= {f"h.{name}": value for name, value in vars(h).items()}
    values: dict[int, Any] = {}
    for index in program.dependencies(targets):
        node = program.nodes[index]
        if node.op == "sum":
            values[index] = known[index]
        elif node.op == "const":
            values[index] = float(node.value)
        elif node.op == "arg":
            values[index] = by_name[str(node.value)]
        else:
            operands = [values[k] for k in node.operands]
            if isinstance(operands[0], bool):  # of `where`, the same for all elements
                values[index] = operands[1] if operands[0] else operands[2]
            else:
                values[index] = PRIMITIVES[node.op](*operands)
    return values
