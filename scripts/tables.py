"""Write the tables of the README and of docs/ that list what can be chosen.

    python scripts/tables.py            write them
    python scripts/tables.py --check    exit code 1 and one line if a table is out of date

A table stands between `<!-- name -->` and `<!-- /name -->`. Its rows come from the YAML files of
conf/ and from the docstrings of the classes and functions that they name. `make docs` runs this.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from lit_optim.config.places import groups
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


#: Page -> the tables in it, by the name of their markers.
PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"groups": make_group_table},
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
