"""Adafactor's kernels, compared with the torch executor on any number of threads."""

from __future__ import annotations

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.kernels.factored_cpu import MAX_PARTS, PART_SIZE
from tests.kernels import requirements
from tests.optimizers.running import class_of

pytestmark = requirements.compiler

#: single numbers, vectors, matrices in one part and in many, the longest and the broadest; matrices
#: behind each other, of one number, of nine, of a few and of many
SHAPES = [
    *[(), (3,), (PART_SIZE + 77,)],
    *[
        (1, 7),
        (7, 1),
        (0, 3),
        (300, 500),
        (2 * MAX_PARTS + 1, 1100),
        (3, PART_SIZE),
        (PART_SIZE, 3),
    ],
    *[(20, 10, 1, 1), (9, 7, 3, 3), (4, 5, 7), (3, 90, 80), (2, 70_000, 1)],
]
SETTINGS = {
    "adafactor": [
        {},
        {"lr": 1.0, "weight_decay": 0.1, "maximize": True},
        {"eps": (1e-3, 1e-2), "d": 2.0, "beta2_decay": -0.5},
        {"eps": (0.0, 0.0)},
    ],
    "adafactor_hf": [
        {},
        {"lr": 1e-2, "relative_step": False, "scale_parameter": False, "weight_decay": 0.1},
        {"beta1": 0.9, "warmup_init": True, "maximize": True, "eps": (1e-3, 1e-3)},
    ],
}
CASES = [(name, settings) for name, cases in SETTINGS.items() for settings in cases]
CLOSE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 2**-7, torch.float16: 2**-8}


def stepped(name, dtype, executor, settings, steps=4):
    generator = torch.Generator().manual_seed(0)

    def numbers(shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)

    params = [torch.nn.Parameter(numbers(shape)) for shape in SHAPES]
    optimizer = class_of(name)(params, **settings, executor=executor)
    for step in range(steps):
        for p in params:
            p.grad = 10 ** (step - 2) * numbers(p.shape)
        if step == 1:
            params[6].grad = None  # late
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
@pytest.mark.parametrize("dtype", CLOSE, ids=str)
def test_equals_the_torch_executor(name, settings, dtype):
    native, one = stepped(name, dtype, "native", settings)
    by_torch, other = stepped(name, dtype, "torch", settings)
    for p, q in zip(native, by_torch, strict=True):
        torch.testing.assert_close(p, q, rtol=CLOSE[dtype], atol=CLOSE[dtype], equal_nan=True)
        for key, value in one.state[p].items():
            if isinstance(value, torch.Tensor) and value.numel() and p.numel():
                scale = float(other.state[q][key].abs().max())  # an average may pass through 0
                close = {"rtol": CLOSE[dtype], "atol": CLOSE[dtype] * scale}
                torch.testing.assert_close(value, other.state[q][key], **close)


@pytest.mark.parametrize("name", SETTINGS)
def test_any_number_of_threads_gives_the_same_bits(name):
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(stepped(name, torch.float32, "native", {})[0])
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(map(torch.equal, found[0], others))


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_values_spread_as_in_torch(name, bad):
    for shape in [(9,), (40, 30), (8, 3, 3), (4, 5, 30)]:
        results = []
        for executor in ("native", "torch"):
            p = torch.nn.Parameter(torch.ones(shape))
            optimizer = class_of(name)([p], executor=executor)
            p.grad = torch.ones(shape)
            p.grad.view(-1)[4] = bad
            optimizer.step()
            results.append(p.isfinite())
        assert torch.equal(*results)


def test_unsupported_tensors_go_to_torch():
    lines = torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last)
    for values, why in [
        (lines, "a parameter is not contiguous in memory"),
        (torch.randn(4, 6)[:, ::2], "a parameter has gaps in memory"),
    ]:
        moved = []
        for executor in ("auto", "torch", "native"):
            p = torch.nn.Parameter(values.clone())
            p.data = values.clone() if values is lines else torch.cat([values] * 2, 1)[:, ::2]
            p.grad = torch.ones_like(p) if values is lines else torch.ones(4, 6)[:, ::2]
            optimizer = class_of("adafactor")([p], executor=executor)
            if executor == "native":
                with pytest.raises(UsageError, match=f"executor=native: Adafactor cannot: {why}"):
                    optimizer.step()
            else:
                optimizer.step()
                moved.append(p.detach())
        assert torch.equal(*moved)
