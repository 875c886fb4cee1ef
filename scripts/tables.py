"""Write the tables of the README, of docs/ and of CHANGELOG.md that are made from the code.

    python scripts/tables.py            write them
    python scripts/tables.py --check    exit code 1 and one line if a table is out of date

A table stands between `<!-- name -->` and `<!-- /name -->`. Choices come from the YAML files of
conf/ and from the docstrings of what they name, commands from their declarations, moved names from
`lit_optim.moved_names`. `make docs` runs this.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from lit_optim.command_line.command import Command, Section
from lit_optim.commands import load_commands
from lit_optim.config.places import groups
from lit_optim.moved_names import MOVED
from lit_optim.reports.listing import ARXIV, entries

ROOT = Path(__file__).parent.parent
#: Groups in the README's table, each with what it decides.
GROUPS = {
    "optimizer": "how parameters are updated",
    "scheduler": "how the learning rate changes during the run",
    "param_groups": "which parameters get which weight decay and learning rate",
    "wrapper": "what is wrapped around the optimizer",
    "model": "the model; `custom` is yours",
    "data": "the data; `custom` is yours",
    "batch": "how many samples an update sees",
    "trainer": "devices and precision",
    "logger": "where metrics go",
}


def main() -> None:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help="the directory of README.md")
    args = parser.parse_args()
    for file, tables in PAGES.items():
        page = args.root / file
        old = page.read_text("utf-8")
        new = old
        for name, make_table in tables.items():
            new = replace_table(new, name, make_table(), page)
        if new == old:
            continue
        if args.check:
            sys.exit(f"tables: {page} is out of date; run python scripts/tables.py")
        page.write_text(new, "utf-8")


def replace_table(text: str, name: str, table: str, page: Path) -> str:
    """The text of a page with a new table between the two markers of `name`."""
    before, begin, rest = text.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not end:
        sys.exit(f"tables: {page} has no <!-- {name} --> ... <!-- /{name} -->")
    return before + begin + table + end + after


def make_entry_table(group: str, folder: str) -> str:
    """Every choice of a group with its description and source; a link where it has a page."""
    rows = ["| name | what it does | source |", "|---|---|---|"]
    for entry in entries(group):
        name = f"`{entry.name}`"
        if (ROOT / "docs" / folder / f"{entry.name}.md").is_file():
            name = f"[{name}]({folder}/{entry.name}.md)"
        rows.append(f"| {name} | {_cell(entry.headline)} | {_link(_cell(entry.cited))} |")
    return "\n".join(rows) + "\n"


def make_group_table() -> str:
    """The groups of conf/ with the names of all their choices."""
    rows = ["| group | decides | choices |", "|---|---|---|"]
    for group, decides in GROUPS.items():
        names = " ".join(f"`{name}`" for name in groups()[group])
        rows.append(f"| `{group}` | {decides} | {names} |")
    return "\n".join(rows) + "\n"


def make_reference(group: str, package: str) -> str:
    """A section of the API reference for every class or function of a package that has a name."""
    targets = dict.fromkeys(entry.target for entry in entries(group))
    return "\n".join(f"::: {target}\n" for target in targets if target.startswith(package))


def make_command_reference() -> str:
    """Every subcommand of `lit-optim`: what it does, examples, arguments."""
    parts = []
    for section in Section:
        parts.append(f"## {section.value[0].upper()}{section.value[1:]}")
        parts += [_describe(command) for command in load_commands() if command.section is section]
    return "\n\n".join(parts) + "\n"


def _describe(command: Command) -> str:
    parts = [f"### lit-optim {command.name}", f"{command.help[0].upper()}{command.help[1:]}."]
    if command.description:
        parts.append(f"```text\n{command.description.strip(chr(10))}\n```")
    rows = [f"| `{_cell(one.name)}` | {_cell(one.help)} |" for one in command.arguments]
    if rows:
        parts.append("\n".join(["| argument | meaning |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def make_moved_table() -> str:
    """Modules and names that have moved; the old ones still work."""
    rows = [f"| `{old}` | `{new}` |" for old, new in sorted(MOVED.items())]
    return "\n".join(["| old name | new name |", "|---|---|", *rows]) + "\n"


def make_package_table() -> str:
    """The packages of lit_optim, top first, with the first paragraph of their docstrings."""
    sys.path.insert(0, str(ROOT))  # where the tests are
    layers = import_module("tests.test_layers").LAYERS
    rows = ["| package | purpose |", "|---|---|"]
    for packages in reversed(layers):
        for package in sorted(packages):
            path = ROOT / "lit_optim" / package.replace(".", "/")
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            purpose = (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").split("\n\n")[0]
            rows.append(f"| `{package}` | {_cell(' '.join(purpose.split()))} |")
        rows.append("| | |")
    return "\n".join(rows[:-1]) + "\n"


#: Page -> the tables in it, by the name of their markers.
PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "CHANGELOG.md": {"moved": make_moved_table},
    "README.md": {"groups": make_group_table},
    "docs/commands.md": {"commands": make_command_reference},
    "docs/internals.md": {"packages": make_package_table},
    "docs/optimizers.md": {"optimizers": lambda: make_entry_table("optimizer", "optimizers")},
    "docs/schedules.md": {"schedules": lambda: make_entry_table("scheduler", "schedules")},
    "docs/reference_optimizers.md": {
        "reference": lambda: make_reference("optimizer", "lit_optim.optimizers.")
    },
    "docs/reference_schedules.md": {
        "reference": lambda: make_reference("scheduler", "lit_optim.schedules.")
    },
}


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*")


def _link(source: str) -> str:
    return ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", source)


if __name__ == "__main__":
    main()
