"""Generates Triton kernels over the elements of many tensors from a traced rule.

The tensors of a call are listed in a table of int64: for each row the end of its chunks, for each
row its size, the number of its parameter and the fields of its `Place` in the whole tensor that it
is a shard of, and then, row by row, the addresses of its tensors. A Triton program processes one
chunk. Sums go through `scratch`: the totals of each row, then the partial
sums of each chunk.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from lit_optim.kernels.codegen.base import (
    EIGHT_BIT_FORMATS,
    STOCHASTIC_FORMATS,
    KernelWriter,
    indent,
)
from lit_optim.kernels.codegen.triton_prelude import PRELUDE
from lit_optim.kernels.ir import Node, Program, Scope
from lit_optim.kernels.primitives import PRIMITIVES

#: The Triton type that stores a format, and its size in bytes.
TRITON_TYPES = {
    "float64": ("float64", 8),
    "float32": ("float32", 4),
    "bfloat16": ("uint16", 2),
    "float16": ("float16", 2),
    "int8": ("int8", 1),
    "uint8": ("uint8", 1),
    "int16": ("int16", 2),
}

#: How many elements of a chunk are computed at a time, and by how many warps. States in 8 bits,
#: which take more arithmetic, are faster with fewer of both.
TILING = """

TILE = tl.constexpr({tile})
WARPS = {warps}"""
PLAIN, IN_8_BITS = {"tile": 1024, "warps": 4}, {"tile": 512, "warps": 2}

#: Processes a chunk, a tile at a time. It is compiled twice: for full chunks that are aligned to
#: 16 bytes, whose loads and stores are then wide, and for all others.
CHUNK = """

@triton.jit
def {name}_chunk({parameters}, is_aligned: tl.constexpr):
{before}
    for first in range(0, left, TILE):
{place}
        inside = i < left
{body}
{after}"""

PASS = """

@triton.jit(do_not_specialize={numbers})
def {name}(table, owners, scratch, {annotated}):
    chunk = tl.program_id(0)
    row = tl.load(owners + chunk).to(tl.int64)
    size = tl.load(table + count + row)
    numel = tl.load(table + 4 * count + row).to(tl.float64)
    start = (chunk - tl.load(table + row) + (size + CHUNK - 1) // CHUNK).to(tl.int64) * CHUNK
    left = tl.where(size - start < CHUNK, size - start, CHUNK).to(tl.int32)
    row_start = table + 7 * count + row * {width}
{body}
    if (left == CHUNK) & (({addresses}) % 16 == 0):
        {name}_chunk({passed}, CHUNK, True)
    else:
        {name}_chunk({passed}, left, False)
"""

#: The element indices of a tile, and its shape. Blocks that share a scale are rows of a matrix.
FLAT = ["i = first + tl.arange(0, TILE)"]
BLOCKED = [
    "j = first // BLOCK + tl.arange(0, TILE // BLOCK)",
    "begun = j * BLOCK < left",
    "i = j[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]",
]


def kernel_arguments(program: Program) -> list[int]:
    """The indices of what is computed once per call and used once per tensor or element, in order.

    A kernel is called with their values.
    """
    used = {program.a, program.b, program.u, *(index for _, index in program.outputs)}
    for node in program.nodes:
        used |= set(node.operands) if node.scope != "call" else set()
    nodes = enumerate(program.nodes)
    return [k for k, node in nodes if k in used and node.scope == "call" and node.op != "const"]


def generate_triton(program: Program, formats: Sequence[str], by_pass: bool = False) -> str:
    """Write a program as Triton: `sums0`, `sums1`, ... if it has sums, `combine` and `update`.

    Args:
        program: the traced rule.
        formats: of the tensors of a row; see `KernelWriter`.
        by_pass: whether the caller completes the sums between two passes, as shards need it.
    """
    return _TritonWriter(program, formats, by_pass).write()


class _TritonWriter(KernelWriter):
    def __init__(self, program: Program, formats: Sequence[str], by_pass: bool) -> None:
        super().__init__(program, formats, "float64" if formats[0] == "float64" else "float32")
        in_order = [index for sums in program.sums_by_pass for index in sums]
        #: where a sum is in the scratch memory
        self.slot = {index: k for k, index in enumerate(in_order)}
        self.arguments = kernel_arguments(program)
        if not by_pass:
            self.choose_early_states(map(self.summands, program.sums_by_pass))

    def write(self) -> str:
        """Write every pass."""
        passes = []
        for k, sums in enumerate(self.program.sums_by_pass):
            passes.append(self._write_sums(f"sums{k}", sums, {} if k else self.early_states))
            self.loaded = self.early_states
        passes.append(self._write_update())
        tiling = TILING.format(**(IN_8_BITS if self.in_8_bits else PLAIN))
        return PRELUDE + tiling + "".join(passes)

    def _write_pass(
        self,
        name: str,
        targets: list[int],
        body: Sequence[str],
        before: Sequence[str] = (),
        after: Sequence[str] = (),
    ) -> str:
        coarse = self._coarse_nodes(targets)
        keys = {} if after else self._write_keys()
        words = set(re.findall(r"\b[vr]\d+\b", "\n".join(body)))
        used = [f"{kind}{index}" for index in coarse for kind in "vr" if f"{kind}{index}" in words]
        numbers = ["count", "chunks", "t", *(f"h{j}" for j in range(len(self.arguments)))]
        passed = [*(f"q_{n}" for n in self.stored), *used, *keys]
        passed += ["scratch", "count", "chunks", "chunk"] if after else []
        scalar = [*self._write_addresses(), *self._write_once(coarse, used)]
        scalar += [f"{key} = {value}" for key, value in keys.items()]
        chunk = CHUNK.format(
            name=name,
            parameters=", ".join([*passed, "left"]),
            before=indent(1, [*self._write_pointers(), *before]),
            place=indent(2, BLOCKED if self.in_8_bits else FLAT),
            body=indent(2, body),
            after=indent(1, after),
        )
        return chunk + PASS.format(
            name=name,
            numbers="[" + ", ".join(f'"{n}"' for n in numbers) + "]",
            annotated=", ".join(f"{n}: tl.int64" for n in numbers),
            width=len(self.stored),
            body=indent(1, scalar),
            addresses=" | ".join(f"q_{n}" for n in self.stored if not n.endswith("_scale")),
            passed=", ".join(passed),
        )

    def _write_addresses(self) -> Iterable[str]:
        """Compute the addresses of the tensors of a row, at the first element of a chunk."""
        for k, (name, format_) in enumerate(self.stored.items()):
            start = "start // BLOCK" if name.endswith("_scale") else "start"
            yield f"q_{name} = tl.load(row_start + {k}) + {start} * {TRITON_TYPES[format_][1]}"

    def _write_pointers(self) -> Iterable[str]:
        for name, format_ in self.stored.items():
            kind = f"tl.pointer_type(tl.{TRITON_TYPES[format_][0]})"
            is_aligned = "False" if name.endswith("_scale") else "is_aligned"
            yield f"{name}_ = as_pointer(q_{name}, {kind}, {is_aligned})"

    def _operands_in(self, targets: Sequence[int], scope: Scope) -> set[int]:
        """The targets, and the operands of what is computed in this scope on the way to them."""
        nodes = [
            self.program.nodes[index] for index in self.program.dependencies(targets, self.loaded)
        ]
        return set(targets).union(*(node.operands for node in nodes if node.scope == scope))

    def _coarse_nodes(self, targets: Sequence[int]) -> list[int]:
        """The indices of what a program computes once; of a call's values only the arguments."""
        needed = self._operands_in(targets, "tensor") | self._operands_in(targets, "element")
        scopes = [node.scope for node in self.program.nodes]
        known = self.program.dependencies(targets, self.loaded)
        known = [k for k in known if scopes[k] == "tensor" or k in needed]
        return [k for k in known if scopes[k] != "element"]

    def _write_once(self, coarse: Sequence[int], used: Sequence[str]) -> Iterable[str]:
        """Compute values once: in double, then in the type of elements, as factor and divisor."""
        for index in coarse:
            node = self.program.nodes[index]
            yield f"d{index} = {self._write_coarse_value(index, node)}"
            if f"v{index}" in used:
                cast = "" if node.is_boolean else f".to(tl.{self.real})"
                yield f"v{index} = d{index}{cast}"
            if f"r{index}" in used:
                yield f"r{index} = (1.0 / d{index}).to(tl.{self.real})"

    def _write_coarse_value(self, index: int, node: Node) -> str:
        if node.op == "const":
            return f"tl.full((), {triton_literal(float(node.value))}, tl.float64)"
        if node.scope == "call":
            value = f"as_double(h{self.arguments.index(index)})"
            return f"{value} != 0" if node.is_boolean else value
        if node.op == "sum":
            return f"tl.load(scratch + {self.slot[index]} * count + row)"
        if node.op == "arg":
            return str(node.value)
        return self.write_expression(node, [f"d{i}" for i in node.operands], "float64")

    def write_expression(self, node: Node, operands: Sequence[str], real: str) -> str:
        primitive = PRIMITIVES[node.op]
        template = primitive.triton
        if real == "float64" and primitive.triton_float64 is not None:
            template = primitive.triton_float64
        return template.format(*operands, real=real)

    def write_load(self, name: str) -> str:
        value, format_ = f"tl.load({name}_ + i, inside, 0)", self.format[name]
        if name == "p" and self.has_low_bits:
            value = f"join_master({value}, tl.load(low_ + i, inside, 0))"
            format_ = "float32"
        elif format_ == "bfloat16":
            value, format_ = f"from_bfloat16({value})", "float32"
        elif format_ in EIGHT_BIT_FORMATS:
            scale = f"tl.load({name}_scale_ + j, begun, 0)[:, None]"
            value, format_ = f"from_{format_}({value}, {scale})", "float32"
        return value if format_ == self.real else f"{value}.to(tl.{self.real})"

    def _write_elements(self, targets: Sequence[int], parameter: str = "") -> Iterable[str]:
        for index, _, value in self.write_element_values(targets, parameter):
            yield f"v{index} = {value}"

    def _write_sums(self, name: str, sums: list[int], stored: Mapping[int, str]) -> str:
        summands = dict(zip((self.slot[k] for k in sums), self.summands(sums), strict=True))
        shape = "TILE // BLOCK, BLOCK" if self.in_8_bits else "TILE,"
        before = [f"t{j} = tl.zeros(({shape}), tl.float64)" for j in summands]
        targets = [*summands.values(), *stored]
        body = list(self._write_elements(targets))
        body += [f"tl.store({state}_ + i, v{index}, inside)" for index, state in stored.items()]
        for j, index in summands.items():
            body.append(f"t{j} = t{j} + tl.where(inside, v{index}, 0).to(tl.float64)")
        parts = f"scratch + {len(self.slot)} * count"
        after = [f"tl.store({parts} + {j} * chunks + chunk, tl.sum(t{j}))" for j in summands]
        return self._write_pass(name, targets, body, before, after)

    def _write_update(self) -> str:
        program = self.program
        targets = [program.a, program.b, program.u, *(index for _, index in program.outputs)]
        a, b, u = (f"v{index}" for index in targets[:3])
        body = [f"p0 = {self.write_load('p')}", *self._write_elements(targets, "p0")]
        if words := self.random_words(STOCHASTIC_FORMATS):
            body += ["spot = i.to(tl.uint32)", "if gap != 0:"]
            body += ["    spot = (i + (rest + i) // run * gap).to(tl.uint32)"]
        body += [f"word{w} = hash_bits(key{w} + spot * 0x9E3779B1)" for w in words]
        for number, (name, index) in enumerate(program.new_states):
            if f"s_{name}" in self.loaded.values():
                continue
            body += self._write_store(f"s_{name}", f"v{index}", number)
        if program.keeps_parameter:
            return self._write_pass("update", targets, body)
        body.append(f"p1 = {a} * p0 - {b} * {u}")
        value = "to_bfloat16(p1)" if self.format["p"] == "bfloat16" else "p1"
        if self.has_low_bits:
            body.append("tl.store(low_ + i, low_half(p1), inside)")
            value = "high_half(p1)"
        body.append(f"tl.store(p_ + i, {value}, inside)")
        return self._write_pass("update", targets, body)

    def _write_keys(self) -> dict[str, str]:
        """Write the keys of a chunk, and what the places of its elements are computed from."""
        number, first, run, gap = (f"tl.load(table + {k} * count + row)" for k in (2, 3, 5, 6))
        words = self.random_words(STOCHASTIC_FORMATS)
        place = f"{first} + start + start // run * gap"
        where = {"run": run, "gap": gap, "rest": "start % run"} if words else {}
        return where | {f"key{w}": f"rounding_key({number}, t, {place}, {w})" for w in words}

    def _write_store(self, name: str, value: str, number: int) -> Iterable[str]:
        format_, bits = self.format[name], f"(word{number // 2} >> 16)"
        if number % 2 == 0:
            bits = f"(word{number // 2} & 0xFFFF)"
        narrow = value if self.real == "float32" else f"{value}.to(tl.float32)"
        if format_ == "bfloat16":
            value = f"to_bfloat16_stochastic({narrow}, {bits})"
        elif format_ in EIGHT_BIT_FORMATS:
            yield f"n_{name} = {narrow}"
            yield f"top_{name} = largest(n_{name}, inside)"
            top = f"top_{name}.to(tl.float32, bitcast=True)"
            yield f"tl.store({name}_scale_ + j, {top}, begun)"
            value = f"to_{format_}(n_{name}, top_{name}, {bits})"
        yield f"tl.store({name}_ + i, {value}, inside)"


def triton_literal(value: float) -> str:
    """Write a number as a literal in Triton."""
    text = repr(value)
    return text if text[-1].isdigit() else f'float("{text}")'
