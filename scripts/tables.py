"""The README's tables of optimizers and schedules, written from the YAML files and the docstrings.

    python scripts/tables.py            write them
    python scripts/tables.py --check    code 1 and one line if they are out of date

They stand between `<!-- optimizers -->` and `<!-- /optimizers -->`, and the same for schedules.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lit_optim.reports.listing import ARXIV, LISTED_GROUPS, entries

README = Path(__file__).parent.parent / "README.md"


def main() -> None:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("readme", nargs="?", type=Path, default=README)
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    text = args.readme.read_text("utf-8")
    new = text
    for what, group in LISTED_GROUPS.items():
        before, begin, rest = new.partition(f"<!-- {what} -->\n")
        _, end, after = rest.partition(f"<!-- /{what} -->")
        if not end:
            sys.exit(f"tables: {args.readme} has no <!-- {what} --> ... <!-- /{what} -->")
        new = before + begin + folded(what, group) + end + after
    if new == text:
        return
    if args.check:
        sys.exit(f"tables: {args.readme} is out of date; run python scripts/tables.py")
    args.readme.write_text(new, "utf-8")


def folded(what: str, group: str) -> str:
    """The table of a group, under a line to unfold it."""
    rows = [
        f"| `{entry.name}` | {_cell(entry.headline)} | {_linked(_cell(entry.cited))} |"
        for entry in entries(group)
    ]
    head = ["| name | what it does | source |", "|---|---|---|"]
    title = f"<summary>{len(rows)} {what}</summary>"
    return "\n".join(["<details>", title, "", *head, *rows, "", "</details>", ""])


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*")


def _linked(source: str) -> str:
    return ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", source)


if __name__ == "__main__":
    main()
