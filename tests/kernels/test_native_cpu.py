"""Compiled kernels: every rule as the torch executor computes it, and what surrounds them."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.kernels import compiler, native_cpu
from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.elementwise import Elementwise, State
from tests.optimizers.cases import CASES
from tests.optimizers.running import NAMES, class_of

RULES = [name for name in NAMES if issubclass(class_of(name), Elementwise)]
SETTINGS = [(name, settings) for name in RULES for settings in CASES[name][2]]
BIG = native_cpu.ALONE * 2 + 77  # several threads, and a ragged end
SHAPES = [(), (7,), (3, 2, 3, 3), (0,), (BIG,)]
#: how far two roundings may lie apart, as a share of the value; bfloat16's and float16's are an ulp
CLOSE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}

COMPILERS = ("cc", "gcc", "clang")
pytestmark = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C compiler here")


def parameters(dtype):
    generator = torch.Generator().manual_seed(0)
    values = [torch.rand(shape, dtype=torch.float64, generator=generator) + 0.5 for shape in SHAPES]
    return [torch.nn.Parameter(value.to(dtype)) for value in values]


def stepped(name, dtype, executor, settings, steps=5):
    params = parameters(dtype)
    optimizer = class_of(name)(params, **settings, executor=executor)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        for p in params:
            g = torch.randn(p.shape, dtype=torch.float64, generator=generator)
            p.grad = g.to(dtype)
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_equals_the_torch_executor(name, settings, dtype):
    native, ours = stepped(name, dtype, "native", settings)
    eager, theirs = stepped(name, dtype, "torch", settings)
    for p, q in zip(native, eager, strict=True):
        close = {"rtol": CLOSE[dtype], "atol": CLOSE[dtype] / 10}
        if dtype in (torch.bfloat16, torch.float16):
            # a sum that is rounded the other way once stays one step off
            off = ~torch.isclose(p, q, **close)
            assert off.float().mean().nan_to_num() < 1e-3
        else:
            torch.testing.assert_close(p, q, **close)
        for key, value in ours.state[p].items():
            if torch.is_tensor(value):
                torch.testing.assert_close(value, theirs.state[q][key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", RULES)
def test_threads_change_no_bit(name):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone, _ = stepped(name, torch.float32, "native", {})
        torch.set_num_threads(3)
        shared, _ = stepped(name, torch.float32, "native", {})
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(p, q) for p, q in zip(alone, shared, strict=True))


@pytest.mark.parametrize("name", RULES)
def test_channels_last_is_stepped_as_it_lies(name):
    def trained(memory_format):
        value = torch.arange(48.0).reshape(2, 3, 4, 2).to(memory_format=memory_format)
        p = torch.nn.Parameter(value)
        optimizer = class_of(name)([p], executor="native")
        for step in range(3):
            g = torch.sin(torch.arange(48.0) * (step + 1)).reshape(2, 3, 4, 2)
            p.grad = g.to(memory_format=memory_format)
            optimizer.step()
        assert p.is_contiguous(memory_format=memory_format)
        return p

    assert torch.equal(trained(torch.channels_last), trained(torch.contiguous_format))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", RULES)
def test_what_is_not_finite_goes_where_it_does_in_torch(name, bad):
    def trained(executor):
        p = torch.nn.Parameter(torch.ones(20))
        optimizer = class_of(name)([p], executor=executor)
        for _ in range(2):
            p.grad = torch.ones(20)
            p.grad[3] = bad
            optimizer.step()
        return p

    native, eager = trained("native"), trained("torch")
    assert torch.equal(native.isnan(), eager.isnan())
    torch.testing.assert_close(native, eager, equal_nan=True)


def test_other_hyperparameters_make_no_other_kernel(monkeypatch):
    p = torch.nn.Parameter(torch.ones(9))
    p.grad = torch.ones(9)
    optimizer = AdamW([p])
    optimizer.step()
    made = len(native_cpu._kernels)
    monkeypatch.setattr(native_cpu, "load", None)  # to call it would fail
    for lr, wd, betas in [
        (0.1, 0.3, (0.5, 0.6)),
        (0.2, 0.1, (0.0, 0.999)),
        (1e-9, 0.0, (0.9, 0.9)),
    ]:
        optimizer.param_groups[0].update(lr=lr, weight_decay=wd, betas=betas)
        optimizer.step()
    assert len(native_cpu._kernels) == made


def test_what_cannot_be_native_is_told_once(caplog):
    rows = torch.nn.Parameter(torch.ones(4, 4)[:, ::2])
    rows.grad = torch.ones(4, 2)
    whole = torch.nn.Parameter(torch.ones(3))
    whole.grad = torch.ones(3)
    optimizer = AdamW([rows, whole])
    with caplog.at_level(logging.INFO, "lit_optim"):
        optimizer.step()
        optimizer.step()
    [line] = caplog.messages
    assert line.startswith("AdamW: native kernels for 1 of 2 parameters; torch for the others, bec")
    assert torch.equal(rows[0, 0], whole[0])
    with pytest.raises(UsageError, match="executor=native: AdamW cannot: a") as error:
        AdamW([rows], executor="native").step()
    assert "\n" not in str(error.value)


def test_tensors_that_lie_elsewhere_are_not_touched():
    class Elsewhere(torch.Tensor):
        pass

    p = torch.nn.Parameter(torch.ones(3))
    assert native_cpu.refusal([p, torch.ones(3)]) is None
    for other, why in [
        (torch.ones(3).as_subclass(Elsewhere), "a tensor is a Elsewhere"),
        (torch.ones(3, device="meta"), "a tensor is on meta"),
        (torch.ones(3, dtype=torch.complex64), "torch.complex64 has no native kernel"),
        (torch.ones(6)[::2], "a gradient or state lies otherwise in memory than its parameter"),
    ]:
        assert native_cpu.refusal([p, other]) == why
    with pytest.raises(UsageError, match="executor=native: Adafactor looks at whole tensors"):
        class_of("adafactor")([p], executor="native")


def test_a_rule_that_branches_on_a_number_is_refused():
    class Branching(Elementwise):
        def __init__(self, params, lr: float = 0.1, **options):
            super().__init__(params, lr=lr, **options)

        def states(self, group):
            return {"m": State()}

        def scalars(self, group, t, carried):
            return {"lr": group["lr"]}

        def rule(self, g, p, s, h):
            return (g if h.lr > 0 else p), {"m": s.m}

    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.raises(TypeError, match="cannot branch on a number: use where"):
        Branching([p]).step()


STEP = """
import sys, torch
from lit_optim.optimizers.adamw import AdamW
p = torch.nn.Parameter(torch.ones(int(sys.argv[1])))
p.grad = torch.ones_like(p)
AdamW([p], lr=0.5, executor=sys.argv[2]).step()
print(round(p[0].item(), 6), round(p[-1].item(), 6))
"""
AFTER = "0.495 0.495"  # 1 - 0.5 * 0.01, then 0.5 down


def process(tmp_path, executor="native", size=10, **env):
    return subprocess.Popen(
        [sys.executable, "-c", STEP, str(size), executor],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_cache_is_shared_mended_and_done_without(tmp_path):
    at_once = [process(tmp_path) for _ in range(4)]
    for started in at_once:
        out, err = started.communicate(timeout=120)
        assert out.strip() == AFTER, err
    [kept] = (tmp_path / "lit_optim/kernels").iterdir()  # one file, no leftovers
    whole = kept.read_bytes()
    for broken in (b"", whole[:-500], whole[:4000] + bytes(200) + whole[4200:]):
        kept.write_bytes(broken)
        out, err = process(tmp_path).communicate(timeout=120)
        assert out.strip() == AFTER, err
        assert compiler._is_whole(kept)
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    out, err = process(nowhere).communicate(timeout=120)
    assert out.strip() == AFTER, err


def test_without_a_compiler(tmp_path):
    empty = {"PATH": str(tmp_path), "CC": ""}
    out, err = process(tmp_path, "auto", **empty).communicate(timeout=120)
    assert out.strip() == AFTER, err
    out, err = process(tmp_path, "native", **empty).communicate(timeout=120)
    assert re.search(r"executor=native: AdamW cannot: no C compiler: neither \$CC nor cc", err)
    out, err = process(tmp_path, "native", CC="false").communicate(timeout=120)
    assert re.search(r"executor=native: AdamW cannot: false fails: code 1", err)


FORK = """
import os, sys, torch
from lit_optim.optimizers.adamw import AdamW
p = torch.nn.Parameter(torch.ones(int(sys.argv[1])))
p.grad = torch.ones_like(p)
optimizer = AdamW([p], executor="native")
optimizer.step()
child = os.fork()
optimizer.step()
if child == 0:
    os._exit(7)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_after_a_fork(tmp_path):
    """The threads of the parent are not in a child; torch's own operations would wait for them."""
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(BIG)], env=env, capture_output=True, timeout=60
    )
    assert done.returncode == 7, done.stderr
