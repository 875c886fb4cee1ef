"""A traced rule as Triton kernels over the elements of many tensors.

The tensors of a call stand in a table of int64: of each row the end of its chunks, of each its
size, of each its number, and then, row by row, the addresses of its tensors. A program does one
chunk. Sums go through `scratch`: the totals of each row, then the parts of each chunk.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lit_optim.kernels.codegen.triton_prelude import PRELUDE
from lit_optim.kernels.ir import COMPARISONS, DOUBLE_PRODUCT, Node, Program

#: How a format is stored, and the bytes of it.
TRITON_TYPES = {
    "float64": ("float64", 8),
    "float32": ("float32", 4),
    "bfloat16": ("uint16", 2),
    "float16": ("float16", 2),
    "int8": ("int8", 1),
    "uint8": ("uint8", 1),
    "int16": ("int16", 2),
}

#: What is done for a chunk, a tile at a time. It is compiled twice: for whole chunks that begin at
#: multiples of 16 bytes, whose loads and stores are then wide, and for all others.
CHUNK = """

@triton.jit
def {name}_chunk({parameters}, whole: tl.constexpr):
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
    numel = size.to(tl.float64)
    start = (chunk - tl.load(table + row) + (size + CHUNK - 1) // CHUNK).to(tl.int64) * CHUNK
    left = tl.where(size - start < CHUNK, size - start, CHUNK).to(tl.int32)
    here = table + 3 * count + row * {width}
{body}
    if (left == CHUNK) & (({addresses}) % 16 == 0):
        {name}_chunk({passed}, CHUNK, True)
    else:
        {name}_chunk({passed}, left, False)
"""

#: The elements of a tile, and its shape. Blocks that share a scale are the rows of a matrix.
FLAT = ["i = first + tl.arange(0, TILE)"]
BLOCKED = [
    "j = first // BLOCK + tl.arange(0, TILE // BLOCK)",
    "begun = j * BLOCK < left",
    "i = j[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]",
]


def kernel_arguments(program: Program) -> list[int]:
    """The places of what is computed once per call and is then used by something finer, in order.

    Their values are what a kernel is called with.
    """
    used = {program.a, program.b, program.u, *(place for _, place in program.after)}
    for node in program.nodes:
        used |= set(node.inputs) if node.per != "call" else set()
    nodes = enumerate(program.nodes)
    return [k for k, node in nodes if k in used and node.per == "call" and node.op != "const"]


def generate_triton(program: Program, formats: Sequence[str]) -> str:
    """The Triton text: `sums0`, `sums1`, ... if the rule has sums, `fold`, and `update`.

    Args:
        program: the traced rule.
        formats: of the tensors of a row: the parameter, its gradient and its states in the
            program's order, the scales of those in 8 bits, and the lower half of the parameter
            where it has one (int16).
    """
    return _Writer(program, formats).text()


class _Writer:
    def __init__(self, program: Program, formats: Sequence[str]) -> None:
        self.program = program
        self.real = "float64" if formats[0] == "float64" else "float32"
        names = ["p", "g", *(f"s_{name}" for name in program.states)]
        self.format = dict(zip(names, formats, strict=False))
        self.in_8_bits = [n for n in names if self.format[n] in ("int8", "uint8")]
        names += [f"{name}_scale" for name in self.in_8_bits]
        self.is_split = formats[-1] == "int16"
        names += ["low"] if self.is_split else []
        self.stored = dict(zip(names, formats, strict=True))
        in_order = [place for places in program.sums for place in places]
        self.place_of_sum = {place: j for j, place in enumerate(in_order)}
        self.handed = kernel_arguments(program)

    def text(self) -> str:
        """Every pass."""
        passes = [self._summing(f"sums{k}", sums) for k, sums in enumerate(self.program.sums)]
        passes.append(self._updating())
        return PRELUDE + "".join(passes)

    def _pass(
        self,
        name: str,
        targets: list[int],
        body: Sequence[str],
        before: Sequence[str] = (),
        after: Sequence[str] = (),
    ) -> str:
        coarse = self._coarse(targets)
        keys = {} if after else self._keys()
        words = set(re.findall(r"\b[vr]\d+\b", "\n".join(body)))
        used = [f"{kind}{place}" for place in coarse for kind in "vr" if f"{kind}{place}" in words]
        numbers = ["count", "chunks", "t", *(f"h{j}" for j in range(len(self.handed)))]
        passed = [*(f"q_{n}" for n in self.stored), *used, *keys]
        passed += ["scratch", "count", "chunks", "chunk"] if after else []
        scalar = [*self._addresses(), *self._known(coarse, used)]
        scalar += [f"{key} = {value}" for key, value in keys.items()]
        chunk = CHUNK.format(
            name=name,
            parameters=", ".join([*passed, "left"]),
            before=_lines(1, [*self._pointers(), *before]),
            place=_lines(2, BLOCKED if self.in_8_bits else FLAT),
            body=_lines(2, body),
            after=_lines(1, after),
        )
        return chunk + PASS.format(
            name=name,
            numbers="[" + ", ".join(f'"{n}"' for n in numbers) + "]",
            annotated=", ".join(f"{n}: tl.int64" for n in numbers),
            width=len(self.stored),
            body=_lines(1, scalar),
            addresses=" | ".join(f"q_{n}" for n in self.stored if not n.endswith("_scale")),
            passed=", ".join(passed),
        )

    def _addresses(self) -> Iterable[str]:
        """The tensors of a row at the first element of a chunk."""
        for k, (name, format_) in enumerate(self.stored.items()):
            start = "start // BLOCK" if name.endswith("_scale") else "start"
            yield f"q_{name} = tl.load(here + {k}) + {start} * {TRITON_TYPES[format_][1]}"

    def _pointers(self) -> Iterable[str]:
        for name, format_ in self.stored.items():
            whole = "False" if name.endswith("_scale") else "whole"
            yield f"{name}_ = at(q_{name}, tl.pointer_type(tl.{TRITON_TYPES[format_][0]}), {whole})"

    def _touched(self, targets: Sequence[int], per: str) -> set[int]:
        """The places of the targets, and of what is made into something `per` on the way there."""
        nodes = [self.program.nodes[place] for place in self.program.needed(targets)]
        return set(targets).union(*(node.inputs for node in nodes if node.per == per))

    def _coarse(self, targets: Sequence[int]) -> list[int]:
        """The places of what a program computes once; of a call's only what is handed to it."""
        touched = self._touched(targets, "tensor") | self._touched(targets, "element")
        per = [node.per for node in self.program.nodes]
        known = (k for k in self.program.needed(targets) if per[k] == "tensor" or k in touched)
        return [k for k in known if per[k] != "element"]

    def _known(self, coarse: Sequence[int], used: Sequence[str]) -> Iterable[str]:
        """What is computed once: in double, and then as the rest, as itself and as a divisor."""
        for place in coarse:
            node = self.program.nodes[place]
            yield f"d{place} = {self._once(place, node)}"
            if f"v{place}" in used:
                cast = "" if node.logical else f".to(tl.{self.real})"
                yield f"v{place} = d{place}{cast}"
            if f"r{place}" in used:
                yield f"r{place} = (1.0 / d{place}).to(tl.{self.real})"

    def _once(self, place: int, node: Node) -> str:
        if node.op == "const":
            return f"tl.full((), {_literal(float(node.value))}, tl.float64)"
        if node.per == "call":
            value = f"as_double(h{self.handed.index(place)})"
            return f"{value} != 0" if node.logical else value
        if node.op == "sum":
            return f"tl.load(scratch + {self.place_of_sum[place]} * count + row)"
        if node.op == "arg":
            return str(node.value)
        return _operation(node, [f"d{i}" for i in node.inputs], "float64")

    def _fine(self, targets: Sequence[int], of_p: str = "") -> Iterable[str]:
        """What is computed for each element; of_p: the parameter, where it is loaded."""
        for place in self.program.needed(targets):
            node = self.program.nodes[place]
            if node.per == "element":
                if node.op == "arg":
                    name = str(node.value).replace(".", "_")
                    value = (name == "p" and of_p) or self._loaded(name)
                elif node.op == "div" and self.program.nodes[node.inputs[1]].per != "element":
                    value = f"v{node.inputs[0]} * r{node.inputs[1]}"  # a division takes far longer
                else:
                    value = _operation(node, [f"v{i}" for i in node.inputs], self.real)
                yield f"v{place} = {value}"

    def _loaded(self, name: str) -> str:
        value, format_ = f"tl.load({name}_ + i, inside, 0)", self.format[name]
        if name == "p" and self.is_split:
            value, format_ = f"joined({value}, tl.load(low_ + i, inside, 0))", "float32"
        elif format_ == "bfloat16":
            value, format_ = f"from_bfloat16({value})", "float32"
        elif format_ in ("int8", "uint8"):
            scale = f"tl.load({name}_scale_ + j, begun, 0)[:, None]"
            value, format_ = f"from_{format_}({value}, {scale})", "float32"
        return value if format_ == self.real else f"{value}.to(tl.{self.real})"

    def _summing(self, name: str, places: list[int]) -> str:
        summed = {self.place_of_sum[k]: self.program.nodes[k].inputs[0] for k in places}
        shape = "TILE // BLOCK, BLOCK" if self.in_8_bits else "TILE,"
        before = [f"t{j} = tl.zeros(({shape}), tl.float64)" for j in summed]
        targets = list(summed.values())
        body = list(self._fine(targets))
        for j, place in summed.items():
            body.append(f"t{j} = t{j} + tl.where(inside, v{place}, 0).to(tl.float64)")
        parts = f"scratch + {len(self.place_of_sum)} * count"
        after = [f"tl.store({parts} + {j} * chunks + chunk, tl.sum(t{j}))" for j in summed]
        return self._pass(name, targets, body, before, after)

    def _updating(self) -> str:
        targets = [self.program.a, self.program.b, self.program.u]
        targets += [place for _, place in self.program.after]
        a, b, u = (f"v{p}" for p in (self.program.a, self.program.b, self.program.u))
        body = [f"p0 = {self._loaded('p')}", *self._fine(targets, "p0")]
        body += [f"word{w} = mixed(key{w} + i.to(tl.uint32) * 0x9E3779B1)" for w in self._words()]
        for number, (name, place) in enumerate(self._rounded()):
            body += self._store(f"s_{name}", f"v{place}", number)
        if self.program.is_still:
            return self._pass("update", targets, body)
        body.append(f"p1 = {a} * p0 - {b} * {u}")
        value = "to_bfloat16(p1)" if self.format["p"] == "bfloat16" else "p1"
        if self.is_split:
            body.append("tl.store(low_ + i, lower(p1), inside)")
            value = "upper(p1)"
        body.append(f"tl.store(p_ + i, {value}, inside)")
        return self._pass("update", targets, body)

    def _rounded(self) -> list[tuple[str, int]]:
        """The new states in the order of their chances."""
        after = dict(self.program.after)
        return [(name, after[name]) for name in self.program.states if name in after]

    def _words(self) -> list[int]:
        """The random words of an element: two states share one."""
        chanced = ("bfloat16", "int8", "uint8")
        names = enumerate(name for name, _ in self._rounded())
        return sorted({k // 2 for k, name in names if self.format[f"s_{name}"] in chanced})

    def _keys(self) -> dict[str, str]:
        number = "tl.load(table + 2 * count + row)"
        return {f"key{w}": f"key({number}, t, start, {w})" for w in self._words()}

    def _store(self, name: str, value: str, number: int) -> Iterable[str]:
        format_, chance = self.format[name], f"(word{number // 2} >> 16)"
        if number % 2 == 0:
            chance = f"(word{number // 2} & 0xFFFF)"
        narrow = value if self.real == "float32" else f"{value}.to(tl.float32)"
        if format_ == "bfloat16":
            value = f"to_bfloat16_by_chance({narrow}, {chance})"
        elif format_ in ("int8", "uint8"):
            yield f"n_{name} = {narrow}"
            yield f"top_{name} = largest(n_{name}, inside)"
            top = f"top_{name}.to(tl.float32, bitcast=True)"
            yield f"tl.store({name}_scale_ + j, {top}, begun)"
            value = f"to_{format_}(n_{name}, top_{name}, {chance})"
        yield f"tl.store({name}_ + i, {value}, inside)"


def _lines(depth: int, lines: Iterable[str]) -> str:
    return "\n".join(" " * 4 * depth + line for line in lines)


def _literal(value: float) -> str:
    text = repr(value)
    return text if text[-1].isdigit() else f'float("{text}")'


def _operation(node: Node, x: list[str], real: str) -> str:
    infix = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
    compare = dict(zip(COMPARISONS, ("<", "<=", ">", ">=", "==", "!="), strict=True))
    if node.op in infix | compare:
        return f"{x[0]} {(infix | compare)[node.op]} {x[1]}"
    return {
        DOUBLE_PRODUCT: "{0}.to(tl.float64) * {1}.to(tl.float64)",
        "neg": "-{0}",
        # tl.sqrt takes what is below the smallest normal float32 for 0
        "sqrt": "tl.sqrt({0})" if real == "float64" else "tl.sqrt_rn({0})",
        "abs": "tl.abs({0})",
        "sign": f"({{0}} > 0).to(tl.{real}) - ({{0}} < 0).to(tl.{real})",
        "max": "tl.where(({0} > {1}) | ({0} != {0}), {0}, {1})",
        "clamp": "tl.where({0} < {1}, {1}, tl.where({0} > {2}, {2}, {0}))",
        "where": "tl.where({0}, {1}, {2})",
    }[node.op].format(*x)
