"""How the tensors of a step are stored: as they are computed, in 16 bits, or in 8 and a scale.

What is stored in fewer bits than it is computed in is rounded up or down by chance, so that it is
right on average: a moving average would otherwise never feel a change that is smaller than half of
the last bit. The chance is a function of the parameter's number, its step and the place of the
element: the same again after a resume, on any number of threads, in every executor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

#: What is computed and what is stored, by the dtypes of tensors in a row: int8 and uint8 are states
#: of either sign and non-negative ones, int16 the lower half of a parameter.
FORMATS = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.int16: "int16",
}
#: Types of devices that have no float64.
DEVICES_WITHOUT_FLOAT64 = ("mps",)
EIGHT_BIT_DTYPES = (torch.int8, torch.uint8)
#: So many values in 8 bits share a scale.
BLOCK = 256
#: The bits of 1.0.
ONE_BITS = 0x3F800000
#: The name of a state's scales beside its own, and of the lower halves of the parameters.
SCALE, LOW_BITS = "_scale", "master"

StateDtype = Literal["float32", "bfloat16", "int8"]
Kind = Literal["signed", "non-negative", "weight-like"]


@dataclass(frozen=True)
class State:
    """A tensor that the optimizer keeps for each parameter, of the parameter's shape.

    Args:
        kind: signed and non-negative ones may be stored in fewer bits, what is like a weight not.
        initial: all its elements before the first update; None: those of the parameter, for what is
            like a weight.
    """

    kind: Kind = "signed"
    initial: float | None = 0.0


def compute_dtype(p: Tensor) -> torch.dtype:
    """What is computed in, and what states are kept in unless asked: at least float32.

    Of complex parameters the states are complex too, as torch's; their parts are computed with.
    """
    if p.is_complex():
        return torch.complex128 if p.dtype == torch.complex128 else torch.complex64
    return torch.float64 if p.dtype == torch.float64 else torch.float32


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """The most precise dtype of a device: float64, or float32 where there is no float64."""
    return torch.float32 if device.type in DEVICES_WITHOUT_FLOAT64 else torch.float64


def as_real(x: Tensor) -> Tensor:
    """The numbers of a sparse or complex tensor as real ones; any other tensor itself."""
    x = x.coalesce().values() if x.layout is torch.sparse_coo else x
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def clamp_to_dtype(number: float, dtype: torch.dtype) -> float:
    """The number, or an infinity where a dtype has none so large; torch refuses to convert it."""
    return number if abs(number) <= torch.finfo(dtype).max else math.copysign(math.inf, number)


def create_state(p: Tensor, state: State, stored: StateDtype) -> Tensor:
    """The state of p before its first update; where it is in 8 bits, its codes (see `encode`)."""
    eight = torch.int8 if state.kind == "signed" else torch.uint8
    dtype = {"float32": compute_dtype(p), "bfloat16": torch.bfloat16, "int8": eight}[stored]
    if state.kind == "weight-like":
        dtype = compute_dtype(p)
    if dtype in EIGHT_BIT_DTYPES:  # the largest code is the scale
        return torch.full_like(p, torch.iinfo(dtype).max if state.initial else 0, dtype=dtype)
    if state.initial is None:
        return torch.empty_like(p, dtype=dtype).copy_(p)
    initial = clamp_to_dtype(state.initial, dtype)
    return torch.full_like(p, complex(initial, initial) if p.is_complex() else initial, dtype=dtype)


def create_scales(codes: Tensor, initial: float = 0.0) -> Tensor:
    """The scales of codes: a float32 for each 256 of them, in the order in which they lie."""
    return codes.new_full((-(-codes.numel() // BLOCK),), initial, dtype=torch.float32)


def is_dense(x: Tensor) -> bool:
    """Whether its elements fill a stretch of memory, in whatever order (channels_last)."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def flat_view(x: Tensor) -> Tensor:
    """The elements of x in the order in which they lie, as a view; x has no gaps."""
    return x.view(-1) if x.is_contiguous() else x.as_strided((x.numel(),), (1,))


def decode(x: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Stored values, flat, as numbers.

    Args:
        x: values or codes, flat.
        scale: of codes.
        dtype: what is computed in.
    """
    if scale is None:
        return x.to(dtype)
    code = x.to(torch.int32)
    bits = ONE_BITS + (code.abs() - torch.iinfo(x.dtype).max << 20)
    y = torch.where(code == 0, 0, bits).view(torch.float32).copysign(code)
    return (y * scale.repeat_interleave(BLOCK)[: len(y)]).to(dtype)


def encode(value: Tensor, x: Tensor, scale: Tensor | None, chance: Tensor | None) -> None:
    """Store numbers, flat, as decode reads them.

    In 8 bits a value is a share of the largest of its block with three bits after its leading one:
    neighbours lie 6 to 12 % apart, down to 2e-5 (signed) or 3e-10 (non-negative) of the largest.
    Smaller ones become 0, or the smallest where 0 would be divided by (non-negative). An infinity
    becomes the largest float, for 0 times an infinite scale would be NaN.

    Args:
        value: what to store, flat.
        x: where to, flat.
        scale: of codes; written.
        chance: 16 random bits for each value; None: to the nearest.
    """
    if scale is not None:
        _encode_8_bits(value.float(), x, scale, chance)
    elif x.dtype == torch.bfloat16 and chance is not None:
        bits = value.float().view(torch.int32).to(torch.int64)  # room for a carry out of bit 31
        up = ((bits + chance) & ~0xFFFF).to(torch.int32).view(torch.float32)
        x.copy_(torch.where(value.isnan(), value.float(), up))
    else:
        x.copy_(value)


def _encode_8_bits(value: Tensor, x: Tensor, scale: Tensor, chance: Tensor | None) -> None:
    most = torch.iinfo(x.dtype).max
    padded = torch.nn.functional.pad(value, (0, scale.numel() * BLOCK - value.numel()))
    torch.amax(padded.view(-1, BLOCK).abs(), 1, out=scale)
    scale.clamp_(max=torch.finfo(scale.dtype).max)
    top = scale.repeat_interleave(BLOCK)[: value.numel()]
    plain = (top >= torch.finfo(top.dtype).tiny) & top.isfinite()
    y = (value.abs() * torch.where(plain, 1 / top, 0.0)).nan_to_num(1.0).clamp(max=1.0)
    up = 1 << 19 if chance is None else (chance << 4) + 8
    code = ((y.view(torch.int32) + up >> 20) - (ONE_BITS >> 20) + most).clamp(0, most)
    if x.dtype == torch.int8:
        x.copy_(torch.where(value < 0, -code, code))
    else:
        x.copy_(code.maximum((value > 0).to(code)))


def join_master(p: Tensor, low: Tensor) -> Tensor:
    """The float32 whose nearest bfloat16 is p and whose other 16 bits are low."""
    high = p.view(torch.int16).to(torch.int32)
    # who sets p to 0 leaves a low half that would take from nothing
    rest = torch.where((high & 0x7FFF == 0) & (low < 0), 0, low.to(torch.int32))
    bits = (high << 16) + rest
    return bits.view(torch.float32)


def split_master(value: Tensor, p: Tensor, low: Tensor) -> None:
    """Store float32 values as `joined` reads them: exactly."""
    bits = value.view(torch.int32).to(torch.int64)
    high = (bits + 0x8000) >> 16
    nan = value.isnan()
    p.view(torch.int16).copy_(torch.where(nan, 0x7FC0, high))
    low.copy_(torch.where(nan, 0, bits - (high << 16)))


WORD_MASK = 0xFFFFFFFF


def hash_bits(x: Any) -> Any:
    """32 bits, each of them shaken by all the others; of an int or an int64 tensor."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & WORD_MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & WORD_MASK
    return x ^ (x >> 16)


def rounding_key(number: int, t: int, word: int) -> int:
    """What the chances of a parameter's t-th update depend on; two states share a word."""
    return int(
        hash_bits((hash_bits((hash_bits(number & WORD_MASK) + t) & WORD_MASK) + word) & WORD_MASK)
    )


def rounding_bits(key: int, half: int, first: int, count: int, device: torch.device) -> Tensor:
    """16 random bits for each of the elements from `first` on, as int64.

    Args:
        key: of `key_of`.
        half: 0 or 1, which half of the word.
        first: the place of the first element in its tensor.
        count: of elements.
        device: where to.
    """
    place = torch.arange(first, first + count, dtype=torch.int64, device=device)
    x = (place & WORD_MASK) * 0x9E3779B1 + (place >> 32) * 0x85EBCA77 + key
    bits: Tensor = hash_bits(x & WORD_MASK) >> (16 * half)
    return bits & 0xFFFF
