"""Generates a C function over the elements of many tensors from a traced rule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lit_optim.kernels.codegen.base import (
    EIGHT_BIT_FORMATS,
    STOCHASTIC_FORMATS,
    KernelWriter,
    indent,
)
from lit_optim.kernels.codegen.c_prelude import PRELUDE
from lit_optim.kernels.codegen.c_templates import (
    ADD_UP,
    BACKWARD,
    BARRIER,
    BLOCK_LOOP,
    COMBINE,
    FORWARD,
    LOOP,
    PASS,
    RUNS_OF_CHUNK,
    SHARE,
    STEP,
    SUM_LOOP,
    WAVES,
    WHOLE_CHUNK,
)
from lit_optim.kernels.ir import Node, Program, Scope
from lit_optim.kernels.pointer_table import CHUNK
from lit_optim.kernels.primitives import PRIMITIVES

#: The C type that stores a format.
C_TYPES = {
    "float64": "double",
    "float32": "float",
    "bfloat16": "uint16_t",
    "float16": "_Float16",
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
}

#: The size in bytes of a format.
SIZES = {
    "float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "uint8": 1, "int16": 2,
}  # fmt: skip
#: What a wave of small tensors occupies at most, for each thread: a part of its own cache.
BYTES_OF_WAVE = 1 << 20


def generate_c(program: Program, formats: Sequence[str], by_pass: bool = False) -> str:
    """Write a program as C with the entry point `step`.

    Args:
        program: the traced rule.
        formats: of the tensors of a row; see `KernelWriter`.
        by_pass: whether the caller completes the sums between two passes, as shards need it, and
            calls for each pass.

    Raises:
        TypeError: the rule returns reductions and has states in 8 bits.
    """
    return _CWriter(program, formats, by_pass).write()


class _CWriter(KernelWriter):
    def __init__(self, program: Program, formats: Sequence[str], by_pass: bool) -> None:
        super().__init__(program, formats, "double" if formats[0] == "float64" else "float")
        #: computed in the last pass, together with p and the states: the rule does not use them
        self.reductions = list(program.reductions.values())
        if self.reductions and self.in_8_bits:
            raise TypeError("a rule with states in 8 bits cannot return reductions")
        self.by_pass, self.sums_by_pass = by_pass, program.passes
        in_order = [*(index for sums in self.sums_by_pass for index in sums), *self.reductions]
        #: where a sum is in the scratch memory
        self.slot = {index: k for k, index in enumerate(in_order)}
        if not by_pass:
            self.choose_early_states(map(self.summands, self.sums_by_pass))

    def write(self) -> str:
        """Write every pass, and the function that calls them."""
        text, calls, known = [], [], 0
        if self.sums_by_pass and not self.by_pass:
            text.append(ADD_UP.format(sums=len(self.slot)))
        for number, sums in enumerate(self.sums_by_pass):
            name, stored = f"sums{number}", {} if number else self.early_states
            targets = [*self._terms_of(sums), *stored]
            lines = self._write_elements(targets)
            stores = [f"{state}_[i] = v{index};" for index, state in stored.items()]
            loop = self._write_sum_loop(sums, [*lines, *stores])
            text.append(self._write_pass(name, targets, loop, known, number % 2 == 1))
            self.loaded = self.early_states
            calls.append(self._write_call(number, known, known + len(sums)))
            known += len(sums)
        targets = [*self.targets_of_update(), *self._terms_of(self.reductions)]
        has_runs = bool(self.random_words(STOCHASTIC_FORMATS)) and not self.reductions
        backward, loop = len(calls) % 2 == 1, self._write_update(targets)
        text.append(self._write_pass("update", targets, loop, known, backward, has_runs))
        return PRELUDE + "".join([*text, STEP.format(passes=self._write_passes(calls, known))])

    def _write_call(self, number: int, first: int, last: int) -> str:
        """Write the call of a pass that computes the sums of these slots."""
        call = f"    sums{number}(call, h, t, begin, end);\n{BARRIER}"
        if not self.by_pass:
            return call
        return (
            f"    if (call->pass == {number + 1}) {{\n{call}{self._write_combine(first, last)}"
            "    return;\n    }\n"
        )

    def _write_passes(self, calls: Sequence[str], known: int) -> str:
        """Write how a thread runs all passes over its share."""
        if calls and not self.by_pass:
            bytes_of_chunk = CHUNK * sum(SIZES[format_] for format_ in self.stored.values())
            wave = max(1, BYTES_OF_WAVE // bytes_of_chunk)
            share = SHARE.format(begin="from", to="to")
            text = WAVES.format(wave=wave, share=share, passes="".join(calls))
        else:
            share = SHARE.format(begin="call->begin", to="call->end")
            text = share + "".join(calls) + "    update(call, h, t, begin, end);\n"
        if self.reductions:
            text += BARRIER + self._write_combine(known, len(self.slot))
        return text

    def _write_combine(self, first: int, last: int) -> str:
        return COMBINE.format(first=first, last=last, sums=len(self.slot))

    def _write_pass(
        self, name: str, targets: list[int], per_chunk: str, known: int, backward: bool,
        has_runs: bool = False,
    ) -> str:  # fmt: skip
        unit = "BLOCK" if self.in_8_bits else "1"  # no part begins within a block
        per_tensor = [*self._write_totals(known), *self._write_once(targets, "tensor")]
        return PASS.format(
            name=name,
            width=len(self.stored),
            per_call=indent(1, self._write_once(targets, "call")),
            per_tensor=indent(2, per_tensor),
            chunk=RUNS_OF_CHUNK.format(unit=unit) if has_runs else WHOLE_CHUNK,
            close="            }" if has_runs else "",
            per_chunk=indent(3, self._write_pointers()) + "\n" + per_chunk,
            **(BACKWARD if backward and not self.by_pass else FORWARD),
        )

    def _write_totals(self, known: int) -> Iterable[str]:
        """Find the first sums of a tensor: so many are known."""
        if known and self.by_pass:
            yield f"const double *totals = call->scratch + k * {len(self.slot)};"
        elif known:
            yield f"double totals[{known}];"
            yield f"add_up(call, k, {known}, totals);"

    def _terms_of(self, sums: Iterable[int]) -> list[int]:
        """The indices of what a loop computes for each element to add up these sums."""
        nodes = self.program.nodes
        return [
            k
            for index in self.summands(sums)
            for k in (nodes[index].operands if self._is_fused(index) else (index,))
        ]

    def _is_fused(self, summand: int) -> bool:
        """Whether it is added up by fma: the product of two floats is exact in double precision."""
        return self.real == "float" and self.program.nodes[summand].op == "double_product"

    def _write_addition(self, total: str, summand: int) -> str:
        if not self._is_fused(summand):
            return f"{total} += v{summand};"
        x, y = self.program.nodes[summand].operands
        return f"{total} = fma((double)v{x}, (double)v{y}, {total});"

    def _write_pointers(self) -> Iterable[str]:
        """Point to the tensors of a row, at the first element of a chunk."""
        for k, (name, format_) in enumerate(self.stored.items()):
            start = "start / BLOCK" if name.endswith("_scale") else "start"
            c_type = C_TYPES[format_]
            yield f"{c_type} *restrict {name}_ = ({c_type} *)row[{k}] + {start};"

    def _write_once(self, targets: Sequence[int], scope: Scope) -> Iterable[str]:
        """Compute what a call or a tensor needs once: in double, then in the type of elements."""
        for index in self.program.dependencies(targets, self.loaded):
            node = self.program.nodes[index]
            if node.scope == scope:
                types = _type_of(node, "double"), _type_of(node, self.real)
                yield f"const {types[0]} d{index} = {self._write_coarse_value(index, node)};"
                yield f"const {types[1]} v{index} = ({types[1]})d{index};"
                if not node.is_boolean:
                    yield f"const {self.real} r{index} = ({self.real})(1.0 / d{index});"

    def _write_coarse_value(self, index: int, node: Node) -> str:
        if node.op == "const":
            return c_literal(float(node.value))
        if node.op == "sum":
            return f"totals[{self.slot[index]}]"
        if node.op == "arg":
            name = str(node.value).removeprefix("h.")
            return name if name == "numel" else f"h[{self.program.scalars.index(name)}]"
        return self.write_expression(node, [f"d{i}" for i in node.operands], "double")

    def write_expression(self, node: Node, operands: Sequence[str], real: str) -> str:
        suffix = "" if real == "double" else "f"
        return PRIMITIVES[node.op].c.format(*operands, real=real, f=suffix)

    def write_load(self, name: str) -> str:
        if name == "p" and self.has_low_bits:
            return "join_master(p_[i], low_[i])"
        format_ = self.format[name]
        if format_ == "bfloat16":
            return f"from_bfloat16({name}_[i])"
        if format_ in EIGHT_BIT_FORMATS:
            return f"from_{format_}({name}_[i], {name}_scale_[from / BLOCK])"
        return f"{name}_[i]"

    def _write_elements(self, targets: Sequence[int]) -> Iterable[str]:
        for index, node, value in self.write_element_values(targets):
            yield f"const {_type_of(node, self.real)} v{index} = {value};"

    def _write_sum_loop(self, sums: list[int], lines: Iterable[str]) -> str:
        """Write a loop over a chunk that executes `lines` and adds up these sums."""
        names = [f"t{j}" for j in range(len(sums))]
        pairs = zip(names, self.summands(sums), strict=True)
        body = [*lines, *(self._write_addition(name, index) for name, index in pairs)]
        slots = [self.slot[index] for index in sums]
        is_blocked = bool(self.in_8_bits)
        return SUM_LOOP.format(
            zero=", ".join(f"{name} = 0" for name in names),
            names=", ".join(names),
            blocks=BLOCK_LOOP if is_blocked else "",
            close="            }" if is_blocked else "",
            begin="from" if is_blocked else "0",
            end="to" if is_blocked else "count",
            body=indent(4, body),
            sums=len(self.slot),
            store=indent(3, [f"parts[{j}] = {n};" for j, n in zip(slots, names, strict=True)]),
        )

    def _write_update(self, targets: list[int]) -> str:
        keys, words = self._write_random_words()
        load_p = f"const {self.real} p0 = {self.write_load('p')};"
        body = [load_p, *self._write_elements(targets), *words]
        fma = "fma" if self.real == "double" else "fmaf"
        a, b, u = (f"v{index}" for index in (self.program.a, self.program.b, self.program.u))
        # as torch_executor: p.mul_(a).sub_(u, alpha=b), whose second step rounds once
        new_p = f"{fma}(-{b}, {u}, {a} * p0)"
        if self.format["p"] in ("bfloat16", "float16"):
            new_p = f"{a} * p0 - {b} * {u}"
        for number, (name, index) in enumerate(self.program.new_states):
            if f"s_{name}" not in self.loaded.values():
                body.append(self._write_store(f"s_{name}", f"v{index}", number))
        body += [] if self.program.keeps_parameter else self._write_store_of_p(new_p)
        if self.reductions:
            return indent(3, keys) + "\n" + self._write_sum_loop(self.reductions, body)
        if not self.in_8_bits:
            return indent(3, keys) + "\n" + LOOP.format(body=indent(4, body))
        return indent(3, keys) + "\n" + self._write_blocks(body)

    def _write_blocks(self, body: list[str]) -> str:
        """Write the loop over the blocks of a chunk, whose new 8-bit states share a scale."""
        written = {f"s_{name}" for name, _ in self.program.outputs}
        inner = [f"float n_{name}[BLOCK];" for name in self.in_8_bits if name in written]
        inner += ["#pragma GCC ivdep", "for (int i = from; i < to; ++i) {"]
        inner += [f"    {line}" for line in body] + ["}"]
        for w in self.random_words(EIGHT_BIT_FORMATS):
            inner.append(f"uint32_t words{w}[BLOCK];")
            first = f"key{w} + (uint32_t)from * 0x9e3779b1u"
            inner.append(f"fill_random_words(words{w}, to - from, {first});")
        for number, (name, _) in enumerate(self.program.new_states):
            if f"s_{name}" in self.in_8_bits:
                inner += self._write_encode(f"s_{name}", number)
        return BLOCK_LOOP + indent(4, inner) + "\n            }"

    def _write_random_words(self) -> tuple[list[str], list[str]]:
        """Write the keys of a chunk and the random words of an element."""
        words = self.random_words(STOCHASTIC_FORMATS)
        place = []
        if words and self.reductions:
            place.append("const int64_t place = call->firsts[k] + start;")
        keys = [
            f"const uint32_t key{w} = "
            f"hash_bits(hash_bits(hash_bits((uint32_t)call->numbers[k]) + t) + {w})"
            " + (uint32_t)place * 0x9e3779b1u + (uint32_t)(place >> 32) * 0x85ebca77u;"
            for w in words
        ]
        return place + keys, [
            f"const uint32_t word{w} = hash_bits(key{w} + (uint32_t)i * 0x9e3779b1u);"
            for w in self.random_words(("bfloat16",))
        ]

    def _write_store(self, name: str, value: str, number: int) -> str:
        format_ = self.format[name]
        if format_ == "bfloat16":
            word = f"word{number // 2}"
            bits = f"({word} >> 16)" if number % 2 else f"({word} & 0xffff)"
            return f"{name}_[i] = to_bfloat16_stochastic({value}, {bits});"
        if format_ in EIGHT_BIT_FORMATS:
            return f"n_{name}[i - from] = (float){value};"
        return f"{name}_[i] = ({C_TYPES[format_]})({value});"

    def _write_store_of_p(self, value: str) -> list[str]:
        if self.has_low_bits:
            return [
                f"const float p1 = {value};",
                "p_[i] = high_half(p1);",
                "low_[i] = low_half(p1);",
            ]
        if self.format["p"] == "bfloat16":
            return [f"p_[i] = to_bfloat16({value});"]
        return [f"p_[i] = ({C_TYPES[self.format['p']]})({value});"]

    def _write_encode(self, name: str, number: int) -> list[str]:
        """Write how a block of a new state is stored in 8 bits."""
        word, shift = number // 2, 16 * (number % 2)
        rounding = f"inverse(top_{name}), words{word}, {shift}"
        return [
            f"const float top_{name} = largest(n_{name}, to - from);",
            f"{name}_scale_[from / BLOCK] = top_{name};",
            f"to_{self.format[name]}(n_{name}, {name}_ + from, to - from, {rounding});",
        ]


def c_literal(value: float) -> str:
    """Write a number as a C literal."""
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return repr(float(value))


def _type_of(node: Node, real: str) -> str:
    if node.is_boolean:
        return "int"
    is_double = node.op in PRIMITIVES and PRIMITIVES[node.op].is_double
    return "double" if is_double else real
