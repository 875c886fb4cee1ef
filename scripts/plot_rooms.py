"""Draw the rooms of the package and who imports whom, for docs/internals.md.

    python scripts/plot_rooms.py docs/images/rooms.svg
    python scripts/plot_rooms.py docs/images/rooms_before.svg --package ../old/lit_optim

A room is a subpackage, or a module at the top of the package. It is drawn above all rooms that it
imports; a wider box has more lines. Rooms that import each other share a level and
are outlined in red.
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

PACKAGE = Path(__file__).parent.parent / "lit_optim"
#: A module that belongs to a lower level than its directory, as tests/test_floors.py says.
SEPARATE = ("runs.layout",)
WIDTH, ROW = 12.0, 8  # width of the picture, boxes side by side


def main() -> None:
    """Read the imports, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--package", type=Path, default=PACKAGE)
    args = parser.parse_args()
    lines, imports = read_rooms(args.package)
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rooms"}):
        figure = draw(lines, imports)
        figure.savefig(args.picture, transparent=True, metadata={"Date": None})


def read_rooms(package: Path) -> tuple[dict[str, int], dict[str, set[str]]]:
    """Lines of each room, and the rooms that it imports."""
    lines: dict[str, int] = defaultdict(int)
    imports: dict[str, set[str]] = defaultdict(set)
    for path in sorted(package.rglob("*.py")):
        room = room_of(path.relative_to(package).with_suffix("").parts)
        if room.startswith("__"):
            continue
        text = path.read_text("utf-8")
        lines[room] += text.count("\n")
        for node in ast.walk(ast.parse(text)):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            rooms = {room_of(n.split(".")[1:]) for n in names if n.startswith(f"{package.name}.")}
            imports[room] |= rooms - {room}
    return dict(lines), {room: imports[room] & lines.keys() for room in lines}


def room_of(parts: Sequence[str]) -> str:
    """The room of a dotted name within the package."""
    dotted = ".".join(parts[:2])
    return dotted if dotted in SEPARATE else parts[0]


def levels_of(imports: dict[str, set[str]]) -> dict[str, int]:
    """How far up each room is: above everything that it imports, unless they import each other."""
    reached = {room: reachable(room, imports) for room in imports}
    levels: dict[str, int] = {}
    while len(levels) < len(imports):
        for room in imports:
            below = {other for other in reached[room] if room not in reached[other]}
            if room not in levels and below <= levels.keys():
                levels[room] = 1 + max((levels[other] for other in below), default=-1)
    return levels


def reachable(room: str, imports: dict[str, set[str]]) -> set[str]:
    """The rooms that a room imports, directly or through others."""
    found: set[str] = set()
    waiting = [room]
    while waiting:
        new = imports[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def draw(lines: dict[str, int], imports: dict[str, set[str]]) -> Figure:
    """The picture: one level above the other, a line for each import."""
    levels = levels_of(imports)
    rows: list[list[str]] = []
    for level in range(max(levels.values()) + 1):
        rooms = sorted((room for room in levels if levels[room] == level), key=lambda r: -lines[r])
        rows += [rooms[i : i + ROW] for i in range(0, len(rooms), ROW)]
    figure = Figure(figsize=(WIDTH, 0.85 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots()
    places = {
        room: ((i + 0.5) * WIDTH / len(row), float(level))
        for level, row in enumerate(rows)
        for i, room in enumerate(row)
    }
    for room, others in imports.items():
        for other in others:
            ends = zip(places[room], places[other], strict=True)
            axes.plot(*ends, color="tab:gray", alpha=0.35, linewidth=0.7, zorder=1)
    for room, (x, y) in places.items():
        mutual = any(room in reachable(other, imports) for other in imports[room])
        half = min(0.68, 0.42 + lines[room] / 12000)
        box = FancyBboxPatch(
            (x - half, y - 0.22),
            2 * half,
            0.44,
            boxstyle="round,pad=0.02",
            facecolor="#e8eaf6",
            edgecolor="tab:red" if mutual else "#3f51b5",
            zorder=2,
        )
        axes.add_patch(box)
        axes.text(x, y + 0.06, room, ha="center", va="center", fontsize=8, zorder=3)
        count = f"{lines[room]:,} lines"
        axes.text(x, y - 0.12, count, ha="center", va="center", fontsize=6, color="0.35", zorder=3)
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.axis("off")
    return figure


if __name__ == "__main__":
    main()
