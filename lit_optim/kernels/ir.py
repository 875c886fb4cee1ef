"""The intermediate representation: a rule is called once, on symbols, and recorded as a program.

Symbols have the operators of numbers, and the primitives accept them. Values computed from
hyperparameters alone are computed once per call, values computed from sums over a tensor once per
tensor, both in double precision; only the rest is computed for each element.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias

from torch import Tensor

from lit_optim.kernels.primitives import PRIMITIVES, Primitive, Traceable, div

#: (g, p, s, h) -> a, b, u and the new states: p becomes a p − b u.
Rule = Callable[[Any, Any, Any, Any], tuple[Any, Any, Any, dict[str, Any]]]

#: A step over shards: before its last pass it yields the sums of each pass over the shards,
#: [tensors, sums] in the accumulation dtype, and is sent those over the whole tensors.
Passes: TypeAlias = Generator[Tensor, Tensor, None]

#: How often a value is computed: once per call, once per tensor or for each element.
Scope = Literal["call", "tensor", "element"]
#: From the coarsest to the finest.
SCOPES: tuple[Scope, ...] = ("call", "tensor", "element")


@dataclass(frozen=True)
class Node:
    """One operation of a program.

    Args:
        op: the name of a primitive, or `arg` for an input, `const` for a number, `sum` for a sum
            over the elements of the tensor.
        operands: the indices of its operands in the program.
        value: the name of an input, or the number.
        scope: how often it is computed.
        is_boolean: whether it is true or false, not a number.
        passes_before: the number of passes over the tensor that must come before it.
    """

    op: str
    operands: tuple[int, ...] = ()
    value: str | float = ""
    scope: Scope = "element"
    is_boolean: bool = False
    passes_before: int = 0


class Trace:
    """The operations of a rule in order, equal ones only once."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._indices: dict[Node, int] = {}

    def add(self, node: Node) -> Symbol:
        """Return the symbol of a node, which is added unless an equal one exists."""
        if node not in self._indices:
            self._indices[node] = len(self.nodes)
            self.nodes.append(node)
        return Symbol(self, self._indices[node])

    def symbol_of(self, value: Any) -> Symbol:
        """Return the symbol of a value: itself, or a constant for a Python number.

        Raises:
            TypeError: the value is neither.
        """
        if isinstance(value, Symbol):
            return value
        if isinstance(value, int | float):
            return self.add(Node("const", value=float(value), scope="call"))
        raise TypeError(f"a rule computes with numbers, not with a {type(value).__name__}")

    def record(self, primitive: Primitive, operands: Sequence[Any]) -> Symbol:
        """Add the node of a primitive of these operands."""
        indices = tuple(self.symbol_of(operand).index for operand in operands)
        nodes = [self.nodes[index] for index in indices]
        return self.add(
            Node(
                primitive.name,
                indices,
                scope=max((node.scope for node in nodes), key=SCOPES.index),
                is_boolean=primitive.is_boolean,
                passes_before=max(node.passes_before for node in nodes),
            )
        )


class Symbol(Traceable):
    """A number that is not known yet. It has the operators that the table of primitives names."""

    __slots__ = ("index", "trace")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, trace: Trace, index: int) -> None:
        self.trace, self.index = trace, index

    def record(self, primitive: Primitive, operands: tuple[Any, ...]) -> Symbol:
        """Record a primitive in the trace of this symbol."""
        return self.trace.record(primitive, operands)

    def __bool__(self) -> bool:
        raise TypeError("a rule cannot branch on a number: use where(condition, x, y)")

    def sum(self) -> Symbol:
        """Return the sum over the elements of the tensor."""
        node = self.trace.nodes[self.index]
        if node.scope != "element":
            raise TypeError("total and mean need a value that differs from element to element")
        passes = node.passes_before + 1
        return self.trace.add(Node("sum", (self.index,), scope="tensor", passes_before=passes))

    def mean(self) -> Symbol:
        """Return the mean over the elements of the tensor."""
        mean: Symbol = div(self.sum(), self.numel())
        return mean

    def numel(self) -> Symbol:
        """Return the number of elements of the tensor."""
        return self.trace.add(Node("arg", value="numel", scope="tensor"))


def _add_operators() -> None:
    """Give symbols the operators and methods of the primitives, as tensors have them."""

    def method(primitive: Primitive) -> Callable[..., Any]:
        return lambda self, *others: primitive(self, *others)

    def reflected_method(primitive: Primitive) -> Callable[..., Any]:
        return lambda self, other: primitive(other, self)

    for primitive in PRIMITIVES.values():
        if primitive.operator:
            setattr(Symbol, primitive.operator, method(primitive))
        if primitive.reflected_operator:
            setattr(Symbol, primitive.reflected_operator, reflected_method(primitive))


_add_operators()


@dataclass(frozen=True)
class Program:
    """A traced rule: p becomes a p − b u.

    Args:
        nodes: the operations in order, each after its operands; the inputs are g, p, `s.` and the
            states, `h.` and the scalars, and numel.
        a: the index of the parameter's factor, the same for all elements of a tensor.
        b: the index of the direction's factor, likewise.
        u: the index of the direction.
        states: the names of the states, in the order of the tensors.
        outputs: the indices of the new states by name, and under other names the reductions: sums
            that the rule returns to its caller.
        scalars: the names of the scalars, in the order of the numbers.
    """

    nodes: tuple[Node, ...]
    a: int
    b: int
    u: int
    states: tuple[str, ...]
    outputs: tuple[tuple[str, int], ...]
    scalars: tuple[str, ...]

    @property
    def reductions(self) -> dict[str, int]:
        """The indices of the sums that the rule returns besides the new states."""
        return {name: index for name, index in self.outputs if name not in self.states}

    @property
    def new_states(self) -> list[tuple[str, int]]:
        """The names and indices of the new states, in the order of the tensors."""
        outputs = dict(self.outputs)
        return [(name, outputs[name]) for name in self.states if name in outputs]

    @property
    def keeps_parameter(self) -> bool:
        """Whether p stays unchanged."""
        a, b = self.nodes[self.a], self.nodes[self.b]
        return (a.op, b.op) == ("const", "const") and (a.value, b.value) == (1.0, 0.0)

    @property
    def sums_by_pass(self) -> list[list[int]]:
        """The indices of the sums, grouped by the pass over the tensor that computes them."""
        sums = [index for index, node in enumerate(self.nodes) if node.op == "sum"]
        passes = max((self.nodes[index].passes_before for index in sums), default=0)
        return [
            [index for index in sums if self.nodes[index].passes_before == number]
            for number in range(1, passes + 1)
        ]

    @property
    def passes(self) -> list[list[int]]:
        """The same without the reductions: the sums that must be known before the last pass."""
        returned = set(self.reductions.values())
        kept = ([i for i in sums if i not in returned] for sums in self.sums_by_pass)
        return [sums for sums in kept if sums]

    def dependencies(self, targets: Sequence[int], known: Container[int] = ()) -> list[int]:
        """The indices of all nodes that `targets` are computed from, themselves included, in order.

        Sums count as known, and those in `known`: what they are computed from is left out.
        """
        found: set[int] = set()
        pending = list(targets)
        while pending:
            index = pending.pop()
            if index not in found:
                found.add(index)
                node = self.nodes[index]
                pending += () if node.op == "sum" or index in known else node.operands
        return sorted(found)


def trace_rule(rule: Rule, states: Sequence[str], h: Mapping[str, Any]) -> Program:
    """Call `rule` on symbols and return what it does to them.

    Args:
        rule: pure, as the torch executor would call it.
        states: the names of the tensors in s.
        h: the scalars; numbers become inputs, bools keep their values.

    Raises:
        TypeError: the rule branches on a number, uses something other than primitives and sums,
            returns an a or b that differs from element to element, or returns under a name that is
            no state something other than a sum, or a sum that it uses itself.
    """
    trace = Trace()
    scalars = tuple(name for name, value in h.items() if not isinstance(value, bool))
    known: dict[str, Any] = {n: value for n, value in h.items() if isinstance(value, bool)}
    for name in scalars:
        known[name] = trace.add(Node("arg", value=f"h.{name}", scope="call"))
    s = SimpleNamespace(**{name: trace.add(Node("arg", value=f"s.{name}")) for name in states})
    g, p = (trace.add(Node("arg", value=name)) for name in ("g", "p"))
    *step, outputs = rule(g, p, s, SimpleNamespace(**known))
    a, b, u = (trace.symbol_of(value).index for value in step)
    if "element" in (trace.nodes[a].scope, trace.nodes[b].scope):
        raise TypeError("a and b of p = a p - b u must be the same for all elements of a tensor")
    indices = tuple((name, trace.symbol_of(value).index) for name, value in outputs.items())
    _check_reductions(trace, indices, states)
    return Program(tuple(trace.nodes), a, b, u, tuple(states), indices, scalars)


def _check_reductions(
    trace: Trace, outputs: Sequence[tuple[str, int]], states: Sequence[str]
) -> None:
    used = {index for node in trace.nodes for index in node.operands}
    returned: set[int] = set()
    for name, index in outputs:
        if name not in states:
            if trace.nodes[index].op != "sum" or index in used or index in returned:
                raise TypeError(
                    f"the output {name} must be a state, or a sum that is returned once and not "
                    "used in the rule"
                )
            returned.add(index)
