"""The tables of docs/optimizers.md, from the directories of the tournaments that stand there.

    lit-optim tournament optimizer=adamw,muon data=mnist1d hydra.sweep.dir=runs/mnist1d
    python scripts/optimizer_results.py runs/mnist1d runs/digits             prints the tables
    python scripts/optimizer_results.py runs/mnist1d runs/digits --write     and writes them

A task stands where the documentation names its data: between `<!-- mnist1d -->` and
`<!-- /mnist1d -->`, with the command that repeats it, and a link to its whole report, a page in
docs/tournaments/. The pages know nothing of the machine: commands have no directories, and how
long a run took is left out, as others may have run beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lit_optim.errors import UsageError
from lit_optim.results.cells import choice_table, footnotes
from lit_optim.results.contest import compare_tournaments
from lit_optim.results.data import Report, Run, Tournament
from lit_optim.results.figure_files import write_profile
from lit_optim.results.page import make_page
from lit_optim.results.reading import read_runs
from lit_optim.runs.layout import SEARCH

DOCS = Path(__file__).parent.parent / "docs"
PAGE, FOLDER = "optimizers.md", "tournaments"
#: For all tasks: its marks, and its picture.
OVERALL, PICTURE = "all tasks", "images/profile.svg"
#: Columns that a reader of the documentation can do without.
LEFT_OUT = ("n", "trial", "trials")
#: Keys of a line that change nothing in its results.
WITHOUT_EFFECT = ("hydra/sweeper", "hydra.sweep.dir", "logger")
#: Bytes of a page.
LARGEST = 1_500_000


def shown_line(lines: Sequence[str]) -> list[str]:
    """Overrides as one types them: without the machine's directories and what has no effect."""
    shown = []
    for line in lines:
        key, sign, value = line.lstrip("+").partition("=")
        if key not in WITHOUT_EFFECT:
            value = value.rpartition("/")[2] if key.endswith("path") else value
            shown.append(f"{key}{sign}{value}")
    return shown


def publish(run: Run) -> Run:
    """A run as any machine has it: a command without directories, and no times, which differ."""
    words = shown_line([f"{key}={value}" for key, value in run.overrides.items()])
    return replace(
        run,
        command=shlex.join(["python", "train.py", *words]),
        message="",
        seconds=math.nan,
        history=replace(run.history, seconds=[math.nan] * len(run.history.step)),
    )


def read_tasks(directory: Path) -> Iterator[tuple[str, Report]]:
    """The tasks of a tournament by their data.

    Raises:
        UsageError: it is no tournament, or something in it cannot be read.
    """
    found = read_runs([directory])
    if found.notes:
        raise UsageError(found.notes[0])
    notes: list[str] = []
    result = compare_tournaments([publish(run) for run in found.runs], "tournament", notes=notes)
    if result is None or notes:
        raise UsageError(notes[0] if notes else f"{directory}: is no tournament")
    tasks = result.tasks if isinstance(result, Tournament) else [result]
    general = result.notes if isinstance(result, Tournament) else []
    for report in tasks:
        data = {name for run in report.runs if (name := run.choices.get("data"))}
        steps = {str(run.settings.get("trainer.max_steps", "")) for run in report.runs}
        if len(data) != 1:
            raise UsageError(f"{directory}: a task must have one choice of data=")
        name = data.pop()
        length = f", {steps.pop()} updates" if len(steps) == 1 else ""
        title = f"Tournament on {name}{length}"
        yield name, replace(report, title=title, notes=[*report.notes, *general])


def compare_all(directories: Sequence[Path]) -> Tournament | None:
    """All tasks as those of one tournament; None of a single one."""
    runs = [publish(run) for run in read_runs(directories).runs]
    result = compare_tournaments(runs, "all tasks")
    return result if isinstance(result, Tournament) and result.profile else None


def overall_block(tournament: Tournament) -> str:
    """What the documentation shows of all tasks: the scores, and a picture of the profile."""
    profile = tournament.profile
    assert profile is not None
    lines = [f"![Performance profiles over {len(tournament.tasks)} tasks]({PICTURE})", ""]
    lines += [f"| {tournament.by} | score |", "|---|--:|"]
    lines += [f"| `{name}` | {profile.scores[name]:.3f} |" for name in profile.contestants]
    return "\n".join(lines)


def command_of(directory: Path) -> str:
    """The line that repeats a tournament."""
    line = json.loads((directory / SEARCH).read_text("utf-8"))["line"]
    words = [word for word in shown_line(line) if word != "tournament=default"]
    return shlex.join(["lit-optim", "tournament", *words])


def table_of(report: Report) -> list[str]:
    """The table of a report, as lines of Markdown."""
    table = choice_table(report)
    kept = [place for place, head in enumerate(table.header) if head.name not in LEFT_OUT]
    header = [table.header[place] for place in kept]
    lines = [
        f"| {' | '.join(head.name for head in header)} |",
        f"|{'|'.join('--:' if head.is_number else '---' for head in header)}|",
    ]
    for row in table.rows:
        texts = [row[place].text for place in kept]
        first, _, marks = texts[0].partition(" ")
        texts[0] = f"`{first}`{' ' + marks if marks else ''}"
        lines.append(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |")
    return lines


def block_of(name: str, report: Report, command: str) -> str:
    """What the documentation shows of a task, as Markdown."""
    lines = ["```bash", command, "```", "", *table_of(report), ""]
    lines += [f"- \\[{number}\\] {note}." for number, note in enumerate(footnotes(report), 1)]
    lines += [f"- {note[:1].upper()}{note[1:]}." for note in report.notes]
    lines += ["", f"[The whole report]({FOLDER}/{name}.html): every run, and figures."]
    return "\n".join(lines)


def write_block(path: Path, name: str, block: str) -> None:
    """Write a block of a page between its marks.

    Raises:
        UsageError: it has no such marks.
        OSError: it cannot be written.
    """
    text = path.read_text("utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if begin not in text or end not in text:
        raise UsageError(f"{PAGE} has no {begin.strip()} ... {end}")
    before, _, rest = text.partition(begin)
    path.write_text(f"{before}{begin}{block}\n{end}{rest.partition(end)[2]}", "utf-8")


def main() -> None:
    """Print the tables, and write them and the pages if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path, nargs="+", help="of a tournament")
    parser.add_argument("--write", action="store_true", help="into the documentation")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of it")
    args = parser.parse_args()
    seen = set[str]()
    try:
        for directory in args.directory:
            command = command_of(directory)
            for name, report in read_tasks(directory):
                if name in seen:
                    raise UsageError(f"{directory}: data={name} has been shown already")
                seen.add(name)
                block = block_of(name, report, command)
                print(f"{name}\n\n{block}\n")
                page = make_page(report, None)
                if len(page.encode()) > LARGEST:
                    sys.exit(f"optimizer_results: the page of {name} has {len(page):,} bytes")
                if args.write:
                    (args.docs / FOLDER).mkdir(exist_ok=True)
                    (args.docs / FOLDER / f"{name}.html").write_text(page, "utf-8")
                    write_block(args.docs / PAGE, name, block)
        if whole := compare_all(args.directory):
            print(f"{OVERALL}\n\n{overall_block(whole)}")
            if args.write:
                write_profile(whole, args.docs / PICTURE)
                write_block(args.docs / PAGE, OVERALL, overall_block(whole))
    except (UsageError, OSError) as error:
        sys.exit(f"optimizer_results: {error}")


if __name__ == "__main__":
    main()
