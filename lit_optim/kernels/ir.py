"""A rule is called once, on symbols: what it does to them is the kernel.

Symbols carry the operators and methods that `arithmetic` asks for. What is made of hyperparameters
alone is computed once per call, what is made of sums over a tensor once per tensor, both in double
precision; only the rest is computed for each element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

#: (g, p, s, h) -> a, b, u and the new states: p becomes a p − b u.
Rule = Callable[[Any, Any, Any, Any], tuple[Any, Any, Any, dict[str, Any]]]

#: Computed once for each of these.
Per = Literal["call", "tensor", "element"]
COARSE_TO_FINE: tuple[Per, ...] = ("call", "tensor", "element")


@dataclass(frozen=True)
class Node:
    """One operation of a trace.

    Args:
        op: its name; `arg` is an input by name, `const` a number.
        inputs: the places of its operands in the trace.
        value: of an input or a number.
        per: what it is computed for.
        logical: true or false, not a number.
        level: how many passes over the tensor come before it is known.
    """

    op: str
    inputs: tuple[int, ...] = ()
    value: str | float = ""
    per: Per = "element"
    logical: bool = False
    level: int = 0


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
        return self.symbol(Node("const", value=float(value), per="call"))


#: A product of elements in double precision, for a sum only.
DOUBLE_PRODUCT = "double_product"
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
        per = max((node.per for node in nodes), key=COARSE_TO_FINE.index)
        level = max(node.level for node in nodes)
        places = tuple(operand.place for operand in operands)
        return self.trace.symbol(Node(op, places, per=per, logical=op in COMPARISONS, level=level))

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

    def sum(self) -> Symbol:
        """The sum over the elements of the tensor."""
        node = self.trace.nodes[self.place]
        if node.per != "element":
            raise TypeError("total and mean are of what differs from element to element")
        return self.trace.symbol(Node("sum", (self.place,), per="tensor", level=node.level + 1))

    def mean(self) -> Symbol:
        """The mean over the elements of the tensor."""
        return self.sum() / self.numel()

    def dot(self, other: Any) -> Symbol:
        """The sum of products over the elements of the tensor; they are in double precision."""
        return self._make(DOUBLE_PRODUCT, other).sum()

    def numel(self) -> Symbol:
        """How many elements the tensor has."""
        return self.trace.symbol(Node("arg", value="numel", per="tensor"))


@dataclass(frozen=True)
class Program:
    """A traced rule: p becomes a p − b u.

    Args:
        nodes: the operations in order, each after its operands; the inputs are g, p, `s.` and the
            states, `h.` and the scalars, and numel.
        a: the place of what the parameter is multiplied by, the same for all elements of a tensor.
        b: the place of what the direction is multiplied by, likewise.
        u: the place of the direction.
        states: the names of the states, in the order of the tensors.
        after: the places of the new states that the rule gives, by name; and of the sums that it
            tells, by other names.
        scalars: the names of the scalars, in the order of the numbers.
    """

    nodes: tuple[Node, ...]
    a: int
    b: int
    u: int
    states: tuple[str, ...]
    after: tuple[tuple[str, int], ...]
    scalars: tuple[str, ...]

    @property
    def told(self) -> dict[str, int]:
        """The places of the sums that a rule gives beside new states, for who calls it."""
        return {name: place for name, place in self.after if name not in self.states}

    @property
    def is_still(self) -> bool:
        """Whether p stays what it is."""
        a, b = self.nodes[self.a], self.nodes[self.b]
        return (a.op, b.op) == ("const", "const") and (a.value, b.value) == (1.0, 0.0)

    @property
    def sums(self) -> list[list[int]]:
        """The places of the sums, by the pass over the tensor in which they are taken."""
        found = [place for place, node in enumerate(self.nodes) if node.op == "sum"]
        passes = max((self.nodes[place].level for place in found), default=0)
        return [[p for p in found if self.nodes[p].level == level + 1] for level in range(passes)]

    def needed(self, targets: Sequence[int]) -> list[int]:
        """The places of what `targets` are made of, themselves included, in order.

        A sum counts as known: what is summed is left out.
        """
        found: set[int] = set()
        todo = list(targets)
        while todo:
            place = todo.pop()
            if place not in found:
                found.add(place)
                node = self.nodes[place]
                todo += () if node.op == "sum" else node.inputs
        return sorted(found)


def trace_rule(rule: Rule, states: Sequence[str], h: Mapping[str, Any]) -> Program:
    """Call `rule` on symbols.

    Args:
        rule: pure, as a torch executor would call it.
        states: the names of the tensors in s.
        h: the scalars; numbers become inputs, bools stay what they are.

    Raises:
        TypeError: the rule branches on a number, uses what is no arithmetic, or gives an a or b
            that differs from element to element.
    """
    made = Trace()

    def element(name: str) -> Symbol:
        return made.symbol(Node("arg", value=name))

    numbers = tuple(name for name, value in h.items() if not isinstance(value, bool))
    known: dict[str, Any] = {n: value for n, value in h.items() if isinstance(value, bool)}
    for name in numbers:
        known[name] = made.symbol(Node("arg", value=f"h.{name}", per="call"))
    s = SimpleNamespace(**{name: element(f"s.{name}") for name in states})
    g = element("g")
    *step, after = rule(g, element("p"), s, SimpleNamespace(**known))
    a, b, u = (g._symbol(value).place for value in step)
    if "element" in (made.nodes[a].per, made.nodes[b].per):
        raise TypeError("a and b of p = a p - b u are the same for all elements of a tensor")
    places = tuple((name, g._symbol(value).place) for name, value in after.items())
    used = {place for node in made.nodes for place in node.inputs}
    told: set[int] = set()
    for name, place in places:
        if name not in states:
            if made.nodes[place].op != "sum" or place in used or place in told:
                raise TypeError(f"{name} is no state, and no sum that is only told, and once")
            told.add(place)
    return Program(tuple(made.nodes), a, b, u, tuple(states), places, numbers)


def number(value: float) -> str:
    """A number as C reads it."""
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return repr(float(value))
