"""A traced rule as a C function over the elements of many tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lit_optim.kernels.codegen.c_prelude import PRELUDE
from lit_optim.kernels.ir import (
    COMPARISONS,
    DOUBLE_PRODUCT,
    Node,
    Per,
    Program,
    number,
)

#: How a format is stored.
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
    int64_t least = 0, most = call->count;  /* the tensor that has chunk `begin` */
    while (least < most) {{
        const int64_t middle = (least + most) / 2;
        if (call->ends[middle] <= begin) least = middle + 1; else most = middle;
    }}
    for (int64_t k = least; k < call->count && begin < end; ++k) {{
        const int64_t first = k ? call->ends[k - 1] : 0;
        const int64_t last = call->ends[k] < end ? call->ends[k] : end;
        void *const *row = call->tensors + k * {width};
        double *totals = call->scratch + k * {sums};
        const double numel = (double)call->sizes[k];
{per_tensor}
        for (int64_t chunk = begin; chunk < last; ++chunk) {{
            const int64_t start = (chunk - first) * CHUNK;
            const int64_t left = call->sizes[k] - start;
            const int count = left < CHUNK ? (int)left : CHUNK;
{per_chunk}
        }}
        begin = last;
    }}
}}
"""

LOOP = """\
#pragma GCC ivdep
            for (int i = 0; i < count; ++i) {{
{body}
            }}"""

SUMMING = """\
            double {zero};
{blocks}
#pragma omp simd reduction(+:{names})
            for (int i = {begin}; i < {end}; ++i) {{
{body}
            }}
{close}
            double *parts = call->scratch + (call->count + chunk) * {sums};
{store}"""

BLOCKS = """\
            for (int from = 0; from < count; from += BLOCK) {
                const int to = from + BLOCK < count ? from + BLOCK : count;
"""

#: The chunks of a call, on the threads of a team. One thread does without OpenMP altogether: a team
#: of one would only disturb the team that torch keeps.
STEP = """
static void part(const Call *call, const double *h, uint32_t t, int64_t me, int64_t team) {{
    const int64_t all = call->end - call->begin;
    const int64_t begin = call->begin + all * me / team, end = call->begin + all * (me + 1) / team;
{passes}
    update(call, h, t, begin, end);
{told}}}

void step(const Call *call, const double *h, int64_t t, int threads) {{
#ifdef _OPENMP
    if (threads > 1) {{
#pragma omp parallel num_threads(threads)
        part(call, h, (uint32_t)t, omp_get_thread_num(), omp_get_num_threads());
        return;
    }}
#endif
    part(call, h, (uint32_t)t, 0, 1);
}}
"""

BARRIER = """\
#ifdef _OPENMP
    if (team > 1) {
#pragma omp barrier
    }
#endif
"""

#: The sums of a tensor from those of its chunks, in their order.
FOLD = """\
    for (int64_t k = me; k < call->count; k += team) {{
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
    """The C text.

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
        self.real = "double" if formats[0] == "float64" else "float"
        names = ["p", "g", *(f"s_{name}" for name in program.states)]
        self.format = dict(zip(names, formats, strict=False))
        self.in_8_bits = [n for n in names if self.format[n] in ("int8", "uint8")]
        names += [f"{name}_scale" for name in self.in_8_bits]
        self.is_split = formats[-1] == "int16"
        names += ["low"] if self.is_split else []
        self.stored = dict(zip(names, formats, strict=True))
        #: taken while p and the states are written, as nothing waits for them
        self.told = list(program.told.values())
        if self.told and self.in_8_bits:
            raise TypeError("sums are told of states as they are, not in 8 bits")
        passes = [[p for p in places if p not in self.told] for places in program.sums]
        self.sums = [places for places in passes if places]
        in_order = [*(place for places in self.sums for place in places), *self.told]
        self.place_of_sum = {place: j for j, place in enumerate(in_order)}

    def text(self) -> str:
        """Every pass, and what calls them."""
        passes, calls, first = [], [], 0
        for number_, places in enumerate(self.sums):
            name = f"sums{number_}"
            passes.append(self._pass(name, places, self._summing(places)))
            last = first + len(places)
            fold = BARRIER + self._fold(first, last) + BARRIER
            calls.append(f"    {name}(call, h, t, begin, end);\n{fold}")
            first = last
        targets = [self.program.a, self.program.b, self.program.u]
        targets += [place for name, place in self.program.after if name in self.program.states]
        targets += self._summands(self.told)
        passes.append(self._pass("update", targets, self._updating(targets)))
        told = BARRIER + self._fold(first, len(self.place_of_sum)) if self.told else ""
        return PRELUDE + "".join(passes) + STEP.format(passes="".join(calls), told=told)

    def _fold(self, first: int, last: int) -> str:
        return FOLD.format(first=first, last=last, sums=len(self.place_of_sum))

    def _pass(self, name: str, targets: list[int], per_chunk: str) -> str:
        inputs = [i for p in targets for i in (p, *self._summed(p))]
        return PASS.format(
            name=name,
            width=len(self.stored),
            sums=len(self.place_of_sum),
            per_call=_lines(1, self._coarse(inputs, "call")),
            per_tensor=_lines(2, self._coarse(inputs, "tensor")),
            per_chunk=_lines(3, self._pointers()) + "\n" + per_chunk,
        )

    def _summed(self, place: int) -> tuple[int, ...]:
        node = self.program.nodes[place]
        return node.inputs if node.op == "sum" else ()

    def _pointers(self) -> Iterable[str]:
        """The tensors of a row at the first element of a chunk."""
        for k, (name, format_) in enumerate(self.stored.items()):
            start = "start / BLOCK" if name.endswith("_scale") else "start"
            c_type = C_TYPES[format_]
            yield f"{c_type} *restrict {name}_ = ({c_type} *)row[{k}] + {start};"

    def _coarse(self, targets: Sequence[int], per: Per) -> Iterable[str]:
        """What is computed once for a call or tensor: in double, and then as the rest."""
        for place in self.program.needed(targets):
            node = self.program.nodes[place]
            if node.per == per:
                kinds = _kind(node, "double"), _kind(node, self.real)
                yield f"const {kinds[0]} d{place} = {self._known(place, node)};"
                yield f"const {kinds[1]} v{place} = ({kinds[1]})d{place};"
                if not node.logical:
                    yield f"const {self.real} r{place} = ({self.real})(1.0 / d{place});"

    def _known(self, place: int, node: Node) -> str:
        if node.op == "const":
            return number(float(node.value))
        if node.op == "sum":
            return f"totals[{self.place_of_sum[place]}]"
        if node.op == "arg":
            name = str(node.value).removeprefix("h.")
            return name if name == "numel" else f"h[{self.program.scalars.index(name)}]"
        return _operation(node, [f"d{i}" for i in node.inputs], "double")

    def _fine(self, targets: Sequence[int]) -> Iterable[str]:
        """What is computed for each element."""
        for place in self.program.needed(targets):
            node = self.program.nodes[place]
            if node.per == "element":
                if node.op == "arg":
                    value = self._loaded(str(node.value).replace(".", "_"))
                elif node.op == "div" and self.program.nodes[node.inputs[1]].per != "element":
                    value = f"v{node.inputs[0]} * r{node.inputs[1]}"  # a division takes far longer
                else:
                    value = _operation(node, [f"v{i}" for i in node.inputs], self.real)
                yield f"const {_kind(node, self.real)} v{place} = {value};"

    def _loaded(self, name: str) -> str:
        if name == "p" and self.is_split:
            return "joined(p_[i], low_[i])"
        format_ = self.format[name]
        if format_ == "bfloat16":
            return f"from_bfloat16({name}_[i])"
        if format_ in ("int8", "uint8"):
            return f"from_{format_}({name}_[i], {name}_scale_[from / BLOCK])"
        return f"{name}_[i]"

    def _summing(self, places: list[int]) -> str:
        return self._adding(places, self._fine(self._summands(places)))

    def _summands(self, places: list[int]) -> list[int]:
        return [self.program.nodes[place].inputs[0] for place in places]

    def _adding(self, places: list[int], lines: Iterable[str]) -> str:
        """A loop over a chunk that does `lines` and adds up these sums."""
        names = [f"t{j}" for j in range(len(places))]
        pairs = zip(names, self._summands(places), strict=True)
        body = [*lines, *(f"{name} += v{place};" for name, place in pairs)]
        at = [self.place_of_sum[place] for place in places]
        blocked = bool(self.in_8_bits)
        return SUMMING.format(
            zero=", ".join(f"{name} = 0" for name in names),
            names=", ".join(names),
            blocks=BLOCKS if blocked else "",
            close="            }" if blocked else "",
            begin="from" if blocked else "0",
            end="to" if blocked else "count",
            body=_lines(4, body),
            sums=len(self.place_of_sum),
            store=_lines(3, [f"parts[{j}] = {n};" for j, n in zip(at, names, strict=True)]),
        )

    def _updating(self, targets: list[int]) -> str:
        keys, words = self._chances()
        body = [*self._p0(), *self._fine(targets), *words]
        fine = "fma" if self.real == "double" else "fmaf"
        a, b, u = (f"v{p}" for p in (self.program.a, self.program.b, self.program.u))
        # as torch_executor: p.mul_(a).sub_(u, alpha=b), whose second step is one rounding
        after = f"{fine}(-{b}, {u}, {a} * p0)"
        if self.format["p"] in ("bfloat16", "float16"):
            after = f"{a} * p0 - {b} * {u}"
        for number_, (name, place) in enumerate(self._in_order()):
            body.append(self._store(f"s_{name}", f"v{place}", number_))
        body += [] if self.program.is_still else self._store_p(after)
        if self.told:
            return _lines(3, keys) + "\n" + self._adding(self.told, body)
        if not self.in_8_bits:
            return _lines(3, keys) + "\n" + LOOP.format(body=_lines(4, body))
        given = {f"s_{name}" for name, _ in self.program.after}
        inner = [f"float n_{name}[BLOCK];" for name in self.in_8_bits if name in given]
        inner += ["#pragma GCC ivdep", "for (int i = from; i < to; ++i) {"]
        inner += [f"    {line}" for line in body] + ["}"]
        for w in self._words(("int8", "uint8")):
            inner.append(f"uint32_t words{w}[BLOCK];")
            inner.append(f"shake(words{w}, to - from, key{w} + (uint32_t)from * 0x9e3779b1u);")
        for number_, (name, _) in enumerate(self._in_order()):
            if f"s_{name}" in self.in_8_bits:
                inner += self._encode(f"s_{name}", number_)
        return _lines(3, keys) + "\n" + BLOCKS + _lines(4, inner) + "\n            }"

    def _in_order(self) -> list[tuple[str, int]]:
        after = dict(self.program.after)
        return [(name, after[name]) for name in self.program.states if name in after]

    def _p0(self) -> list[str]:
        return [f"const {self.real} p0 = {self._loaded('p')};"]

    def _chances(self) -> tuple[list[str], list[str]]:
        """The keys of a chunk, and the random bits of an element: a word for two states."""
        keys = [
            f"const uint32_t key{w} = mixed(mixed(mixed((uint32_t)call->numbers[k]) + t) + {w})"
            " + (uint32_t)start * 0x9e3779b1u + (uint32_t)(start >> 32) * 0x85ebca77u;"
            for w in self._words(("bfloat16", "int8", "uint8"))
        ]
        words = self._words(("bfloat16",))
        return keys, [
            f"const uint32_t word{w} = mixed(key{w} + (uint32_t)i * 0x9e3779b1u);" for w in words
        ]

    def _words(self, formats: tuple[str, ...]) -> list[int]:
        """The random words that states of these formats take."""
        stored = [self.format[f"s_{name}"] for name, _ in self._in_order()]
        return sorted({k // 2 for k, format_ in enumerate(stored) if format_ in formats})

    def _store(self, name: str, value: str, number_: int) -> str:
        format_ = self.format[name]
        if format_ == "bfloat16":
            return f"{name}_[i] = to_bfloat16_by_chance({value}, {_half(number_)});"
        if format_ in ("int8", "uint8"):
            return f"n_{name}[i - from] = (float){value};"
        return f"{name}_[i] = ({C_TYPES[format_]})({value});"

    def _store_p(self, value: str) -> list[str]:
        if self.is_split:
            return [
                f"const float p1 = {value};",
                "p_[i] = upper(p1);",
                "low_[i] = lower(p1);",
            ]
        if self.format["p"] == "bfloat16":
            return [f"p_[i] = to_bfloat16({value});"]
        return [f"p_[i] = ({C_TYPES[self.format['p']]})({value});"]

    def _encode(self, name: str, number_: int) -> list[str]:
        """A block of new states in 8 bits."""
        word, shift = number_ // 2, 16 * (number_ % 2)
        chances = f"inverse(top_{name}), words{word}, {shift}"
        return [
            f"const float top_{name} = largest(n_{name}, to - from);",
            f"{name}_scale_[from / BLOCK] = top_{name};",
            f"to_{self.format[name]}(n_{name}, {name}_ + from, to - from, {chances});",
        ]


def _half(number_: int) -> str:
    word = f"word{number_ // 2}"
    return f"({word} >> 16)" if number_ % 2 else f"({word} & 0xffff)"


def _lines(depth: int, lines: Iterable[str]) -> str:
    return "\n".join(line if line.startswith("#") else " " * 4 * depth + line for line in lines)


def _kind(node: Node, real: str) -> str:
    return "int" if node.logical else "double" if node.op == DOUBLE_PRODUCT else real


def _operation(node: Node, x: list[str], real: str) -> str:
    f = "" if real == "double" else "f"
    infix = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
    compare = dict(zip(COMPARISONS, ("<", "<=", ">", ">=", "==", "!="), strict=True))
    if node.op in infix | compare:
        return f"{x[0]} {(infix | compare)[node.op]} {x[1]}"
    return {
        DOUBLE_PRODUCT: "(double){0} * (double){1}",
        "neg": "-{0}",
        "sqrt": f"sqrt{f}({{0}})",
        "abs": f"fabs{f}({{0}})",
        "sign": f"({real})(({{0}} > 0) - ({{0}} < 0))",
        "max": "({0} > {1} || {0} != {0}) ? {0} : {1}",
        "clamp": "{0} < {1} ? {1} : ({0} > {2} ? {2} : {0})",
        "where": "{0} ? {1} : {2}",
    }[node.op].format(*x)
