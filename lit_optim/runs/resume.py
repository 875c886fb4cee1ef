"""Which run to go on with, and whether it is the same one; without torch."""

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

from lit_optim.config.resume_settings import AUTO
from lit_optim.errors import UsageError, printable, suggest
from lit_optim.runs.layout import CHECKPOINTS, FINGERPRINT, LOG, MULTIRUN, OVERRIDES, RESULT, SWEEP
from lit_optim.temporary import write_whole
from lit_optim.untrusted import Unreadable, read_json_mapping, read_yaml, walk

TRIES, SECONDS_BETWEEN = 10, 0.1
#: What may differ without a word: it changes no result, or says what is done after training.
FREE = ("resume", "train", "test", "ckpt", "allow", "n_jobs", "threads", "logger", "callbacks")
FREE_KEYS = ("trainer.enable_progress_bar", "trainer.log_every_n_steps")
#: How long the run is; `resume.horizon` says what a change of it means.
LENGTH = ("trainer.max_steps", "trainer.max_epochs", "trainer.max_time")
#: What no saved state fits if it is changed.
FIXED = ("optimizer._target_", "wrapper._target_", "model", "param_groups")
#: Characters of a value in a message.
MOST_OF_VALUE = 60


@dataclass(frozen=True)
class ResumableRun:
    """What `resume` leads to.

    Args:
        run_dir: of the run to go on with; None: a new one.
        told: a line for the user.
        finished: whether there is nothing left to do.
    """

    run_dir: Path | None
    told: str
    finished: bool = False


def run_fingerprint(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run the same: every value by its key, without what may differ."""
    flat = dict(flatten({k: v for k, v in plain.items() if k not in FREE}))
    return {
        key: value
        for key, value in flat.items()
        # runs of earlier versions say nothing of weights
        if key not in FREE_KEYS and (key, value) != ("weights", None)
    }


def flatten(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in nested mappings, with its dotted key, as JSON has it."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from flatten(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.loads(json.dumps(node, default=str))


def write_fingerprint(run_dir: Path, plain: Mapping[str, Any]) -> None:
    """Write down what was asked for."""
    write_whole(run_dir / FINGERPRINT, json.dumps(run_fingerprint(plain), indent=1))


def recorded_overrides(where: Path) -> tuple[list[str], Path]:
    """The overrides that stand in the directory of a run that `resume` names, and their file.

    They are a stranger's: `stored.stored_overrides` says which of them are taken.

    Raises:
        UsageError: that cannot be read.
    """
    file = run_dir_of(where) / OVERRIDES
    if not os.path.exists(file):
        return [], file  # what it was is held against what is typed now
    return _lines_of(file), file


def recorded_sweep_overrides(sweep_dir: Path) -> tuple[list[str], Path]:
    """The line that a sweep was started with, as it was typed, and the file that says so.

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
    """Whether a directory is that of a sweep, also of one that was killed early."""
    known = any(os.path.isfile(path / name) for name in (SWEEP, MULTIRUN))
    return known or (os.path.isdir(path) and any(path.glob(f"*/{LOG}")))


def _lines_of(file: Path) -> list[str]:
    for _ in range(TRIES):  # the first of several ranks may be writing it
        with contextlib.suppress(Unreadable):
            lines = read_yaml(file)
            if isinstance(lines, list) and all(isinstance(line, str) for line in lines):
                return lines
        time.sleep(SECONDS_BETWEEN)
    raise UsageError(
        f"resume: {file} cannot be read; delete it, and type what the run was started with"
    )


def run_dir_of(where: Path) -> Path:
    """The directory of a run, which may be named by a checkpoint in it."""
    return where.parent.parent if os.path.isfile(where) else where


def find_resumable(plain: Mapping[str, Any], runs: Path = Path("runs")) -> ResumableRun:
    """The run that `resume.from` names or, for auto, the newest of the same configuration.

    Raises:
        UsageError: there is none of that name, it has no checkpoint, it was another run, or a
            link leads out of its directory.
    """
    settings, now = plain["resume"], run_fingerprint(plain)
    where = settings["from"]
    if where == AUTO:
        newest = [path.parent for path in sorted(runs.glob(f"**/{FINGERPRINT}"), key=_age)]
        same = [run_dir for run_dir in newest if read_fingerprint(run_dir) == now]
        if not same:
            same = [
                run_dir for run_dir in newest if _differs_in_length(read_fingerprint(run_dir), now)
            ]
            if same and settings["horizon"] == "error":
                raise UsageError(
                    f"resume=auto: {same[0]} differs in its length only: "
                    f"{_describe_changes(read_fingerprint(same[0]), now, LENGTH)}; say "
                    "resume.horizon=keep to resume it with its schedule as it was, extend for one "
                    "over the new length, or resume=none for a new run"
                )
        if not same:
            return ResumableRun(
                None, "resume=auto: there is no run of this configuration; a new one"
            )
        run_dir = same[0]
    else:
        run_dir = run_dir_of(Path(where))
        if not os.path.isfile(run_dir / FINGERPRINT):
            if is_sweep(run_dir):
                raise UsageError(f"resume={where} is the directory of a sweep: add -m")
            raise UsageError(f"resume={where}: there is no run, its {FINGERPRINT} is missing")
        if (origin := read_fingerprint(run_dir).get("branch_from")) is not None:
            raise UsageError(
                f"resume={where}: it is a branch, which is not gone on with; branch again, with "
                f"branch_from={origin}"
            )
        _check_same(read_fingerprint(run_dir), now, settings)
    changed = read_fingerprint(run_dir) != now
    if (run_dir / RESULT).is_file() and not changed:
        return ResumableRun(run_dir, f"{run_dir} is finished; there is nothing left to do", True)
    if not any((run_dir / CHECKPOINTS).glob("*.ckpt")):
        if where == AUTO:
            return ResumableRun(None, f"resume=auto: {run_dir} has no checkpoint yet; a new run")
        raise UsageError(f"resume={where}: it has no checkpoint")
    check_links(run_dir)
    return ResumableRun(run_dir, f"going on with {run_dir}")


def _differs_in_length(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two runs differ in how long they are and in nothing else."""
    keys = {key for key in (*before, *now) if before.get(key) != now.get(key)}
    return bool(keys) and keys <= set(LENGTH)


def _describe_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]
) -> str:
    return ", ".join(
        f"{key} was {_shown(before.get(key))}, now {_shown(now.get(key))}"
        for key in keys
        if before.get(key) != now.get(key)
    )


def check_links(directory: Path) -> None:
    """Refuse a directory in which what a run writes would be written elsewhere, or wait forever.

    What is opened anywhere in it may be a link to any place or a FIFO, if somebody else has made
    the directory. A link to another place in it is fine, as is one that it is reached by; hard
    links look like any other file.

    Raises:
        UsageError: naming the first such file.
    """
    home = os.path.realpath(directory)
    for _, entries in walk(directory, is_hidden_too=True, is_strict=True):
        for entry in entries:
            target = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
            if entry.is_symlink() and not Path(target).is_relative_to(home):
                raise UsageError(
                    f"resume: {entry.path} is a link out of the directory, to {target}; put a copy "
                    "in its place, or remove it"
                )
            mode = os.stat(target).st_mode if os.path.exists(target) else stat.S_IFREG
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UsageError(f"resume: {entry.path} is neither a file nor a folder; remove it")


def _shown(value: Any) -> str:
    """A value in a message that goes on after it."""
    return printable(str(value), MOST_OF_VALUE)


def _age(path: Path) -> float:
    return -path.stat().st_mtime


def read_fingerprint(run_dir: Path) -> dict[str, Any]:
    """What a run was asked for; nothing where that cannot be read."""
    try:
        return read_json_mapping(run_dir / FINGERPRINT)
    except Unreadable:
        return {}


def _is_under(key: str, one: str) -> bool:
    return key == one or key.startswith(f"{one}.")


def _check_same(before: dict[str, Any], now: dict[str, Any], settings: Mapping[str, Any]) -> None:
    allowed = tuple(settings["override"])
    for one in allowed:
        if not any(_is_under(key, one) for key in (*before, *now)):
            raise UsageError(f"resume.override={one}: there is no such key{suggest(one, now)}")
    changed = [
        key
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key) and not any(_is_under(key, one) for one in allowed)
    ]
    for key in dict.fromkeys([*before, *now]):
        if before.get(key) != now.get(key) and key.startswith(FIXED):
            raise UsageError(
                f"resume: {_describe_changes(before, now, [key])}: this is another run, and the "
                "saved state does not fit it"
            )
    length = [key for key in changed if key in LENGTH]
    others = [key for key in changed if key not in LENGTH]
    if others:
        keys = ",".join(others)
        raise UsageError(
            f"resume: this is another run: {_describe_changes(before, now, others)}; type it as it "
            f"was, or say resume.override=[{keys}]"
        )
    if length and settings["horizon"] == "error":
        raise UsageError(
            f"resume: {_describe_changes(before, now, length)}; say resume.horizon=keep for the "
            "schedule as it was, or extend for one over the new length"
        )
