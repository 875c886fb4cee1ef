"""Floor 0: what launchers of several processes leave in the environment."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile

#: What they set; a process that is not theirs and sees it would wait for ranks that never come.
RANK_VARIABLES = re.compile(
    r"(LOCAL_|NODE_|GROUP_|GLOBAL_)?RANK|(LOCAL_)?WORLD_SIZE|MASTER_(ADDR|PORT)|PL_.*|TORCHELASTIC_.*"
)


def is_first() -> bool:
    """Whether this process is the first of all, or alone: it is the one that tells and writes.

    Lightning, torchrun and SLURM each say it in their own way.
    """
    for name in ("RANK", "SLURM_PROCID"):
        if name in os.environ:
            return os.environ[name] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK"))


def forget_ranks() -> None:
    """Drop what an earlier launcher has left: a rank without a size is of no run now."""
    if "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        os.environ.pop(name, None)


def forget_address() -> None:
    """Have the processes of one machine meet at a free port, not where an earlier run met."""
    if "LOCAL_RANK" not in os.environ and "SLURM_NTASKS" not in os.environ:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name, None)


def passing_directory() -> str:
    """A directory that is gone when this process ends."""
    path = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path
