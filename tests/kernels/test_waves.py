"""Rules with sums go over the tensors wave by wave, in C; the results are those of one wave."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from lit_optim.kernels import cpu, torch_executor
from lit_optim.kernels.arithmetic import lerp, norm, total
from lit_optim.kernels.codegen.c import generate_c
from lit_optim.kernels.codegen.triton import generate_triton
from lit_optim.kernels.ir import trace_rule
from tests.kernels import requirements
from tests.optimizers.running import class_of

H = SimpleNamespace(rate=0.25, decay=0.1)
NAMES = ("m", "v")
#: Tensors that fill a wave and more, small ones that share one, empty ones, at both ends too.
SIZES = [0, 5, 400_001, 3, 0, 4096, 150_000, 4097, 7, 300_000, 0]


def rule(g, p, s, h):
    """Sums in three passes, each of which needs those before; m could be stored first, v not."""
    m = lerp(s.m, g, h.rate)
    u = m / (norm(m) + 1.0) + h.decay * p
    u = u / (norm(u) + 1.0)
    v = s.v + u * total(u * p)
    return 1.0, 0.5, v, {"m": m, "v": v}


def rows(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [[torch.randn(n, generator=generator).to(dtype) for _ in "pgmv"] for n in SIZES]


def step_natively(given, by_pass=False):
    table = cpu.PointerTable(given, list(range(len(given))))
    if not by_pass:
        assert cpu.step("waves", rule, table, NAMES, H, 3) is None
        return
    passes = cpu.step_by_pass("waves", rule, table, NAMES, H, 3)
    sums = next(passes)
    try:
        while True:
            sums = passes.send(sums)
    except StopIteration:
        return


@pytest.fixture
def threads():
    count = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(count)


@requirements.compiler
def test_waves_do_not_change_the_results_on_any_number_of_threads(threads):
    """More threads than there are processors, too: some wait for others that do not run."""
    threads(1)
    expected = rows()
    step_natively(expected, by_pass=True)  # all tensors in each pass
    for count in (1, 2, 5):
        threads(count)
        for _ in range(3):
            found = rows()
            step_natively(found)
            for one, other in zip(found, expected, strict=True):
                assert all(map(torch.equal, one, other))


@requirements.compiler
def test_the_results_are_those_of_torch_in_double_precision(threads):
    threads(2)
    found, expected = rows(), [[x.double() for x in row] for row in rows()]
    step_natively(found)
    for p, g, m, v in expected:
        state = {"m": m, "v": v}
        torch_executor.step(rule, p, g, state, NAMES, H, 3, 0, in_parts=False)
    for one, other in zip(found, expected, strict=True):
        for x, y in zip(one, other, strict=True):
            torch.testing.assert_close(x.double(), y, rtol=1e-5, atol=1e-6)


def program_of(name, **settings):
    """The program of an optimizer's update, and the formats of its tensors in float32."""
    optimizer = class_of(name)([torch.nn.Parameter(torch.ones(2, 2))], **settings)
    [group], found = optimizer.param_groups, []
    optimizer.update = lambda group, batch, h, t: found.append(h)
    group["params"][0].grad = torch.ones(2, 2)
    optimizer.step()
    states = tuple(optimizer.states_for(group))
    program = trace_rule(optimizer._traced_update, states, vars(found[0]))
    return program, ["float32"] * (2 + len(states))


@pytest.mark.parametrize(
    ("name", "settings", "early"),
    [
        ("lamb", {}, ["s_exp_avg", "s_exp_avg_sq"]),
        ("adamw", {"trust_ratio": True}, ["s_exp_avg", "s_exp_avg_sq"]),
        ("adamw", {"clip_update": 1.0}, ["s_exp_avg", "s_exp_avg_sq"]),
        ("stable_adamw", {}, []),  # as many tensors are read either way
        ("mars", {}, []),  # the states depend on a sum
        ("lars", {}, []),
        ("adamw", {}, []),  # one pass
    ],
)
def test_states_are_stored_first_where_the_gradient_then_is_read_once(name, settings, early):
    """In C and in Triton alike; but shards may be left between two passes, as they were."""
    program, formats = program_of(name, **settings)
    for generate, store in ((generate_c, "{}_[i] = v"), (generate_triton, "tl.store({}_ + i, v")):
        for by_pass in (False, True):
            *sums, update = _passes(generate(program, formats, by_pass))
            first = [n for n in ("s_exp_avg", "s_exp_avg_sq") if store.format(n) in "".join(sums)]
            assert first == ([] if by_pass else early)
            assert bool(re.search(r"\bg_(\[i\]| \+ i)", update)) == (not first)


def _passes(text):
    """The loops of each pass over the elements."""
    parts = re.split(r"\n(?=static void (?:sums|update)|def (?:sums|update))", text)[1:]
    return [part for part in parts if "[i]" in part or "+ i," in part]


@pytest.mark.parametrize("states", [["bfloat16"] * 2, ["int8", "uint8", "float32", "float32"]])
def test_states_that_are_rounded_are_stored_last(states):
    """What a later pass would read is not what the first one has computed."""
    program, _ = program_of("lamb")
    first, *_ = _passes(generate_c(program, ["float32", "float32", *states]))
    assert "s_exp_avg_[i] =" not in first
