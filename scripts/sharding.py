"""Train every optimizer and wrapper sharded, and write the table of docs/sharding.md.

    python scripts/sharding.py                      all of it: half an hour to an hour
    python scripts/sharding.py --optimizer adamw    the rows of some optimizers
    python scripts/sharding.py --list               what is trained, by name

Each cell is the result of many runs on several processes, compared with one process in float64; see
tests/sharding/matrix.py. Where a run differs or fails, it is printed, and the table is not written.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # where the tests are
PAGE = ROOT / "docs" / "sharding.md"
BEGIN, END = "<!-- sharded -->\n", "<!-- /sharded -->"
#: The columns, each with the beginnings of the names of its layouts.
COLUMNS = {
    "FSDP2": ("fsdp2 of",),
    "HSDP": ("hsdp",),
    "FSDP2 + TP": ("fsdp2 and tp",),
    "DTensor": ("rows", "columns", "copies", "blocks", "mixed"),
    "DDP": ("ddp",),
    "ZeRO": ("zero",),
}


def main() -> None:
    """Train, and write the table."""
    matrix: Any = import_module("tests.sharding.matrix")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimizer", nargs="+", choices=matrix.NAMES, default=matrix.NAMES)
    parser.add_argument("--list", action="store_true", help="print the places and train nothing")
    args = parser.parse_args()
    places = [place for place in matrix.places() if place.optimizer in args.optimizer]
    if args.list:
        print(*places, sep="\n")
        return
    results, faults = {}, 0
    for place in places:
        kind, value = results[place] = matrix.judge(place)
        if kind not in ("equal", "rounded", "refused", "skipped"):
            faults += 1
            print(f"{place}: {kind}: {value}", flush=True)
    counts = {kind: sum(kind == k for k, _ in results.values()) for kind, _ in results.values()}
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    if faults:
        sys.exit(f"sharding: {faults} of {len(results)} runs are wrong; the table is as it was")
    write_rows(make_rows(results))


def make_rows(results: dict[Any, tuple[str, Any]]) -> dict[str, str]:
    """The rows of the table, by optimizer or wrapper."""
    rows = {}
    for optimizer in dict.fromkeys(place.optimizer for place in results):
        own = {p: kind for p, (kind, _) in results.items() if p.optimizer == optimizer}
        cells = [judge_cell(_in_column(own, column)) for column in COLUMNS]
        rows[optimizer] = f"| `{optimizer}` | {' | '.join(cells)} |"
    return rows


def _in_column(results: dict[Any, str], column: str) -> dict[Any, str]:
    starts = COLUMNS[column]
    return {p: kind for p, kind in results.items() if p.layout.startswith(starts)}


def judge_cell(results: dict[Any, str]) -> str:
    """`yes`, `yes*` with other rounding, `no`, or `yes, but not with` what was refused."""
    refused = {place.scenario for place, kind in results.items() if kind == "refused"}
    if not refused:
        return "yes*" if "rounded" in results.values() else "yes"
    if "plain" in refused:
        return "no"
    return f"yes, but not with {'; '.join(sorted(map(name_scenario, refused)))}"


def name_scenario(scenario: str) -> str:
    """The name of a scenario, without what a mixture is made of."""
    return scenario.partition(":")[0]


def read_rows() -> dict[str, str]:
    """The rows of the table as it stands in the page."""
    table = PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    lines: Iterable[str] = table.splitlines()[2:]
    return {re.split(r"`", line)[1]: line for line in lines}


def write_rows(rows: dict[str, str]) -> None:
    """Write rows into the table; those of other optimizers stay."""
    rows = read_rows() | rows
    head = f"| optimizer | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}\n"
    table = head + "".join(rows[name] + "\n" for name in sorted(rows))
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table + END + rest.partition(END)[2], "utf-8")


if __name__ == "__main__":
    main()
