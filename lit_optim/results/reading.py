"""Finds the directories of runs, no matter what started them, and reads each."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lit_optim.errors import UsageError, how_many
from lit_optim.metric_names import best_value, infer_direction, worst_value
from lit_optim.results.commands import command_of
from lit_optim.results.data import History, Run
from lit_optim.results.events import has_events, read_events
from lit_optim.results.history import read_history
from lit_optim.results.places import Places
from lit_optim.runs.job import JobRecord, is_number, is_text_list, is_text_mapping, parse_job
from lit_optim.runs.layout import CONFIG, FINGERPRINT, HISTORY, HYDRA, JOB, OVERRIDES, RESULT
from lit_optim.runs.locks import is_held
from lit_optim.runs.resume import read_fingerprint
from lit_optim.runs.short_names import by_key
from lit_optim.runs.status import Status
from lit_optim.untrusted import Unreadable, read_json_mapping, read_text, read_yaml, walk

#: Files that mark the directory of a run.
MARKS = {FINGERPRINT, RESULT, JOB, HISTORY}
#: A line of `config.yaml`, which has what was filled in.
FILLED_IN = re.compile(
    r"^(monitor|mode): *(?:'([^'\n]*)'|\"([^\"\n]*)\"|([^\s#'\"]+))", re.MULTILINE
)
#: That of a run which only tests a checkpoint.
ONLY_TESTS = re.compile(r"^train: *false\b", re.MULTILINE)
STAGES = ("final", "best", "test")
T = TypeVar("T")


class NoRun(UsageError):
    """A directory contains no run."""


@dataclass(frozen=True)
class Found:
    """The runs in directories.

    Args:
        runs: by the name of their directory.
        notes: a line for each file that could not be read.
    """

    runs: Sequence[Run]
    notes: Sequence[str]


def read_runs(directories: Sequence[Path]) -> Found:
    """Read all runs in and below directories, even those inside of another run.

    Runs that only test a checkpoint are left out beside others, whose choices they do not have.
    Hidden directories and links are left out. A damaged file costs what it would have said, and
    a note; whoever writes there meanwhile is not disturbed.

    Raises:
        NoRun: one contains no run.
        UsageError: one is not a directory, or nothing can be read.
    """
    places: dict[Path, Path] = {}  # by where they really are: directories may contain each other
    for directory in directories:
        found = find_runs(directory)
        if not found:
            raise NoRun(f"{directory}: contains no run")
        for path in found:
            places.setdefault(path.resolve(), path)
    runs, notes = [], list[str]()
    searches = Places(notes)
    for path in places.values():
        told = len(notes)
        run = read_run(path, notes)
        is_whole = len(notes) == told and any((path / name).exists() for name in MARKS)
        if is_whole or _says_something(run):  # else it is damaged, or has been removed meanwhile
            runs.append(replace(run, place=searches.find(path)))
    if not runs:
        raise UsageError(f"no run can be read: {', '.join(notes[:1]) or 'they are gone'}")
    trained = [run for run in runs if not run.only_tests]
    if trained and len(trained) < len(runs):
        tests = how_many(len(runs) - len(trained), "run")
        notes.append(f"left out: {tests} with train=false")
    return Found(trained or runs, notes)


def _says_something(run: Run) -> bool:
    """Whether something of a run could be read, if not everything."""
    return bool(run.settings or run.choices or run.overrides or run.history.step)


def find_runs(directory: Path) -> list[Path]:
    """Find the directories of runs in and below a directory, by name.

    One with event files alone is a run if it is not within another one, as of Lightning without
    this package.

    Raises:
        UsageError: it is not a directory.
    """
    if not directory.is_dir():
        raise UsageError(f"no such directory: {directory}")
    found: list[Path] = []
    marked: set[Path] = set()
    for path, entries in walk(directory):
        is_marked = any(
            entry.name in MARKS and not entry.is_dir(follow_symlinks=False) for entry in entries
        )
        if is_marked:
            marked.add(path)
        if is_marked or (has_events(entries) and not marked.intersection(path.parents)):
            found.append(path)
    return found


def read_run(run_dir: Path, notes: list[str]) -> Run:
    """Read a run; what cannot be read is added to the notes."""
    found: list[str] = []
    read = partial(_read, found)
    job = read(run_dir / JOB, lambda: parse_job(run_dir))
    result = read(run_dir / RESULT, lambda: parse_result(run_dir)) or {}
    settings = read_fingerprint(run_dir)
    if not settings:
        read(run_dir / FINGERPRINT, lambda: read_json_mapping(run_dir / FINGERPRINT))
    lines = read_overrides(run_dir) if job is None else job.overrides
    history = read_histories(run_dir, result, found)
    is_ours = job is not None or (run_dir / FINGERPRINT).exists()
    status = _status(job, result, is_ours, bool(settings.get("trainer.fast_dev_run")))
    if status is Status.RUNNING and not is_held(run_dir):
        if job and _said_now(run_dir) is not Status.RUNNING:  # it has just ended
            return read_run(run_dir, notes)
        status = Status.COMPLETED if result else Status.KILLED
    if status is Status.COMPLETED and result and _is_diverged(result):
        status = Status.DIVERGED
    notes += found
    run = Run(
        directory=run_dir,
        status=status,
        overrides=by_key(lines or ()),
        choices=(job and job.choices) or result.get("choices") or read_choices(run_dir),
        settings=settings,
        steps=_steps(result, history),
        seconds=_seconds(result, history),
        history=history,
        command=command_of(run_dir, lines),
        message=job.message if job else "",
        only_tests=ONLY_TESTS.search(_read_config(run_dir)) is not None,
    )
    return _judge(run, result)


def _read(notes: list[str], path: Path, parse: Callable[[], T]) -> T | None:
    """What a file says; None if it is missing, or is told in a note."""
    try:
        path.lstat()
    except OSError:
        return None
    try:
        return parse()
    except Unreadable as error:
        notes.append(f"left out: {error}")
        return None


def parse_result(run_dir: Path) -> dict[str, Any]:
    """Read the result of a run, `result.json`; what is no number in it is left out.

    Raises:
        Unreadable: it is missing, or lacks the metrics or the monitor.
    """
    path = run_dir / RESULT
    result = read_json_mapping(path)
    if not all(isinstance(result.get(stage), dict) for stage in STAGES):
        raise Unreadable(f"{path}: must have {', '.join(STAGES)}")
    if not isinstance(result.get("monitor"), str) or result.get("mode") not in ("min", "max"):
        raise Unreadable(f"{path}: must have a monitor, and a mode min or max")
    metrics = {
        stage: {name: float(value) for name, value in result[stage].items() if is_number(value)}
        for stage in STAGES
    }
    numbers = {
        key: float(value) if is_number(value := result.get(key)) else math.nan
        for key in ("seconds", "value", "steps")
    }
    choices = result.get("choices")
    return result | metrics | numbers | {"choices": choices if is_text_mapping(choices) else {}}


def read_result(run_dir: Path) -> dict[str, Any] | None:
    """Read the result of a run; None if it is missing or incomplete."""
    try:
        return parse_result(run_dir)
    except Unreadable:
        return None


def read_overrides(run_dir: Path) -> list[str] | None:
    """Read the overrides of a run as Hydra keeps them; None if they are unknown.

    Those of a start that has resumed it are left out.
    """
    try:
        lines = read_yaml(run_dir / OVERRIDES)
    except Unreadable:
        return None
    if not is_text_list(lines):
        return None
    return [line for line in lines if not line.lstrip("+").startswith("resume.")]


def read_choices(run_dir: Path) -> dict[str, str]:
    """Read the choice of each group as Hydra keeps them; empty if they are unknown."""
    try:
        choices = read_yaml(run_dir / HYDRA)["hydra"]["runtime"]["choices"]
    except (Unreadable, TypeError, LookupError):
        return {}
    if not isinstance(choices, dict):
        return {}
    return {
        key: name
        for key, name in choices.items()
        if isinstance(key, str) and isinstance(name, str) and not key.startswith("hydra/")
    }


def read_histories(run_dir: Path, result: Mapping[str, Any], notes: list[str]) -> History:
    """The validations of a run, from its `history.csv`; of an older one from its event files."""
    told: list[str] = []
    history = _read(told, run_dir / HISTORY, lambda: read_history(run_dir / HISTORY, notes))
    if history is None or not history.step:
        history = read_events(run_dir, result.get("final", {}), notes)
        told = [f"{note}; its event files are used" if history.step else note for note in told]
    notes += told
    return history


def _steps(result: Mapping[str, Any], history: History) -> int:
    steps = result.get("steps", math.nan)
    if math.isfinite(steps):
        return int(steps)
    return history.step[-1] if history.step else 0


def _seconds(result: Mapping[str, Any], history: History) -> float:
    seconds = float(result.get("seconds", math.nan))
    if math.isnan(seconds) and history.seconds:
        return history.seconds[-1]
    return seconds


def _status(
    job: JobRecord | None, result: Mapping[str, Any], is_ours: bool, is_only_tried: bool
) -> Status:
    """How a run ended, as its files say; `RUNNING` where its lock has to tell."""
    said = job.status if job else Status.UNKNOWN
    if said is Status.UNKNOWN:  # without a record, as of earlier versions
        if result:
            return Status.COMPLETED
        return Status.RUNNING if is_ours else Status.UNKNOWN
    if said is Status.COMPLETED and not result and not is_only_tried:
        return Status.FAILED  # the disk was full, or the result is damaged
    return said


def _said_now(run_dir: Path) -> Status:
    try:
        return parse_job(run_dir).status
    except Unreadable:
        return Status.RUNNING


def _is_diverged(result: Mapping[str, Any]) -> bool:
    """Whether it says so or, of an earlier version, the last value is no finite number."""
    value = result["final"].get(result["monitor"], 0.0)
    return result.get("diverged") is True or not math.isfinite(value)


def _judge(run: Run, result: Mapping[str, Any]) -> Run:
    """A run with its monitor and the values of that; without a result, those so far."""
    if result:
        monitor, mode = result["monitor"], result["mode"]
        finals, bests, tests = (result[stage] for stage in STAGES)
    else:
        monitor, mode = _filled_in(run)
        finals, bests, tests = _last_values(run.history), {}, {}
    logged = run.history.metrics.get(monitor, ())
    value = result.get("value", math.nan)
    value = finals.get(monitor, math.nan) if math.isnan(value) else value
    if run.status is Status.DIVERGED and not math.isfinite(value):
        value = worst_value(logged, mode)
    best = bests.get(monitor, best_value(logged, mode))
    return replace(
        run, monitor=monitor, mode=mode, value=value, best=best, finals=finals, bests=bests,
        tests=tests,
    )  # fmt: skip


def _filled_in(run: Run) -> tuple[str, str]:
    """The monitor of a run without a result, and its mode, from its configuration."""
    text = _read_config(run.directory)
    found = {match[1]: match[2] or match[3] or match[4] for match in FILLED_IN.finditer(text)}
    settings = {key: run.settings.get(key) or found.get(key) for key in ("monitor", "mode")}
    monitor = settings["monitor"]
    monitor = monitor if isinstance(monitor, str) and monitor != "null" else ""
    mode = settings["mode"] or infer_direction(monitor)
    return monitor, "max" if mode == "max" else "min"


def _read_config(run_dir: Path) -> str:
    """The text of `config.yaml`; empty if it cannot be read."""
    try:
        return read_text(run_dir / CONFIG)
    except Unreadable:
        return ""


def _last_values(history: History) -> dict[str, float]:
    """The last value of each metric."""
    last = {}
    for name, values in history.metrics.items():
        known = [value for value in values if not math.isnan(value)]
        if known:
            last[name] = known[-1]
    return last
