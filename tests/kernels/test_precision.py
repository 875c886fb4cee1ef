"""Storage in fewer bits, compared with levels, neighbors and statistics computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lit_optim.kernels import precision
from lit_optim.kernels.precision import BLOCK, State
from tests.kernels.number_formats import gaps, levels, tops

CODES = (torch.int8, torch.uint8)
NAN, INF = float("nan"), float("inf")
ALL_RANDOM_BITS = torch.arange(65536)


def random_bits(count=1 << 16, seed=0):
    """Return float32 values of every kind, including subnormal, huge, infinite and NaN."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(2**31), 2**31, (count,), dtype=torch.int64, generator=generator)
    return bits.to(torch.int32).view(torch.float32)


def special():
    exact = torch.tensor([0.0, -0.0, 1.0, -1.5, INF, -INF, 2.0**-126, 2.0**-133, -(2.0**100)])
    between = torch.tensor([1 + 2**-20, -math.pi, 1e-40, -1e-45, 3e38, -1e-38, 0.1])
    return exact, between


# random bits


def test_hash_bits_is_the_same_for_ints_and_tensors():
    given = torch.randint(0, 2**32, (1000,), generator=torch.Generator().manual_seed(0))
    given[:3] = torch.tensor([0, 1, 2**32 - 1])
    assert precision.hash_bits(given).tolist() == [precision.hash_bits(x) for x in given.tolist()]


def test_hash_bits_changes_every_bit():
    """If two words differ in one bit, each bit of their hashes differs about half of the time."""
    given = torch.randint(0, 2**32, (4000,), generator=torch.Generator().manual_seed(0))
    for bit in range(32):
        changed = precision.hash_bits(given) ^ precision.hash_bits(given ^ (1 << bit))
        shares = torch.stack([(changed >> k & 1).double().mean() for k in range(32)])
        assert shares.min() > 0.4
        assert shares.max() < 0.6
    assert len(set(precision.hash_bits(torch.arange(1 << 16)).tolist())) == 1 << 16


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("seed", [(0, 1, 0), (0, 2, 0), (1, 1, 0), (1, 1, 1), (2**31, 10**9, 1)])
def test_rounding_bits_are_uniform(seed, half):
    count = 1 << 18
    bits = precision.rounding_bits(
        precision.rounding_key(*seed), half, 0, count, torch.device("cpu")
    )
    assert bits.min() >= 0
    assert bits.max() < 65536
    for byte in (bits >> 8, bits & 255):
        met = torch.bincount(byte, minlength=256).double()
        chi_square = ((met - count / 256) ** 2 / (count / 256)).sum()
        assert abs(chi_square - 255) < 6 * math.sqrt(2 * 255)
    assert abs(bits.double().mean() / 32767.5 - 1) < 6 / math.sqrt(3 * count)


def test_rounding_bits_are_independent():
    count = 1 << 18

    def drawn(number=0, t=1, word=0, half=0, first=0):
        key = precision.rounding_key(number, t, word)
        return precision.rounding_bits(key, half, first, count, torch.device("cpu")).double()

    one = drawn()
    others = [drawn(number=1), drawn(t=2), drawn(word=1), drawn(half=1)]
    others += [drawn(first=k) for k in (1, 2, 256, 4096, 2**32)]
    for other in others:
        correlation = torch.corrcoef(torch.stack([one, other]))[0, 1]
        assert abs(correlation) < 6 / math.sqrt(count)


def test_rounding_bits_depend_on_the_position_only():
    key, cpu = precision.rounding_key(3, 5, 0), torch.device("cpu")
    whole = precision.rounding_bits(key, 0, 0, 1000, cpu)
    assert torch.equal(precision.rounding_bits(key, 0, 300, 500, cpu), whole[300:800])
    assert len(precision.rounding_bits(key, 0, 7, 0, cpu)) == 0
    for first in (2**31 - 5, 2**32 - 5, 2**33 + 1):
        found = precision.rounding_bits(key, 1, first, 10, cpu).tolist()
        assert found == [
            precision.rounding_bits(key, 1, first + k, 1, cpu).item() for k in range(10)
        ]
    far, near = (precision.rounding_bits(key, 1, k, 1000, cpu) for k in (2**32, 0))
    assert (far == near).double().mean() < 0.01


# 16 bits


def in_bfloat16(value, bits):
    x = torch.empty_like(value, dtype=torch.bfloat16)
    precision.encode(value, x, None, bits)
    return x


def neighbors(value):
    """Return the nearest bfloat16, and the next one on the other side of the value."""
    nearest = value.to(torch.bfloat16)
    towards = torch.where(value > nearest.float(), INF, -INF).to(torch.bfloat16)
    return nearest, torch.where(value == nearest.float(), nearest, nearest.nextafter(towards))


def test_stochastic_rounding_gives_one_of_the_two_neighbors():
    value = torch.cat([random_bits(), *special()])
    value = value[~value.isnan()]
    near, far = neighbors(value)
    bits = torch.randint(0, 65536, value.shape, generator=torch.Generator().manual_seed(1))
    for chosen in (
        bits,
        torch.zeros_like(bits),
        torch.full_like(bits, 65535),
    ):
        found = in_bfloat16(value, chosen)
        assert ((found == near) | (found == far)).all()
        assert torch.equal(found.signbit(), value.signbit())


def test_stochastic_rounding_keeps_exact_values():
    exact, _ = special()
    for bits in (0, 1, 65535):
        found = in_bfloat16(exact, torch.full((len(exact),), bits))
        assert torch.equal(found.float().view(torch.int32), exact.view(torch.int32))
    nans = torch.tensor([NAN, -NAN, INF - INF])
    nans = torch.cat([nans, torch.tensor([0x7FFFFFFF, -1, 0x7F800001]).int().view(torch.float32)])
    for bits in (0, 65535):
        assert in_bfloat16(nans, torch.full((6,), bits)).isnan().all()


def test_stochastic_rounding_is_right_on_average():
    """Over all random bits exactly; over drawn bits up to sampling error."""
    for value in special()[1].tolist():
        given = torch.full((65536,), value)
        mean = in_bfloat16(given, ALL_RANDOM_BITS).double().mean().item()
        assert mean == pytest.approx(given[0].item(), rel=1e-12, abs=0)
        drawn = precision.rounding_bits(precision.rounding_key(0, 1, 0), 0, 0, 65536, given.device)
        found = in_bfloat16(given, drawn).double()
        error = abs(found.mean().item() - given[0].item())
        assert error <= 5 * found.std().item() / 256


def test_bfloat16_without_random_bits_rounds_to_nearest():
    value = torch.cat([random_bits(), *special()])
    assert torch.equal(in_bfloat16(value, None).nan_to_num(), value.bfloat16().nan_to_num())


# 8 bits


def in_8_bits(value, dtype, bits):
    codes = torch.empty_like(value, dtype=dtype)
    scale = precision.create_scales(codes)
    precision.encode(value, codes, scale, bits)
    return codes, scale


def store_and_load(value, dtype, bits, result=torch.float32):
    return precision.decode(*in_8_bits(value, dtype, bits), result)


def values(dtype, count=3 * BLOCK + 77):
    """Return values over many orders of magnitude, with zeros and a known largest per block."""
    generator = torch.Generator().manual_seed(2)
    drawn = torch.randn(count, generator=generator) * 10 ** torch.linspace(-6, 3, count)
    drawn[::13] = 0.0
    return drawn if dtype == torch.int8 else drawn.abs()


@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_codes_stand_for_their_levels(dtype):
    least = -127 if dtype == torch.int8 else 0
    codes = torch.arange(least, torch.iinfo(dtype).max + 1).to(dtype)
    scale = torch.full((-(-len(codes) // BLOCK),), 3.0)
    for wide, most in [(torch.float32, 1e-6), (torch.float64, 1e-15)]:
        found = precision.decode(codes, scale, wide)
        assert found.dtype == wide
        known = 3 * levels(dtype)[codes.int().abs()].copysign(codes.double())
        torch.testing.assert_close(found.double(), known, rtol=most, atol=0)


@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_8_bits_are_off_by_less_than_a_level(dtype):
    value = values(dtype)
    gap = gaps(value.abs() / tops(value), dtype) * tops(value)
    for bits, share in [(None, 0.5), (0, 1.0), (65535, 1.0), (30000, 1.0)]:
        given = None if bits is None else torch.full((len(value),), bits)
        found = store_and_load(value, dtype, given).double()
        least = value.abs() < levels(dtype)[1] * tops(value)  # some become 0 there, others not
        most = torch.where(least, gap, share * gap)
        assert ((found - value).abs() <= most * (1 + 1e-4) + 1e-12 * tops(value)).all()
        assert (found * value >= 0).all()  # no sign changes


@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_8_bits_keep_zero_and_the_largest(dtype):
    value = values(dtype)
    for bits in (None, *(torch.full((len(value),), c) for c in (1, 65535))):
        found = store_and_load(value, dtype, bits, torch.float64)
        assert (found[value == 0] == 0).all()
        largest = value.abs() == tops(value)
        torch.testing.assert_close(found[largest], value[largest].double(), rtol=0, atol=0)
        if dtype == torch.uint8:
            assert (found[value > 0] > 0).all()
    least = torch.full((BLOCK,), 1e-30)
    least[0] = 1.0
    assert (store_and_load(least, torch.uint8, torch.full((BLOCK,), 65535)) > 0).all()


@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_8_bits_are_right_on_average_by_stochastic_rounding(dtype):
    """Up to 1 / 65536 of a level over all random bits; up to sampling error over drawn ones."""
    small = torch.ones(257, BLOCK, dtype=torch.bool)
    small[:, 0] = False  # a largest for each block
    every = torch.zeros(257, BLOCK, dtype=torch.int64)
    every[small] = ALL_RANDOM_BITS[:65535]
    drawn = precision.rounding_bits(
        precision.rounding_key(0, 1, 0), 1, 0, small.numel(), small.device
    )
    for share in [0.9, 0.1, 1e-4, 1e-8 if dtype == torch.uint8 else 0.0]:
        given = torch.where(small, share, 1.0).flatten()
        gap = gaps(torch.tensor([share]), dtype).item()
        for bits, most in [(every.flatten(), gap / 20000), (drawn, 5 * gap / 2 / 255)]:
            found = store_and_load(given, dtype, bits, torch.float64)[small.flatten()]
            assert abs(found.mean().item() - share) <= most + 1e-6 * share


@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_8_bits_do_not_drift(dtype):
    """Stored values do not change when stored again, up to the rounding of float32."""
    value = values(dtype)
    codes, scale = in_8_bits(value, dtype, None)
    bits = precision.rounding_bits(precision.rounding_key(0, 1, 0), 0, 0, len(value), value.device)
    again, same = in_8_bits(precision.decode(codes, scale, torch.float32), dtype, bits)
    assert torch.equal(scale, same)
    off = again.int() - codes.int()
    assert off.abs().max() <= 1
    assert (off != 0).double().mean() < 1e-2


@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_nan_stays_in_its_block(dtype):
    value = values(dtype)
    value[BLOCK + 3] = NAN
    found = store_and_load(value, dtype, torch.full((len(value),), 65535))
    spoilt = torch.arange(len(value)) // BLOCK == 1
    assert torch.equal(~found.isfinite(), spoilt)


@pytest.mark.parametrize("bad", [INF, -INF])
@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_an_infinity_becomes_the_largest_number(dtype, bad):
    value = values(dtype)
    value[BLOCK + 3] = bad = abs(bad) if dtype == torch.uint8 else bad
    found = store_and_load(value, dtype, None)
    assert found.isfinite().all()
    assert found[BLOCK + 3] == math.copysign(torch.finfo(torch.float32).max, bad)
    others = torch.arange(len(value)) // BLOCK != 1
    torch.testing.assert_close(found[others], store_and_load(values(dtype), dtype, None)[others])


@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_blocks_of_zeros_and_of_less(dtype):
    value = torch.zeros(2 * BLOCK)
    codes, scale = in_8_bits(value, dtype, torch.full((2 * BLOCK,), 65535))
    assert not codes.any()
    assert scale.tolist() == [0.0, 0.0]
    value[BLOCK:] = 1e-42  # too small to be divided by
    assert (store_and_load(value, dtype, None) <= 1e-42).all()
    value[:BLOCK] = 3e38
    torch.testing.assert_close(store_and_load(value, dtype, None)[:BLOCK], value[:BLOCK])


@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1])
@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_ragged_blocks(dtype, count):
    value = values(dtype)[:count]
    codes, scale = in_8_bits(value, dtype, None)
    assert len(scale) == math.ceil(count / BLOCK)
    assert scale.tolist() == tops(value)[::BLOCK].tolist()
    alone = [store_and_load(block, dtype, None) for block in value.split(BLOCK)]
    assert torch.equal(precision.decode(codes, scale, torch.float32), torch.cat(alone))


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("kind", ["signed", "non-negative", "weight-like"])
def test_new_states(kind, stored):
    for initial in (0.0, 0.25):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            p = torch.ones(300, dtype=dtype)
            state = precision.create_state(p, State(kind, initial), stored)
            eight = state.dtype in precision.EIGHT_BIT_DTYPES
            scale = precision.create_scales(state, initial) if eight else None
            assert (precision.decode(state, scale, torch.float64) == initial).all()
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            asked = {"float32": wide, "bfloat16": torch.bfloat16, "int8": torch.int8}[stored]
            if asked == torch.int8 and kind == "non-negative":
                asked = torch.uint8
            assert state.dtype == (wide if kind == "weight-like" else asked)


# parameters in two halves


def test_split_master_and_join_master_are_exact():
    value = torch.cat([random_bits(1 << 18), *special()])
    p, low = torch.empty_like(value, dtype=torch.bfloat16), torch.empty_like(value).short()
    precision.split_master(value, p, low)
    whole = precision.join_master(p, low)
    nan = value.isnan()
    assert nan.any()
    assert whole[nan].isnan().all()
    assert p[nan].isnan().all()
    assert torch.equal(whole[~nan].view(torch.int32), value[~nan].view(torch.int32))
    assert (p == value.bfloat16())[~nan].double().mean() > 0.9999  # but for ties
    value, p = value[value.isfinite()].double(), p[value.isfinite()].double()
    best = (value - value.float().bfloat16().double()).abs()
    assert (((value - p).abs() == best) | p.isinf()).all()


def test_ties_lie_between_two_neighbours():
    ties = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 2**-134])
    p, low = torch.empty_like(ties).bfloat16(), torch.empty_like(ties).short()
    precision.split_master(ties, p, low)
    assert torch.equal(precision.join_master(p, low), ties)
    assert torch.equal((p.float() - ties).abs(), (ties.bfloat16().float() - ties).abs())


# where elements lie


def test_is_dense_and_flat_view():
    x = torch.arange(120.0).view(2, 3, 4, 5)
    whole = [x, x.transpose(1, 3), x.to(memory_format=torch.channels_last), x[:0], x[0, 0, 0, 0]]
    whole += [x[:, :, :1], x[:1].transpose(0, 2), torch.ones(1, 1).expand(1, 1)]
    dense = [True, True, True, True, True, False, True, True]
    for view, is_dense in zip(whole, dense, strict=True):
        assert precision.is_dense(view) == is_dense
        if is_dense:
            flat = precision.flat_view(view)
            assert flat.shape == (view.numel(),)
            assert flat.data_ptr() == view.data_ptr()
            assert sorted(flat.tolist()) == sorted(view.flatten().tolist())
    assert not precision.is_dense(torch.ones(4)[::2])
    assert not precision.is_dense(torch.ones(1).expand(4))
