"""What a run was started with, kept in its directory: command, overrides, commit and versions."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lit_optim import __version__
from lit_optim.runs.layout import START
from lit_optim.temporary import write_whole
from lit_optim.untrusted import Unreadable, read_json_mapping

PACKAGES = ("torch", "lightning", "hydra-core", "numpy", "triton")
GIT_SECONDS = 5
#: Where the configuration of git comes with the repository.
OF_A_REPOSITORY = ("local", "worktree")
#: Starts that are kept of a run that is resumed again and again.
MAX_RESUMED = 100


def record_start(run_dir: Path, overrides: Sequence[str], resumed: bool = False) -> None:
    """Write `run.json`; a run that is resumed keeps its first start and lists the others.

    Args:
        run_dir: of the run.
        overrides: as typed, or as taken from the run that is resumed.
        resumed: whether the run goes on from a checkpoint of its own.

    Raises:
        OSError: it cannot be written.
    """
    start = describe_start(overrides)
    path = run_dir / START
    if resumed:
        try:
            first = read_json_mapping(path)
        except Unreadable:  # of an earlier version, or broken
            first = {}
        others = first.get("resumed")
        kept = others[-MAX_RESUMED:] if isinstance(others, list) else []
        start = (first or start) | {"resumed": [*kept, start]}
    write_whole(path, json.dumps(start, indent=1))


def describe_start(overrides: Sequence[str]) -> dict[str, Any]:
    """The command line of this process, and what it runs with."""
    program, *arguments = sys.orig_argv or [sys.executable]
    return {
        "command": shlex.join([os.path.basename(program), *arguments]),
        "overrides": list(overrides),
        "directory": os.getcwd(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git": git_state(Path.cwd()),
        "versions": package_versions(),
        "platform": platform.platform(),
    }


@cache
def package_versions() -> dict[str, str]:
    """The versions of Python, of this package and of those that it computes with."""
    return {
        "lit_optim": __version__,
        "python": platform.python_version(),
        **{name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def git_state(directory: Path) -> dict[str, Any] | None:
    """The commit that is checked out in a directory; None where there is none or no git.

    Returns:
        "commit", and "changed": whether tracked files differ from it, None if that takes too long
        or the repository has filters of its own.
    """
    commit = _git(directory, "rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    changes = None
    if not _has_filters(directory):
        changes = _git(
            directory, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty"
        )
    return {"commit": commit, "changed": None if changes is None else bool(changes)}


def _has_filters(directory: Path) -> bool:
    """Whether a repository may have filters of its own: programs that `git status` would run."""
    keys = _git(directory, "config", "--list", "--name-only", "--show-scope", "--includes")
    scopes = [line.split("\t") for line in (keys or "").splitlines()]
    return keys is None or any(
        scope in OF_A_REPOSITORY and key.startswith("filter.") for scope, key in scopes
    )


def _git(directory: Path, *arguments: str) -> str | None:
    """What git prints, without a program of the repository's configuration being run."""
    # no monitor, no lock after which a hook is called, nothing fetched
    command = ["git", "-c", "core.fsmonitor=false", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, errors="replace",
            stdin=subprocess.DEVNULL, timeout=GIT_SECONDS,
            env=os.environ | {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
