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
from lit_optim.kernels.ir import Node, Program, Scope
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

#: One pass over the chunks from `begin` to `end`.
PASS = """
static void {name}(const Call *call, const double *h, uint32_t t, int64_t begin, int64_t end) {{
{per_call}
    int64_t least = 0, most = call->count;  /* the tensor of chunk `begin` */
    while (least < most) {{
        const int64_t middle = (least + most) / 2;
        if (call->ends[middle] <= begin) least = middle + 1; else most = middle;
    }}
    for (int64_t k = least; k < call->count && begin < end; ++k) {{
        const int64_t first = k ? call->ends[k - 1] : 0;
        const int64_t last = call->ends[k] < end ? call->ends[k] : end;
        void *const *row = call->tensors + k * {width};
        double *totals = call->scratch + k * {sums};
        const double numel = (double)call->wholes[k];
{per_tensor}
        for (int64_t chunk = begin; chunk < last; ++chunk) {{
{chunk}
{per_chunk}
{close}
        }}
        begin = last;
    }}
}}
"""

WHOLE_CHUNK = """\
            const int64_t start = (chunk - first) * CHUNK;
            const int64_t left = call->sizes[k] - start;
            const int count = left < CHUNK ? (int)left : CHUNK;"""

#: A part of a chunk is in one run, so that its positions in the whole tensor are consecutive.
RUNS_OF_CHUNK = """\
            const int64_t left = call->sizes[k] - (chunk - first) * CHUNK;
            const int64_t stop = (chunk - first) * CHUNK + (left < CHUNK ? left : CHUNK);
            const int64_t run = call->runs[k], gap = run % {unit} ? 0 : call->gaps[k];
            int count;
            for (int64_t start = (chunk - first) * CHUNK; start < stop; start += count) {{
            const int64_t part = gap && run - start % run < stop - start ? run - start % run
                                                                         : stop - start;
            const int64_t place = call->firsts[k] + start + (gap ? start / run * gap : 0);
            count = (int)part;"""

LOOP = """\
#pragma GCC ivdep
            for (int i = 0; i < count; ++i) {{
{body}
            }}"""

SUM_LOOP = """\
            double {zero};
{blocks}
#pragma omp simd reduction(+:{names})
            for (int i = {begin}; i < {end}; ++i) {{
{body}
            }}
{close}
            double *parts = call->scratch + (call->count + chunk) * {sums};
{store}"""

BLOCK_LOOP = """\
            for (int from = 0; from < count; from += BLOCK) {
                const int to = from + BLOCK < count ? from + BLOCK : count;
"""

#: Divides the chunks of a call among the threads of a team. One thread runs without OpenMP: a team
#: of one would only disturb the team that torch keeps.
STEP = """
static void run_part(const Call *call, const double *h, uint32_t t, int64_t thread, int64_t team) {{
    const int64_t all = call->end - call->begin;
    const int64_t begin = call->begin + all * thread / team;
    const int64_t end = call->begin + all * (thread + 1) / team;
{passes}
    if (call->pass && call->pass != {last}) return;
    update(call, h, t, begin, end);
{reductions}}}

void step(const Call *call, const double *h, int64_t t, int threads) {{
#ifdef _OPENMP
    if (threads > 1) {{
#pragma omp parallel num_threads(threads)
        run_part(call, h, (uint32_t)t, omp_get_thread_num(), omp_get_num_threads());
        return;
    }}
#endif
    run_part(call, h, (uint32_t)t, 0, 1);
}}
"""

BARRIER = """\
#ifdef _OPENMP
    if (team > 1) {
#pragma omp barrier
    }
#endif
"""

#: Adds up the sums of a tensor from those of its chunks, in the order of the chunks.
COMBINE = """\
    for (int64_t k = thread; k < call->count; k += team) {{
        const int64_t first = k ? call->ends[k - 1] : 0;
        for (int j = {first}; j < {last}; ++j) {{
            double total = 0;
            for (int64_t chunk = first; chunk < call->ends[k]; ++chunk)
                total += call->scratch[(call->count + chunk) * {sums} + j];
            call->scratch[k * {sums} + j] = total;
        }}
    }}
"""


def generate_c(program: Program, formats: Sequence[str]) -> str:
    """Write a program as C with the entry point `step`.

    Args:
        program: the traced rule.
        formats: of the tensors of a row; see `KernelWriter`.

    Raises:
        TypeError: the rule returns reductions and has states in 8 bits.
    """
    return _CWriter(program, formats).write()


class _CWriter(KernelWriter):
    def __init__(self, program: Program, formats: Sequence[str]) -> None:
        super().__init__(program, formats, "double" if formats[0] == "float64" else "float")
        #: computed in the last pass, together with p and the states: the rule does not use them
        self.reductions = list(program.reductions.values())
        if self.reductions and self.in_8_bits:
            raise TypeError("a rule with states in 8 bits cannot return reductions")
        self.sums_by_pass = program.passes
        in_order = [*(index for sums in self.sums_by_pass for index in sums), *self.reductions]
        #: where a sum is in the scratch memory
        self.slot = {index: k for k, index in enumerate(in_order)}

    def write(self) -> str:
        """Write every pass, and the function that calls them."""
        passes, calls, first = [], [], 0
        for number, sums in enumerate(self.sums_by_pass):
            name = f"sums{number}"
            loop = self._write_sum_loop(sums, self._write_elements(self.summands(sums)))
            passes.append(self._write_pass(name, sums, loop))
            last = first + len(sums)
            combine = BARRIER + self._write_combine(first, last) + BARRIER
            condition = f"    if (!call->pass || call->pass == {number + 1}) {{\n"
            calls.append(f"{condition}    {name}(call, h, t, begin, end);\n{combine}    }}\n")
            first = last
        targets = [self.program.a, self.program.b, self.program.u]
        states = self.program.states
        targets += [index for name, index in self.program.outputs if name in states]
        targets += self.summands(self.reductions)
        has_runs = bool(self.random_words(STOCHASTIC_FORMATS)) and not self.reductions
        passes.append(self._write_pass("update", targets, self._write_update(targets), has_runs))
        reductions = ""
        if self.reductions:
            reductions = BARRIER + self._write_combine(first, len(self.slot))
        step = STEP.format(passes="".join(calls), last=len(calls) + 1, reductions=reductions)
        return PRELUDE + "".join(passes) + step

    def _write_combine(self, first: int, last: int) -> str:
        return COMBINE.format(first=first, last=last, sums=len(self.slot))

    def _write_pass(
        self, name: str, targets: list[int], per_chunk: str, has_runs: bool = False
    ) -> str:
        inputs = [i for index in targets for i in (index, *self._summand_of(index))]
        unit = "BLOCK" if self.in_8_bits else "1"  # no part begins within a block
        return PASS.format(
            name=name,
            width=len(self.stored),
            sums=len(self.slot),
            per_call=indent(1, self._write_once(inputs, "call")),
            per_tensor=indent(2, self._write_once(inputs, "tensor")),
            chunk=RUNS_OF_CHUNK.format(unit=unit) if has_runs else WHOLE_CHUNK,
            close="            }" if has_runs else "",
            per_chunk=indent(3, self._write_pointers()) + "\n" + per_chunk,
        )

    def _summand_of(self, index: int) -> tuple[int, ...]:
        node = self.program.nodes[index]
        return node.operands if node.op == "sum" else ()

    def _write_pointers(self) -> Iterable[str]:
        """Point to the tensors of a row, at the first element of a chunk."""
        for k, (name, format_) in enumerate(self.stored.items()):
            start = "start / BLOCK" if name.endswith("_scale") else "start"
            c_type = C_TYPES[format_]
            yield f"{c_type} *restrict {name}_ = ({c_type} *)row[{k}] + {start};"

    def _write_once(self, targets: Sequence[int], scope: Scope) -> Iterable[str]:
        """Compute what a call or a tensor needs once: in double, then in the type of elements."""
        for index in self.program.dependencies(targets):
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
        body = [*lines, *(f"{name} += v{index};" for name, index in pairs)]
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
