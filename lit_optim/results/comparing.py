"""Compares runs: settings, choices and their best settings, ranks, and the way to a target."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lit_optim.errors import UsageError, how_many, printable, suggest
from lit_optim.metric_names import best_value, infer_direction, worst_value
from lit_optim.results.data import Interval, Report, Row, Run, Setting
from lit_optim.results.grouping import LR, SEED, group_runs
from lit_optim.results.rows import by_trial, make_row, make_setting, order, ranked
from lit_optim.results.target import AUTO, choose_target, steps_to
from lit_optim.runs.status import Status

NOTHING = Interval(math.nan, math.nan, 0)


def judged_by(runs: Sequence[Run]) -> list[str]:
    """The metrics that runs are judged by, that of most runs first; one at least."""
    named = Counter(run.monitor for run in runs if run.monitor)
    if named:
        return [name for name, _ in named.most_common()]
    logged = Counter(name for run in runs for name in run.history.metrics)
    return ["val/loss" if "val/loss" in logged or not logged else logged.most_common(1)[0][0]]


def searched_by(runs: Sequence[Run]) -> list[str]:
    """The metric by which searches judge their runs, if all do by one that these have logged."""
    named = {run.place.metric if run.place else "" for run in runs}
    return list(named) if len(named) == 1 and any(named & {*_metrics(run)} for run in runs) else []


def compare_all(
    runs: Sequence[Run],
    title: str,
    by: Sequence[str] = (),
    target: float | str | None = AUTO,
    notes: Sequence[str] = (),
) -> list[Report]:
    """A report for each metric and direction that runs are judged by, that of most runs first.

    Runs that do not say by which metric are judged by the first, those of a search by that of it.
    """
    if searched_by(runs):
        return [compare(runs, title, None, by, target, notes)]
    first = judged_by(runs)[0]
    mode = _directions(runs, first)[0]
    parts: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        parts.setdefault((run.monitor, run.mode) if run.monitor else (first, mode), []).append(run)
    ordered = sorted(parts.items(), key=lambda part: (part[0] != (first, mode), -len(part[1])))
    named = len(ordered) > 1  # else these may be runs that have no metric at all
    return [
        compare(part, title, metric if named else None, by, target, () if place else notes)
        for place, ((metric, _), part) in enumerate(ordered)
    ]


def compare(
    runs: Sequence[Run],
    title: str,
    metric: str | None = None,
    by: Sequence[str] = (),
    target: float | str | None = AUTO,
    notes: Sequence[str] = (),
) -> Report:
    """Compare runs by a metric.

    Args:
        runs: at least one.
        title: of the report.
        metric: by its last value; None: the one that the runs are judged by.
        by: the keys that tell rows apart; by default all that differ but the lr and the seed.
        target: of the metric; `auto`: what the choice in the middle reaches, of two the better
            one; None: none.
        notes: for the reader, to which others are added.

    Raises:
        UsageError: the runs are judged by different metrics and none is given, or by one in
            different directions; no run has the metric, or a key.
    """
    metric, mode = choose_metric(runs, metric)
    at = which_counts(runs, metric)
    runs = judge(runs, metric, mode, at)
    keys, groups = group_runs(runs)
    for key in by:
        _check_key(key, runs, groups)
    searched = {LR, *(key for run in runs if run.place for key in run.place.searched)}
    columns = list(dict.fromkeys(by)) or [key for key in keys if key not in searched]
    if not columns:  # only the lr differs
        columns = ["optimizer"] if any("optimizer" in run.choices for run in runs) else keys
    varied = [key for key in keys if key not in columns]
    settings: dict[tuple[str, ...], list[Setting]] = {}
    for values, members in groups:
        row = tuple(values.get(key, "") for key in columns)
        shown = {key: values.get(key, "") for key in (*columns, *varied)}
        for part in by_trial(members):
            settings.setdefault(row, []).append(make_setting(shown, part))
    rows = [
        make_row(dict(zip(columns, row, strict=True)), of, mode) for row, of in settings.items()
    ]
    rows.sort(key=lambda row: order(row.best, mode))
    rows = ranked(rows)
    notes = [*notes, *notes_on(runs, rows, metric)]
    report = Report(title, metric, mode, columns, rows, runs, notes=notes, varied=varied, at=at)
    reached, why = choose_target(detailed(report), target)
    return with_target(replace(report, target=reached, notes=[*notes, *filter(None, [why])]))


def detailed(report: Report) -> Report:
    """The report, or of a single row one whose rows are the settings of that.

    If only the lr was swept, these are what a table compares; figures show them in one row.
    """
    if len(report.rows) != 1 or len(report.rows[0].settings) == 1:
        return report
    [whole] = report.rows
    if not whole.is_at_best:
        return report
    keys = list(report.varied or report.columns)
    rows = [
        make_row({key: one.values.get(key, "") for key in keys}, [one], report.mode)
        for one in whole.settings
    ]
    rows.sort(key=lambda row: order(row.best, report.mode))
    rows = [replace(row, edge=whole.edge if row.best is whole.best else "") for row in rows]
    return with_target(replace(report, columns=keys, varied=[], rows=ranked(rows)))


def with_target(report: Report) -> Report:
    """A report whose rows have the steps to its target."""
    if math.isnan(report.target):
        return report
    to, mode = report.target, report.mode
    rows = [replace(row, steps_to_target=steps_to(to, row.best, mode)) for row in report.rows]
    return replace(report, rows=rows)


def choose_metric(runs: Sequence[Run], metric: str | None) -> tuple[str, str]:
    """The metric by which runs are compared, and its mode.

    Raises:
        UsageError: none is given and they are judged by different ones; none has the one that is
            given; they disagree in the mode.
    """
    metric = _check_metric(runs, metric)
    mode, *others = _directions(runs, metric)
    if others:
        raise UsageError(
            f"the runs disagree on whether {printable(metric)} should be low or high (mode=min, "
            "mode=max); compare them separately"
        )
    return metric, mode


def _check_metric(runs: Sequence[Run], metric: str | None) -> str:
    if metric is None:
        metrics = searched_by(runs) or judged_by(runs)
        if len(metrics) > 1:
            counts = Counter(run.monitor for run in runs)
            named = ", ".join(f"{printable(name)} ({counts[name]})" for name in metrics)
            raise UsageError(
                f"the runs are judged by different metrics: {named}; choose one with --metric, "
                "or see lit-optim results"
            )
        return metrics[0]
    known = dict.fromkeys(name for run in runs for name in _metrics(run))
    if metric not in known:
        near = suggest(metric, known) or f"; they have {', '.join(known) or 'none'}"
        raise UsageError(f"--metric={metric}: no run has it{near}")
    return metric


def _metrics(run: Run) -> list[str]:
    return [*run.finals, *run.history.metrics, *run.tests, *([run.monitor] if run.monitor else [])]


def _directions(runs: Sequence[Run], metric: str) -> list[str]:
    """The modes by which runs are judged by a metric, that of most first; else by its name."""
    said = Counter(run.mode for run in runs if run.monitor == metric)
    if not said:
        said = Counter(run.place.mode for run in runs if run.place and run.place.metric == metric)
    return [mode for mode, _ in said.most_common()] or [infer_direction(metric) or "min"]


def which_counts(runs: Sequence[Run], metric: str) -> str:
    """Whether the `final` or the `best` value of runs counts, as their search has it."""
    of_search = {run.place.at if run.place and run.place.metric == metric else "" for run in runs}
    return "best" if of_search == {"best"} else "final"


def judge(runs: Sequence[Run], metric: str, mode: str, at: str = "final") -> list[Run]:
    """The runs with their values of this metric; the diverged ones have the worst of all.

    That is the worst last value of a run that did not diverge, or of any validation of any run.
    Of a diverged run itself only its validations count if there are such: else its value is that
    of the untrained model on a batch or two, which may be far off.
    """
    judged = [_with_metric(run, metric, mode) for run in runs]
    if at == "best":
        judged = [replace(run, value=run.best) for run in judged]
    ended = [run for run in judged if run.has_ended]
    known = [run.value for run in ended if run.status is not Status.DIVERGED]
    known += [value for run in judged for value in run.history.metrics.get(metric, ())]
    worst = worst_value(known, mode)
    if math.isnan(worst):
        worst = worst_value([run.value for run in ended], mode)
    return [replace(run, value=worst) if run.status is Status.DIVERGED else run for run in judged]


def _with_metric(run: Run, metric: str, mode: str) -> Run:
    if run.monitor == metric:
        return replace(run, mode=mode)
    logged = [value for value in run.history.metrics.get(metric, ()) if math.isfinite(value)]
    last = run.finals.get(metric, run.tests.get(metric, logged[-1] if logged else math.nan))
    best = best_value(logged or [last], mode)
    if run.status is Status.DIVERGED:
        last = worst_value(logged, mode)
    return replace(run, monitor=metric, mode=mode, value=last, best=run.bests.get(metric, best))


def _check_key(
    key: str, runs: Sequence[Run], groups: Sequence[tuple[Mapping[str, str], Sequence[Run]]]
) -> None:
    known = dict.fromkeys(key for values, _ in groups for key in values)
    if key == SEED:
        raise UsageError(f"--by={key}: rows are means over seeds")
    if key not in known:
        raise UsageError(f"--by={key}: no run has that key{suggest(key, known)}")


def notes_on(runs: Sequence[Run], rows: Sequence[Row], metric: str) -> list[str]:
    """What the reader of rows ought to know about their runs."""
    notes = []
    without = sum(run.has_ended and math.isnan(run.value) for run in runs)
    if without:
        of_all = f"{without} of {how_many(len(runs), 'run')}"
        notes.append(f"{of_all} {'has' if without == 1 else 'have'} no {printable(metric)}")
    compared = [one for row in rows for one in (row.settings if row.is_at_best else [row.best])]
    ended = [one for one in compared if one.value.count]
    repeated = sum(sum(run.has_ended for run in one.runs) - one.value.count for one in ended)
    if repeated:
        told = f"{how_many(repeated, 'run')} {'repeats' if repeated == 1 else 'repeat'}"
        notes.append(f"{told} a seed of the same setting; the last one of each seed counts")
    if sum(one.value.count for one in ended) == len(ended) > 1:
        notes.append("with one run each, differences cannot be tested; run several seeds")
    return notes
