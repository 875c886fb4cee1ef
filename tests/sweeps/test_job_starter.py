"""Which jobs are forked by a server and which are new processes, also where the server is lost."""

from __future__ import annotations

import os
import signal
import sys
from types import SimpleNamespace

import pytest

from lit_optim.sweeps import forked_jobs, starters
from lit_optim.sweeps.forked_jobs import JobServer
from lit_optim.sweeps.starters import JobStarter
from lit_optim.system import can_fork
from tests.sweeps.waiting import wait_for

pytestmark = pytest.mark.skipif(not can_fork(), reason="jobs are forked on Linux")

#: The configuration of a run that can be forked.
CPU = SimpleNamespace(trainer={"accelerator": "cpu", "devices": 1, "strategy": "auto"})


def test_a_server_that_was_killed_is_started_again(jobs, monkeypatch):
    made = []

    def make(n_jobs):
        made.append(JobServer(n_jobs))
        return made[-1]

    starter = JobStarter(1, make)

    def run(name, code="print('it ran')"):
        is_forked = starter.make_ready(CPU)
        job = jobs.start(lambda order: starter.start(order, is_forked), name, code)
        return is_forked, wait_for(job.poll), (jobs.where / name / "log.txt").read_text()

    assert run("first") == (True, 0, "imported\nit ran\n")
    made[0]._process.kill()
    made[0]._process.wait()
    assert run("second") == (True, 0, "imported\nit ran\n")
    assert len(made) == 2
    assert starter.make_ready(CPU)
    made[1]._process.kill()  # since it was found ready
    made[1]._process.wait()
    job = jobs.start(lambda order: starter.start(order, True), "third", "print('it ran')")
    assert wait_for(job.poll) == 0
    starter.close()


def test_no_news_is_awaited_from_a_server_that_has_ended(jobs, monkeypatch):
    starter = JobStarter(1, JobServer)
    assert starter.make_ready(CPU)
    job = jobs.start(lambda order: starter.start(order, True), "job", "import time; time.sleep(60)")
    starter._server._process.kill()
    wait_for(lambda: job.poll() or starter._server.has_ended)
    slept = []
    monkeypatch.setattr(starters.time, "sleep", slept.append)
    starter.wait()  # and not at once again and again, while the job runs
    assert slept
    os.kill(job.pid, signal.SIGKILL)
    starter.close()


def test_where_no_server_starts_each_job_is_a_new_process(jobs, monkeypatch):
    (jobs.where / "broken.py").write_text("raise SystemExit(1)")
    command = [sys.executable, str(jobs.where / "broken.py")]
    monkeypatch.setattr(forked_jobs, "own_command", lambda: command)
    starter = JobStarter(1, JobServer)
    assert not starter.make_ready(CPU)
    job = jobs.start(lambda order: starter.start(order, False), "job", "print('ran')")
    assert wait_for(job.poll) == 0
    assert not starter.make_ready(CPU)


@pytest.mark.parametrize(
    ("trainer", "is_forked"),
    [({"accelerator": "cpu", "devices": 1, "strategy": "auto"}, True),
     ({"accelerator": "auto", "devices": "auto", "strategy": "auto"}, False),
     ({"accelerator": "gpu", "devices": 1, "strategy": "auto"}, False),
     ({"accelerator": "mps", "devices": 1, "strategy": "auto"}, False),
     ({"accelerator": "cpu", "devices": 2, "strategy": "ddp"}, False),
     ({"accelerator": "cpu", "devices": 1, "strategy": "ddp"}, False),
     ({"accelerator": "cpu", "devices": 1, "strategy": {"_target_": "x.DDP"}}, False),
     ({"accelerator": "cpu", "devices": 1, "strategy": "auto", "num_nodes": 2}, False)],
)  # fmt: skip
def test_only_a_single_process_on_the_cpu_is_forked(jobs, monkeypatch, trainer, is_forked):
    monkeypatch.setenv("DEVICES", "yes")  # that "auto" would use
    starter = JobStarter(1, JobServer)
    assert starter.make_ready(SimpleNamespace(trainer=trainer)) is is_forked
    starter.close()
