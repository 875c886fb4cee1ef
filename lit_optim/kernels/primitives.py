"""The operations of a rule: one table with a column for each backend.

A rule calls a primitive as a function, or writes it as an operator. On tensors torch computes it;
on the symbols of a trace it becomes a node (`ir`), which the generators in `codegen` write as C or
Triton; on Python numbers it is computed at once, in double precision. To add a primitive, call
`define_primitive` once:

    exp = define_primitive(
        "exp", "eˣ", 1, torch=torch.exp, number=math.exp, c="exp{f}({0})", triton="tl.exp({0})"
    )
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_optim.kernels.precision import accumulation_dtype, clamp_to_dtype


class Traceable:
    """An operand that records primitives instead of computing them: the base of `ir.Symbol`."""

    __slots__ = ()

    def record(self, primitive: Primitive, operands: tuple[Any, ...]) -> Any:
        """Record a primitive of these operands, one of which is this one."""
        raise NotImplementedError


@dataclass(frozen=True)
class Primitive:
    """An elementwise operation, as each backend computes it.

    In the source templates `{0}`, `{1}` and `{2}` are the operands and `{real}` is the type that
    is computed in. In C, `{f}` is the suffix of math functions of that type: "" or "f".

    Args:
        name: how a trace calls it.
        meaning: its formula.
        arity: the number of operands.
        torch: computes it on tensors.
        number: computes it on Python numbers, as a processor would: x / 0 is an infinity or NaN.
        c: its expression in C.
        triton: its expression in Triton.
        triton_float64: its expression in Triton for float64, where that is another one.
        operator: the method of a symbol that applies it, such as `__add__`.
        reflected_operator: the method for a symbol on the right of a number, such as `__radd__`.
        is_boolean: whether its result is true or false.
        is_double: whether its result is in double precision, whatever is computed in.
    """

    name: str
    meaning: str
    arity: int
    torch: Callable[..., Any]
    number: Callable[..., Any]
    c: str
    triton: str
    triton_float64: str | None = None
    operator: str | None = None
    reflected_operator: str | None = None
    is_boolean: bool = False
    is_double: bool = False

    def __call__(self, *operands: Any) -> Any:
        """Apply the primitive.

        Raises:
            TypeError: the number of operands is wrong.
        """
        if len(operands) != self.arity:
            raise TypeError(f"{self.name} takes {self.arity} operands, got {len(operands)}")
        has_tensor = False
        for operand in operands:
            if isinstance(operand, Traceable):
                return operand.record(self, operands)
            has_tensor = has_tensor or isinstance(operand, Tensor)
        return self.torch(*operands) if has_tensor else self.number(*operands)


#: Every primitive by name, in the order of definition.
PRIMITIVES: dict[str, Primitive] = {}


def define_primitive(name: str, meaning: str, arity: int, **columns: Any) -> Primitive:
    """Add a primitive to the table.

    Args:
        name: how a trace calls it.
        meaning: its formula.
        arity: the number of operands.
        columns: the other fields of `Primitive`.

    Returns:
        The primitive, to be called in rules.

    Raises:
        ValueError: the name is taken.
    """
    if name in PRIMITIVES:
        raise ValueError(f"the primitive {name!r} is already defined")
    primitive = PRIMITIVES[name] = Primitive(name, meaning, arity, **columns)
    return primitive


def _define_infix(name: str, symbol: str, **columns: Any) -> Primitive:
    """Add an operation of two operands that Python, C and Triton write with the same symbol."""
    function = columns.pop("function", None) or getattr(operator, name)
    text = f"{{0}} {symbol} {{1}}"
    columns = {"operator": f"__{name}__", "number": function} | columns
    return define_primitive(
        name, f"x {symbol} y", 2, torch=function, c=text, triton=text, **columns
    )


def _divide_numbers(x: float, y: float) -> float:
    """The quotient as a processor computes it."""
    if y != 0:
        return x / y
    return math.nan if x == 0 or math.isnan(x) else math.copysign(math.inf, x) * math.copysign(1, y)


def _clip_tensor(x: Tensor, low: float, high: float) -> Tensor:
    return x.clamp(clamp_to_dtype(low, x.dtype), clamp_to_dtype(high, x.dtype))


def _double_product_of_tensors(x: Tensor, y: Tensor) -> Tensor:
    dtype = accumulation_dtype(x.device)
    return x.to(dtype) * y.to(dtype)


add = _define_infix("add", "+", reflected_operator="__radd__")
sub = _define_infix("sub", "-", reflected_operator="__rsub__")
mul = _define_infix("mul", "*", reflected_operator="__rmul__")
div = _define_infix(
    "div",
    "/",
    function=operator.truediv,
    number=_divide_numbers,
    operator="__truediv__",
    reflected_operator="__rtruediv__",
)
lt = _define_infix("lt", "<", is_boolean=True)
le = _define_infix("le", "<=", is_boolean=True)
gt = _define_infix("gt", ">", is_boolean=True)
ge = _define_infix("ge", ">=", is_boolean=True)
eq = _define_infix("eq", "==", is_boolean=True)
ne = _define_infix("ne", "!=", is_boolean=True)
neg = define_primitive(
    "neg",
    "-x",
    1,
    torch=operator.neg,
    number=operator.neg,
    c="-{0}",
    triton="-{0}",
    operator="__neg__",
)
sqrt = define_primitive(
    "sqrt",
    "√x",
    1,
    torch=torch.sqrt,
    number=lambda x: math.sqrt(x) if x >= 0 else math.nan,
    c="sqrt{f}({0})",
    # tl.sqrt flushes subnormal float32 numbers to 0
    triton="tl.sqrt_rn({0})",
    triton_float64="tl.sqrt({0})",
    operator="sqrt",
)
absolute = define_primitive(
    "abs",
    "|x|",
    1,
    torch=torch.abs,
    number=abs,
    c="fabs{f}({0})",
    triton="tl.abs({0})",
    operator="abs",
)
sign = define_primitive(
    "sign",
    "-1, 0 or 1",
    1,
    torch=torch.sign,
    number=lambda x: float((x > 0) - (x < 0)),
    c="({real})(({0} > 0) - ({0} < 0))",
    triton="({0} > 0).to(tl.{real}) - ({0} < 0).to(tl.{real})",
    operator="sign",
)
maximum = define_primitive(
    "max",
    "the larger of x and y; NaN if either is NaN",
    2,
    torch=torch.maximum,
    number=lambda x, y: x if x > y or math.isnan(x) else y,
    c="({0} > {1} || {0} != {0}) ? {0} : {1}",
    triton="tl.where(({0} > {1}) | ({0} != {0}), {0}, {1})",
    operator="maximum",
)
clip = define_primitive(
    "clamp",
    "x limited to [low, high]; NaN stays NaN",
    3,
    torch=_clip_tensor,
    number=lambda x, low, high: low if x < low else high if x > high else x,
    c="{0} < {1} ? {1} : ({0} > {2} ? {2} : {0})",
    triton="tl.where({0} < {1}, {1}, tl.where({0} > {2}, {2}, {0}))",
    operator="clamp",
)
where = define_primitive(
    "where",
    "x where the condition holds, else y",
    3,
    torch=torch.where,
    number=lambda condition, x, y: x if condition else y,
    c="{0} ? {1} : {2}",
    triton="tl.where({0}, {1}, {2})",
    operator="where",
)
#: For sums only, whose terms are then in the accumulation dtype.
double_product = define_primitive(
    "double_product",
    "x y in double precision",
    2,
    torch=_double_product_of_tensors,
    number=operator.mul,
    c="(double){0} * (double){1}",
    triton="{0}.to(tl.float64) * {1}.to(tl.float64)",
    is_double=True,
)
