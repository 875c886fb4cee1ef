"""Storage formats: states in full precision, in 16 bits, or in 8 bits with a scale per block.

States in fewer bits are stored with stochastic rounding: a value is rounded up or down at random,
so that it is right on average. With rounding to nearest, a moving average would never see a change
of less than half of the last bit. The random bits are a hash of the parameter's number, the number
of the update and the position of the element. They are therefore the same after a resume, on any
number of threads, in every executor, and in every process that has a shard of the parameter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

#: The names of the storage formats: int8 is for signed states, uint8 for non-negative states, int16
#: for the low bits of a parameter.
FORMATS = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.int16: "int16",
}
#: Device types without float64.
DEVICES_WITHOUT_FLOAT64 = ("mps",)
EIGHT_BIT_DTYPES = (torch.int8, torch.uint8)
#: The number of 8-bit values that share a scale.
BLOCK = 256
#: The bits of the float32 1.0.
ONE_BITS = 0x3F800000
#: The suffix of the state with the scales of an 8-bit state, and the name of the state with the low
#: bits of a bfloat16 parameter.
SCALE, LOW_BITS = "_scale", "master"

StateDtype = Literal["float32", "bfloat16", "int8"]
Kind = Literal["signed", "non-negative", "weight-like"]


@dataclass(frozen=True)
class State:
    """A tensor of the parameter's shape that the optimizer keeps for each parameter.

    Args:
        kind: `signed` and `non-negative` states may be stored in fewer bits, `weight-like` not.
        initial: the value of its elements before the first update; None: a copy of the parameter,
            for `weight-like` states.
        when: a hyperparameter; the state is kept only where it is neither 0 nor False.
        initial_from: a hyperparameter whose value `initial` is.
    """

    kind: Kind = "signed"
    initial: float | None = 0.0
    when: str | None = None
    initial_from: str | None = None

    def resolve_initial(self, hyperparameters: dict[str, Any]) -> State:
        """Return the state with the `initial` that these hyperparameters give it."""
        initial = hyperparameters[self.initial_from] if self.initial_from else self.initial
        return replace(self, initial=initial)


class Place(NamedTuple):
    """Where a shard is in its whole tensor: runs of consecutive elements, equally far apart.

    Args:
        first: the position of its first element.
        numel: the number of elements of the whole tensor.
        run: the number of elements of a run.
        gap: the number of elements of the whole tensor between two runs.
    """

    first: int
    numel: int
    run: int
    gap: int = 0


def compute_dtype(p: Tensor) -> torch.dtype:
    """Return the dtype of the computation, and of states by default: at least float32.

    The states of complex parameters are complex, as in torch; their real and imaginary parts are
    computed separately.
    """
    if p.is_complex():
        return torch.complex128 if p.dtype == torch.complex128 else torch.complex64
    return torch.float64 if p.dtype == torch.float64 else torch.float32


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype for sums: float64, or float32 on a device without float64."""
    return torch.float32 if device.type in DEVICES_WITHOUT_FLOAT64 else torch.float64


def as_real(x: Tensor) -> Tensor:
    """Return the values of a sparse or complex tensor as real numbers; any other tensor itself."""
    x = x.coalesce().values() if x.layout is torch.sparse_coo else x
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def clamp_to_dtype(number: float, dtype: torch.dtype) -> float:
    """Return the number, or an infinity if the dtype cannot hold it: torch would raise."""
    return number if abs(number) <= torch.finfo(dtype).max else math.copysign(math.inf, number)


def create_state(p: Tensor, state: State, stored: StateDtype) -> Tensor:
    """Return the state of p before its first update; in 8 bits these are codes (see `encode`)."""
    eight = torch.int8 if state.kind == "signed" else torch.uint8
    dtype = {"float32": compute_dtype(p), "bfloat16": torch.bfloat16, "int8": eight}[stored]
    if state.kind == "weight-like":
        dtype = compute_dtype(p)
    if dtype in EIGHT_BIT_DTYPES:  # the largest code stands for the scale itself
        return torch.full_like(p, torch.iinfo(dtype).max if state.initial else 0, dtype=dtype)
    if state.initial is None:
        return torch.empty_like(p, dtype=dtype).copy_(p)
    initial = clamp_to_dtype(state.initial, dtype)
    return torch.full_like(p, complex(initial, initial) if p.is_complex() else initial, dtype=dtype)


def create_scales(codes: Tensor, initial: float = 0.0) -> Tensor:
    """Return the scales of codes: a float32 for each block of 256, in memory order."""
    return codes.new_full((-(-codes.numel() // BLOCK),), initial, dtype=torch.float32)


def is_dense(x: Tensor) -> bool:
    """Whether its elements fill a range of memory, in any order (such as channels_last)."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def flat_view(x: Tensor) -> Tensor:
    """Return a 1-D view of x in memory order; x must have no gaps."""
    return x.view(-1) if x.is_contiguous() else x.as_strided((x.numel(),), (1,))


def decode(x: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Convert stored values to numbers.

    Args:
        x: values or codes, 1-D.
        scale: the scales of codes; None for values.
        dtype: the dtype to compute in.
    """
    if scale is None:
        return x.to(dtype)
    code = x.to(torch.int32)
    bits = ONE_BITS + (code.abs() - torch.iinfo(x.dtype).max << 20)
    y = torch.where(code == 0, 0, bits).view(torch.float32).copysign(code)
    return (y * scale.repeat_interleave(BLOCK)[: len(y)]).to(dtype)


def encode(value: Tensor, x: Tensor, scale: Tensor | None, random_bits: Tensor | None) -> None:
    """Store numbers so that `decode` reads them, by stochastic rounding.

    In 8 bits a value is a fraction of the largest of its block, with three bits after the leading
    one: neighboring codes are 6 to 12 % apart, down to 2e-5 (signed) or 3e-10 (non-negative) of the
    largest. Smaller values become 0, or the smallest code in a non-negative state, by which updates
    divide. An infinity becomes the largest float: 0 times an infinite scale would be NaN.

    Args:
        value: the numbers, 1-D.
        x: where to store them, 1-D.
        scale: the scales of codes, which are written; None for values.
        random_bits: 16 random bits for each value; None: round to nearest.
    """
    if scale is not None:
        _encode_8_bits(value.float(), x, scale, random_bits)
    elif x.dtype == torch.bfloat16 and random_bits is not None:
        bits = value.float().view(torch.int32).to(torch.int64)  # room for a carry out of bit 31
        up = ((bits + random_bits) & ~0xFFFF).to(torch.int32).view(torch.float32)
        x.copy_(torch.where(value.isnan(), value.float(), up))
    else:
        x.copy_(value)


def _encode_8_bits(value: Tensor, x: Tensor, scale: Tensor, random_bits: Tensor | None) -> None:
    most = torch.iinfo(x.dtype).max
    padded = torch.nn.functional.pad(value, (0, scale.numel() * BLOCK - value.numel()))
    torch.amax(padded.view(-1, BLOCK).abs(), 1, out=scale)
    scale.clamp_(max=torch.finfo(scale.dtype).max)
    top = scale.repeat_interleave(BLOCK)[: value.numel()]
    plain = (top >= torch.finfo(top.dtype).tiny) & top.isfinite()
    y = (value.abs() * torch.where(plain, 1 / top, 0.0)).nan_to_num(1.0).clamp(max=1.0)
    up = 1 << 19 if random_bits is None else (random_bits << 4) + 8
    code = ((y.view(torch.int32) + up >> 20) - (ONE_BITS >> 20) + most).clamp(0, most)
    if x.dtype == torch.int8:
        x.copy_(torch.where(value < 0, -code, code))
    else:
        x.copy_(code.maximum((value > 0).to(code)))


def join_master(p: Tensor, low: Tensor) -> Tensor:
    """Return the float32 whose nearest bfloat16 is p and whose other 16 bits are low."""
    high = p.view(torch.int16).to(torch.int32)
    # code that sets p to 0 leaves its low bits, which must not be subtracted from 0
    rest = torch.where((high & 0x7FFF == 0) & (low < 0), 0, low.to(torch.int32))
    bits = (high << 16) + rest
    return bits.view(torch.float32)


def split_master(value: Tensor, p: Tensor, low: Tensor) -> None:
    """Store float32 values exactly, so that `join_master` reads them."""
    bits = value.view(torch.int32).to(torch.int64)
    high = (bits + 0x8000) >> 16
    nan = value.isnan()
    p.view(torch.int16).copy_(torch.where(nan, 0x7FC0, high))
    low.copy_(torch.where(nan, 0, bits - (high << 16)))


WORD_MASK = 0xFFFFFFFF


def hash_bits(x: Any) -> Any:
    """Hash 32 bits, given as an int or an int64 tensor: each bit changes all others."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & WORD_MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & WORD_MASK
    return x ^ (x >> 16)


def rounding_key(number: int, t: int, word: int) -> int:
    """Return the key of the random bits of a parameter's t-th update; two states share a word."""
    return int(
        hash_bits((hash_bits((hash_bits(number & WORD_MASK) + t) & WORD_MASK) + word) & WORD_MASK)
    )


def rounding_bits(
    key: int,
    half: int,
    first: int,
    count: int,
    device: torch.device,
    place: Place | None = None,
) -> Tensor:
    """Return 16 random bits for each of the elements from `first` on, as int64.

    Args:
        key: from `rounding_key`.
        half: 0 or 1: which half of the 32-bit word.
        first: the position of the first element in its tensor.
        count: the number of elements.
        device: of the result.
        place: where the tensor is in a whole one, if it is a shard.
    """
    position = torch.arange(first, first + count, dtype=torch.int64, device=device)
    if place is not None:
        gaps = position // place.run * place.gap if place.gap else 0
        position = place.first + position + gaps
    x = (position & WORD_MASK) * 0x9E3779B1 + (position >> 32) * 0x85EBCA77 + key
    bits: Tensor = hash_bits(x & WORD_MASK) >> (16 * half)
    return bits & 0xFFFF
