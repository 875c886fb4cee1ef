"""How much of each optimizer's file is its algorithm: code lines, and the share of the rule.

    python scripts/measure_optimizers.py            print the table
    python scripts/measure_optimizers.py --check    exit 1 if docs/contributing.md has another table

A code line is a line that has code: no blank line, comment or docstring. The rule is the method
that computes the direction and the new states, the methods that compute its scalars, and the
functions of the same file that these call, each with its signature. State declarations,
hyperparameters, imports, checks of arguments and calls of torch's own steps are not counted.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
OPTIMIZERS = ROOT / "lit_optim/optimizers"
PAGE = ROOT / "docs/contributing.md"
BEGIN, END = "<!-- measured -->\n", "<!-- /measured -->"

#: The methods that compute a direction, its coefficients, and the scalars of both.
RULE = {
    "rule", "direction", "scalars", "numbers", "effective_lr", "coefficients", "initial_scalars",
    "next_scalars", "beta", "scale",
    "_estimate",  # of Prodigy: the lines of its algorithm that estimate d
}  # fmt: skip
NOT_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENCODING, tokenize.ENDMARKER,
}  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """The lines of a file.

    Args:
        name: the file's, without its ending.
        code: how many lines have code.
        rule: how many of them are the algorithm.
    """

    name: str
    code: int
    rule: int

    def row(self) -> str:
        """A row of the table."""
        share = 100 * self.rule / self.code if self.code else 0.0
        return f"| {self.name} | {self.code} | {self.rule} | {share:.0f} % |"


def measure(path: Path, name: str | None = None) -> Measure:
    """Count the code lines of a file, and those of its algorithm."""
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    lines = _code_lines(text, tree)
    rule = {line for node in _rule_functions(tree) for line in _span(node)}
    return Measure(name or path.stem, len(lines), len(lines & rule))


def _code_lines(text: str, tree: ast.Module) -> set[int]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {
        line
        for token in tokens
        if token.type not in NOT_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    return lines - {line for node in _docstrings(tree) for line in _span(node)}


def _docstrings(tree: ast.Module) -> Iterator[ast.stmt]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            yield node.body[0]


def _rule_functions(tree: ast.Module) -> list[ast.FunctionDef]:
    """The rule's methods, and the functions of the file that they call or pass on."""
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    counted: list[ast.FunctionDef] = []
    wanted = [name for name in functions if name in RULE]
    while wanted:
        node = functions[wanted.pop()]
        if node not in counted:
            counted.append(node)
            wanted += [name for name in _names(node) if name in functions]
    return counted


def _names(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
            yield node.attr


def _span(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def total(name: str, measures: list[Measure]) -> Measure:
    """The sum of several."""
    return Measure(name, sum(x.code for x in measures), sum(x.rule for x in measures))


def table() -> str:
    """The Markdown table: a row for each optimizer, and sums."""
    leaves = [measure(p) for p in sorted(OPTIMIZERS.glob("*.py")) if p.stem != "__init__"]
    base = [measure(p) for p in sorted((OPTIMIZERS / "base").glob("*.py"))]
    rows = [x.row() for x in sorted(leaves, key=lambda x: x.name)]
    sums = [total("**all optimizers**", leaves), total("**base/**", base)]
    sums.append(total("**both**", sums))
    head = ["| file | code lines | rule with its scalars | share |", "|---|---:|---:|---:|"]
    return "\n".join([*head, *rows, *(x.row() for x in sums), ""])


def main() -> None:
    """Print the table, write it into its page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write it into docs/contributing.md")
    parser.add_argument(
        "--check", action="store_true", help="check that docs/contributing.md has it"
    )
    args = parser.parse_args()
    text = table()
    if not (args.write or args.check):
        print(text, end="")
        return
    page = PAGE.read_text("utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        sys.exit(f"measure_optimizers: {PAGE} has no {BEGIN.strip()} ... {END}")
    new = before + begin + text + end + after
    if args.check and new != page:
        sys.exit(f"measure_optimizers: {PAGE} is out of date; run it with --write")
    if args.write:
        PAGE.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
