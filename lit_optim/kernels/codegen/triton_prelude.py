"""The Triton functions that every kernel begins with: they convert stored formats and numbers.

`precision` documents the formats and is the reference for these functions. bfloat16 is read and
written as bits, so that rounding is the same on every GPU and in Triton's interpreter. TILE is
defined after them; see `triton`.
"""

from __future__ import annotations

PRELUDE = """\
import triton
import triton.language as tl

CHUNK = tl.constexpr(4096)
BLOCK = tl.constexpr(256)


@triton.jit
def as_double(bits):
    # a double is passed as the integer of its bits: a Python float would be passed as a float32
    return bits.to(tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def as_pointer(address, kind: tl.constexpr, is_aligned: tl.constexpr):
    pointer = address.to(kind)
    if is_aligned:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def hash_bits(x):
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def rounding_key(number, t, start, word: tl.constexpr):
    # the key of a chunk: an element's index in it is added before it is hashed
    x = hash_bits(hash_bits(hash_bits(number.to(tl.uint32)) + t.to(tl.uint32)) + word)
    return x + start.to(tl.uint32) * 0x9E3779B1 + (start >> 32).to(tl.uint32) * 0x85EBCA77


@triton.jit
def from_bfloat16(x):
    return (x.to(tl.uint32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def to_bfloat16(x):
    bits = x.to(tl.uint32, bitcast=True)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (tl.where(x != x, bits | 0x400000, rounded) >> 16).to(tl.uint16)


@triton.jit
def to_bfloat16_stochastic(x, random_bits):
    bits = x.to(tl.uint32, bitcast=True)
    return (tl.where(x != x, bits | 0x400000, bits + random_bits) >> 16).to(tl.uint16)


@triton.jit
def join_master(p, low):
    # code that sets p to 0 leaves its low half, which must not be subtracted from 0
    low = tl.where(((p.to(tl.int32) & 0x7FFF) == 0) & (low < 0), 0, low.to(tl.int32))
    return ((p.to(tl.uint32) << 16) + low.to(tl.uint32)).to(tl.float32, bitcast=True)


@triton.jit
def high_half(x):
    bits = x.to(tl.uint32, bitcast=True)
    return tl.where(x != x, 0x7FC0, (bits + 0x8000) >> 16).to(tl.uint16)


@triton.jit
def low_half(x):
    bits = x.to(tl.uint32, bitcast=True)
    return tl.where(x != x, 0, bits - ((bits + 0x8000) & 0xFFFF0000)).to(tl.int16)


@triton.jit
def from_code(code, most: tl.constexpr):
    # as a fraction of the largest of its block: 1 for the largest code
    bits = tl.where(code == 0, 0, 0x3F800000 + ((code - most) << 20))
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def from_int8(code, scale):
    code = code.to(tl.int32)
    return tl.where(code < 0, -from_code(-code, 127), from_code(code, 127)) * scale


@triton.jit
def from_uint8(code, scale):
    return from_code(code.to(tl.int32), 255) * scale


@triton.jit
def largest(x, inside):
    # the largest |x| of each block, NaN if it has one: NaN has the largest bits; infinity becomes
    # the largest float: codes of 0 times an infinite scale would be NaN
    bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    top = tl.max(tl.where(inside, bits, 0), 1)
    return tl.where(top == 0x7F800000, 0x7F7FFFFF, top)


@triton.jit
def to_code(x, top, random_bits, most: tl.constexpr):
    # of |x|, by stochastic rounding; NaN counts as the largest, and may have either sign
    plain = (top >= 0x00800000) & (top < 0x7F800000)
    scale = tl.where(plain, top, 0x3F800000).to(tl.float32, bitcast=True)
    y = tl.abs(x) * tl.where(plain, 1.0 / scale, 0.0)[:, None]
    bits = y.to(tl.uint32, bitcast=True)
    bits = tl.where(bits < 0x3F800000, bits, 0x3F800000)
    code = ((bits + (random_bits << 4) + 8) >> 20).to(tl.int32) - (0x3F800000 >> 20) + most
    return tl.where(code > 0, code, 0)


@triton.jit
def to_int8(x, top, random_bits):
    code = to_code(x, top, random_bits, 127)
    return tl.where(x < 0, -code, code).to(tl.int8)


@triton.jit
def to_uint8(x, top, random_bits):
    code = to_code(x, top, random_bits, 255)
    return tl.where((x > 0) & (code == 0), 1, code).to(tl.uint8)


@triton.jit(do_not_specialize=["count", "chunks", "sums", "first"])
def combine(table, scratch, count: tl.int64, chunks: tl.int64, sums: tl.int64, first: tl.int64):
    # adds up a sum of a row from those of its chunks, in the order of the chunks
    row = tl.program_id(0).to(tl.int64)
    slot = first + tl.program_id(1)
    end = tl.load(table + row)
    begin = end - (tl.load(table + count + row) + CHUNK - 1) // CHUNK
    parts = scratch + sums * count + slot * chunks
    total = tl.zeros((TILE,), tl.float64)
    for place in range(begin, end, TILE):
        places = place + tl.arange(0, TILE)
        total = total + tl.load(parts + places, places < end, 0)
    tl.store(scratch + slot * count + row, tl.sum(total))
"""
