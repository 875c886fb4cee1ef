"""Draw the packages of lit_optim and who imports whom, for docs/internals.md.

    python scripts/plot_packages.py docs/images/packages.svg
    python scripts/plot_packages.py docs/images/packages_before.svg --package ../old/lit_optim

A box is a subpackage, or a module at the top level. It is drawn above all boxes that it imports; a
wider box has more lines of code. A line goes to each of them that no other of them leads to.
Packages that import each other share a level and are outlined in red.
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

PACKAGE = Path(__file__).parent.parent / "lit_optim"
#: A module that belongs to a lower level than its directory, as tests/test_layers.py says.
SEPARATE = ("runs.layout",)
WIDTH, ROW = 12.0, 8  # width of the picture, boxes side by side
SWEEPS = 4  # how often the rows are put in order


def main() -> None:
    """Read the imports, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--package", type=Path, default=PACKAGE)
    args = parser.parse_args()
    lines, imports = read_packages(args.package)
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "packages"}):
        figure = draw(lines, imports)
        figure.savefig(args.picture, transparent=True, metadata={"Date": None})


def read_packages(package: Path) -> tuple[dict[str, int], dict[str, set[str]]]:
    """Lines of each package, and the packages that it imports."""
    lines: dict[str, int] = defaultdict(int)
    imports: dict[str, set[str]] = defaultdict(set)
    for path in sorted(package.rglob("*.py")):
        name = package_of(path.relative_to(package).with_suffix("").parts)
        if name.startswith("__"):
            continue
        text = path.read_text("utf-8")
        lines[name] += text.count("\n")
        for node in ast.walk(ast.parse(text)):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            packages = {
                package_of(n.split(".")[1:]) for n in names if n.startswith(f"{package.name}.")
            }
            imports[name] |= packages - {name}
    return dict(lines), {name: imports[name] & lines.keys() for name in lines}


def package_of(parts: Sequence[str]) -> str:
    """The package that a dotted name within lit_optim belongs to."""
    dotted = ".".join(parts[:2])
    return dotted if dotted in SEPARATE else parts[0]


def levels_of(imports: dict[str, set[str]]) -> dict[str, int]:
    """How far up each package is: above all that it imports, unless they import each other."""
    reached = {name: reachable(name, imports) for name in imports}
    levels: dict[str, int] = {}
    while len(levels) < len(imports):
        for name in imports:
            below = {other for other in reached[name] if name not in reached[other]}
            if name not in levels and below <= levels.keys():
                levels[name] = 1 + max((levels[other] for other in below), default=-1)
    return levels


def reachable(name: str, imports: dict[str, set[str]]) -> set[str]:
    """The packages that a package imports, directly or through others."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = imports[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def direct(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """The imports of each package without those that another one of its imports leads to."""
    return {
        name: {
            other
            for other in others
            if not any(other in reachable(between, imports) for between in others - {other})
        }
        for name, others in imports.items()
    }


def place(rows: list[list[str]], lines_to: dict[str, set[str]]) -> dict[str, tuple[float, float]]:
    """Where each box is: in each row, from left to right as the boxes are that it has lines to."""
    places: dict[str, tuple[float, float]] = {}

    def spread(level: int) -> None:
        row = rows[level]
        for i, name in enumerate(row):
            places[name] = (i + 0.5) * WIDTH / len(row), float(level)

    def mean_place(name: str) -> float:
        ends = [places[o][0] for o in (*lines_to[name], *lines_from[name]) if o in places]
        return fmean(ends) if ends else places[name][0]

    lines_from = {name: {o for o in lines_to if name in lines_to[o]} for name in lines_to}
    for level in range(len(rows)):
        spread(level)
    for level in (*range(len(rows)), *reversed(range(len(rows)))) * SWEEPS:
        rows[level].sort(key=mean_place)
        spread(level)
    return places


def draw(lines: dict[str, int], imports: dict[str, set[str]]) -> Figure:
    """The picture: one level above the other."""
    levels = levels_of(imports)
    rows: list[list[str]] = []
    for level in range(max(levels.values()) + 1):
        packages = sorted(
            (name for name in levels if levels[name] == level), key=lambda r: -lines[r]
        )
        rows += [packages[i : i + ROW] for i in range(0, len(packages), ROW)]
    figure = Figure(figsize=(WIDTH, 0.85 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots()
    lines_to = direct(imports)
    places = place(rows, lines_to)
    for name, others in lines_to.items():
        for other in others:
            ends = zip(places[name], places[other], strict=True)
            axes.plot(*ends, color="tab:gray", alpha=0.6, linewidth=0.8, zorder=1)
    for name, (x, y) in places.items():
        mutual = any(name in reachable(other, imports) for other in imports[name])
        half = min(0.68, max(0.42 + lines[name] / 12000, 0.039 * len(name)))
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
        axes.text(x, y + 0.06, name, ha="center", va="center", fontsize=8, zorder=3)
        count = f"{lines[name]:,} lines"
        axes.text(x, y - 0.12, count, ha="center", va="center", fontsize=6, color="0.35", zorder=3)
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.axis("off")
    return figure


if __name__ == "__main__":
    main()
