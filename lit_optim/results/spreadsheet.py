"""Everything that is known of each run, as a CSV file that a spreadsheet opens safely."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lit_optim.errors import escape
from lit_optim.results.data import Report, Run, Tournament
from lit_optim.results.grouping import SEED, setting_of
from lit_optim.temporary import write_whole

#: What a spreadsheet takes for a formula, and runs.
FORMULA = re.compile(r"[=+\-@]")


def write_runs(report: Report | Tournament, path: Path) -> None:
    """Write a line for each run of a report, or of all tasks of a tournament, atomically.

    The columns: what the runs differ in or what was typed, the seed, in a search the study and the
    number of the trial (or what else the run is), how they ended, the metric
    (last and best value), each other validation metric and test, steps, gradient evaluations,
    seconds of training, milliseconds of a step, command and directory. Numbers have all digits.

    Raises:
        OSError: it cannot be written.
    """
    reports, runs = [report] if isinstance(report, Report) else report.tasks, report.runs
    named = [key for one in reports for key in (*one.columns, *one.varied)]
    typed = [key for run in runs for key in run.overrides if key != SEED]
    keys = list(dict.fromkeys([*named, *typed]))
    metrics = {one.metric for one in reports}
    metric = metrics.pop() if len(metrics) == 1 else "value"
    finals = list(dict.fromkeys(name for run in runs for name in run.finals))
    finals = [name for name in finals if name != metric]
    tests = list(dict.fromkeys(name for run in runs for name in run.tests))
    is_search = any(run.place for run in runs)
    header = [
        *(
            *keys,
            SEED,
            *(("study", "trial") if is_search else ()),
            "status",
            metric,
            f"best {metric}",
            *finals,
            *tests,
        ),
        *("steps", "evaluations", "seconds", "ms/step", "message", "command", "directory"),
    ]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(map(_safe, header))
    for run in runs:
        evaluations = run.history.evaluations[-1] if run.history.evaluations else math.nan
        row = [
            *(setting_of(run, key) for key in keys),
            run.seed,
            *(_place(run) if is_search else ()),
            run.status.value,
            *(_number(run.value), _number(run.best), *_numbers(run.finals, finals)),
            *_numbers(run.tests, tests),
            *(str(run.steps), _number(evaluations), _number(run.seconds)),
            *(_number(run.ms_per_step), run.message, run.command, str(run.directory)),
        ]
        table.writerow(map(_safe, row))
    write_whole(path, text.getvalue())


def _place(run: Run) -> tuple[str, str]:
    """The study of a run, and the number of its trial or what else it is."""
    if run.place is None:
        return "", ""
    role = run.place.role if run.place.trial is None else str(run.place.trial)
    return run.place.study, role


def _numbers(values: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return [_number(values.get(name, math.nan)) for name in names]


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(value)


def _safe(text: str) -> str:
    """A cell that is a number, or text in one line that no spreadsheet takes for a formula."""
    try:
        float(text)
    except ValueError:
        return f"'{escape(text)}" if FORMULA.match(text) else escape(text)
    return text
