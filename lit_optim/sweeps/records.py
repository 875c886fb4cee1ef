"""Reads and writes the list of a sweep's jobs; unreadable files are skipped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_optim.results.reading import read_overrides
from lit_optim.runs.job import is_text_list, read_job
from lit_optim.runs.layout import LOG, SWEEP
from lit_optim.sweeps.names import Overrides, job_key
from lit_optim.temporary import remove_leftovers, write_whole
from lit_optim.untrusted import Unreadable, read_json_mapping


def existing_jobs(sweep_dir: Path) -> dict[str, Overrides | None]:
    """Return the directories of a sweep, with the overrides of the job in each.

    The overrides are None if they are unknown, as in a directory that does not belong to the sweep.
    The directory of a job that was killed before it read its configuration is left out.
    """
    planned = planned_jobs(sweep_dir)
    return {
        path.name: planned.get(path.name) or overrides_of(path)
        for path in _directories(sweep_dir)
        if path.name in planned or not _is_barely_started(path)
    } | {name: overrides for name, overrides in planned.items() if (sweep_dir / name).is_dir()}


def planned_jobs(sweep_dir: Path) -> dict[str, Overrides]:
    """Return the jobs that the record of the sweep lists, by the name of their directory."""
    try:
        jobs = read_json_mapping(sweep_dir / SWEEP).get("jobs")
    except Unreadable:
        return {}
    if not isinstance(jobs, dict):
        return {}
    return {
        name: job_key(overrides)
        for name, overrides in jobs.items()
        if is_text_list(overrides)
        and name == os.path.basename(name)
        and name not in ("", ".", "..")
    }


def record_sweep(
    sweep_dir: Path, line: Sequence[str], names: Mapping[tuple[str, ...], str]
) -> None:
    """Write the list of jobs, before the first item starts.

    Args:
        sweep_dir: created if it is missing.
        line: the overrides as typed, with several values per key.
        names: of the directories, by overrides.

    Raises:
        OSError: the directory is not writable.
    """
    jobs = {name: list(overrides) for name, overrides in planned_jobs(sweep_dir).items()}
    jobs |= {name: list(overrides) for overrides, name in names.items()}
    sweep_dir.mkdir(parents=True, exist_ok=True)
    remove_leftovers(sweep_dir)
    write_json(sweep_dir / SWEEP, {"line": list(line), "jobs": jobs})


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically.

    Raises:
        OSError: the file cannot be written.
    """
    write_whole(path, json.dumps(content, indent=1))


def _directories(sweep_dir: Path) -> Iterator[Path]:
    try:
        yield from sorted(p for p in sweep_dir.iterdir() if p.is_dir() and p.name[0] != ".")
    except OSError:
        return


def _is_barely_started(run_dir: Path) -> bool:
    return {path.name for path in run_dir.iterdir()} == {LOG}


def overrides_of(run_dir: Path) -> Overrides | None:
    """Return the overrides of a run, whether of a sweep or not; None if they are unknown."""
    record = read_job(run_dir)
    lines = read_overrides(run_dir) if record is None else record.overrides
    return None if lines is None else job_key(lines)
