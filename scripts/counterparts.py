"""Write the tables of docs/schedules.md: what each schedule equals, and the shapes of phases.

    python scripts/counterparts.py            write the tables
    python scripts/counterparts.py --check    exit with 1 and a message if they are out of date

The pairs are the ones that tests/schedules compares over whole runs. They are read from the source
of the tests, so that the table shows what is tested.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "schedules.md"
TABLES = {
    "counterparts": ("ROWS",),
    "counterparts_of_papers": ("PAPERS",),
    "counterparts_by_name": ("TRANSFORMERS", "TORCH"),
}
LIBRARIES = {"hf": "transformers'", "torchs": "torch's"}
MODULES = re.compile(
    r"\b(hf|torchs|library|decays|phase_parser|combinators|formula_schedules|"
    r"torch_schedules|transformers_schedules)\."
)


def main() -> None:
    """Write the tables, or check that they are up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))  # to import the tests
    old = PAGE.read_text("utf-8")
    new = replace_between(
        replace_between(old, "counterparts", counterparts_table()), "shapes", shapes_table()
    )
    if new == old:
        return
    if args.check:
        sys.exit(f"counterparts: {PAGE} is out of date; run python scripts/counterparts.py")
    PAGE.write_text(new, "utf-8")


def replace_between(page: str, name: str, table: str) -> str:
    """Put a table between its two marks in a page."""
    before, begin, rest = page.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not end:
        sys.exit(f"counterparts: {PAGE} has no <!-- {name} --> ... <!-- /{name} -->")
    return before + begin + table + end + after


def counterparts_table() -> str:
    """A row for each pair that is compared."""
    lines = ["| schedule | settings | equals | difference |", "|---|---|---|---|"]
    for module_name, tables in TABLES.items():
        module = import_module(f"tests.schedules.{module_name}")
        for table in tables:
            for name, rows in getattr(module, table).items():
                lines += [f"| `{name}` | {row_of(module, row)} |" for row in rows]
    return "\n".join(dict.fromkeys(lines)) + "\n"


def row_of(module: Any, row: Any) -> str:
    """The settings, the counterpart, and how they differ."""
    ours = call_of(module, row.ours)
    given = [ast.unparse(argument) for argument in ours.args]
    given += [f"{keyword.arg}={format_value(keyword.value)}" for keyword in ours.keywords]
    cells = [
        format_code(MODULES.sub("", " ".join(given)).replace("\n", " ")),
        theirs_of(module, row),
    ]
    return " | ".join([*cells, row.differs])


def theirs_of(module: Any, row: Any) -> str:
    """The call of a library, or the formula of a paper."""
    if row.formula is not None:
        text = inspect.getdoc(row.formula)
        assert text is not None
        first_word = text.split()[0]  # of a sentence, or of a formula
        text = text[0].lower() + text[1:] if first_word.isalpha() else text
        return f"the formula: {text.rstrip('.')}"
    call = call_of(module, row.theirs)
    root = ast.unparse(call.func).partition(".")[0]
    return f"{LIBRARIES[root]} {format_code(MODULES.sub('', ast.unparse(call)))}"


def format_code(text: str) -> str:
    """Format text as code in a table cell."""
    return f"`{text}`".replace("|", r"\|") if text else ""


def format_value(value: ast.expr) -> str:
    """Format a value as on a command line: strings without quotes."""
    is_text = isinstance(value, ast.Constant) and isinstance(value.value, str)
    return ast.unparse(value).strip("'") if is_text else ast.unparse(value).replace("'", "")


def call_of(module: Any, function: Any) -> ast.Call:
    """The call that a lambda of the module returns, with loop variables and helpers inlined."""
    source, arguments = function.__code__, inspect.signature(function).parameters
    key = (source.co_firstlineno, tuple(arguments))
    node = next(n for n in nodes(module.__file__, ast.Lambda) if signature(n) == key)
    given = {n: p.default for n, p in arguments.items() if p.default is not p.empty}
    call = InlineValues(given).visit(ast.parse(ast.unparse(node.body), mode="eval").body)
    assert isinstance(call, ast.Call)
    helper = getattr(module, ast.unparse(call.func), None)
    if helper is None:
        return call
    (inner,) = ast.parse(inspect.getsource(helper)).body
    assert isinstance(inner, ast.FunctionDef)
    (returned,) = inner.body
    assert isinstance(returned, ast.Return)
    assert isinstance(returned.value, ast.Call)
    kept = [keyword for keyword in returned.value.keywords if keyword.arg is not None]
    return ast.Call(returned.value.func, returned.value.args, [*kept, *call.keywords])


@cache
def nodes(path: str, kind: type[ast.AST]) -> list[Any]:
    """All nodes of a kind in a file."""
    tree = ast.parse(Path(path).read_text("utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, kind)]


def signature(node: ast.Lambda) -> tuple[int, tuple[str, ...]]:
    """The line and the arguments of a lambda, which together identify it."""
    return node.lineno, tuple(argument.arg for argument in node.args.args)


class InlineValues(ast.NodeTransformer):
    """Replaces names by their values."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:  # noqa: D102
        return ast.Constant(self.values[node.id]) if node.id in self.values else node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """Expand `**more`, a dict among the values."""
        self.generic_visit(node)
        keywords = []
        for keyword in node.keywords:
            value = keyword.value
            if keyword.arg is None and isinstance(value, ast.Constant):
                more: Any = value.value
                keywords += [ast.keyword(key, ast.Constant(v)) for key, v in more.items()]
            else:
                keywords.append(keyword)
        node.keywords = keywords
        return node


def shapes_table() -> str:
    """A row for each shape of phases."""
    module = import_module("lit_optim.schedules.shapes")
    shapes = {name: getattr(shape, "for_log_ratio", shape) for name, shape in module.NAMED.items()}
    shapes |= {f"{name}(k)": shape for name, shape in module.NUMBERED.items()}
    lines = ["| shape | fraction of the change that is done at x |", "|---|---|"]
    lines += [
        f"| `{name}` | {(inspect.getdoc(shape) or '').splitlines()[0]} |"
        for name, shape in shapes.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
