"""Train every optimizer and wrapper sharded, and write the table of docs/sharding.md.

    python scripts/sharding.py                      all of it: an hour on two cores
    python scripts/sharding.py --sample 3           3 scenarios for each optimizer and layout
    python scripts/sharding.py --optimizer adamw    the rows of some optimizers
    python scripts/sharding.py --list               what is trained, by name

Each cell is the result of many runs on several processes, compared with one process in float64; see
tests/sharding/matrix.py. A run that differs or fails is printed, and its row stays as it was.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable
from importlib import import_module
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.progress import track

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # where the tests are
PAGE = ROOT / "docs" / "sharding.md"
BEGIN, END = "<!-- sharded -->\n", "<!-- /sharded -->"
#: The number of processes; a smaller layout is on the first of them.
WORLD = 4
#: Results without a fault: the text says what is `excepted`; one process refuses what is `skipped`.
GOOD = {"equal", "excepted", "refused", "skipped"}
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
    parser.add_argument("--sample", type=int, help="how many scenarios, plain among them")
    parser.add_argument("--list", action="store_true", help="print the places and train nothing")
    args = parser.parse_args()
    places = [place for place in matrix.places() if place.optimizer in args.optimizer]
    if args.sample:
        places = draw_sample(places, args.sample)
    if args.list:
        print(*places, sep="\n")
        return
    results, faults = {}, 0
    progress = track(places, "runs", console=Console(stderr=True))
    for optimizer, own in groupby(progress, key=lambda place: place.optimizer):
        for place in own:
            kind, value = matrix.judge(place, WORLD)
            results[place] = kind
            if kind not in GOOD:
                faults += 1
                last = str(value).strip().splitlines()[-1]  # of a traceback
                print(f"{place}: {kind}: {last}", flush=True)
        write_rows(make_rows({p: kind for p, kind in results.items() if p.optimizer == optimizer}))
    write_rows(make_rows(wrapped_results(results, matrix)))
    counts = Counter(results.values())
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    if faults:
        sys.exit(
            f"sharding: {faults} of {len(results)} runs are wrong; their rows are as they were"
        )


def wrapped_results(results: dict[Any, str], matrix: Any) -> dict[Any, str]:
    """The results with a wrapper, each in the name of the wrapper instead of the optimizer.

    Those of an optimizer that is refused by itself are left out.
    """
    found = {}
    for place, kind in results.items():
        changes = matrix.scenarios_of(place.optimizer)[place.scenario]
        if "wrapper" in changes and results.get(place._replace(scenario="plain")) != "refused":
            wrapper = changes["wrapper"][0].rpartition(".")[2].lower()
            scenario = f"{place.optimizer} {place.scenario}"
            found[place._replace(optimizer=f"wrapper={wrapper}", scenario=scenario)] = kind
    return found


def draw_sample(places: list[Any], number: int) -> list[Any]:
    """For each optimizer and layout the plain scenario and some others, always the same ones."""
    drawn, kinds = [], groupby(places, key=lambda place: (place.optimizer, place.layout))
    for key, group in kinds:
        plain, *others = group
        drawn += [plain, *Random(str(key)).sample(others, number - 1)]
    return drawn


def make_rows(results: dict[Any, str]) -> dict[str, str]:
    """The rows of the table without faults, by name, from the kind of result of each place."""
    parts: dict[str, dict[Any, str]] = {}
    for place, kind in results.items():
        parts.setdefault(place.optimizer, {})[place] = kind
    rows = {}
    for name, own in parts.items():
        if set(own.values()) - GOOD:
            continue
        columns = [
            {place: kind for place, kind in own.items() if place.layout.startswith(starts)}
            for starts in COLUMNS.values()
        ]
        rows[name] = f"| `{name}` | {' | '.join(map(judge_cell, columns))} |"
    return rows


def judge_cell(results: dict[Any, str]) -> str:
    """What stands in a cell: `yes`, `no`, or `yes` but for some scenarios."""
    refused = {
        place.scenario.partition(":")[0] for place, kind in results.items() if kind == "refused"
    }
    if "plain" in refused:
        return "no"
    if refused:
        return f"yes, but not with {'; '.join(sorted(refused))}"
    return "yes"


def read_rows() -> dict[str, str]:
    """The rows of the table as it stands in the page."""
    table = PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    lines: Iterable[str] = table.splitlines()[2:]
    return {re.split(r"`", line)[1]: line for line in lines}


def order(name: str) -> tuple[bool, str]:
    """Optimizers by name, then wrappers."""
    return name.startswith("wrapper="), name


def write_rows(rows: dict[str, str]) -> None:
    """Write rows into the table; those of other optimizers stay."""
    rows = read_rows() | rows
    head = f"| optimizer | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}\n"
    table = head + "".join(rows[name] + "\n" for name in sorted(rows, key=order))
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table + END + rest.partition(END)[2], "utf-8")


if __name__ == "__main__":
    main()
