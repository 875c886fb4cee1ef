"""How many CPUs are free: of the machine, the process, its control group, and beside the load."""

from __future__ import annotations

import os

import pytest

from lit_optim import threads
from lit_optim.threads import prepare_threads, read_quota

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
    "no period": ("0::/\n", {"cpu.max": "100000 0"}, None),
    "v1, no period": (
        "4:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "0"},
        None,
    ),
    "no number": ("0::/\n", {"cpu.max": "nan 100000"}, None),
    "without end": ("0::/\n", {"cpu.max": "inf 100000"}, None),
    "less than nothing": ("0::/\n", {"cpu.max": "-5 100000"}, None),
    "a name that is no text": ("0::/\udcff\n", {"cpu.max": "150000 100000"}, 1.5),
}


@pytest.mark.parametrize("case", GROUPS)
def test_quotas_of_control_groups(case, tmp_path):
    lines, texts, quota = GROUPS[case]
    own = tmp_path / "cgroup"
    own.write_text(lines, errors="surrogateescape")
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
    monkeypatch.setattr(threads, "_begin", [])
    assert threads.read_cpus().free == free


def test_the_load_is_that_of_others_while_the_program_starts(tmp_path, monkeypatch):
    """Two CPUs compute for them, whatever the load of the last minute was."""
    stat, times, now = tmp_path / "stat", [0.0], [100.0]
    used = threads.seconds_of_others
    monkeypatch.setattr(threads, "seconds_of_others", lambda: used(stat))
    monkeypatch.setattr(threads, "load_average", lambda: 0.0)
    monkeypatch.setattr(threads, "_begin", [])
    monkeypatch.setattr(os, "times", lambda: (*times, 0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(threads.time, "monotonic", lambda: now[0])

    def at(seconds, own):
        now[0], times[0] = 100 + seconds, own
        busy = (2 * seconds + own) * os.sysconf("SC_CLK_TCK")
        stat.write_text(f"cpu  {busy / 2:.0f} {busy / 4:.0f} 0 9999 7 0 {busy / 4:.0f} 0 0 0\n")

    at(0, 0)
    prepare_threads()
    at(0.1, 0.1)
    assert threads.read_cpus().busy == 0  # too early: the load average
    at(3, 2.5)
    assert threads.read_cpus().busy == pytest.approx(2, abs=0.02)
    stat.unlink()  # another system
    assert threads.read_cpus().busy == 0
