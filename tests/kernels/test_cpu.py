"""Compiled kernels, compared with the torch executor for every rule; threads, tables and forks."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import ClassVar

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.kernels import cpu
from lit_optim.kernels.arithmetic import absolute
from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.base.elementwise import Elementwise, State
from tests.kernels import requirements
from tests.optimizers.cases import CASES
from tests.optimizers.running import NAMES, class_of

RULES = [name for name in NAMES if issubclass(class_of(name), Elementwise)]
SETTINGS = [(name, settings) for name in RULES for settings in CASES[name].settings]
FIRST = [(name, CASES[name].settings[0]) for name in RULES]
BIG = cpu.ELEMENTS_PER_THREAD * 2 + 77  # several threads, and a ragged end
SHAPES = [(), (7,), (3, 2, 3, 3), (0,), (BIG,)]
#: how far two roundings may lie apart, as a share of the value; bfloat16's and float16's are an ulp
CLOSE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}

pytestmark = requirements.compiler


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


def matrix():
    """All settings in float32 and all rules in all dtypes; other combinations are slow tests."""
    for dtype in CLOSE:
        for case in SETTINGS:
            usual = dtype == torch.float32 or case in FIRST
            yield pytest.param(*case, dtype, marks=() if usual else pytest.mark.slow)


@pytest.mark.parametrize(("name", "settings", "dtype"), [*matrix()], ids=str)
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


def on_threads(count, *args):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(count)
        return stepped(*args)[0]
    finally:
        torch.set_num_threads(threads)


LOOKS_TWICE = {"cautious": True, "clip_update": 0.5, "trust_ratio": True}


@pytest.mark.parametrize(
    ("name", "settings"), [*((name, {}) for name in RULES), ("adamw", LOOKS_TWICE)], ids=str
)
def test_threads_do_not_change_results(name, settings):
    alone, shared = (on_threads(n, name, torch.float32, "native", settings) for n in (1, 3))
    assert all(torch.equal(p, q) for p, q in zip(alone, shared, strict=True))


def test_sums_are_per_tensor():
    """For any number of other tensors and any division of chunks among threads."""
    together = on_threads(3, "adamw", torch.float32, "native", LOOKS_TWICE)
    for k, p in enumerate(parameters(torch.float32)):
        alone = torch.nn.Parameter(p.detach().clone())
        optimizer = AdamW([alone], executor="native", **LOOKS_TWICE)
        for step in range(5):
            generator = torch.Generator().manual_seed(step)
            drawn = [torch.randn(s, dtype=torch.float64, generator=generator) for s in SHAPES]
            alone.grad = drawn[k].float()
            optimizer.step()
        assert torch.equal(alone, together[k])


def test_options_may_change_between_steps():
    """Each option needs another number of sums over the same tensors."""
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    native, eager = AdamW(ours, executor="native"), AdamW(theirs, executor="torch")
    for step, options in enumerate([{}, {"cautious": True}, LOOKS_TWICE, {"cautious": False}]):
        for params, optimizer in [(ours, native), (theirs, eager)]:
            generator = torch.Generator().manual_seed(step)
            for p in params:
                p.grad = torch.randn(p.shape, dtype=torch.float64, generator=generator)
            optimizer.param_groups[0].update(options)
            optimizer.step()
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


class Keep(Elementwise):
    """Stores the gradient as its state."""

    lr: float = 1e-9

    states: ClassVar[dict[str, State]] = {
        "signed": State(),
        "positive": State("non-negative"),
        "third": State(),
    }

    def rule(self, g, p, s, h):
        return 0.0 * p, {"signed": g, "positive": absolute(g), "third": g}


@pytest.mark.parametrize("state_dtype", ["bfloat16", "int8"])
def test_every_number_is_stored_as_the_torch_executor_stores_it(state_dtype):
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (40_000,), generator=generator)
    anything = bits.to(torch.int32).view(torch.float32)
    orders = torch.randn(40_000, generator=generator) * 10 ** torch.linspace(-44, 37, 40_000)
    least = torch.tensor([0.0, -0.0, 2.0**-149, -(2.0**-126), 3e38, float("inf"), float("nan")])
    given = torch.cat([anything, orders, least.repeat_interleave(300), least])

    def stored(executor):
        p = torch.nn.Parameter(torch.zeros_like(given))
        optimizer = Keep([p], state_dtype=state_dtype, executor=executor)
        for _ in range(3):
            p.grad = given.clone()
            optimizer.step()
        return optimizer.state[p]

    native, eager = stored("native"), stored("torch")
    for name in ("signed", "positive", "third"):
        x, y = native[name], eager[name]
        assert x.dtype == y.dtype
        if state_dtype == "bfloat16":
            assert torch.equal(x.isnan(), y.isnan())
            kept = ~x.isnan()
            assert torch.equal(x.view(torch.int16)[kept], y.view(torch.int16)[kept])
        else:
            scales = native[f"{name}_scale"], eager[f"{name}_scale"]
            torch.testing.assert_close(*scales, rtol=0, atol=0, equal_nan=True)
            assert ((x.int() - y.int()).abs() <= 1).all()
            assert (x != y).double().mean() < 1e-4


@pytest.mark.parametrize("name", RULES)
def test_channels_last_is_updated_in_memory_order(name):
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
def test_non_finite_values_spread_as_in_torch(name, bad):
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


def test_other_hyperparameters_need_no_other_kernel(monkeypatch):
    p = torch.nn.Parameter(torch.ones(9))
    p.grad = torch.ones(9)
    optimizer = AdamW([p])
    optimizer.step()
    made = len(cpu._kernels)
    monkeypatch.setattr(cpu, "load_kernel", None)  # to call it would fail
    for lr, wd, betas in [
        (0.1, 0.3, (0.5, 0.6)),
        (0.2, 0.1, (0.0, 0.999)),
        (1e-9, 0.0, (0.9, 0.9)),
    ]:
        optimizer.param_groups[0].update(lr=lr, weight_decay=wd, betas=betas)
        optimizer.step()
    assert len(cpu._kernels) == made


def test_unsupported_tensors_are_reported_once(caplog):
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


def test_unsupported_tensors_have_a_reason(monkeypatch):
    class Elsewhere(torch.Tensor):
        pass

    p = torch.nn.Parameter(torch.ones(3))
    assert cpu.unsupported_reason([p, torch.ones(3)]) is None
    for other, why in [
        (torch.ones(3).as_subclass(Elsewhere), "a tensor is a Elsewhere"),
        (torch.ones(3, device="meta"), "a tensor is on meta, its parameter on cpu"),
        (torch.ones(3, dtype=torch.complex64), "torch.complex64 has no native kernel"),
        (torch.ones(6)[::2], "a gradient or state has another memory layout than its parameter"),
    ]:
        assert cpu.unsupported_reason([p, other]) == why
    adafactor = class_of("adafactor")
    monkeypatch.setattr(adafactor, "has_kernel", False)
    with pytest.raises(UsageError, match="executor=native: Adafactor looks at whole tensors"):
        class_of("adafactor")([p], executor="native")


def test_a_table_is_valid_while_only_gradients_change():
    """Gradients may move; all other tensors must be the same and at the same addresses."""

    def row(fill):
        return [torch.nn.Parameter(torch.full((3, 2), fill)), torch.ones(3, 2), torch.zeros(3, 2)]

    rows = [row(1.0), row(2.0)]
    params, _, states = map(list, zip(*rows, strict=True))
    table = cpu.PointerTable(rows, [0, 1])
    same = [torch.full((3, 2), 5.0) for _ in rows]
    assert table.refresh(same, [params, states])
    assert list(table.pointers[1::3]) == [g.data_ptr() for g in same]
    for others in (
        [same[0], torch.ones(3, 2, dtype=torch.bfloat16)],
        [same[0], torch.ones(2, 3).t()],
        [same[0], torch.ones(3, 2).to_sparse()],
        [same[0], torch.ones(3, 2).to_sparse_csr()],
        [same[0], torch.ones(3, 2).to_mkldnn()],
        [same[0], torch.nn.Parameter(torch.ones(3, 2))],
    ):
        assert not table.refresh(others, [params, states])
    assert not table.refresh(same, [params[::-1], states])
    assert not table.refresh(same, [params, [states[0], torch.zeros(3, 2)]])
    assert not table.refresh(same[:1], [params[:1], states[:1]])
    assert table.refresh(same, [params, states])
    params[1].data = torch.zeros(3, 2)
    assert not table.refresh(same, [params, states])

    lying = [torch.nn.Parameter(torch.ones(2, 3).t()), torch.ones(2, 3).t()]
    table = cpu.PointerTable([lying], [0])
    assert table.refresh([torch.zeros(2, 3).t()], [lying[:1]])
    assert not table.refresh([torch.zeros(3, 2)], [lying[:1]])


def test_changes_between_steps_rebuild_the_table():
    """The memory of parameters, the layouts of gradients, which parameters have one."""
    ours, theirs = ([torch.nn.Parameter(torch.ones(4, 3)) for _ in range(3)] for _ in range(2))
    native, eager = AdamW(ours, lr=0.1), AdamW(theirs, lr=0.1, executor="torch")
    for step in range(8):
        for params in (ours, theirs):
            for k, p in enumerate(params):
                g = torch.sin(torch.arange(12.0).view(4, 3) * (step + k + 1))
                p.grad = g.t().contiguous().t() if step == 2 and k == 1 else g
                if step == 4 and k == 0:
                    p.grad = None
                if step == 5:
                    p.data = p.data.clone()
                if step == 6 and k == 2:
                    p.data = p.data.t().contiguous().t()
        native.step()
        eager.step()
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_a_rule_that_branches_on_a_number_is_rejected():
    class Branching(Elementwise):
        def __init__(self, params, lr: float = 0.1, **options):
            super().__init__(params, lr=lr, **options)

        states: ClassVar[dict[str, State]] = {"m": State()}

        def rule(self, g, p, s, h):
            return (g if h.lr > 0 else p), {"m": s.m}

    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.raises(TypeError, match="cannot branch on a number: use where"):
        Branching([p]).step()


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
    """A child process lacks the threads of its parent; torch's operations would wait for them."""
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(BIG)], env=env, capture_output=True, timeout=60
    )
    assert done.returncode == 7, done.stderr
