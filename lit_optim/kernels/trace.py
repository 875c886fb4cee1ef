"""A rule is called once, on symbols: what it does to them is the kernel.

Symbols carry the operators and methods that `arithmetic` asks for. What is made of hyperparameters
alone is uniform: the same for all elements, and computed once per call, in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

Rule = Callable[[Any, Any, Any, Any], tuple[Any, dict[str, Any]]]


@dataclass(frozen=True)
class Node:
    """One operation of a trace.

    Args:
        op: its name; `arg` is an input by name, `const` a number.
        inputs: the places of its operands in the trace.
        value: of an input or a number.
        uniform: the same for all elements.
        logical: true or false, not a number.
    """

    op: str
    inputs: tuple[int, ...] = ()
    value: str | float = ""
    uniform: bool = False
    logical: bool = False


class Trace:
    """The operations of a rule in order, each once."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._places: dict[Node, int] = {}

    def symbol(self, node: Node) -> Symbol:
        """The symbol of an operation; the same one for the same operation."""
        if node not in self._places:
            self._places[node] = len(self.nodes)
            self.nodes.append(node)
        return Symbol(self, self._places[node])

    def constant(self, value: float) -> Symbol:
        """A number that stands in the rule."""
        return self.symbol(Node("const", value=float(value), uniform=True))


COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


class Symbol:
    """A number that is not known yet."""

    __slots__ = ("place", "trace")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, trace: Trace, place: int) -> None:
        self.trace, self.place = trace, place

    def _make(self, op: str, *others: Any) -> Symbol:
        operands = [self, *(self._symbol(other) for other in others)]
        nodes = [self.trace.nodes[operand.place] for operand in operands]
        uniform = all(node.uniform for node in nodes)
        places = tuple(operand.place for operand in operands)
        return self.trace.symbol(Node(op, places, uniform=uniform, logical=op in COMPARISONS))

    def _symbol(self, other: Any) -> Symbol:
        if isinstance(other, Symbol):
            return other
        if isinstance(other, int | float):
            return self.trace.constant(other)
        raise TypeError(f"a rule is arithmetic on numbers, not on a {type(other).__name__}")

    def __bool__(self) -> bool:
        raise TypeError("a rule cannot branch on a number: use where(condition, x, y)")

    def __add__(self, other: Any) -> Symbol:
        return self._make("add", other)

    def __radd__(self, other: Any) -> Symbol:
        return self._symbol(other)._make("add", self)

    def __sub__(self, other: Any) -> Symbol:
        return self._make("sub", other)

    def __rsub__(self, other: Any) -> Symbol:
        return self._symbol(other)._make("sub", self)

    def __mul__(self, other: Any) -> Symbol:
        return self._make("mul", other)

    def __rmul__(self, other: Any) -> Symbol:
        return self._symbol(other)._make("mul", self)

    def __truediv__(self, other: Any) -> Symbol:
        return self._make("div", other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return self._symbol(other)._make("div", self)

    def __neg__(self) -> Symbol:
        return self._make("neg")

    def __lt__(self, other: Any) -> Symbol:
        return self._make("lt", other)

    def __le__(self, other: Any) -> Symbol:
        return self._make("le", other)

    def __gt__(self, other: Any) -> Symbol:
        return self._make("gt", other)

    def __ge__(self, other: Any) -> Symbol:
        return self._make("ge", other)

    def __eq__(self, other: object) -> Any:
        return self._make("eq", other)

    def __ne__(self, other: object) -> Any:
        return self._make("ne", other)

    def sqrt(self) -> Symbol:
        """√x."""
        return self._make("sqrt")

    def abs(self) -> Symbol:
        """|x|."""
        return self._make("abs")

    def sign(self) -> Symbol:
        """-1, 0 or 1."""
        return self._make("sign")

    def maximum(self, other: Any) -> Symbol:
        """The larger; NaN if either is."""
        return self._make("max", other)

    def clamp(self, low: Any, high: Any) -> Symbol:
        """The nearest in [low, high]; NaN stays."""
        return self._make("clamp", low, high)

    def where(self, x: Any, y: Any) -> Symbol:
        """X where this condition holds, else y."""
        return self._make("where", x, y)


@dataclass(frozen=True)
class Program:
    """A traced rule.

    Args:
        nodes: the operations in order; the inputs are g, p, the states and the scalars by name.
        u: the place of the direction.
        states: the names of the states, in the order of the tensors.
        after: the places of the new states that the rule gives, by name.
        scalars: the names of the scalars, in the order of the numbers.
    """

    nodes: tuple[Node, ...]
    u: int
    states: tuple[str, ...]
    after: tuple[tuple[str, int], ...]
    scalars: tuple[str, ...]


def trace(rule: Rule, states: Sequence[str], h: Mapping[str, Any]) -> Program:
    """Call `rule` on symbols.

    Args:
        rule: pure, as a torch executor would call it.
        states: the names of the tensors in s.
        h: the scalars; numbers become inputs, bools stay what they are.

    Raises:
        TypeError: the rule branches on a number, or uses what is no arithmetic.
    """
    made = Trace()

    def element(name: str) -> Symbol:
        return made.symbol(Node("arg", value=name))

    numbers = tuple(name for name, value in h.items() if not isinstance(value, bool))
    known: dict[str, Any] = {n: value for n, value in h.items() if isinstance(value, bool)}
    for name in numbers:
        known[name] = made.symbol(Node("arg", value=f"h.{name}", uniform=True))
    s = SimpleNamespace(**{name: element(f"s.{name}") for name in states})
    g = element("g")
    u, after = rule(g, element("p"), s, SimpleNamespace(**known))
    places = tuple((name, g._symbol(value).place) for name, value in after.items())
    return Program(tuple(made.nodes), g._symbol(u).place, tuple(states), places, numbers)


def number(value: float) -> str:
    """A number as C reads it."""
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return repr(float(value))
