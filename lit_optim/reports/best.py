"""The best of several runs: how to repeat it, where it is, and a configuration made of it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lit_optim.command_line.translate import rerun_arguments
from lit_optim.config.places import groups
from lit_optim.config.reading import parse_overrides
from lit_optim.errors import UsageError, first_line, printable
from lit_optim.printing import Console, print_pairs
from lit_optim.programs import format_path, train_command
from lit_optim.results.best_run import find_best
from lit_optim.results.cells import format_interval, format_value
from lit_optim.results.data import Report, Run, Tournament
from lit_optim.results.showing import make_report
from lit_optim.runs.layout import CHECKPOINTS
from lit_optim.temporary import write_whole

GROUP = "experiment"
#: The checkpoints to name, and what they are.
KINDS = {"last.ckpt": "checkpoint", "best.ckpt": "best checkpoint"}


def show_best(
    directories: Sequence[Path], metric: str | None, export: Path | None, console: Console
) -> None:
    """Print the best run, and write what it was started with if asked to.

    Args:
        directories: with the runs.
        metric: by which they are compared; None: the one that they monitor.
        export: a file for `experiment=`; None: none.
        console: where to print.

    Raises:
        UsageError: no run has come to its end, or what it was started with cannot be exported.
    """
    if export is not None and export.suffix != ".yaml":
        raise UsageError(f"--export={export}: must end in .yaml")
    report = make_report(directories, metric, target=None)
    if isinstance(report, Tournament):
        raise UsageError(
            f"{report.title}: a tournament of {len(report.tasks)} tasks, each with its own best "
            "run; give the directory of a study"
        )
    run = find_best(report.rows[0], report.mode) if report.rows else None
    if run is None:
        raise UsageError(f"{report.title}: no run has finished with a {report.metric}")
    pairs = [("run", format_path(run.directory)), ("command", run.command)]
    pairs.append((report.metric, _describe_value(report, run)))
    for name, what in KINDS.items():
        if (file := run.directory / CHECKPOINTS / name).is_file():
            pairs.append((what, format_path(file)))
    if export is not None:
        what = f"The best of {report.title}: {report.metric} {format_value(run.value)}"
        text = export_experiment(run, what)
        try:
            export.parent.mkdir(parents=True, exist_ok=True)
            write_whole(export, text)
        except OSError as error:
            raise UsageError(f"--export={export}: {error.strerror or first_line(error)}") from None
        pairs.append(("train from it", _how_to_use(export)))
    print_pairs(console, pairs)


def _describe_value(report: Report, run: Run) -> str:
    mean = report.rows[0].best.value
    text = format_value(run.value)
    return f"{text}; over {mean.count} seeds {format_interval(mean)}" if mean.count > 1 else text


def _how_to_use(file: Path) -> str:
    folder, train = file.absolute().parent, train_command()
    if folder.name == GROUP:
        directory = shlex.quote(format_path(folder.parent))
        return f"{train} --config-dir {directory} {GROUP}={shlex.quote(file.stem)}"
    return f"put it into DIR/{GROUP}/ for {train} --config-dir DIR {GROUP}={shlex.quote(file.stem)}"


def export_experiment(run: Run, headline: str) -> str:
    """What a run was started with, as the text of a choice of the group `experiment`.

    Its overrides are checked as those of `lit-optim rerun`; they come from a file of the run.

    Args:
        run: with a directory.
        headline: for the listings.

    Raises:
        UsageError: one of them may not come from a file, or a file cannot say it.
    """
    choices: list[Any] = []
    values: dict[str, Any] = {}
    for override in parse_overrides(rerun_arguments(run.directory, [])):
        key = override.key_or_group
        if override.is_delete():
            raise UsageError(
                f"--export: {run.directory} was started with {override.input_line}, which a file "
                "cannot express; see lit-optim rerun"
            )
        if key not in groups():
            _put(values, key.split("."), override.value())
        elif key == GROUP and override.value() != "none":
            choices.insert(0, str(override.value()))
        elif key != GROUP:
            choices.append({f"override /{key}": override.value()})
    content = ({"defaults": [*choices, "_self_"]} if choices else {}) | values
    body: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return f"# @package _global_\n# {printable(headline)}\n{body}"


def _put(node: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value in nested mappings; later ones replace earlier ones."""
    *parents, last = path
    for name in parents:
        if not isinstance(node.get(name), dict):
            node[name] = {}
        node = node[name]
    node[last] = value
