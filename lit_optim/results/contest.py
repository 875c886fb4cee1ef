"""Compares the contestants of a tournament: by final runs with fresh seeds, on each task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lit_optim.errors import UsageError, printable
from lit_optim.results.comparing import (
    NOTHING,
    choose_metric,
    judge,
    notes_on,
    which_counts,
    with_target,
)
from lit_optim.results.data import Report, Row, Run, Tournament
from lit_optim.results.grouping import setting_of
from lit_optim.results.places import TRIAL_ROLE
from lit_optim.results.profile import make_profile
from lit_optim.results.rows import find_edge, make_row, make_setting, order, ranked
from lit_optim.results.target import AUTO, STEP, choose_target
from lit_optim.results.tournament_record import Task, read_tournament
from lit_optim.results.tournament_record import Tournament as TournamentRecord
from lit_optim.runs.layout import FINAL, TOURNAMENT, UNTUNED
from lit_optim.untrusted import Unreadable

#: What is equal for all, and the column of a history that measures it.
BUDGETS = {"steps": STEP, "evaluations": "evaluations", "seconds": "seconds"}


def compare_tournaments(
    runs: Sequence[Run],
    title: str,
    metric: str | None = None,
    target: float | str | None = AUTO,
    notes: list[str] | None = None,
) -> Report | Tournament | None:
    """Compare the runs of tournaments, those of several as of one with all their tasks.

    Args:
        runs: at least one.
        title: of the report.
        metric: by its last value; None: the one that the runs are judged by.
        target: as for `compare`, of each task.
        notes: for the reader; gets a line for a record that cannot be read.

    Returns:
        The report of a single task, or that of several; None: these are no runs of a tournament.

    Raises:
        UsageError: as `compare`.
    """
    notes = [] if notes is None else notes
    roots = {run.place.root if run.place else None: None for run in runs}
    records: dict[Path, TournamentRecord] = {}
    for root in roots:
        if root is None or not (root / TOURNAMENT).is_file():
            return None
        try:
            records[root] = read_tournament(root)
        except Unreadable as error:
            notes.append(f"left out: {error}")
            return None
    by = {record.by for record in records.values()}
    if len(by) > 1:
        named = ", ".join(map(printable, sorted(by)))
        raise UsageError(
            f"these are tournaments of different keys: {named}; report them separately"
        )
    found = []
    for root, record in records.items():
        for task in record.tasks:
            studies = {entry.study for entry in task.entries}
            own = [r for r in runs if r.place and r.place.root == root and r.place.study in studies]
            if own:
                words = [root.name, task.name] if len(records) > 1 else [task.name]
                found.append((record, task, own, " ".join(filter(None, words))))
    if not found:
        return None
    if len(found) == 1:
        [(record, task, own, _)] = found
        more = [*notes, *_left_out(record), *_caveat(1)]
        return _compare_task(record, task, own, title, metric, target, more)
    tasks = [
        _compare_task(record, task, own, f"{title} · {name}", metric, target)
        for record, task, own, name in found
    ]
    measures = {BUDGETS[record.settings.budget] for record in records.values()}
    profile, told = make_profile(tasks, by.pop(), measures.pop() if len(measures) == 1 else STEP)
    told += dict.fromkeys(note for record in records.values() for note in _left_out(record))
    return Tournament(
        title,
        found[0][0].by,
        [name for _, _, _, name in found],
        tasks,
        profile,
        [*notes, *told, *_caveat(len(tasks))],
    )


def _left_out(record: TournamentRecord) -> list[str]:
    return [f"excluded: {name} ({why})" for name, why in record.left_out.items()]


def _caveat(tasks: int) -> list[str]:
    if tasks == 1:
        return ["this is one task at one budget; the ranking may differ at another"]
    return [f"these are {tasks} tasks, each at one budget; the ranking may differ at others"]


def _compare_task(
    record: TournamentRecord,
    task: Task,
    runs: Sequence[Run],
    title: str,
    metric: str | None,
    target: float | str | None,
    notes: Sequence[str] = (),
) -> Report:
    metric, mode = choose_metric(runs, metric)
    at = which_counts(runs, metric)
    runs = judge(runs, metric, mode, at)
    varied = list(dict.fromkeys(key for run in runs if run.place for key in run.place.searched))
    rows = []
    for entry in task.entries:
        own = [run for run in runs if run.place and run.place.study == entry.study]
        if own:
            values = {record.by: entry.contestant}
            rows.append(replace(_make_row(values, own, varied, mode), notes=entry.notes))
    rows.sort(key=lambda row: order(row.best, mode))
    rows = ranked(rows)
    failed = [printable(row.values[record.by]) for row in rows if row.has_failed]
    told = [f"no value, as its runs failed: {name}" for name in failed]
    told += [*_procedure(rows), *notes_on(runs, rows, metric), *notes]
    report = Report(title, metric, mode, [record.by], rows, runs, notes=told, varied=varied, at=at)
    reached, why = choose_target(report, target)
    return with_target(replace(report, target=reached, notes=[*filter(None, [why]), *told]))


def _procedure(rows: Sequence[Row]) -> list[str]:
    """How the values came about."""
    final = [row for row in rows if row.best.value.count]
    if not final:
        return ["no final run has ended: values in parentheses are those of the best trials"]
    trials = sorted({len(row.settings) for row in final})
    seeds = sorted({row.best.value.count for row in final})
    of = " to ".join(str(one) for one in dict.fromkeys((trials[0], trials[-1])))
    many = " to ".join(str(one) for one in dict.fromkeys((seeds[0], seeds[-1])))
    trial, seed = f"trial{'s' * (of != '1')}", f"seed{'s' * (many != '1')}"
    told = f"best of {of} {trial}, rerun on {many} fresh {seed}"
    if any(row.untuned for row in rows):
        told += "; untuned: the same seeds at the default lr"
    return [told]


def _make_row(
    values: Mapping[str, str], runs: Sequence[Run], varied: Sequence[str], mode: str
) -> Row:
    """The row of a contestant: its settings are its trials, and its final runs are what counts."""
    groups: dict[tuple[str, int | None], list[Run]] = {}
    for run in runs:
        if run.place:
            groups.setdefault((run.place.role, run.place.trial), []).append(run)
    made = {
        key: make_setting({**values, **{one: setting_of(own[0], one) for one in varied}}, own)
        for key, own in groups.items()
    }
    trials = [one for (role, _), one in made.items() if role == TRIAL_ROLE]
    final, untuned = made.get((FINAL, None)), made.get((UNTUNED, None))
    if not trials:
        trials = [final or next(iter(made.values()))]
    row = make_row(values, trials, mode)
    counts = make_row(values, list(made.values()), mode).counts
    if final is None:
        best = row.best
        so_far = best.value if best.value.count else best.so_far
        best = replace(best, value=NOTHING, so_far=so_far)
        return replace(row, best=best, untuned=untuned, counts=counts)
    chosen = next((one for one in trials if one.values == final.values), row.best)
    shown = make_row(values, [replace(final, trial=chosen.trial)], mode)
    edge = find_edge(chosen, trials) if not math.isnan(chosen.lr) else ""
    return replace(shown, settings=row.settings, edge=edge, untuned=untuned, counts=counts)
