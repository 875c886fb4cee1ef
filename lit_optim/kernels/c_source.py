"""A traced rule as a C function over the elements of many tensors."""

from __future__ import annotations

from collections.abc import Sequence

from lit_optim.kernels.trace import COMPARISONS, Node, Program, number

#: How a dtype is stored, and what is computed in.
STORED = {"float64": "double", "float32": "float", "bfloat16": "uint16_t", "float16": "_Float16"}

PRELUDE = """\
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

static inline float from_bfloat16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint16_t to_bfloat16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
    return (uint16_t)((x != x ? bits | 0x400000 : rounded) >> 16);
}
"""

#: The elements from `begin` to `end` of all; a tensor's are contiguous. One thread does without
#: OpenMP altogether: a team of one would only disturb the team that torch keeps.
FUNCTION = """
static void range(int64_t count, const int64_t *ends, void *const *tensors, const double *h,
                  int64_t begin, int64_t end) {{
    const {real} a = ({real})h[0], b = ({real})h[1];
{uniform}
    int64_t low = 0, high = count;  /* the tensor that has element `begin` */
    while (low < high) {{
        const int64_t middle = (low + high) / 2;
        if (ends[middle] <= begin) low = middle + 1; else high = middle;
    }}
    for (int64_t k = low; k < count && begin < end; ++k) {{
        const int64_t first = k ? ends[k - 1] : 0;
        const int64_t from = begin - first, to = (ends[k] < end ? ends[k] : end) - first;
        void *const *row = tensors + k * {width};
{pointers}
#pragma GCC ivdep
        for (int64_t i = from; i < to; ++i) {{
{body}
        }}
        begin = ends[k];
    }}
}}

void step(int64_t count, const int64_t *ends, void *const *tensors, const double *h, int threads) {{
    const int64_t all = count ? ends[count - 1] : 0;
#ifdef _OPENMP
    if (threads > 1) {{
#pragma omp parallel num_threads(threads)
        {{
            const int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
            const int64_t begin = all / 64 * me / team * 64;
            const int64_t end = me + 1 == team ? all : all / 64 * (me + 1) / team * 64;
            range(count, ends, tensors, h, begin, end);
        }}
        return;
    }}
#endif
    range(count, ends, tensors, h, 0, all);
}}
"""


def source(program: Program, p: str, g: str, states: Sequence[str]) -> str:
    """The C text.

    Args:
        program: the traced rule.
        p: dtype of the parameters, such as "float32".
        g: dtype of the gradients.
        states: dtypes of the states, in the program's order.
    """
    real = "double" if p == "float64" else "float"
    names = ["p", "g", *(f"s_{name}" for name in program.states)]
    dtypes = [p, g, *states]
    pointers = [
        f"        {STORED[dtype]} *restrict {name}_ = row[{k}];"
        for k, (name, dtype) in enumerate(zip(names, dtypes, strict=True))
    ]
    dtype_of = dict(zip(names, dtypes, strict=True))
    uniform, body = [], []
    for place, node in enumerate(program.nodes):
        if node.uniform:
            kinds = _kind(node, "double"), _kind(node, real)
            uniform.append(f"    const {kinds[0]} d{place} = {_uniform(program, node)};")
            uniform.append(f"    const {kinds[1]} v{place} = ({kinds[1]})d{place};")
        else:
            value = _element(program, node, real, dtype_of)
            body.append(f"const {_kind(node, real)} v{place} = {value};")
    # as torch_executor: p.mul_(a).sub_(u, alpha=b), whose second step is one rounding
    fma = "fma" if real == "double" else "fmaf"
    after = f"{fma}(-b, v{program.u}, a * p0)"
    if p in ("bfloat16", "float16"):
        after = f"a * p0 - b * v{program.u}"
    load = Node("arg", value="p")
    body.insert(0, f"const {real} p0 = {_element(program, load, real, dtype_of)};")
    body += [_store(f"s_{name}", dtype_of[f"s_{name}"], f"v{place}", real)
             for name, place in program.after]  # fmt: skip
    body.append(_store("p", p, after, real))
    return PRELUDE + FUNCTION.format(
        real=real,
        width=len(names),
        uniform="\n".join(uniform),
        pointers="\n".join(pointers),
        body="\n".join(f"            {line}" for line in body),
    )


def _kind(node: Node, real: str) -> str:
    return "int" if node.logical else real


def _uniform(program: Program, node: Node) -> str:
    if node.op == "const":
        return number(float(node.value))
    if node.op == "arg":
        name = str(node.value).removeprefix("h.")
        return f"h[{2 + program.scalars.index(name)}]"
    return _operation(node, [f"d{place}" for place in node.inputs], "double")


def _element(program: Program, node: Node, real: str, dtype_of: dict[str, str]) -> str:
    if node.op == "arg":
        name = str(node.value).replace(".", "_")
        return f"from_bfloat16({name}_[i])" if dtype_of[name] == "bfloat16" else f"{name}_[i]"
    return _operation(node, [f"v{place}" for place in node.inputs], real)


def _operation(node: Node, x: list[str], real: str) -> str:
    f = "" if real == "double" else "f"
    infix = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
    compare = dict(zip(COMPARISONS, ("<", "<=", ">", ">=", "==", "!="), strict=True))
    if node.op in infix | compare:
        return f"{x[0]} {(infix | compare)[node.op]} {x[1]}"
    return {
        "neg": "-{0}",
        "sqrt": f"sqrt{f}({{0}})",
        "abs": f"fabs{f}({{0}})",
        "sign": f"({real})(({{0}} > 0) - ({{0}} < 0))",
        "max": "({0} > {1} || {0} != {0}) ? {0} : {1}",
        "clamp": "{0} < {1} ? {1} : ({0} > {2} ? {2} : {0})",
        "where": "{0} ? {1} : {2}",
    }[node.op].format(*x)


def _store(name: str, dtype: str, value: str, real: str) -> str:
    if dtype == "bfloat16":
        return f"{name}_[i] = to_bfloat16({value});"
    return f"{name}_[i] = ({STORED[dtype]})({value});"
