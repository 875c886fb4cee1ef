"""What the generators of C and Triton share: the tensors of a row, random bits, element values.

The variables of a kernel are named by the node that they hold: `d7` is its value in double
precision, `v7` its value in the precision that is computed in, `r7` its reciprocal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lit_optim.kernels.ir import Node, Program

EIGHT_BIT_FORMATS = ("int8", "uint8")
#: Formats of states that are stored with stochastic rounding.
STOCHASTIC_FORMATS = ("bfloat16", *EIGHT_BIT_FORMATS)


class KernelWriter:
    """Writes a program as source text; a subclass knows the language.

    Args:
        program: the traced rule.
        formats: of the tensors of a row: the parameter, its gradient and its states in the
            program's order, the scales of those in 8 bits, and the low bits of the parameter
            where it has them (int16).
        real: the name that the language has for the type that is computed in.
    """

    def __init__(self, program: Program, formats: Sequence[str], real: str) -> None:
        self.program, self.real = program, real
        names = ["p", "g", *(f"s_{name}" for name in program.states)]
        #: of the parameter, the gradient and the states
        self.format = dict(zip(names, formats, strict=False))
        self.in_8_bits = [n for n in names if self.format[n] in EIGHT_BIT_FORMATS]
        self.has_low_bits = formats[-1] == "int16"
        names += [f"{name}_scale" for name in self.in_8_bits]
        names += ["low"] if self.has_low_bits else []
        #: the format of every tensor of a row
        self.stored = dict(zip(names, formats, strict=True))
        #: the new states, by index, that the first pass stores
        self.early_states: dict[int, str] = {}
        #: the nodes whose values a tensor holds
        self.loaded: Mapping[int, str] = {}

    def targets_of_update(self) -> list[int]:
        """The indices of what the last pass computes, without the reductions."""
        program = self.program
        return [program.a, program.b, program.u, *(index for _, index in program.new_states)]

    def choose_early_states(self, passes: Iterable[list[int]]) -> None:
        """Let the first pass store new states if later ones then load fewer tensors in all.

        A direction of averages needs no gradient any more once these are stored. They are if none
        depends on a sum, the old ones are not needed later, and storing them loses no bits.

        Args:
            passes: the indices of what each pass before the last adds up.
        """
        program, nodes = self.program, self.program.nodes
        exact = "float64" if self.format["p"] == "float64" else "float32"
        found = {
            index: f"s_{name}"
            for name, index in program.new_states
            if self.format[f"s_{name}"] == exact
            and not nodes[index].passes_before
            and nodes[index].scope == "element"
            and nodes[index].op != "arg"
        }
        first, *later = [*passes, self.targets_of_update()]
        if not later or not found or self.in_8_bits or program.reductions:
            return

        def loads(targets: Sequence[int], known: Mapping[int, str]) -> set[str]:
            needed = program.dependencies(targets, known)
            read = [k for k in needed if nodes[k].scope == "element" and nodes[k].op == "arg"]
            stored = [known[k].replace("s_", "s.", 1) + "'" for k in needed if k in known]
            return {*stored, *(str(nodes[k].value) for k in read)}

        plain = sum(len(loads(targets, {})) for targets in (first, *later))
        reads = [loads([*first, *found], {}), *(loads(targets, found) for targets in later)]
        old = {name.replace("s_", "s.", 1) for name in found.values()}
        if sum(map(len, reads)) < plain and not old.intersection(*[set().union(*reads[1:])]):
            self.early_states = found

    def write_expression(self, node: Node, operands: Sequence[str], real: str) -> str:
        """Write a primitive of these operands, computed in the type `real`."""
        raise NotImplementedError

    def write_load(self, name: str) -> str:
        """Write the value of an element of a tensor, in the type that is computed in."""
        raise NotImplementedError

    def write_element_values(
        self, targets: Sequence[int], parameter: str = ""
    ) -> Iterable[tuple[int, Node, str]]:
        """Write what is computed for each element on the way to `targets`.

        Args:
            targets: indices of nodes.
            parameter: the variable of the parameter, where it is already loaded.

        Yields:
            The index of each node, the node and its expression.
        """
        nodes = self.program.nodes
        for index in self.program.dependencies(targets, self.loaded):
            node = nodes[index]
            if node.scope != "element":
                continue
            if index in self.loaded:
                value = self.write_load(self.loaded[index])
            elif node.op == "arg":
                name = str(node.value).replace(".", "_")
                value = (name == "p" and parameter) or self.write_load(name)
            elif node.op == "div" and nodes[node.operands[1]].scope != "element":
                # a division takes far longer than a product with the reciprocal
                value = f"v{node.operands[0]} * r{node.operands[1]}"
            else:
                value = self.write_expression(node, [f"v{i}" for i in node.operands], self.real)
            yield index, node, value

    def summands(self, sums: Iterable[int]) -> list[int]:
        """The indices of what these sums add up."""
        return [self.program.nodes[index].operands[0] for index in sums]

    def random_words(self, formats: Sequence[str]) -> list[int]:
        """The numbers of the 32-bit random words that states of these formats need.

        Two states share a word, 16 bits each.
        """
        stored = [self.format[f"s_{name}"] for name, _ in self.program.new_states]
        return sorted({k // 2 for k, format_ in enumerate(stored) if format_ in formats})


def indent(depth: int, lines: Iterable[str]) -> str:
    """Join lines, each indented by `depth` levels; C directives stay at the margin."""
    return "\n".join(line if line.startswith("#") else " " * 4 * depth + line for line in lines)
