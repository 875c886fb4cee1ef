"""What the command `lit-optim` runs: it lists and plots what can be chosen, without torch."""

from __future__ import annotations

import argparse
import math
import os
import runpy
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lit_optim import __version__
from lit_optim.command_line.completion import TRAINING, Command, candidates
from lit_optim.command_line.completion_scripts import SHELLS, completion_script
from lit_optim.command_line.help import keys
from lit_optim.command_line.listing import Entry, entries, matching
from lit_optim.config.places import OPTION, use_conf_dir
from lit_optim.environment import forget_ranks
from lit_optim.errors import UsageError, escape, first_line, suggest
from lit_optim.interrupts import exit_on_interrupt
from lit_optim.requirements import NEEDS
from lit_optim.system import allow_any_text
from lit_optim.threads import bound_spinning

USAGE_ERROR = 2
FAILURE = 1
#: The commands, and the group of conf/ that each lists.
GROUPS = {"optimizers": "optimizer", "schedules": "scheduler"}
DESCRIPTION = """\
what can be chosen in: lit-optim train optimizer=... scheduler=...

  lit-optim train optimizer=muon  train and test; lit-optim train --help lists everything
  lit-optim optimizers            a line for each, with its source
  lit-optim optimizers 'ada*'     those whose name fits, or has this in it
  lit-optim schedules linear      one in full: formula, source, arguments with their defaults
  lit-optim plot scheduler=wsd,linear trainer.max_steps=1000
                                  what they would do with the lr; see lit-optim plot --help
  lit-optim explain optimizer=muon scheduler=wsd
                                  what a run would do, and what looks like a mistake; no training
  lit-optim lr-range optimizer=adamw
                                  train a little while the lr rises, and see which one to take
  lit-optim board runs/...        TensorBoard on a run, a sweep or all of them
  lit-optim results runs/...      a table of a run, a sweep, or all runs below a directory
  lit-optim rerun runs/...        the same command again, in a new directory
  lit-optim doctor                what is installed, and whether it goes together
  eval "$(lit-optim completion)"  the tab key in bash; in zsh: completion zsh; in fish:
                                  lit-optim completion fish | source

--config-dir DIR adds choices of your own to each of them, as DIR/optimizer/mine.yaml.
"""
TRAIN = "train"
PLOT = "plot"
EXPLAIN, LR_RANGE = "explain", "lr-range"
#: Commands that take overrides as train.py does.
OF_RUNS = (PLOT, EXPLAIN, LR_RANGE)
BOARD, DOCTOR = "board", "doctor"
RERUN, RESULTS = "rerun", "results"
COMPLETION, COMPLETE = "completion", "complete"
COMMANDS = (TRAIN, *GROUPS, *OF_RUNS, BOARD, RESULTS, RERUN, DOCTOR, COMPLETION, COMPLETE)
PLOTTED = """\
what schedules would do with the lr, by the functions that train

  lit-optim plot scheduler=wsd,one_cycle scheduler.warmup=10% trainer.max_steps=1000
  lit-optim plot scheduler=wsd scheduler.shape=linear,1-sqrt --to wsd.png

Of each value in a list there is a curve. Under it stand the updates at which a phase begins or
ends, with their lr. They are counted from 0, here, in explain and in TensorBoard.
"""
COMPLETED = """\
for the tab key after lit-optim and python train.py; put the line into the file named

  ~/.bashrc                   eval "$(lit-optim completion bash)"
  ~/.zshrc                    eval "$(lit-optim completion zsh)"
  ~/.config/fish/config.fish  lit-optim completion fish | source
"""
EXPLAINED = """\
what a run would do: its length and where that comes from, the schedule, the groups, the state of
the optimizer, and what looks like a mistake; nothing is trained and nothing written

  lit-optim explain optimizer=muon scheduler=wsd trainer.max_epochs=10
"""
RANGED = """\
train a little while the lr rises, and see which one to take; groups keep their ratios

  lit-optim lr-range optimizer=adamw model=mlp
  lit-optim lr-range optimizer=sgd --steps 400 --from 1e-4 --to 10

Writes lr_range.png and lr_range.csv into runs/, and nothing else.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Answer a command line, by default `sys.argv`.

    Ends with code 0, 2 for a mistake, or 1 where the doctor finds something bad.
    """
    exit_on_interrupt()
    forget_ranks()
    allow_any_text()
    bound_spinning()
    try:
        _answer(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; nor shall Python try again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except UsageError as error:
        print(f"lit-optim: {first_line(error)}", file=sys.stderr)
        sys.exit(USAGE_ERROR)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see lit-optim --help")


def _answer(argv: Sequence[str]) -> None:
    directory, argv = _without_conf_dir(argv)
    words = [word for word in argv if not word.startswith("-")]
    commands = COMMANDS[:-1]  # `complete` is the shell's
    if words and words[0] == TRAIN:
        if words[1:] and words[1] in COMMANDS:
            raise UsageError(f"{words[1]} is a command itself: lit-optim {words[1]}, without train")
        _train(directory, argv)
        return
    use_conf_dir(directory)
    if words and words[0] == COMPLETE:  # the shell asks
        with suppress(UsageError):  # the directory may be what is being typed
            directory, _ = _without_conf_dir(argv[-1].split())
            use_conf_dir(directory)
        print("\n".join(candidates(argv[-1], _completable())))
        return
    if words and words[0] not in commands:
        near = suggest(words[0], commands) or f"; it is one of {', '.join(commands)}"
        raise UsageError(f"unknown command {words[0]!r}{near}")
    parser, of_runs = _parsers()
    if words and words[0] in OF_RUNS:
        given = list(argv)
        given.remove(words[0])
        ANSWERS[words[0]](of_runs[words[0]].parse_intermixed_args(given))
        return
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return
    if args.command == DOCTOR:
        from lit_optim.reports.installation import doctor

        if doctor(Console()):
            sys.exit(FAILURE)
        return
    if args.command == RESULTS:
        from lit_optim.reports.results import show_results

        show_results(args.directory, Console())
        return
    if args.command == RERUN:
        from lit_optim.command_line.prepare import rerun_line

        again = rerun_line(args.directory, args.overrides)
        print("lit-optim train", escape(shlex.join(again)), flush=True)
        _train(directory, [TRAIN, *again])
        return
    if args.command == COMPLETION:
        print(completion_script(args.shell), end="")
        return
    if args.command == BOARD:
        from lit_optim.reports.board import board

        board(args.directory, Console(), args.port, args.open)
    offered = entries(GROUPS[args.command])
    if args.pattern is None:
        _print_lines(offered)
        return
    found = matching(args.pattern, offered)
    if not found:
        near = suggest(args.pattern.strip("*?").lower(), [entry.name for entry in offered])
        near = near or f"; lit-optim {args.command} lists all {len(offered)}"
        raise UsageError(f"no {args.command.removesuffix('s')} fits {args.pattern!r}{near}")
    exact = [entry for entry in found if entry.name == args.pattern.lower()]
    if len(found) > 1 and not exact:
        _print_lines(found)
        return
    meant = (exact or found)[0]
    print(_in_full(meant))
    others = [entry.name for entry in found if entry != meant]
    if others:
        print(f"\nsee also: {', '.join(others)}")


def _without_conf_dir(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of --config-dir, which may stand anywhere, and what else was typed."""
    directory, rest = None, []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name != OPTION:
            rest.append(word)
        else:
            directory = value if equals else next(words, None)
            if not directory:
                raise UsageError(f"{OPTION} needs a directory, as in {OPTION} conf")
    return directory, rest


def _train(directory: str | None, argv: list[str]) -> None:
    """What train.py runs, as a module that the processes of a sweep or of a strategy can start."""
    given = list(argv)
    given.remove(TRAIN)
    sys.argv[1:] = [*([f"{OPTION}={directory}"] if directory else []), *given]
    runpy.run_module("lit_optim", run_name="__main__", alter_sys=True)


def _plot(args: argparse.Namespace) -> None:
    from lit_optim.reports import lr_plot as plot  # Hydra with it, which the listings do without
    from lit_optim.reports.lr_plan import planned

    if args.to is not None:
        plot.check_ending(args.to)
    plans = planned(args.overrides, args.steps_per_epoch)
    print(plot.shown(plans, shutil.get_terminal_size().columns))
    if args.to is not None:
        plot.write(plans, args.to)


def _explain(args: argparse.Namespace) -> None:
    sys.path.append(os.getcwd())  # where the user's own packages are
    from lit_optim.reports.explanation import explain

    explain(args.overrides, Console(width=None if sys.stdout.isatty() else 160))


def _lr_range(args: argparse.Namespace) -> None:
    sys.path.append(os.getcwd())
    from lit_optim.reports.lr_range import lr_range

    lr_range(args.overrides, Console(), args.steps, args.low, args.high)


MOST_DIGITS = 18  # of a number of steps
ANSWERS = {PLOT: _plot, EXPLAIN: _explain, LR_RANGE: _lr_range}


def _port(text: str) -> int:
    if not (text.isdecimal() and len(text) <= 5 and 0 < int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"must be in [1, 65535], got {text}")
    return int(text)


def _steps(text: str) -> int:
    if not text.isdecimal() or len(text) > MOST_DIGITS or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number > 0, got {text}")
    return int(text)


def _lr(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise argparse.ArgumentTypeError(f"must be a number > 0, got {text}")
    return value


def _path(text: str) -> Path:
    """What every path of every command is read by; a shell expands `~` where it is not quoted."""
    return Path(os.path.expanduser(text))


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """That of all commands, and those of which options may stand between overrides."""
    parser = _Parser(
        "lit-optim",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lit-optim {__version__}")
    commands_help = f"{', '.join((TRAIN, *GROUPS, *OF_RUNS, BOARD, RESULTS, RERUN, DOCTOR))}"
    commands_help += f" or {COMPLETION}"
    commands = parser.add_subparsers(
        dest="command", metavar="command", help=f"{commands_help}; --help after it says more"
    )
    for command, group in GROUPS.items():
        listing = commands.add_parser(
            command, description=f"what can be chosen with {group}=", allow_abbrev=False
        )
        listing.add_argument(
            "pattern", nargs="?", help="a name, a part of names, or shell-style such as '*adam*'"
        )
    of_runs: dict[str, _Parser] = {}
    for command, text in ((PLOT, PLOTTED), (EXPLAIN, EXPLAINED), (LR_RANGE, RANGED)):
        of_runs[command] = made = commands.add_parser(
            command,
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        made.add_argument("overrides", nargs="*", help="as for train.py: scheduler=wsd and so on")
    add = of_runs[PLOT].add_argument
    add("--to", type=_path, help="also write a picture or a table: .png .svg .csv")
    add("--steps-per-epoch", type=_steps, help="updates, where something is in epochs")
    add = of_runs[LR_RANGE].add_argument
    add("--steps", type=_steps, default=200, help="updates (200)")
    add("--from", type=_lr, dest="low", help="the first lr; by default well below any usual one")
    add("--to", type=_lr, dest="high", help="the last lr; by default well above")
    results = commands.add_parser(
        RESULTS, description="a table of runs, best first; their seeds averaged", allow_abbrev=False
    )
    results.add_argument("directory", type=_path, help="of a run, of a sweep, or above several")
    rerun = commands.add_parser(
        RERUN,
        description="run the command of a run or a sweep again in a new directory, and print it; "
        "allow and --config-dir, which the directory does not decide, are typed again",
        allow_abbrev=False,
    )
    rerun.add_argument("directory", type=_path, help="of a run or a sweep")
    rerun.add_argument("overrides", nargs="*", help="what shall be otherwise: seed=1 and so on")
    commands.add_parser(
        DOCTOR,
        description="versions, packages that clash, compiler, kernel cache, devices, write access",
        allow_abbrev=False,
    )
    viewer = commands.add_parser(
        BOARD,
        description="TensorBoard on a directory of runs, with what is looked at first",
        allow_abbrev=False,
    )
    add = viewer.add_argument
    add("directory", nargs="?", type=_path, default=Path("runs"), help="of runs (runs)")
    add("--port", type=_port, help="where to serve; by default 6006 or another free one")
    add("--open", action="store_true", help="open it in a browser")
    shells = commands.add_parser(
        COMPLETION, description=COMPLETED, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    shells.add_argument("shell", nargs="?", choices=SHELLS, default="bash", help="by default bash")
    return parser, of_runs


def _completable() -> dict[str, Command]:
    """The commands with their options, as far as the shell's tab key wants to know them."""
    parser, of_runs = _parsers()
    [choices] = [action.choices for action in parser._actions if action.dest == "command"]
    commands = {}
    for name, made in dict(choices or {}).items():
        options = [option for action in made._actions for option in action.option_strings]
        commands[name] = Command(
            [option for option in (*options, OPTION) if option.startswith("--")],
            group=GROUPS.get(name),
            words=list(SHELLS) if name == COMPLETION else (),
            takes_overrides=name in (*of_runs, RERUN),
            takes_path=name in (BOARD, RESULTS, RERUN),
        )
    return commands | {TRAIN: TRAINING}


def _print_lines(found: list[Entry]) -> None:
    """In a terminal as wide as that; in a pipe a line each, whatever its length."""
    rows = [(entry.name, entry.headline, entry.cited) for entry in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    console = Console()
    if not console.is_terminal:
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        print("\n".join(lines))
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    fits = sum(widths) + 2 * len(widths) <= console.width
    for name, line, source in rows:
        cells = [Text(name, "bold"), Text(line), Text(source, "dim")]
        table.add_row(
            *(cells if fits else [cells[0], Text("\n" if source else "").join(cells[1:])])
        )
    console.print(table)


def _in_full(entry: Entry) -> str:
    """The docstring, which has the formula and the source, and what `--help` of train.py says."""
    parts = [
        f"python train.py {entry.path.parent.name}={entry.name}",
        entry.explained,
        _asked_by(entry),
        keys(entry.path),
    ]
    return "\n\n".join(part for part in parts if part)


def _asked_by(entry: Entry) -> str:
    """What an optimizer asks of a run, and where a search for its lr looks."""
    lines = [f"It {NEEDS[need]}." for need in NEEDS if need in entry.needs]
    if entry.lr_range is not None:
        lines.append("A search for its lr looks from {:g} to {:g}.".format(*entry.lr_range))
    return "\n".join(lines)
