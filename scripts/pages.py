"""Write the documentation pages of each optimizer and each family of schedules.

    python scripts/pages.py                     write the pages, and draw what is missing
    python scripts/pages.py --redraw adam,wsd   draw those of these choices again; all: every one
    python scripts/pages.py --check             code 1 and a line for each page that is out of date

A page combines what the code says (docstring, YAML, state measured after a step) with notes written
by hand: docs/notes/optimizers.yaml and docs/notes/schedules.yaml. Without notes an optimizer or a
schedule still gets a page.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from page_markdown import (
    cell,
    code,
    explain,
    explained_lead,
    join,
    lead,
    link,
    paragraph,
)
from rich.console import Console
from rich.progress import track

from lit_optim.config.places import listed_choices, text_of
from lit_optim.errors import UsageError
from lit_optim.optimizers import find_optimizer
from lit_optim.race.paths import LRS, Entrant, find_entrants
from lit_optim.reports.listing import Entry, entries
from lit_optim.requirements import REQUIREMENTS
from lit_optim.untrusted import read_yaml

DOCS = Path(__file__).parent.parent / "docs"
IMAGES = "images"
#: A placeholder for a class of the user's.
LEFT_OUT = ("custom",)
#: Rows and columns of the matrix whose state is measured.
SIDE = 256
SETTING = re.compile(r"^(\w+): (.*?)(?: # (.*))?$", re.MULTILINE)
FURTHER = "further"
#: The options of every optimizer, each with a value that is not its default.
ANOTHER_VALUE: Mapping[str, Any] = {
    "executor": "torch",
    "state_dtype": "bfloat16",
    "master": "split",
    "maximize": True,
    "decay": "independent",
    "cautious_weight_decay": True,
    "cautious": True,
    "clip_update": 1.0,
    "trust_ratio": True,
    "hyperball": True,
}
GENERATED = "<!-- Written by scripts/pages.py; edit docs/notes, the docstring or the YAML file. -->"

Notes = Mapping[str, Any]


def main() -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("docs", nargs="?", type=Path, default=DOCS, help="the directory (docs)")
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--redraw", metavar="NAMES", help="names with commas, or all")
    args = parser.parse_args()
    pages = write_pages()
    if args.check:
        stale = [name for name, text in pages.items() if _read(args.docs / name) != text]
        missing = [name for name in pictures() if not (args.docs / name).is_file()]
        for name in (*stale, *missing):
            print(f"pages: docs/{name} is out of date or missing; run python scripts/pages.py")
        sys.exit(bool(stale or missing))
    for name, text in pages.items():
        (args.docs / name).parent.mkdir(parents=True, exist_ok=True)
        (args.docs / name).write_text(text, "utf-8")
    known = set(pages)
    for folder in ("optimizers", "schedules"):  # pages of removed choices
        for path in (args.docs / folder).glob("*.md"):
            if f"{folder}/{path.name}" not in known:
                path.unlink()
    redraw_pictures(args.docs, (args.redraw or "").split(","))


def _read(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None


def redraw_pictures(docs: Path, names: list[str]) -> None:
    """Draw missing pictures, and those of these choices."""
    drawn = {
        file: draw
        for file, (name, draw) in pictures().items()
        if not (docs / file).is_file() or name in names or names == ["all"]
    }
    console = Console(stderr=True)
    for file, draw in track(drawn.items(), "drawing", console=console, transient=True):
        (docs / file).parent.mkdir(parents=True, exist_ok=True)
        draw(docs / file)


def pictures() -> dict[str, tuple[str, Callable[[Path], None]]]:
    """Every picture by its path below docs: its choice, and a function that draws it."""

    def draw(function: str, *arguments: str) -> Callable[[Path], None]:
        def into(file: Path) -> None:
            import page_pictures  # slow; not needed for a check

            getattr(page_pictures, function)(*arguments, file)

        return into

    found = {f"{IMAGES}/race.{ending}": ("race", draw("draw_race")) for ending in ("gif", "png")}
    for entry in optimizers():
        base = f"{IMAGES}/optimizers/{entry.name}"
        found[f"{base}-paths.png"] = (entry.name, draw("draw_paths", entry.name))
        found[f"{base}-lr.svg"] = (entry.name, draw("draw_sweep", entry.name))
    for entry in entries("scheduler"):
        file = f"{IMAGES}/schedules/{entry.name}.svg"
        found[file] = (entry.name, draw("draw_schedule", entry.name))
    return found


def optimizers() -> list[Entry]:
    """The optimizers that have a page."""
    return [entry for entry in entries("optimizer") if entry.name not in LEFT_OUT]


def read_notes(group: str) -> Notes:
    """The notes of docs/notes; empty if there is no such file."""
    path = DOCS / "notes" / f"{group}.yaml"
    notes: Notes = read_yaml(path) if path.is_file() else {}
    return notes


def write_pages() -> dict[str, str]:
    """The text of every page, by its path below docs."""
    notes = read_notes("optimizers")
    pages = {
        f"optimizers/{entry.name}.md": optimizer_page(entry, notes.get(entry.name, {}))
        for entry in optimizers()
    }
    pages["optimizers/index.md"] = optimizer_index()
    families = read_families()
    for name, (title, text, members) in families.items():
        pages[f"schedules/{name}.md"] = family_page(title, text, members)
    pages["schedules/index.md"] = schedule_index(families)
    return pages


def optimizer_page(entry: Entry, notes: Notes) -> str:
    """The page of one optimizer."""
    name = entry.name
    parts = [GENERATED, f"# {name}", lead(entry), "## Update rule", *explain(entry)]
    if "history" in notes:
        parts += ["## History", link(paragraph(notes["history"]))]
    when = [paragraph(notes["when"])] if "when" in notes else []
    when += [
        f"It {REQUIREMENTS[one]}."
        for one in REQUIREMENTS
        if one in entry.requirements and one != "dense"
    ]
    parts += ["## When to use it" if when else "## How to use it", *when]
    words = ["lit-optim train", f"optimizer={name}", *notes.get("overrides", "").split()]
    parts.append(code(" ".join(words), "bash"))
    parts += [
        "## On two landscapes",
        f"![Paths of {name} on two landscapes](../{IMAGES}/optimizers/{name}-paths.png)",
        paths_caption(name),
        code(
            f"lit-optim race optimizer=sgd,{name} on=rosenbrock,styblinski --to {name}.gif", "bash"
        ),
        "## Learning rate",
        f"![Loss of {name} against the lr](../{IMAGES}/optimizers/{name}-lr.svg)",
        SWEEP_CAPTION + (" " + FULL_BATCHES) * ("closure" in entry.requirements),
    ]
    if entry.lr_range is not None:
        low, high = entry.lr_range
        parts.append(f"Search its lr between {low:g} and {high:g}.")
    parts += ["## Memory", cost(name, notes), "## Arguments", *arguments(entry)]
    return join(parts)


SWEEP_CAPTION = paragraph("""
    The loss on the training set of scikit-learn's digits after 200 updates of an MLP of width 32,
    with batches of 64, a constant lr and one seed; adamw and sgd in gray. If a point is missing,
    the training diverged. The best lr differs between tasks; the width of the valley and the
    steepness of its right edge matter more.
""")
FULL_BATCHES = "This optimizer takes 10 steps on the whole training set instead."


def paths_caption(name: str) -> str:
    """The caption of the picture of the paths."""
    entrant = entrant_of(name)
    lr = f"the best of {len(LRS)} lrs for each landscape"
    if len(entrant.lrs) == 1:
        lr = (
            "its default lr" if entrant.lrs[0] is not None else "the step size that it finds itself"
        )
    text = f"300 steps with {lr}, from the black dot. Stars are minima, large ones global."
    if "roles" in entrant.requirements:
        text += " The two coordinates form one matrix of shape [1, 2]."
    return text if name == "sgd" else f"{text} Gray: sgd."


def cost(name: str, notes: Notes) -> str:
    """The bytes of state for each parameter."""
    if "cost" in notes:
        return paragraph(notes["cost"])
    tensors = measure_state(name)
    total = sum(tensors.values())
    if not total:
        return "None besides the parameters and their gradients."
    several = ", ".join(f"`{key}` {size:.2g}" for key, size in tensors.items())
    unit = "byte" if total == 1 else "bytes"
    return (
        f"State: {total:.2g} {unit} per parameter in float32 ({several}), measured on a matrix of "
        f"{SIDE} × {SIDE}. A parameter and its gradient take 4 bytes each."
    )


@cache
def entrant_of(name: str) -> Entrant:
    """An optimizer with its defaults, made by the configuration."""
    [entrant] = find_entrants([f"optimizer={name}"], 1)
    return entrant


@cache
def measure_state(name: str) -> dict[str, float]:
    """The bytes of each tensor of the state of a matrix after two steps, per parameter."""
    generator = torch.Generator().manual_seed(0)
    entrant = entrant_of(name)
    p = torch.randn(SIDE, SIDE, generator=generator).requires_grad_()
    group = {"params": [p], "param_names": ["weight"], "role": "hidden"}
    optimizer = entrant.make([group], None)

    def closure() -> torch.Tensor:
        gradient = p.detach().clone()
        p.grad = gradient.to_sparse(1) if "sparse" in entrant.requirements else gradient
        return gradient.square().sum() / 2

    for _ in range(2):
        optimizer.step(closure)
    tensors = {k: v for k, v in optimizer.state[p].items() if isinstance(v, torch.Tensor)}
    sizes = {k: v.numel() * v.element_size() / p.numel() for k, v in tensors.items()}
    return {key: size for key, size in sizes.items() if tensors[key].numel() > 1}


def arguments(entry: Entry) -> Iterator[str]:
    """The keys of a YAML file as a table, if there are any."""
    group = entry.path.parent.name
    text = text_of(entry.path)
    rows = [
        f"| `{group}.{key}` | `{cell(value)}` | {cell(comment or '')} |"
        for key, value, comment in SETTING.findall(text)
        if key not in ("_target_", "_partial_", "defaults")
    ]
    if rows:
        yield "\n".join(["| argument | default | meaning |", "|---|---|---|", *rows])
    if "options/" in text:
        shared = "every optimizer" + (" and every matrix optimizer" * ("options/matrix" in text))
        listed = f"`lit-optim optimizers {entry.name}` lists them"
        refused = [f"`{option}`" for option in refused_options(entry.name)]
        last = " and ".join([", ".join(refused[:-1]), *refused[-1:]]).removeprefix(" and ")
        but = f", except {last}" if refused else ""
        yield f"It also takes the options of {shared}{but}; {listed}."


@cache
def refused_options(name: str) -> list[str]:
    """The options of every optimizer that this one refuses, whatever else it is given."""
    kind, refused = find_optimizer(name), []
    others = {"weight_decay": 0.0, "decoupled_weight_decay": True}
    others = {key: others[key] for key in others if key in inspect.signature(kind).parameters}
    for option, value in ANOTHER_VALUE.items():
        dtype = torch.bfloat16 if option == "master" else torch.float32
        p = torch.ones(2, 2, dtype=dtype, requires_grad=True)
        group = {"params": [p], "param_names": ["weight"], "role": "hidden"}
        try:
            kind([group], **others, **{option: value})
        except UsageError:
            refused.append(option)
    return refused


def optimizer_index() -> str:
    """A table of all optimizers, with their memory."""
    notes = read_notes("optimizers")
    rows = []
    for entry in optimizers():
        own = notes.get(entry.name, {})
        size = "-" if "cost" in own else f"{sum(measure_state(entry.name).values()):.2g}"
        name = f"[{entry.name}]({entry.name}.md)"
        rows.append(f"| {name} | {cell(entry.headline)} | {size} | {link(cell(entry.cited))} |")
    head = "| optimizer | what it does | state, bytes per parameter | source |\n|---|---|--:|---|"
    return join(
        [
            GENERATED,
            "# Each optimizer",
            "Each optimizer has a page with its rule, its history, when to use it, its path on two "
            "landscapes, and how its result depends on the lr. "
            "[Choosing an optimizer](../optimizers.md) compares them on real tasks.",
            f"![Paths of four optimizers in a narrow valley](../{IMAGES}/race.gif)",
            "Race any of them side by side:",
            code(
                "lit-optim race optimizer=sgd,momentum,adam,muon on=rosenbrock --to race.gif",
                "bash",
            ),
            f"{head}\n" + "\n".join(rows),
        ]
    )


Families = dict[str, tuple[str, str, dict[str, str]]]


def read_families() -> Families:
    """Families by name: title, text, and when to use each member; the rest comes last."""
    known = dict.fromkeys(listed_choices("scheduler"), "")
    families: Families = {}
    for name, family in read_notes("schedules").items():
        members = {one: when for one, when in family["schedules"].items() if one in known}
        families[name] = (family["title"], family["text"], members)
    placed = {one for _, _, members in families.values() for one in members}
    rest = {one: when for one, when in known.items() if one not in placed}
    if rest:
        families[FURTHER] = ("Further schedules", "", rest)
    return families


def family_page(title: str, text: str, members: Mapping[str, str]) -> str:
    """The page of a family of schedules."""
    known = {entry.name: entry for entry in entries("scheduler")}
    parts = [GENERATED, f"# {title}", link(paragraph(text))]
    for name, when in members.items():
        entry = known[name]
        parts += [
            f"## {name}",
            f"![The lr of {name} over a run](../{IMAGES}/schedules/{name}.svg)",
            " ".join(filter(None, [explained_lead(entry), link(paragraph(when))])),
            *explain(entry, skip_first=True),
            code(f"lit-optim plot scheduler={name} trainer.max_steps=1000", "bash"),
            *arguments(entry),
        ]
    return join(parts)


def schedule_index(families: Families) -> str:
    """Every schedule with its picture."""
    headlines = {entry.name: entry.headline for entry in entries("scheduler")}
    parts = [
        GENERATED,
        "# Each schedule",
        paragraph("""
            The lr over a run, drawn by the code used in training; the dashed line is the momentum,
            if the schedule sets it. The lengths of some of torch's schedules are adapted to the
            pictures. [Schedules in detail](../schedules.md) explains how updates are counted and
            how to write your own.
        """),
    ]
    for page, (title, _, members) in families.items():
        rows = [
            f"| [{name}]({page}.md#{name.lower()}) "
            f"| ![The lr of {name}](../{IMAGES}/schedules/{name}.svg) | {cell(headlines[name])} |"
            for name in members
        ]
        parts += [
            f"## {title}",
            "\n".join(["| schedule | lr | what it does |", "|---|---|---|", *rows]),
        ]
    return join(parts)


if __name__ == "__main__":
    main()
