"""A forked run is that of a new process: the same bits in weights, metrics and event files."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from lit_optim.runs.locks import take_lock
from lit_optim.sweeps import forked_jobs, processes
from lit_optim.sweeps.forked_jobs import JobServer
from lit_optim.sweeps.processes import Order, start_anew
from lit_optim.system import can_fork
from tests.conftest import ROOT
from tests.sweeps.waiting import wait_for

pytestmark = pytest.mark.skipif(not can_fork(), reason="jobs are forked on Linux")

SMALL = ("data=digits", "model=mlp", "trainer.max_steps=30", "trainer.val_check_interval=10")
OPTIMIZERS = ("muon",)
MORE = ("adamw", "sgd", "lion", "soap", "adafactor", "schedule_free_adamw", "prodigy")
#: What differs between any two runs of the same configuration.
TIMES = re.compile(r"seconds|time|started|pid|host|command|run_dir|directory|overrides")


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """Where the jobs are started; this program is train.py."""
    where = tmp_path_factory.mktemp("jobs")
    before = Path.cwd()
    os.chdir(where)
    with pytest.MonkeyPatch.context() as patch:
        for module in (processes, forked_jobs):
            patch.setattr(module, "own_command", lambda: [sys.executable, str(ROOT / "train.py")])
        yield where
    os.chdir(before)


@pytest.fixture(scope="module")
def server(where):
    server = JobServer(1)
    server.await_ready(lambda: None)
    yield server
    server.close()


def run(start, run_dir, *line):
    """Run a job; returns its exit code."""
    run_dir.mkdir()
    with take_lock(run_dir) as lock, (run_dir / "log.txt").open("ab") as log:
        job = start(Order([*line, f"hydra.run.dir={run_dir}"], run_dir, log, lock))
    return wait_for(job.poll, 120)


def fresh(order):
    return start_anew(order, 1)


def plain(value):
    """A value from JSON or a checkpoint, without what differs; tensors as their bits."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items() if not TIMES.search(str(k))}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), list(value.shape), value.contiguous().numpy().tobytes()]
    return repr(value)


def events(path):
    """The summaries in an event file: their steps, tags and values as bytes."""
    found = []
    for raw in RawEventFileLoader(str(path)).Load():
        event = Event.FromString(raw)
        for value in event.summary.value:
            if not value.tag.startswith("_hparams_"):
                found.append((event.step, value.tag, value.SerializeToString(deterministic=True)))
    return found


def tell(run_dir):
    """Everything in the directory of a run, without times and its own name."""
    told = {"files": sorted(re.sub(r"tfevents\..*", "tfevents", str(path.relative_to(run_dir)))
                            for path in run_dir.rglob("*") if path.is_file())}  # fmt: skip
    for path in run_dir.rglob("*"):
        name = str(path.relative_to(run_dir))
        if path.suffix == ".ckpt":
            told[name] = plain(torch.load(path, weights_only=True))
        elif path.suffix == ".json":
            told[name] = plain(json.loads(path.read_text()))
        elif path.suffix == ".yaml":
            told[name] = path.read_text().replace(str(run_dir), "RUN")
        elif path.suffix == ".csv":
            rows = list(csv.DictReader(path.open()))
            told[name] = [plain(row) for row in rows]
    told["events"] = [events(path) for path in sorted(run_dir.rglob("*tfevents*"))]
    log = (run_dir / "log.txt").read_text().replace(run_dir.name, "RUN")
    told["log"] = re.sub(r"\d+:\d+:\d+|time +[\d.]+ s|━+", "", log)
    return told


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert value == other[key], key
    assert any(one["events"])
    assert sum(name.endswith(".ckpt") for name in one) >= 2


@pytest.mark.parametrize(
    "optimizer", [*OPTIMIZERS, *[pytest.param(name, marks=pytest.mark.slow) for name in MORE]]
)
def test_it_has_the_same_bits(where, server, optimizer):
    line = (*SMALL, f"optimizer={optimizer}", "seed=3")
    assert run(fresh, where / f"{optimizer}-fresh", *line) == 0
    expected = tell(where / f"{optimizer}-fresh")
    for name in ("one", "two"):  # the server may have run other jobs before
        assert run(server.start, where / f"{optimizer}-{name}", *line) == 0
        assert_same(tell(where / f"{optimizer}-{name}"), expected)


@pytest.mark.slow
def test_after_fifty_jobs_the_next_is_as_the_first(where):
    server = JobServer(1)
    server.await_ready(lambda: None)
    line = (*SMALL, "optimizer=adamw", "scheduler=wsd", "seed=1")
    assert run(server.start, where / "before_fifty", *line) == 0
    for number in range(50):
        tiny = ("data=digits", "model=mlp", "trainer.max_steps=1", f"seed={number}",
                "logger=none", f"optimizer={[*OPTIMIZERS, *MORE][number % 8]}")  # fmt: skip
        assert run(server.start, where / f"tiny{number}", *tiny) == 0
    assert run(server.start, where / "behind_fifty", *line) == 0
    assert_same(tell(where / "behind_fifty"), tell(where / "before_fifty"))
    server.close()


@pytest.mark.slow
def test_two_hundred_jobs_leave_nothing_in_the_server(where):
    def size():
        status = Path(f"/proc/{server._process.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        files = sorted(os.listdir(f"/proc/{server._process.pid}/fd"))
        return int(fields["VmRSS"].split()[0]), fields["Threads"], files

    server = JobServer(1)
    server.await_ready(lambda: None)
    line = ("data=digits", "model=linear", "trainer.max_steps=1", "logger=none", "test=false")
    sizes = []
    for number in range(220):
        assert run(server.start, where / f"many{number}", *line, f"seed={number}") == 0
        sizes.append(size())
    memory, *others = sizes[19]
    assert others[0].strip() == "1"
    for now, *others_now in sizes[20:]:
        assert others_now == others
        assert now - memory < 1000  # kB
    server.close()


def test_a_run_that_cannot_be_tells_why_in_its_log(where, server):
    line = (*SMALL, "optimizer=adamw", "model.hidden=[]", "trainer.max_stepz=3")
    assert run(server.start, where / "refused", *line) == 2
    assert "lit-optim: " in (where / "refused" / "log.txt").read_text()
    line = (*SMALL, "optimizer=sgd", "optimizer.lr=1e30")
    assert run(server.start, where / "diverged", *line) == 1
    assert "is not finite" in (where / "diverged" / "log.txt").read_text()


def test_the_server_is_one_thread_without_cuda(where, server):
    assert len(os.listdir(f"/proc/{server._process.pid}/task")) == 1
    maps = Path(f"/proc/{server._process.pid}/maps").read_text()
    assert "libtorch_cpu" in maps
    assert "/dev/nvidia" not in maps
