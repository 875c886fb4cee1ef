"""Storage in Triton kernels: 16 and 8 bits, split masters, NaN and infinities.

Run as `triton_parity` is, whose helpers these are.
"""

from __future__ import annotations

import pytest
import torch

from lit_optim.kernels import precision
from lit_optim.kernels.arithmetic import absolute
from lit_optim.kernels.precision import LOW_BITS, SCALE
from lit_optim.optimizers.adamw import AdamW
from tests.kernels.triton_parity import (
    CLOSE,
    DEVICE,
    RULES,
    eager,
    native,
    pair,
    parameters,
    random,
)
from tests.optimizers.running import class_of

NAN, INF = float("nan"), float("inf")


def ulps(x, y):
    """The number of bfloat16 values between two values of the same sign."""
    return (x.view(torch.int16).to(torch.int32) - y.view(torch.int16).to(torch.int32)).abs()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["adamw", "ademamix"])
def test_states_in_16_bits_have_the_same_stochastic_rounding(name, dtype):
    names = set()
    for (_, ours), (_, theirs) in pair(name, dtype, state_dtype="bfloat16"):
        for key, value in theirs.items():
            if torch.is_tensor(value) and value.numel():
                names.add(key)
                assert ours[key].dtype == torch.bfloat16
                apart = ulps(ours[key], value)
                assert apart.max() <= 1
                # with other random bits every third value would differ
                assert (apart > 0).double().mean() < 0.01
    assert len(names) > 1


def test_rounding_bits_equal_the_reference():
    """A state halfway between two bfloat16 values: rounding depends on the random bits alone."""

    class Keeping(AdamW):
        def rule(self, g, p, s, h):
            # 1 + (2k + 1) / 2^17 is a float32, k of 65,536 parts of the way to 1 + 2^-7
            return g, {"exp_avg": g, "exp_avg_sq": g * 1.0}

    k = torch.arange(5000, device=DEVICE) * 13 % 65536
    p = torch.nn.Parameter(torch.ones(5000, device=DEVICE))
    optimizer = native(Keeping)([p, *parameters(shapes=[(3,)])], state_dtype="bfloat16")
    for t in (1, 2):
        p.grad = 1 + k.float() / 2**23
        optimizer.step()
        for half, name in enumerate(("exp_avg", "exp_avg_sq")):
            random_bits = precision.rounding_bits(
                precision.rounding_key(0, t, 0), half, 0, 5000, p.device
            )
            expected = torch.where(k + random_bits >= 65536, 1 + 2**-7, 1.0)
            assert torch.equal(optimizer.state[p][name].float(), expected)
            assert 0.2 < (expected > 1).double().mean() < 0.8


def test_codes_equal_the_reference():
    """Values down to 1e-14 of the largest of a block; zeros, tiny values, NaN and infinities."""

    class Keeping(AdamW):
        def rule(self, g, p, s, h):
            return g, {"exp_avg": g, "exp_avg_sq": absolute(g)}

    values = 10 ** (-14 * torch.rand(5000, generator=torch.Generator().manual_seed(0)))
    values *= random((5000,), torch.float32, 1).cpu().sign()
    values[256:512] = 0.0
    values[600:604] = torch.tensor([NAN, INF, -INF, -0.0])
    values[1024:1280] *= 1e-38  # all below the smallest normal number, but for the largest
    p = torch.nn.Parameter(torch.ones(5000, device=DEVICE))
    p.grad = values.to(DEVICE)
    optimizer = native(Keeping)([p], state_dtype="int8")
    optimizer.step()
    for half, (name, value) in enumerate([("exp_avg", p.grad), ("exp_avg_sq", p.grad.abs())]):
        codes, state = torch.empty_like(optimizer.state[p][name]), optimizer.state[p]
        scale = precision.create_scales(codes)
        random_bits = precision.rounding_bits(
            precision.rounding_key(0, 1, 0), half, 0, 5000, p.device
        )
        precision.encode(value, codes, scale, random_bits)
        torch.testing.assert_close(state[name + SCALE], scale, rtol=0, atol=0, equal_nan=True)
        apart = (state[name].int() - codes.int()).abs()
        assert apart.max() <= 1
        assert (apart > 0).double().mean() < 0.001
        assert torch.equal(state[name] == 0, codes == 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{}, {"cautious": True, "trust_ratio": True}], ids=str)
def test_states_in_8_bits(options, dtype):
    for (p, ours), (q, theirs) in pair("adamw", dtype, state_dtype="int8", **options):
        torch.testing.assert_close(p, q, rtol=CLOSE[dtype], atol=1e-4)
        for key, value in theirs.items():
            if key.endswith(SCALE):
                torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-9)
            elif torch.is_tensor(value) and value.numel():
                assert value.dtype in precision.EIGHT_BIT_DTYPES
                apart = (ours[key].int() - value.int()).abs()
                assert apart.max() <= 1
                assert (apart > 0).double().mean() < 0.01


def test_a_split_master_is_exact():
    """Half of the bits are in the parameter, half in a state: like a float32 parameter."""
    hyper = {"lr": 1e-4, "weight_decay": 0.1}
    for state_dtype in ("float32", "bfloat16"):
        ours, wide = parameters(torch.bfloat16), parameters(torch.bfloat16)
        wide = [torch.nn.Parameter(p.detach().float()) for p in wide]
        optimizer = native(AdamW)(ours, **hyper, master="split", state_dtype=state_dtype)
        other = eager(AdamW)(wide, **hyper, state_dtype=state_dtype)
        for step in range(3):
            for k, (p, q) in enumerate(zip(ours, wide, strict=True)):
                p.grad = random(p.shape, torch.bfloat16, 1000 * (step + 1) + k)
                q.grad = p.grad.float()
            optimizer.step()
            other.step()
        for p, q in zip(ours, wide, strict=True):
            whole = precision.join_master(p.detach(), optimizer.state[p][LOW_BITS])
            torch.testing.assert_close(whole, q.detach(), rtol=1e-6, atol=1e-7)
            assert torch.equal(p, q.bfloat16()) or (p != q.bfloat16()).sum() < 3


@pytest.mark.parametrize(
    ("name", "bad", "options"),
    [
        *((name, [NAN, INF, -INF], {}) for name in RULES),
        *(("adamw", [bad], {"state_dtype": "int8"}) for bad in (NAN, INF, -INF)),
        *(("adamw", [bad], {"trust_ratio": True}) for bad in (NAN, INF, -INF)),
        ("adamw", [NAN, INF, -INF], {"state_dtype": "bfloat16"}),
        ("adamw", [NAN, INF, -INF], {"cautious": True}),
    ],
    ids=str,
)
def test_non_finite_values_spread_as_in_torch(name, bad, options):
    results = []
    for make in (native(class_of(name)), eager(class_of(name))):
        p = torch.nn.Parameter(torch.ones(300, device=DEVICE))
        optimizer = make([p], **options)
        for _ in range(2):
            p.grad = torch.ones(300, device=DEVICE)
            p.grad[: len(bad)] = torch.tensor(bad)
            optimizer.step()
        state = [x.float() for x in optimizer.state[p].values() if torch.is_tensor(x)]
        results.append([p.detach(), *state])  # codes too
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan())
        torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_stochastic_rounding_keeps_nan():
    """CUDA's NaN has all bits set; adding random bits would carry into the sign."""
    p = torch.nn.Parameter(torch.ones(300, device=DEVICE))
    optimizer = native(AdamW)([p], state_dtype="bfloat16")
    p.grad = torch.full((300,), 0x7FFFFFFF, dtype=torch.int32, device=DEVICE).view(torch.float32)
    optimizer.step()
    assert optimizer.state[p]["exp_avg"].isnan().all()
    assert p.isnan().all()


def test_a_master_that_is_not_finite():
    p = torch.nn.Parameter(torch.ones(9, device=DEVICE, dtype=torch.bfloat16))
    optimizer = native(AdamW)([p], master="split")
    p.grad = torch.ones_like(p)
    p.grad[4] = float("nan")
    optimizer.step()
    assert p.isnan().nonzero().flatten().tolist() == [4]
    assert precision.join_master(p.detach(), optimizer.state[p][LOW_BITS]).isnan().sum() == 1
