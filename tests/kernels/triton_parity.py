"""Triton kernels, compared with the torch executor and torch: on a GPU or in Triton's interpreter.

`test_cuda` runs this file in a process of its own: whether Triton interprets is decided when
it is imported, and an interpreter that has run leaves Triton changed.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lit_optim.kernels import cuda, symmetric_cuda, torch_executor
from lit_optim.kernels.arithmetic import total, where
from lit_optim.kernels.precision import LOW_BITS, SCALE
from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.base.elementwise import Elementwise
from lit_optim.optimizers.base.schedule_free import _swap_rule
from tests.kernels import reductions, shards
from tests.optimizers.cases import CASES
from tests.optimizers.running import NAMES, class_of
from tests.sampling import sample

DEVICE = "cpu" if cuda._is_interpreted() else "cuda"
RULES = [name for name in NAMES if issubclass(class_of(name), Elementwise)]
SETTINGS = [(name, settings) for name in RULES for settings in CASES[name].settings]
#: more than a chunk, which begins at 16 bytes or not, and a ragged end
SHAPES = [(), (7,), (300,), (4096 + 5,), (70, 33), (0,)]
CLOSE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}
OPTIONS = [
    {"cautious": True},
    {"clip_update": 0.1},
    {"trust_ratio": True},
    {"cautious": True, "clip_update": 0.1, "trust_ratio": True, "maximize": True},
    {"hyperball": True, "weight_decay": 0.0},
    {"cautious_weight_decay": True, "weight_decay": 0.3},
]


def native(cls):
    """The optimizer with every update computed by Triton, in tables that are reused."""

    class Native(cls):
        tables = None

        def update(self, group, batch, h, t):
            names, numbers = tuple(self.states_for(group)), self._numbers()
            keys = [
                *names,
                *[n + SCALE for n in names if n + SCALE in batch.states[0]],
            ]
            keys += [LOW_BITS] * (LOW_BITS in batch.states[0])
            columns = [[state[key] for state in batch.states] for key in keys]
            rows = list(zip(batch.params, batch.grads, *columns, strict=True))
            for row in rows:
                assert cuda.unsupported_reason(row[: 2 + len(names)]) is None
            self.tables = self.tables or {}
            first = id(batch.params[0])
            table = self.tables.get(first)
            if table is None or not table.refresh(batch.grads, [batch.params, *columns]):
                table = cuda.PointerTable(rows, [numbers[id(p)] for p in batch.params])
                self.tables[first] = table
            assert cuda.step((cls, names), self._traced_update, table, names, h, t) is None

    return Native


def eager(cls):
    """The optimizer with every update computed by the rule on torch tensors."""

    class Eager(cls):
        def fused_torch_step(self, group, batch, t):
            return False

    return lambda params, **settings: Eager(params, **settings, executor="torch")


def random(shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).to(DEVICE)


def parameters(dtype=torch.float32, shapes=SHAPES):
    return [torch.nn.Parameter(random(s, dtype, k)) for k, s in enumerate(shapes)]


def trained(make, params, steps=3, **settings):
    optimizer = make(params, **settings)
    for step in range(steps):
        for k, p in enumerate(params):
            p.grad = random(p.shape, p.dtype, 1000 * (step + 1) + k)
        optimizer.step()
    return optimizer


def pair(name, dtype=torch.float32, shapes=SHAPES, **settings):
    """Return (parameter, state) of each parameter, updated by Triton and by torch."""
    results = []
    for make in (native(class_of(name)), eager(class_of(name))):
        params = parameters(dtype, shapes)
        optimizer = trained(make, params, **settings)
        results.append([(p.detach(), optimizer.state[p]) for p in params])
    return list(zip(*results, strict=True))


def compare(name, dtype=torch.float32, **settings):
    close = {"rtol": CLOSE[dtype], "atol": CLOSE[dtype] / 10}
    signs = name in ("lion", "signum")  # of what is about 0, which may be rounded to either side
    for (p, ours), (q, theirs) in pair(name, dtype, **settings):
        if signs or dtype in (torch.bfloat16, torch.float16):
            # what is half-way may be rounded otherwise: an ulp, more of it where p is about 0
            off = ~torch.isclose(p, q, **close)
            assert off.float().mean().nan_to_num() < 1e-3
        else:
            torch.testing.assert_close(p, q, **close)
        for key, value in theirs.items():
            if torch.is_tensor(value):
                assert ours[key].dtype == value.dtype
                off = ~torch.isclose(ours[key], value, rtol=1e-4, atol=1e-5, equal_nan=True)
                # an ulp of p in 16 bits goes into the gradient of what is decayed through it
                most = 1e-3 if dtype in (torch.bfloat16, torch.float16) else 0.0
                assert off.float().mean().nan_to_num() <= most, key


@pytest.mark.parametrize(("name", "settings"), sample(SETTINGS, 40), ids=str)
def test_equals_the_torch_executor(name, settings):
    compare(name, **settings)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["adamw", "rprop", "sgd"])
def test_equals_it_in_other_precision(name, dtype):
    compare(name, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_all_equal_it_in_other_precision(name, settings, dtype):
    compare(name, dtype, **settings)


@pytest.mark.parametrize("name", RULES)
def test_equals_it_at_every_magnitude(name):
    """Each element of a gradient has another magnitude; later gradients are normal."""
    sizes = torch.tensor([0.0, 1e-30, 1e-20, 1e-10, 1e10, 1e19, 1e20, 1e30, float("inf")])
    if "whole" in class_of(name).requirements:
        sizes = sizes[:-1]  # infinite sums are tried elsewhere
    found = []
    for make in (native(class_of(name)), eager(class_of(name))):
        p = torch.nn.Parameter(random((300,), torch.float32, 0))
        optimizer = make([p])
        for step in range(4):
            p.grad = random((300,), torch.float32, step)
            if step == 1:
                p.grad *= sizes[torch.arange(300) % len(sizes)].to(DEVICE)
            optimizer.step()
        found.append(p.detach())
    ours, theirs = found
    assert torch.equal(ours.isfinite(), theirs.isfinite())
    there = theirs.isfinite()
    assert there.sum() >= 300 - 34
    torch.testing.assert_close(ours[there], theirs[there], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_it_with_options(options, dtype):
    compare("adamw", dtype, **options)


@pytest.mark.parametrize("state_dtype", ["float32", "int8"])
def test_sums_do_not_include_memory_next_to_the_tensor(state_dtype):
    class Counting(AdamW):
        def rule(self, g, p, s, h):
            known = {"exp_avg": s.exp_avg, "exp_avg_sq": s.exp_avg_sq}
            return where(g == g, 1.0, 0.0) * total(where(g == g, 1.0, 0.0)), known

    params = parameters()
    before = [p.detach().clone() for p in params]
    trained(native(Counting), params, 1, lr=0.5, weight_decay=0.0, state_dtype=state_dtype)
    for p, old in zip(params, before, strict=True):
        assert torch.equal(p, old - 0.5 * p.numel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_reductions_of_a_rule(dtype):
    found = reductions.rows(dtype, [shape for shape in SHAPES if shape != (0,)], DEVICE)
    before = [[x.clone() for x in row] for row in found]
    table = cuda.PointerTable(found, list(range(len(found))))
    assert cuda.step("told", reductions.rule, table, reductions.NAMES, reductions.H, 1) is None
    for k, (row, old) in enumerate(zip(found, before, strict=True)):
        after, sums = reductions.expected([x.cpu() for x in old])
        assert torch.equal(row[0], old[0])
        torch.testing.assert_close(row[2].double().cpu(), after, rtol=1e-6, atol=1e-6)
        for name, value in sums.items():
            assert table.reductions[name][k] == pytest.approx(value, rel=1e-5, abs=1e-4)


def run_shards(rows, places):
    tables = (cuda.PointerTable([o], [3], [at]) for o, at in zip(rows, places, strict=True))
    shards.run_together(
        [cuda.step_by_pass("passes", shards.rule, x, shards.NAMES, shards.H, 7) for x in tables]
    )


def test_columns_are_updated_as_in_the_whole():
    matrix = [x[: 16 * 512].to(DEVICE) for x in shards.make_row(shards.FORMATS["bfloat16"])]
    rows, places = shards.cut_columns(matrix, 37)
    run_shards(rows, places)
    table = cuda.PointerTable([matrix], [3])
    assert cuda.step("passes", shards.rule, table, shards.NAMES, shards.H, 7) is None
    for found, expected in zip(rows, shards.cut_columns(matrix, 37)[0], strict=True):
        shards.compare(found, expected)


@pytest.mark.parametrize("formats", shards.SAMPLE)
def test_shards_are_updated_as_the_whole(formats):
    rows = [shards.make_row(shards.FORMATS[formats]) for _ in range(2)]
    found, expected = ([x.to(DEVICE) for x in row] for row in rows)
    table = cuda.PointerTable([expected], [3])
    assert cuda.step("passes", shards.rule, table, shards.NAMES, shards.H, 7) is None
    run_shards(*shards.cut(found))
    shards.compare(found, expected)
    assert not torch.equal(found[0].cpu(), shards.make_row(shards.FORMATS[formats])[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equals_torchs_own(dtype):
    ours, theirs = parameters(dtype), parameters(dtype)
    hyper = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3}
    trained(native(AdamW), ours, **hyper)
    trained(torch.optim.AdamW, theirs, **hyper)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=CLOSE[dtype], atol=CLOSE[dtype] / 10)


def test_subnormal_numbers_are_not_flushed_to_zero():
    grad = torch.full((5000,), 3e-22, device=DEVICE)
    p = torch.nn.Parameter(torch.zeros(5000, device=DEVICE))
    optimizer = native(AdamW)([p], lr=1.0, betas=(0.9, 0.9), eps=1e-30, weight_decay=0.0)
    for _ in range(2):
        p.grad = grad.clone()
        optimizer.step()
    # the sum of g² is 9e-45, of float32's last few bits: about 1, not 3e8 a step
    assert (p < -1).all()
    assert (p > -4).all()


def test_parts_of_buffers_at_any_address():
    sizes, places = (4096 * 2 + 3, 5000, 1), (1, 8200, 13201)
    values, grads = random((13300,), torch.float32, 1), random((13300,), torch.float32, 2)
    results = []
    for make in (native(AdamW), eager(AdamW)):
        buffer, of_grads = values.clone(), grads.clone()
        params = []
        for size, place in zip(sizes, places, strict=True):
            params.append(torch.nn.Parameter(buffer[place : place + size]))
            params[-1].grad = of_grads[place : place + size]
        optimizer = make(params, lr=0.1)
        optimizer.step()
        optimizer.step()
        results.append(buffer)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    changed = results[0] != values
    assert changed.sum() == sum(sizes)
    assert not changed[0]


def test_channels_last_is_updated_in_memory_order():
    results = []
    for memory_format in (torch.channels_last, torch.contiguous_format):
        value = torch.arange(48.0, device=DEVICE).reshape(2, 3, 4, 2)
        p = torch.nn.Parameter(value.clone(memory_format=memory_format))
        optimizer = native(AdamW)([p], lr=0.1)
        for step in range(2):
            p.grad = torch.sin(value * (step + 1)).to(memory_format=memory_format)
            optimizer.step()
        assert p.is_contiguous(memory_format=memory_format)
        results.append(p.detach())
    assert torch.equal(*results)


def test_gradients_and_lr_may_change_at_each_step():
    """Copies to a GPU are asynchronous: the source must not be overwritten before they finish."""
    ours, theirs = parameters(), parameters()
    optimizer, other = native(AdamW)(ours), torch.optim.AdamW(theirs)
    kept, at = [], []
    for step in range(8):
        for o in (optimizer, other):
            o.param_groups[0]["lr"] = 0.1 / (step + 1)
        for k, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            p.grad, q.grad = (random(p.shape, p.dtype, 100 * step + k) for _ in range(2))
            kept.append(p.grad)  # so that the next one lies elsewhere
        optimizer.step()
        other.step()
        [table] = optimizer.tables.values()
        at.append((table, table.uploaded.tolist()))
    assert all(table is at[0][0] for table, _ in at)
    assert len({tuple(pointers) for _, pointers in at}) == 8
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_a_default_device_does_not_matter():
    p = torch.nn.Parameter(torch.ones(9, device=DEVICE))
    p.grad = torch.ones_like(p)
    optimizer = native(AdamW)([p], lr=0.5, weight_decay=0.0)
    with torch.device("meta"):
        optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full_like(p, 0.5))


def test_a_table_is_valid_while_only_gradients_change():
    p, g = torch.nn.Parameter(random((9,), torch.float32, 0)), random((9,), torch.float32, 1)
    m, v = torch.zeros_like(g), torch.zeros_like(g)
    table = cuda.PointerTable([[p, g, m, v]], [0])
    kept = [[p], [m], [v]]
    assert table.refresh([g.clone()], kept)
    assert not table.refresh([g.double()], kept)
    assert not table.refresh([g], [[p], [m.clone()], [v]])
    m.data = m.clone()
    assert not table.refresh([g], kept)


def test_other_hyperparameters_need_no_other_kernel(monkeypatch):
    p = torch.nn.Parameter(random((9,), torch.float32, 0))
    optimizer = native(AdamW)([p])
    p.grad = torch.ones_like(p)
    optimizer.step()
    made = dict(cuda._kernels)
    monkeypatch.setattr(cuda, "generate_triton", None)  # to call it would fail
    for lr, wd, betas in [
        (0.1, 0.3, (0.5, 0.6)),
        (1.0, 1.0, (0.0, 0.999)),
        (1e-9, 0.0, (0.9, 0.9)),
    ]:
        optimizer.param_groups[0].update(lr=lr, weight_decay=wd, betas=betas)
        optimizer.step()
    assert cuda._kernels == made


@pytest.mark.parametrize(
    ("dtype", "halves"),
    [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)],
    ids=str,
)
def test_schedule_free_modes_switch_as_in_torch(dtype, halves):
    """For float32 and bfloat16, by a rule that is not an update."""
    p, z = random((4096 + 5,), dtype, 1), random((4096 + 5,), torch.float32, 2)
    low = [torch.zeros_like(p, dtype=torch.int16)] if halves else []
    other = p.clone()
    h = SimpleNamespace(weight=-0.25)
    table = cuda.PointerTable([[p, z, *low]], [0])
    assert cuda.step(("turn", ()), _swap_rule, table, (), h, 1) is None
    row = {LOW_BITS: torch.zeros_like(low[0])} if halves else {}
    torch_executor.step(_swap_rule, other, z, row, (), h, 1)
    torch.testing.assert_close(p, other, rtol=CLOSE[dtype], atol=CLOSE[dtype] / 10)


def test_scratch_memory_grows_with_the_sums():
    """Options may change between steps, and with them the number of sums."""
    ours, theirs = parameters(), parameters()
    optimizer, other = native(AdamW)(ours), eager(AdamW)(theirs)
    for step, options in enumerate([{}, {"cautious": True}, {"clip_update": 0.1}]):
        for o, params in ((optimizer, ours), (other, theirs)):
            o.param_groups[0].update(options)
            for k, p in enumerate(params):
                p.grad = random(p.shape, p.dtype, 100 * step + k)
            o.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("batch", "m", "n"), [(2, 150, 70), (1, 260, 130), (3, 16, 200), (2, 256, 64)]
)
@pytest.mark.parametrize("has_addend", [False, True])
@pytest.mark.parametrize("is_turned", [False, True])
def test_half_of_a_symmetric_product_is_all_of_it(batch, m, n, has_addend, is_turned):
    """Tiles on the diagonal, below it and cut off; in float16: the interpreter takes the bits of
    bfloat16 for integers."""
    x = random((batch, n, m) if is_turned else (batch, m, n), torch.float16, 1)
    x = x.mT if is_turned else x
    exact = x.double() @ x.double().mT
    more = exact.half() if has_addend else None
    found = symmetric_cuda.multiply_symmetric(x, x.mT, 0.5, more, -0.25)
    expected = 0.5 * exact - (0.25 * more.double() if has_addend else 0.0)
    torch.testing.assert_close(found.double(), expected, rtol=2**-9, atol=2**-9)
    tile = symmetric_cuda.TILE
    assert torch.equal(found[:, :tile, tile:], found[:, tile:, :tile].mT)  # stored twice
