"""Reductions of a rule in torch and in C; those in Triton are in `triton_parity`."""

from __future__ import annotations

import pytest
import torch

from lit_optim.kernels import cpu, torch_executor
from lit_optim.kernels.arithmetic import total
from lit_optim.kernels.ir import trace_rule
from tests.kernels import requirements
from tests.kernels.reductions import NAMES, H, expected, rows, rule

SHAPES = [(), (7,), (0,), (300, 5), (2 * cpu.ELEMENTS_PER_THREAD + 77,)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def by_torch(found):
    told = [
        torch_executor.step(rule, p, g, {"m": m, "start": start}, NAMES, H, 1)
        for p, g, m, start in found
    ]
    return {name: [float(one.get(name, 0.0)) for one in told] for name in ("way", "size")}


def natively(found):
    table = cpu.PointerTable(found, list(range(len(found))))
    assert cpu.step("told", rule, table, NAMES, H, 1) is None
    return table.reductions


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("step", [by_torch, pytest.param(natively, marks=requirements.compiler)])
def test_reductions_are_per_tensor_and_p_is_unchanged(step, dtype):
    found = rows(dtype, SHAPES)
    before = [[x.clone() for x in row] for row in found]
    told = step(found)
    for k, (row, old) in enumerate(zip(found, before, strict=True)):
        after, sums = expected(old)
        assert torch.equal(row[0], old[0])
        assert torch.equal(row[1], old[1])
        assert torch.equal(row[3], old[3])
        torch.testing.assert_close(row[2].double(), after, rtol=1e-6, atol=1e-6)
        for name, value in sums.items():
            assert told[name][k] == pytest.approx(value, rel=1e-5, abs=1e-4)


@requirements.compiler
def test_threads_do_not_change_results():
    count, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(natively(rows(torch.float32, SHAPES)))
    finally:
        torch.set_num_threads(count)
    assert found[0] == found[1] == found[2]


def test_a_reduction_is_a_sum_that_the_rule_does_not_use():
    def single(g, p, s, h):
        return 1.0, 0.0, 0.0, {"told": g * p}

    def waited_for(g, p, s, h):
        norm = total(g * g)
        return 1.0, 0.1, g / norm, {"told": norm}

    def twice(g, p, s, h):
        return 1.0, 0.0, 0.0, {"it": total(g * p), "told": total(g * p)}

    for bad in (single, waited_for, twice):
        with pytest.raises(TypeError, match="the output told must be a state, or a sum"):
            trace_rule(bad, (), {})
