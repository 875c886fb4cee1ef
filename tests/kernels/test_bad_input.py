"""Unusual tensors: they are updated all the same, or rejected in one line."""

from __future__ import annotations

import mmap
import shutil

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.kernels import cpu, precision
from lit_optim.kernels.precision import BLOCK
from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.sgd import SGD

NATIVE = any(map(shutil.which, ("cc", "gcc", "clang")))
EXECUTORS = (
    "auto",
    "torch",
    pytest.param("native", marks=pytest.mark.skipif(not NATIVE, reason="no C compiler here")),
)
STORED = ("float32", "bfloat16", "int8")
TWICE = {"cautious": True, "clip_update": 0.5, "trust_ratio": True}


def parameter(*shape, **kwargs):
    return torch.nn.Parameter(torch.ones(*shape, **kwargs))


def refused(kind, optimizer):
    with pytest.raises(kind) as error:
        optimizer.step()
    assert "\n" not in str(error.value)
    return str(error.value)


# gradients


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_gradients_of_another_dtype(executor, dtype):
    p, q = parameter(3, 2), parameter(3, 2)
    if not hasattr(p, "grad_dtype"):
        pytest.skip("this torch has no gradients of another dtype")
    p.grad_dtype = dtype
    ours = AdamW([p], lr=0.1, executor=executor)
    torchs = torch.optim.AdamW([q], lr=0.1, foreach=False)
    for step in range(3):
        p.grad = torch.sin(torch.arange(6.0) * (step + 1)).view(3, 2).to(dtype)
        q.grad = p.grad.float()
        ours.step()
        torchs.step()
        p.grad_dtype = dtype
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def gradients():
    """Gradients of a (3, 4) parameter: the same values in many layouts."""
    g = torch.sin(torch.arange(12.0)).view(3, 4)
    return {
        "transposed": g.t().contiguous().t(),
        "with gaps": torch.stack([g, g], -1)[..., 0],
        "of one row": g[:1].expand(3, 4),
        "of one number": g[0, 1].expand(3, 4),
        "as a parameter": torch.nn.Parameter(g),
    }


@pytest.mark.parametrize("options", [{}, TWICE, {"state_dtype": "int8"}], ids=str)
@pytest.mark.parametrize("layout", gradients())
@pytest.mark.parametrize("executor", ["auto", "torch"])
def test_gradients_of_another_layout(executor, layout, options):
    p, q = parameter(3, 4), parameter(3, 4)
    p.grad = gradients()[layout]
    q.grad = p.grad.detach().clone(memory_format=torch.contiguous_format)
    for param in (p, q):
        optimizer = AdamW([param], lr=0.1, executor=executor, **options)
        optimizer.step()
        optimizer.step()
    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_gradients_that_become_sparse_are_rejected(executor):
    p = parameter(3, 2)
    optimizer = AdamW([p], executor=executor)
    for _ in range(2):  # at the first step, and after others
        p.grad = torch.eye(3)[:, :2].to_sparse()
        told = refused((RuntimeError, UsageError), optimizer)
        assert "AdamW" in told
        assert "sparse" in told
        p.grad = torch.ones(3, 2)
        optimizer.step()


@pytest.mark.parametrize("executor", EXECUTORS)
def test_parameters_without_gradient_are_left_alone(executor):
    params = [parameter(3) for _ in range(3)]
    optimizer = AdamW(params, lr=0.1, executor=executor)
    optimizer.step()
    assert not optimizer.state
    params[1].grad = torch.ones(3)
    optimizer.step()
    params[1].grad = None
    params[2].grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(params[0], torch.ones(3))
    assert torch.equal(params[1], params[2])
    assert [*optimizer.state] == params[1:]


# parameters


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("options", [{}, TWICE], ids=["", "twice"])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_empty_parameters(executor, options, stored):
    """Alone, and next to other parameters."""
    empty = [parameter(0), parameter(0, 3), parameter(2, 0, 3, 3)]
    other, alone = parameter(4), parameter(4)
    hyper = {"lr": 0.1, "executor": executor, "state_dtype": stored, **options}
    together = AdamW([other, *empty], **hyper)
    optimizers = [together, AdamW([alone], **hyper), AdamW(empty, **hyper)]
    for p in (*empty, other, alone):
        p.grad = torch.ones_like(p)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.step()
    torch.testing.assert_close(other, alone, rtol=1e-6, atol=0)
    assert all(together.state[p]["step"] == 2 for p in empty)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool], ids=str)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_parameters_of_other_dtypes_are_rejected(executor, dtype):
    good = parameter(3)
    bad = torch.nn.Parameter(torch.ones(3, dtype=dtype), requires_grad=False)
    for p in (good, bad):
        p.grad = torch.ones_like(p)
    optimizer = AdamW([good, bad], executor=executor)
    told = refused(RuntimeError, optimizer)
    assert told == f"AdamW does not take {str(dtype).removeprefix('torch.')} parameters"
    assert torch.equal(good, torch.ones(3))  # nothing is done by halves


@pytest.mark.parametrize("stored", STORED)
def test_parameters_on_another_device(stored):
    """On the meta device tensors have shapes but no values."""
    here, there = parameter(3, 2), parameter(3, 2, device="meta")
    for p in (here, there):
        p.grad = torch.ones_like(p)
    AdamW([here, there], lr=0.1, state_dtype=stored).step()
    assert (here < 1).all()
    told = refused(UsageError, AdamW([there], state_dtype=stored, executor="native"))
    assert told == "executor=native: AdamW cannot: a tensor is on meta"


@pytest.mark.parametrize("stored", STORED)
def test_parameters_of_eight_bits(stored):
    """float8 dtypes have no kernel; they are computed in float32."""
    p = torch.nn.Parameter(torch.ones(300).to(torch.float8_e5m2))
    p.grad = torch.ones(300).to(torch.float8_e5m2)
    optimizer = AdamW([p], lr=0.5, state_dtype=stored)
    optimizer.step()
    assert (p.float() == 0.5).all()  # 0.495 to the nearest
    told = refused(UsageError, AdamW([p], executor="native", state_dtype=stored))
    assert told == "executor=native: AdamW cannot: torch.float8_e5m2 has no native kernel"


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("options", [{}, TWICE], ids=["", "twice"])
def test_parameters_with_gaps(options, stored):
    base = torch.ones(300, 4)
    p, q = torch.nn.Parameter(base[:, ::2]), parameter(300, 2)
    g = torch.sin(torch.arange(600.0)).view(300, 2)
    for param in (p, q):
        optimizer = AdamW([param], lr=0.1, state_dtype=stored, executor="torch", **options)
        for step in range(3):
            param.grad = g * (step + 1)
            optimizer.step()
    torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-6, atol=1e-7)
    assert (base[:, 1::2] == 1).all()  # what lies between is not touched


@pytest.mark.skipif(not NATIVE, reason="no C compiler here")
def test_a_rejected_step_changes_nothing():
    """After the tensor is fixed, it is updated."""
    good, bad = parameter(3), parameter(4, 3)
    optimizer = AdamW([good, bad], lr=0.5, executor="native")
    good.grad, bad.grad = torch.ones(3), torch.ones(3, 4).t()
    told = refused(UsageError, optimizer)
    assert told.endswith("a gradient or state has another memory layout than its parameter")
    assert torch.equal(good, torch.ones(3))
    bad.grad = torch.ones(4, 3)
    optimizer.step()
    expected = torch.tensor(0.495)  # 1 - 0.5 * 0.01, then 0.5 down
    assert torch.allclose(good, expected)
    assert torch.allclose(bad, expected)


@pytest.mark.skipif(not NATIVE, reason="no C compiler here")
def test_parameters_return_from_torch_to_native_kernels(caplog):
    p, q = parameter(3), parameter(4, 3)
    optimizer = AdamW([p, q])
    p.grad, q.grad = torch.ones(3), torch.ones(3, 4).t()
    with caplog.at_level("INFO", "lit_optim"):
        optimizer.step()
        q.grad = torch.ones(4, 3)
        optimizer.step()
    assert [": native kernels for 1 of 2" in caplog.messages[0], *caplog.messages[1:]] == [
        True,
        "AdamW: native kernels",
    ]


# more elements than 32 bits count


def untouched(count, dtype):
    """Return zeros whose memory is not allocated until it is written."""
    size = torch.empty((), dtype=dtype).element_size()
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    try:
        memory = mmap.mmap(-1, count * size, flags=flags)
    except (OSError, ValueError) as error:
        pytest.skip(f"no address space for {count * size} bytes: {error}")
    return torch.frombuffer(memory, dtype=dtype)


class LastChunk(cpu.PointerTable):
    """A table of which all chunks but the last are already processed."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.call[1] = self.chunks - 1


@pytest.fixture
def only_the_last_chunk(monkeypatch):
    if not NATIVE:
        pytest.skip("no C compiler here")
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        pytest.skip("no anonymous memory here")
    monkeypatch.setattr(cpu, "PointerTable", LastChunk)


def test_more_elements_than_31_bits_count(only_the_last_chunk):
    count = 2**31 + 4096 + 5
    p = torch.nn.Parameter(untouched(count, torch.float32))
    p.grad, buffer = (untouched(count, torch.float32) for _ in range(2))
    optimizer = SGD([p], lr=0.5, momentum=0.9, executor="native")
    optimizer.state[p].update(step=0, momentum_buffer=buffer)
    optimizer.start = lambda p, group: optimizer.state[p]  # these, not new ones
    last = torch.arange(1.0, 6.0)
    for places in (slice(-5, None), slice(0, 5), slice(-10, -5), slice(2**31 - 5, 2**31)):
        p.grad[places] = last
        p.data[places] = 1.0
    optimizer.step()
    assert torch.equal(p[-5:], 1 - 0.5 * last)
    assert torch.equal(buffer[-5:], last)
    for places in (slice(0, 5), slice(-10, -5), slice(2**31 - 5, 2**31)):
        assert (p[places] == 1).all()
        assert (buffer[places] == 0).all()


def test_more_elements_than_32_bits_count_in_few_bits(only_the_last_chunk):
    """The positions of scales, and random bits, which depend on the position."""
    count = 2**32 + 4096 + 300
    start = count - 300
    p = torch.nn.Parameter(untouched(count, torch.bfloat16))
    p.grad = untouched(count, torch.bfloat16)
    states = {"exp_avg": torch.int8, "exp_avg_sq": torch.uint8}
    kept = {name: untouched(count, dtype) for name, dtype in states.items()}
    for name in states:
        kept[f"{name}_scale"] = untouched(-(-count // BLOCK), torch.float32)
    kept["master"] = untouched(count, torch.int16)
    optimizer = AdamW([p], lr=0.5, executor="native", state_dtype="int8", master="split")
    optimizer.state[p].update(step=0, **kept)
    optimizer.start = lambda p, group: optimizer.state[p]  # these, not new ones
    g = torch.sin(torch.arange(300.0)).bfloat16()
    p.grad[start:], p.data[start:] = g, 1.0
    p.grad[:300], p.data[:300] = g, 1.0
    optimizer.step()
    u = g.double() / (g.double().abs() + 1e-8)
    found = precision.join_master(p.data[start:], kept["master"][start:])
    torch.testing.assert_close(found.double(), 0.995 - 0.5 * u, rtol=1e-6, atol=1e-6)
    key = precision.rounding_key(0, 1, 0)
    after = {"exp_avg": 0.1 * g.float(), "exp_avg_sq": 0.001 * g.float().square()}
    for half, (name, value) in enumerate(after.items()):
        codes = torch.empty(300, dtype=states[name])
        scale = precision.create_scales(codes)
        chance = precision.rounding_bits(key, half, start, 300, codes.device)
        precision.encode(value, codes, scale, chance)
        assert ((kept[name][start:].int() - codes.int()).abs() <= 1).all()
        assert (kept[name][start:] != codes).sum() <= 2
        torch.testing.assert_close(kept[f"{name}_scale"][-2:], scale, rtol=1e-5, atol=0)
        assert not kept[name][:300].any()
        assert not kept[f"{name}_scale"][:-2].count_nonzero()
    assert (p[:300] == 1).all()
