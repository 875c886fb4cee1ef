"""Threads are chosen by the size of the work and the CPUs that are free, unless the user does."""

from __future__ import annotations

import os

import pytest
import torch

from lit_optim import threads
from lit_optim.checkpoints.files import CheckpointFiles
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.composing import compose_config
from lit_optim.kernels import cpu
from lit_optim.reports import installation as doctor
from lit_optim.runs.build import build_run
from lit_optim.threads import Cpus, choose_threads, limit_spinning, limit_threads, read_quota

SHORT = (
    "trainer.max_steps=2",
    "trainer.limit_val_batches=1",
    "logger=none",
    "model=linear",
    "scheduler=none",
)


@pytest.fixture(autouse=True)
def _restored(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where checkpoints are written
    before = torch.get_num_threads()
    for name in (*threads.VARIABLES, threads.SHARE):
        monkeypatch.delenv(name, raising=False)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def machine(monkeypatch):
    """Four CPUs of which as many are busy as is said."""

    def pretend(busy=0.0, usable=4):
        monkeypatch.setattr(threads, "read_cpus", lambda: Cpus(4, usable, busy))

    pretend()
    return pretend


GROUPS = {
    "v2": ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),
    "v2, no limit": ("0::/\n", {"cpu.max": "max 100000"}, None),
    "v2, a group above": ("0::/a/b\n", {"a/cpu.max": "300000 100000"}, 3.0),
    "v2, the least counts": (
        "0::/a/b\n",
        {"a/cpu.max": "300000 100000", "a/b/cpu.max": "50000 100000"},
        0.5,
    ),
    "v2, the path of the host": ("0::/not/here\n", {"cpu.max": "200000 100000"}, 2.0),
    "v1": (
        "4:cpu,cpuacct:/x\n3:cpuset:/\n",
        {"cpu/x/cpu.cfs_quota_us": "400000", "cpu/x/cpu.cfs_period_us": "100000"},
        4.0,
    ),
    "v1, no limit": (
        "4:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        None,
    ),
    "v1, both controllers in one": (
        "4:cpu,cpuacct:/gone\n",
        {"cpu,cpuacct/cpu.cfs_quota_us": "50000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        0.5,
    ),
    "hybrid": ("0::/\n4:cpu:/\n", {"unified/cpu.max": "100000 100000"}, 1.0),
    "broken": ("what\n0::/\n", {"cpu.max": "many few"}, None),
    "nothing": ("", {}, None),
}


@pytest.mark.parametrize("case", GROUPS)
def test_quotas_of_control_groups(case, tmp_path):
    lines, texts, quota = GROUPS[case]
    own = tmp_path / "cgroup"
    own.write_text(lines)
    for name, text in texts.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert read_quota(own, tmp_path / "mount") == quota


def test_a_system_without_control_groups(tmp_path):
    assert read_quota(tmp_path / "none", tmp_path) is None


def test_the_cpus_of_this_machine():
    cpus = threads.read_cpus()
    assert 1 <= cpus.free <= cpus.usable <= cpus.total == os.cpu_count()


@pytest.mark.parametrize(
    ("affinity", "quota", "load", "running", "free"),
    [
        (8, None, 0.0, 0, 8),
        (8, None, 3.0, 3, 5),
        (8, None, 30.0, 40, 1),
        (8, None, 7.5, 0, 8),  # what made the load has ended
        (8, None, 0.2, 7, 8),  # a moment
        (8, 1.5, 0.0, 0, 2),
        (8, 0.1, 0.0, 0, 1),
        (2, None, 5.0, 5, 2),  # others have the rest of the machine
        (2, None, 7.0, 7, 1),
        (8, None, 3.0, None, 5),
    ],
)
def test_free_cpus(affinity, quota, load, running, free, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(threads, "usable_cpus", lambda: affinity)
    monkeypatch.setattr(threads, "read_quota", lambda: quota)
    monkeypatch.setattr(threads, "load_average", lambda: load)
    monkeypatch.setattr(threads, "_running", lambda: running)
    assert threads.read_cpus().free == free


@pytest.mark.parametrize("busy", [0.0, 3.0])
def test_a_small_model_gets_one_thread(machine, busy):
    machine(busy)
    assert choose_threads(threads.SMALL).count == 1
    assert choose_threads(threads.SMALL + 1).count == 4 - busy
    assert choose_threads(None).count == 4 - busy


def test_a_job_of_a_sweep_gets_its_share_at_most(machine):
    environment = {"PATH": ""}
    limit_threads(environment, n_jobs=2)
    assert environment["OMP_NUM_THREADS"] == "2"
    assert not threads.has_requested_threads(environment)
    assert choose_threads(None, environment).count == 2
    assert choose_threads(1.0, environment).count == 1
    machine(busy=3.0)
    assert choose_threads(None, environment).count == 1
    limit_threads(environment, n_jobs=9)
    assert environment["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize("name", threads.VARIABLES)
def test_a_number_in_the_environment_wins_in_a_sweep_too(machine, name):
    environment = {name: "3"}
    assert threads.has_requested_threads(environment)
    limit_threads(environment, n_jobs=4)
    assert environment == {name: "3"}


@pytest.mark.parametrize("variable", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_spinning_is_bounded_unless_the_user_has_a_policy(monkeypatch, variable):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "7")
    limit_spinning()
    assert {os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY")} == {"7", None}
    monkeypatch.delenv(variable)
    limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == threads.SPINS
    monkeypatch.delenv("GOMP_SPINCOUNT")


def fit(tmp_path, *argv, before=lambda: None, checkpoint=None):
    """The threads that a run has."""
    torch.set_num_threads(3)
    parts = build_run(compose_config(prepare_command_line([*SHORT, *argv]).argv), tmp_path)
    before()
    parts.trainer.fit(parts.model, parts.data, ckpt_path=checkpoint, weights_only=True)
    return torch.get_num_threads()


def test_a_run_of_a_small_model_has_one_thread(machine, tmp_path):
    assert fit(tmp_path) == 1


def test_a_run_of_a_large_model_has_the_cpus_that_are_free(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "SMALL", 0)
    machine(busy=2.0)
    assert fit(tmp_path) == 2


@pytest.mark.parametrize("batch", ["mini", "full"])
def test_the_size_is_parameters_times_samples(batch, machine, tmp_path, monkeypatch):
    seen = []
    choose = threads.choose_threads
    monkeypatch.setattr(
        "lit_optim.callbacks.threads.choose_threads", lambda work: seen.append(work) or choose(work)
    )
    fit(tmp_path, f"batch={batch}", "data.batch_size=50")
    assert seen == [(40 * 10 + 10) * 50]


def test_the_setting_wins(machine, tmp_path):
    assert fit(tmp_path, "threads=2") == 2


def test_the_environment_wins(machine, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert fit(tmp_path) == 3


def test_the_users_code_wins(machine, tmp_path):
    assert fit(tmp_path, before=lambda: torch.set_num_threads(2)) == 2


def test_a_resumed_run_keeps_its_threads(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "SMALL", 0)
    machine(busy=2.0)
    torch.set_num_threads(3)
    parts = build_run(compose_config(prepare_command_line(list(SHORT)).argv), tmp_path)
    parts.trainer.fit(parts.model, parts.data)
    path = tmp_path / "some.ckpt"
    parts.trainer.save_checkpoint(path)
    assert isinstance(parts.trainer.strategy.checkpoint_io, CheckpointFiles)
    machine(busy=0.0)
    assert fit(tmp_path, "trainer.max_steps=4", checkpoint=path) == 2
    monkeypatch.setattr("lit_optim.callbacks.threads.read_cpus", lambda: Cpus(4, 1, 0.0))
    machine(busy=0.0, usable=1)
    assert fit(tmp_path, "trainer.max_steps=4", checkpoint=path) == 1


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many"])
def test_a_wrong_number_is_refused(value):
    from lit_optim.errors import UsageError

    with pytest.raises(UsageError, match="threads"):
        prepare_command_line([f"threads={value}"])


def test_a_kernel_takes_threads_by_its_elements():
    torch.set_num_threads(3)
    each = cpu.ELEMENTS_PER_THREAD
    counts = [cpu.count_threads(size) for size in (0, 1, 2 * each - 1, 2 * each, 100 * each)]
    assert counts == [1, 1, 1, 2, 3]


@pytest.mark.parametrize("is_set", [True, False])
def test_the_doctor_says_how_many(is_set, machine, monkeypatch):
    machine(busy=2.0)
    monkeypatch.setattr(doctor, "read_cpus", threads.read_cpus)
    if is_set:
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
    [line] = [found.message for found in doctor.devices() if found.name == "cpu"]
    assert line.startswith("4 CPUs, 2.0 busy")
    expected = "as OMP_NUM_THREADS" if is_set else "a small model gets 1 thread, a larger one 2"
    assert expected in line
