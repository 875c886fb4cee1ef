"""Finds the run to resume and checks that it is the same one; without torch."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_optim.config.resume_settings import AUTO, NONE
from lit_optim.config.sweep_settings import SWEEP_SETTINGS
from lit_optim.errors import UsageError, printable, suggest
from lit_optim.moved_names import MOVED_KEYS, current_name
from lit_optim.runs.layout import CHECKPOINTS, FINGERPRINT, LOG, MULTIRUN, OVERRIDES, RESULT, SWEEP
from lit_optim.temporary import write_whole
from lit_optim.untrusted import Unreadable, read_json_mapping, read_yaml, walk

TRIES, SECONDS_BETWEEN = 10, 0.1
#: May differ without a message: it changes no result, or says what is done after training.
IGNORED = (
    *SWEEP_SETTINGS,
    *("resume", "train", "test", "ckpt", "allow", "logger", "callbacks"),
)
IGNORED_KEYS = (
    "trainer.enable_progress_bar",
    "trainer.gradient_release",
    "trainer.log_every_n_steps",
    "trainer.threads",
)
#: How long the run is; `resume.horizon` decides what a change of it means.
LENGTH = ("trainer.max_steps", "trainer.max_epochs", "trainer.max_time")
#: If one of these changes, no saved state fits.
FIXED = ("optimizer._target_", "wrapper._target_", "model", "param_groups")
#: Keys that runs of earlier versions do not have, and the value of each with which a run is as it
#: was before: it is left out.
ADDED = (("weights", None), ("optimizer.ns_dtype", "auto"))
#: Characters of a value in a message.
MAX_VALUE_CHARS = 60


@dataclass(frozen=True)
class ResumableRun:
    """What `resume` leads to.

    Args:
        run_dir: of the run to resume; None: start a new one.
        message: a line for the user.
        is_finished: whether there is nothing left to do.
    """

    run_dir: Path | None
    message: str
    is_finished: bool = False


def run_fingerprint(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Every value that makes a run this run, by its key; without those that may differ."""
    flat = dict(flatten({k: v for k, v in plain.items() if k not in IGNORED}))
    return {
        key: _current_value(key, value)
        for key, value in flat.items()
        if key not in IGNORED_KEYS and (key, value) not in ADDED
    }


def flatten(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in nested mappings, with its dotted key, as JSON has it."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from flatten(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.loads(json.dumps(node, default=str))


def write_fingerprint(run_dir: Path, plain: Mapping[str, Any]) -> None:
    """Write the fingerprint of a configuration into the directory of its run."""
    write_whole(run_dir / FINGERPRINT, json.dumps(run_fingerprint(plain), indent=1))


def recorded_overrides(where: Path) -> tuple[list[str], Path]:
    """Read the overrides in a run's directory; also return their file.

    They are untrusted: `stored.stored_overrides` decides which of them are accepted.

    Args:
        where: a run's directory or a checkpoint in it.

    Raises:
        UsageError: that cannot be read.
    """
    file = run_dir_of(where) / OVERRIDES
    if not os.path.exists(file):
        return [], file  # the fingerprints are compared
    return _read_overrides(file), file


def recorded_sweep_overrides(sweep_dir: Path) -> tuple[list[str], Path]:
    """Read the overrides that a sweep was started with, as typed; also return their file.

    Raises:
        UsageError: it cannot be read.
    """
    file = sweep_dir / MULTIRUN
    try:
        lines = read_yaml(file)["hydra"]["overrides"]["task"]
    except (Unreadable, TypeError, LookupError):
        file = sweep_dir / SWEEP  # cut off while Hydra was writing the other
        try:
            lines = read_json_mapping(file).get("line")
        except Unreadable:
            lines = None
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise UsageError(
            f"resume: the line of the sweep {sweep_dir} cannot be read; type it again, with "
            f"resume={sweep_dir}"
        )
    return lines, file


def is_sweep(path: Path) -> bool:
    """Whether a directory is that of a sweep, even of one that was killed early."""
    known = any(os.path.isfile(path / name) for name in (SWEEP, MULTIRUN))
    return known or (os.path.isdir(path) and any(path.glob(f"*/{LOG}")))


def _read_overrides(file: Path) -> list[str]:
    for _ in range(TRIES):  # the first of several ranks may be writing it now
        with contextlib.suppress(Unreadable):
            lines = read_yaml(file)
            if isinstance(lines, list) and all(isinstance(line, str) for line in lines):
                return lines
        time.sleep(SECONDS_BETWEEN)
    raise UsageError(f"resume: {file} cannot be read; delete it, and type the original arguments")


def run_dir_of(where: Path) -> Path:
    """The directory of a run; `where` may also be a checkpoint in it."""
    return where.parent.parent if os.path.isfile(where) else where


def find_resumable(
    plain: Mapping[str, Any], runs: Path = Path("runs"), own: Path | None = None
) -> ResumableRun:
    """Find the run that `resume.from` names or, for auto, the newest with this configuration.

    Args:
        plain: the configuration.
        runs: where auto looks.
        own: where a new run would be; auto looks there first.

    Raises:
        UsageError: there is no such run, it has no checkpoint, its configuration differs, or a
            link leads out of its directory.
    """
    settings, now = plain["resume"], run_fingerprint(plain)
    where = settings["from"]
    if where == AUTO:
        newest = _find_newest(now, settings, runs, own)
        if newest is None:
            return ResumableRun(None, "resume=auto: no run has this configuration; starting one")
        run_dir = newest
    else:
        run_dir = run_dir_of(Path(where))
        _check_named(run_dir, where, now, settings)
    has_changed = read_fingerprint(run_dir) != now
    if is_finished(run_dir) and not has_changed:
        return ResumableRun(run_dir, f"{run_dir} has already finished; nothing to do", True)
    if not any((run_dir / CHECKPOINTS).glob("*.ckpt")):
        if where == AUTO:
            return ResumableRun(None, f"resume=auto: {run_dir} has no checkpoint; starting anew")
        raise UsageError(f"resume={where}: it has no checkpoint")
    check_links(run_dir)
    return ResumableRun(run_dir, f"resuming {run_dir}")


def find_own(plain: Mapping[str, Any], run_dir: Path) -> Path | None:
    """The directory of a job that starts again there and can go on from its own checkpoint.

    A cluster submits a job again as it was, for example after its time limit.

    Args:
        plain: the configuration of the job.
        run_dir: its directory.

    Returns:
        None where it begins, or something else has begun there.
    """
    is_new = plain["resume"]["from"] in (None, NONE)
    has_begun = any((run_dir / CHECKPOINTS).glob("*.ckpt"))
    if is_new and has_begun and read_fingerprint(run_dir) == run_fingerprint(plain):
        return run_dir
    return None


def is_finished(run_dir: Path) -> bool:
    """Whether a run has its result. One that diverged may be resumed, such as with other code."""
    if not (run_dir / RESULT).is_file():
        return False
    try:
        return read_json_mapping(run_dir / RESULT).get("diverged") is not True
    except Unreadable:
        return True


def has_nothing_to_resume(run_dir: Path) -> bool:
    """Whether a run was cut off in a directory before its first checkpoint and its result."""
    return not (run_dir / RESULT).exists() and not any((run_dir / CHECKPOINTS).glob("*.ckpt"))


def _find_by_time(runs: Path) -> list[Path]:
    """The directories of runs in and below a directory, the newest first."""
    found: list[tuple[float, Path]] = []
    for folder, entries in walk(runs, is_hidden_too=True):
        for entry in entries:
            if entry.name == FINGERPRINT:
                with contextlib.suppress(OSError):  # removed meanwhile
                    found.append((-entry.stat().st_mtime, folder))
    return [folder for _, folder in sorted(found)]


def _find_newest(
    now: Mapping[str, Any], settings: Mapping[str, Any], runs: Path, own: Path | None
) -> Path | None:
    """The newest run with this fingerprint; else, if `horizon` says how, one of another length.

    Keys in `override` may differ. A run in `own` counts as the newest.
    """
    horizon, allowed = settings["horizon"], tuple(settings["override"])

    def kept(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: value
            for key, value in values.items()
            if not any(_is_under(key, one) for one in allowed)
        }

    found = _find_by_time(runs)
    if own is not None and (own / FINGERPRINT).is_file():
        found.insert(0, own)
    fingerprints = {run_dir: read_fingerprint(run_dir) for run_dir in found}
    same = [run_dir for run_dir, before in fingerprints.items() if kept(before) == kept(now)]
    if same:
        return same[0]
    similar = [
        run_dir
        for run_dir, before in fingerprints.items()
        if _differs_only_in_length(kept(before), kept(now))
    ]
    if similar and horizon == "error":
        changes = _describe_changes(fingerprints[similar[0]], now, LENGTH)
        raise UsageError(
            f"resume=auto: {similar[0]} differs only in its length: {changes}; use "
            "resume.horizon=keep to resume it with its schedule as it was, extend for one over the "
            "new length, or resume=none for a new run"
        )
    return similar[0] if similar else None


def _check_named(
    run_dir: Path, where: str, now: dict[str, Any], settings: Mapping[str, Any]
) -> None:
    """Check that a directory is that of a run which can be resumed with this configuration."""
    if not os.path.isfile(run_dir / FINGERPRINT):
        if is_sweep(run_dir):
            raise UsageError(f"resume={where} is the directory of a sweep: add -m")
        raise UsageError(
            f"resume={where} is not the directory of a run: its {FINGERPRINT} is missing"
        )
    before = read_fingerprint(run_dir)
    if (origin := before.get("branch_from")) is not None:
        raise UsageError(
            f"resume={where}: it is a branch, and branches cannot be resumed; branch again, with "
            f"branch_from={origin}"
        )
    _check_same(before, now, settings)


def _differs_only_in_length(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two runs differ in their length and in nothing else."""
    keys = {key for key in (*before, *now) if before.get(key) != now.get(key)}
    return bool(keys) and keys <= set(LENGTH)


def _describe_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]
) -> str:
    return ", ".join(
        f"{key} was {_format_value(before.get(key))}, now {_format_value(now.get(key))}"
        for key in keys
        if before.get(key) != now.get(key)
    )


def check_links(directory: Path) -> None:
    """Refuse a directory with a link out of it, or with something that is no file or folder.

    If someone else made the directory, a file in it may be a link to any place, which the run
    would overwrite, or a FIFO, for which it would wait forever. A link to another place in the
    directory is fine, as is a link to the directory itself; hard links look like any other file.

    Raises:
        UsageError: naming the first such file.
    """
    home = os.path.realpath(directory)
    for _, entries in walk(directory, is_hidden_too=True, is_strict=True):
        for entry in entries:
            target = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
            if entry.is_symlink() and not Path(target).is_relative_to(home):
                raise UsageError(
                    f"{entry.path} is a link out of the directory, to {target}; put a copy "
                    "in its place, or remove it"
                )
            mode = stat.S_IFREG
            with contextlib.suppress(OSError):  # a link to nothing; another process removed it
                mode = os.stat(target).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UsageError(f"{entry.path} is neither a file nor a folder; remove it")


def _format_value(value: Any) -> str:
    """A value, shortened, for the middle of a message."""
    return printable(str(value), MAX_VALUE_CHARS)


def read_fingerprint(run_dir: Path) -> dict[str, Any]:
    """The fingerprint in a run's directory; empty if it cannot be read."""
    try:
        recorded = read_json_mapping(run_dir / FINGERPRINT)
    except Unreadable:
        return {}
    return {MOVED_KEYS.get(key, key): _current_value(key, recorded[key]) for key in recorded}


def _current_value(key: str, value: Any) -> Any:
    """A recorded value; the name of a class under which it is defined today."""
    is_name = key.endswith("_target_") and isinstance(value, str)
    return current_name(value) if is_name else value


def _is_under(key: str, one: str) -> bool:
    return key == one or key.startswith(f"{one}.")


def _check_same(before: dict[str, Any], now: dict[str, Any], settings: Mapping[str, Any]) -> None:
    allowed = tuple(settings["override"])
    for one in allowed:
        if not any(_is_under(key, one) for key in (*before, *now)):
            raise UsageError(f"resume.override={one}: no such key{suggest(one, now)}")
    changed = [
        key
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key) and not any(_is_under(key, one) for one in allowed)
    ]
    for key in dict.fromkeys([*before, *now]):
        if before.get(key) != now.get(key) and key.startswith(FIXED):
            raise UsageError(
                f"resume: {_describe_changes(before, now, [key])}: this is a different run, and "
                "the saved state does not fit it"
            )
    length = [key for key in changed if key in LENGTH]
    others = [key for key in changed if key not in LENGTH]
    if others:
        keys = ",".join(others)
        raise UsageError(
            f"resume: this is a different run: {_describe_changes(before, now, others)}; restore "
            f"the original values, or use resume.override=[{keys}]"
        )
    if length and settings["horizon"] == "error":
        raise UsageError(
            f"resume: {_describe_changes(before, now, length)}; use resume.horizon=keep for the "
            "schedule as it was, or extend for one over the new length"
        )
