"""`job.json`: what a run says about itself when it starts and when it ends.

The run writes it, no matter what started it; a launcher that saw a process end without a word
completes it. Later readers find out here how a run ended.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from lit_optim.config.sweep_settings import OF_THE_SWEEP
from lit_optim.runs.layout import JOB
from lit_optim.runs.status import Status
from lit_optim.temporary import write_whole
from lit_optim.untrusted import Unreadable, read_json_mapping

#: Overrides that concern a sweep as a whole, not a run.
WHOLE_SWEEP = re.compile(rf"[+~]*({OF_THE_SWEEP}|hydra\.[\w.]+\b)")
#: Overrides that say where and how a run is started, not which run it is.
NOT_OF_THE_RUN = re.compile(r"[+~]*(hydra|resume)[./=]")
WITHOUT_RESULT = "ended without a result"
#: Exit codes after SIGHUP, Ctrl-C and SIGTERM.
SIGNALED = {129, 130, 143}


@dataclass(frozen=True)
class JobRecord:
    """What `job.json` says.

    Args:
        overrides: of the task, one value a key, without those of `hydra` and `resume`.
        exit_code: of the process, negative if a signal ended it; None while it runs.
        choices: of each group; empty if an earlier version wrote the record.
        status: how it ended; `RUNNING` also where the process was killed since.
        message: one line on how it ended, if that needs one.
        seconds: since the start, in wall time; NaN if unknown.
        host: the machine.
        pid: of the process; 0 if unknown.
        started: the time in ISO format.
        versions: of the packages.
    """

    overrides: list[str]
    exit_code: int | None
    choices: dict[str, str]
    status: Status = Status.UNKNOWN
    message: str = ""
    seconds: float = math.nan
    host: str = ""
    pid: int = 0
    started: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to do, and a result to read."""
        return self.status.is_done


def own_record(
    overrides: Sequence[str], choices: Mapping[str, str], versions: Mapping[str, str]
) -> JobRecord:
    """The record of a run that starts in this process now.

    Args:
        overrides: as typed, with or without those that are not of the run.
        choices: of each group.
        versions: of the packages.
    """
    return JobRecord(
        overrides=[line for line in overrides if not NOT_OF_THE_RUN.match(line)],
        exit_code=None,
        choices=dict(choices),
        status=Status.RUNNING,
        seconds=0.0,
        host=socket.gethostname(),
        pid=os.getpid(),
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        versions=dict(versions),
    )


def write_job(run_dir: Path, record: JobRecord) -> None:
    """Write `job.json`; it is complete, or as before.

    Raises:
        OSError: it cannot be written.
    """
    content = asdict(record) | {"status": record.status.value}
    if not math.isfinite(record.seconds):
        content["seconds"] = None
    write_whole(run_dir / JOB, json.dumps(content, indent=1))


def complete_job(
    run_dir: Path,
    overrides: Sequence[str],
    choices: Mapping[str, str],
    exit_code: int,
    seconds: float,
    pid: int = 0,
    message: str = "",
) -> JobRecord:
    """Complete the record of a process that has ended, where it could not do so itself.

    Args:
        run_dir: of the run.
        overrides: as the launcher knows them.
        choices: of each group.
        exit_code: of the process, negative if a signal ended it.
        seconds: since its start.
        pid: of the process; a record of another one is of an earlier start, and is replaced.
        message: for a run that said nothing.

    Returns:
        The record as it is now.

    Raises:
        OSError: it cannot be written.
    """
    said = read_job(run_dir)
    if said is not None and pid and said.pid != pid:
        said = None
    if said is not None and said.status not in (Status.RUNNING, Status.UNKNOWN):
        return said
    started = said or replace(own_record(overrides, choices, {}), pid=pid)
    status = status_of_exit(exit_code)
    if said is not None and status == Status.COMPLETED:  # it would have said so itself
        status, message = Status.FAILED, message or WITHOUT_RESULT
    ended = replace(
        started,
        status=status,
        exit_code=exit_code,
        seconds=seconds,
        message=message,
    )
    write_job(run_dir, ended)
    return ended


def status_of_exit(code: int) -> Status:
    """How a process ended of which only the exit code is known."""
    if code == 0:
        return Status.COMPLETED
    if code < 0:
        return Status.KILLED
    return Status.INTERRUPTED if code in SIGNALED else Status.FAILED


def parse_job(run_dir: Path) -> JobRecord:
    """Read the record of a run, also one of an earlier version, which has an exit code only.

    Raises:
        Unreadable: it is missing, or was not written by a run or a launcher.
    """
    path = run_dir / JOB
    record = read_json_mapping(path)
    overrides, exit_code = record.get("overrides"), record.get("exit_code")
    if not is_text_list(overrides):
        raise Unreadable(f"{path}: overrides must be a list of text")
    if isinstance(exit_code, bool) or not isinstance(exit_code, int | None):
        raise Unreadable(f"{path}: exit_code must be a whole number")
    try:
        status = Status(record.get("status"))
    except ValueError:
        if exit_code is None:
            raise Unreadable(f"{path}: has neither a status nor an exit_code") from None
        status = status_of_exit(exit_code)
    choices, versions = record.get("choices"), record.get("versions")
    texts = {key: record.get(key) for key in ("message", "host", "started")}
    return JobRecord(
        overrides,
        exit_code,
        choices if is_text_mapping(choices) else {},
        status,
        seconds=_number(record.get("seconds")),
        pid=pid if isinstance(pid := record.get("pid"), int) else 0,
        versions=versions if is_text_mapping(versions) else {},
        **{key: text if isinstance(text, str) else "" for key, text in texts.items()},
    )


def read_job(run_dir: Path) -> JobRecord | None:
    """Read the record of a run; None if it is missing or unreadable."""
    try:
        return parse_job(run_dir)
    except Unreadable:
        return None


def is_number(value: Any) -> TypeGuard[float]:
    """Whether JSON has a number that a float can hold, NaN included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 1 << 1000  # larger: no float


def _number(value: Any) -> float:
    return float(value) if is_number(value) else math.nan


def is_text_list(value: Any) -> TypeGuard[list[str]]:
    """Whether a value from JSON is a list of text."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def is_text_mapping(value: Any) -> TypeGuard[dict[str, str]]:
    """Whether a value from JSON is a mapping of text."""
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
