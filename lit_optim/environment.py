"""Environment variables that launchers of several processes set."""

from __future__ import annotations

import os
import re

#: What they set. A process that sees it but is not theirs would wait for ranks that never come.
RANK_VARIABLES = re.compile(
    r"(LOCAL_|NODE_|GROUP_|GLOBAL_)?RANK|(LOCAL_)?WORLD_SIZE|MASTER_(ADDR|PORT)|PL_.*|TORCHELASTIC_.*"
)


def is_first() -> bool:
    """Whether this process is the first of all, or the only one: it prints and writes.

    Lightning, torchrun and SLURM each say it in their own way.
    """
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    if "LOCAL_RANK" in os.environ or "NODE_RANK" in os.environ:  # also within a job of SLURM
        return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK"))
    return os.environ.get("SLURM_PROCID", "0") == "0"


def is_first_here() -> bool:
    """Whether this process is the first of its machine, where mistakes are printed as well."""
    others = {"RANK", "SLURM_PROCID"} & os.environ.keys()
    return is_first() or (not others and os.environ.get("LOCAL_RANK", "0") == "0")


def forget_ranks() -> None:
    """Drop variables of an earlier launcher: a rank without a world size belongs to no run."""
    if "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        os.environ.pop(name, None)


def forget_machines() -> None:
    """Let the processes of one machine meet at a free port, not at that of an earlier launcher."""
    if "LOCAL_RANK" not in os.environ and "SLURM_NTASKS" not in os.environ:
        for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK"):
            os.environ.pop(name, None)


def is_one_of_several() -> bool:
    """Whether torchrun or srun started this process as one of several ranks."""
    counts = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
    return any(int(os.environ.get(name) or 1) > 1 for name in counts)


def passing_directory() -> str:
    """A directory that is removed when this process ends."""
    import atexit
    import shutil
    import tempfile

    path = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path
