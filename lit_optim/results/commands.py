"""The command that reproduces a run, to copy."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from lit_optim.programs import rerun_command, train_command
from lit_optim.runs.job import WHOLE_SWEEP

#: An override that can be shown for copying wherever it comes from: a choice or a plain value,
#: which names no code, no place and nothing outside of the configuration.
PLAIN = re.compile(
    r"\+{0,2}(?!(?:allow|branch_from|callbacks|ckpt|hydra|logger|resume|weights)\b)"
    r"[A-Za-z]\w*(?:\.(?!_)\w+)*=[\w.,+% \-\[\]]*",
    re.ASCII,
)


def command_of(run_dir: Path, lines: Sequence[str] | None) -> str:
    """The command that reproduces a run.

    The overrides come from a file of the run, and users who copy the line do not read it again.
    So one with anything but plain values is `lit-optim rerun`, which checks them.

    Args:
        run_dir: of the run.
        lines: its overrides; None if they are unknown.
    """
    lines = None if lines is None else [line for line in lines if not WHOLE_SWEEP.match(line)]
    if lines is not None and all(map(PLAIN.fullmatch, lines)):
        return shlex.join([*shlex.split(train_command()), *(_short(line) for line in lines)])
    return rerun_command(run_dir)


def _short(line: str) -> str:
    """An override as a person types it: our own keys need no plus signs."""
    return line.lstrip("+")
