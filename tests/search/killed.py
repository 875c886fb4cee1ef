"""Runs made-up searches in forks of itself, and kills them at one of their writes.

A process that asks gives a line of JSON for each: the directory of the search, its settings, and
after how many writes it is killed. Imports take longer than such a search, hence the forks.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.engine import Engine

from lit_optim import temporary
from lit_optim.search.store import open_store
from tests.search.made_up import run, search
from tests.tournament.made_up import run_tournament

#: What a search imports when it needs it.
IMPORTED_LATE = (
    "scipy.stats", "alembic.command", "alembic.migration", "optuna.samplers._tpe.sampler",
    "sqlalchemy.dialects.sqlite",
)  # fmt: skip


def kill_at(count: int | None) -> list[int]:
    """Kill this process before or after its so many-th write; return their number so far."""
    points = [0]

    def pass_point(*args):
        points[0] += 1
        if points[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "commit", pass_point)  # called before each; the next is after it
    replace = os.replace

    def replace_and_count(*args, **kwargs):
        pass_point()
        replace(*args, **kwargs)
        pass_point()

    temporary.os.replace = replace_and_count
    return points


def run_once(asked: dict) -> int:
    """Run a search until it ends or is killed; return the number of its writes."""
    points = kill_at(asked["kill_at"])
    where = Path(asked["directory"])
    where.mkdir(parents=True, exist_ok=True)
    if asked.get("is_tournament"):
        run_tournament(where)
        return points[0]
    searched = search(**asked["settings"])
    store = open_store(searched, where)
    store.begin()
    run(searched, where, store=store)
    return points[0]


def serve() -> None:
    """Answer each line with the number of writes; null if the search was killed."""
    for module in IMPORTED_LATE:
        import_module(module)
    for line in sys.stdin:
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.write(theirs, str(run_once(json.loads(line))).encode())
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(theirs)
        with os.fdopen(ours) as told:
            writes = told.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL), status
        print(json.dumps(int(writes) if writes else None), flush=True)


if __name__ == "__main__":
    serve()
