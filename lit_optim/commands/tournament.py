"""`lit-optim tournament`: compare optimizers by equal trials and fresh seeds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from lit_optim.command_line.command import Argument, Command, Completion, Section
from lit_optim.runs.layout import TOURNAMENT


def run(args: argparse.Namespace) -> int | None:
    """Run a tournament, or read a finished one; write the lrs that it found."""
    words: list[str] = args.words
    directory = Path(words[0]) if len(words) == 1 and "=" not in words[0] else None
    if directory is None:
        directory = _typed_directory(words)
        if args.write_preset:
            _check_tasks(words, directory)
        code = _run_tournament(words, directory)
        if code or not args.write_preset:
            return code
    else:
        _show(directory)
    if args.write_preset:
        _write(directory)
    return None


def _typed_directory(words: Sequence[str]) -> Path:
    """Where a tournament is: as typed, or a new directory."""
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        if key in ("resume", "resume.from", "hydra.sweep.dir"):
            return Path(value.strip("'\""))
    return Path("runs") / f"{datetime.now():%Y-%m-%d/%H-%M-%S-%f}_tournament"


def _run_tournament(words: Sequence[str], directory: Path) -> int:
    from lit_optim.commands import load_command
    from lit_optim.errors import UsageError

    if not words:
        raise UsageError(
            "tournament: between which optimizers? For example: lit-optim tournament "
            "optimizer=adamw,muon,sgd data=digits"
        )
    keys = {word.lstrip("+").partition("=")[0] for word in words}
    lines = _with_group(words)
    if not keys & {"resume", "resume.from", "hydra.sweep.dir"}:
        lines.append(f"hydra.sweep.dir={directory}")
    try:
        load_command("train").run(argparse.Namespace(argv=["-m", *lines]))
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        return end.code or 0
    return 0


def _check_tasks(words: Sequence[str], directory: Path) -> None:
    """Refuse what no preset could be written of, before anything runs.

    Raises:
        UsageError: the tasks of the tournament.
    """
    from lit_optim.errors import UsageError
    from lit_optim.results.tournament_record import read_tournament
    from lit_optim.tournament.lines import plan_tournament
    from lit_optim.tournament.presets import check_tasks

    try:
        if (directory / TOURNAMENT).is_file():  # it is resumed
            planned = read_tournament(directory)
        else:
            planned = plan_tournament(_with_group(words))[1]
    except UsageError:  # any other mistake is told where the tournament is begun
        return
    check_tasks(planned, "--write-preset")


def _with_group(words: Sequence[str]) -> list[str]:
    """The overrides, which choose a group `tournament` at least."""
    keys = {word.lstrip("+").partition("=")[0] for word in words}
    is_chosen = keys & {"tournament", "resume", "resume.from"}
    return [*words] if is_chosen else [*words, "tournament=default"]


def _show(directory: Path) -> None:
    """Print the report of a tournament that has been run.

    Raises:
        UsageError: it is none, or no run of it has begun.
    """
    from lit_optim.errors import UsageError
    from lit_optim.printing import Console
    from lit_optim.results.reading import NoRun
    from lit_optim.results.showing import show_results
    from lit_optim.results.tournament_record import read_tournament

    read_tournament(directory)
    try:
        show_results(directory, Console())
    except NoRun:
        raise UsageError(
            f"{directory}: no run of this tournament has begun; resume it with "
            f"lit-optim tournament resume={directory}"
        ) from None


def _write(directory: Path) -> None:
    """Write the presets of the data of a tournament, and say what was written."""
    from lit_optim.errors import escape
    from lit_optim.tournament.presets import find_tuned, lr_text, write_preset

    for tuned in find_tuned(directory):
        path = write_preset(tuned)
        lrs = ", ".join(f"{name} {lr_text(lr)}" for name, lr in tuned.lrs.items())
        print(escape(f"{path}: {lrs}"))
        for name, why in tuned.left_out.items():
            print(escape(f"not written: {name} {why}"), file=sys.stderr)


COMMAND = Command(
    "tournament",
    Section.CHOOSE,
    "compare optimizers: tune the lr of each with equal trials, then rank them on fresh seeds",
    run,
    (
        Argument(
            "words",
            "key=value as for lit-optim train, with commas between optimizers; or the directory of "
            "a tournament",
            nargs="*",
            completion=Completion.OVERRIDES,
        ),
        Argument(
            "--write-preset",
            "write the best lrs to preset/<data>.yaml, for later runs",
            is_flag=True,
        ),
    ),
    """\
  lit-optim tournament optimizer=adamw,muon,sgd data=digits,mnist1d n_jobs=2
  lit-optim tournament runs/..._tournament --write-preset

Shorthand for lit-optim train -m tournament=default; accepts the same settings: tournament.seeds,
tournament.budget, search.trials. The preset is written to the checkout or, for your own data, to
--config-dir.""",
)
