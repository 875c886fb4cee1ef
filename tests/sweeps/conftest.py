"""Jobs of a program that imports nothing and is quick, for whatever starts them."""

from __future__ import annotations

import sys
import textwrap

import pytest

from lit_optim.runs.locks import take_lock
from lit_optim.sweeps import forked_jobs, processes
from lit_optim.sweeps.processes import Order
from tests.conftest import ROOT

#: A program whose command line is code to run.
PROGRAM = """
    import os, sys
    from lit_optim.sweeps import job_server

    job_server.MODULES = ()
    job_server.fill_caches = lambda: None
    job_server.find_devices = lambda: os.environ.get("DEVICES") == "yes"
    print("imported")

    def main():
        job_server.prepare_threads()
        exec(sys.argv[-1], {"__name__": "__main__"})

    job_server.serve_jobs(main)
    main()
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Start jobs that run code in directories of their own."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    for module in (processes, forked_jobs):
        monkeypatch.setattr(module, "own_command", lambda: [sys.executable, str(program)])
    return Jobs(tmp_path)


class Jobs:
    """Orders of jobs that run code."""

    def __init__(self, where):
        self.where = where

    def order(self, name, code):
        run_dir = self.where / name
        run_dir.mkdir()
        code = f"import os\nos.chdir({str(run_dir)!r})\n{textwrap.dedent(code)}"
        return Order([code], run_dir, (run_dir / "log.txt").open("ab"), take_lock(run_dir))

    def start(self, start, name, code):
        order = self.order(name, code)
        with order.log, order.lock:
            return start(order)
