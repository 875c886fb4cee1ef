"""Shards updated pass by pass, with sums from elsewhere, are those of the updated whole tensor.

Those of Triton are in `triton_parity`.
"""

from __future__ import annotations

import pytest
import torch

from lit_optim.kernels import cpu, torch_executor, torch_passes
from lit_optim.kernels.ir import trace_rule
from lit_optim.kernels.torch_passes import Shard
from tests.kernels import requirements, shards
from tests.kernels.shards import FORMATS, NAMES, H, rule

NUMBER, T = 3, 7


def in_torch(row, shards_of=None):
    if shards_of is None:
        p, g, state = row[0], row[1], shards.state_of(row)
        torch_executor.step(rule, p, g, state, NAMES, H, T, NUMBER, in_parts=False)
        return
    program, parts = trace_rule(rule, NAMES, vars(H)), []
    for own, place in zip(*shards_of, strict=True):
        shard = Shard(own[0], own[1], shards.state_of(own), NUMBER, place)
        parts.append(torch_passes.step_by_pass(program, [shard], H, T))
    shards.run_together(parts)


def natively(row, shards_of=None):
    if shards_of is None:
        assert cpu.step("passes", rule, cpu.PointerTable([row], [NUMBER]), NAMES, H, T) is None
        return
    parts = []
    for own, place in zip(*shards_of, strict=True):
        table = cpu.PointerTable([own], [NUMBER], [place])
        parts.append(cpu.step_by_pass("passes", rule, table, NAMES, H, T))
    shards.run_together(parts)


BOTH = [in_torch, pytest.param(natively, marks=requirements.compiler)]


@pytest.mark.parametrize("formats", shards.SAMPLE)
@pytest.mark.parametrize("run", BOTH)
def test_shards_are_updated_as_the_whole(run, formats):
    found, expected = (shards.make_row(FORMATS[formats]) for _ in range(2))
    run(found, shards.cut(found))
    run(expected)
    shards.compare(found, expected)
    before = shards.make_row(FORMATS[formats])
    assert not torch.equal(before[0], found[0])
    assert not torch.equal(before[2], found[2])


@pytest.mark.parametrize(("formats", "place"), [("bfloat16", 37), ("8 bits and low bits", 256)])
@pytest.mark.parametrize("run", BOTH)
def test_columns_are_updated_as_in_the_whole(run, formats, place):
    """Random bits, too, are those of the positions in the whole matrix."""
    matrix = shards.make_row(FORMATS[formats])
    matrix = [x[: 32 if len(x) < 256 else 16 * 512].clone() for x in matrix]
    rows, places = shards.cut_columns(matrix, place)
    run(matrix, (rows, places))
    run(matrix)
    for found, expected in zip(rows, shards.cut_columns(matrix, place)[0], strict=True):
        shards.compare(found, expected)


@requirements.compiler
def test_threads_and_further_tables_do_not_change_results():
    """Tables of several shards, on any number of threads; and one is used again, and as a whole."""
    count, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            row = shards.make_row(FORMATS["float32"])
            rows, places = shards.cut(row)
            table = cpu.PointerTable(rows, [NUMBER] * len(rows), places)
            for _ in range(2):
                passes = cpu.step_by_pass("passes", rule, table, NAMES, H, T)
                sums = next(passes)
                while sums is not None:
                    assert sums.shape[0] == len(rows)
                    assert not sums[1].any()  # the empty one
                    sums = shards.advance(passes, sums.sum(0).expand_as(sums))
            assert cpu.step("passes", rule, table, NAMES, H, T) is None  # each shard by itself
            results.append(row)
    finally:
        torch.set_num_threads(count)
    for x, y in zip(*results, strict=True):
        assert torch.equal(x, y)


def test_a_step_that_is_given_up_between_its_passes_leaves_the_table_as_it_was():
    row = shards.make_row(FORMATS["float32"])
    table = cpu.PointerTable([row], [NUMBER])
    passes = cpu.step_by_pass("passes", rule, table, NAMES, H, T)
    if isinstance(passes, str):
        pytest.skip(passes)
    next(passes)
    passes.close()
    before = row[0].clone()
    assert cpu.step("passes", rule, table, NAMES, H, T) is None
    assert not torch.equal(row[0], before)
