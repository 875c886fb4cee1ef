"""Scripts for torchrun, run by processes that have formed a group already."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


@contextmanager
def _group_is_there() -> Iterator[None]:
    """A script finds the group that it would form."""
    with (
        patch("torch.distributed.init_process_group"),
        patch("torch.distributed.destroy_process_group"),
    ):
        yield


def run_script(path: str) -> dict[str, Any]:
    """Run a file as a program; returns its names."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return runpy.run_path(path, run_name="__main__")
    with _group_is_there():
        return runpy.run_path(path, run_name="__main__")


def run_blocks(blocks: Sequence[tuple[str, str]], place: str) -> None:
    """Run blocks of code one after the other with the same names.

    Args:
        blocks: where each stands, and its code.
        place: the directory to run them in.
    """
    before, names = os.getcwd(), {"__name__": "page"}
    sys.modules.setdefault("page", type(sys)("page"))
    os.chdir(place)
    try:
        with _group_is_there():
            for where, code in blocks:
                exec(compile(code, where, "exec"), names)
    finally:
        os.chdir(before)
