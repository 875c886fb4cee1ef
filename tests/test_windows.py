"""Programs run on a Windows that is made of this system: see tests/windows.py."""

from __future__ import annotations

import json
import os

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_optim import system
from lit_optim.config.paths import quote, quote_path_value
from lit_optim.results import overview
from lit_optim.search import journal_lock
from lit_optim.sweeps import names, plan
from lit_optim.sweeps.names import fold, name_jobs
from lit_optim.system import can_fork, is_running, move_directory, replace_file
from tests.conftest import ROOT
from tests.windows import GONE, View, kill, link, rename, replace

RUN = ("data=digits", "model=linear", "trainer.val_check_interval=2")
#: A job of a sweep that has its result at once; the second is killed at its first start.
JOB = """\
import json, os, sys

words = dict(word.lstrip("+").split("=", 1) for word in sys.argv[1:])
place = words["hydra.run.dir"].strip("'")
assert os.path.isdir(place), place
if words["seed"] == "1" and not os.path.exists("second"):
    open("second", "w").close()
    os.kill(os.getpid(), 9)
for name in ("job.json", "result.json"):
    with open(os.path.join("runs", "a", name)) as file:
        content = json.load(file)
    content["pid"] = os.getpid()
    with open(os.path.join(place, name), "w") as file:
        json.dump(content, file)
"""


@pytest.fixture
def windows(forks, tmp_path):
    """Run train.py on Windows."""

    def start(*words, options=()):
        argv = [str(ROOT / "tests" / "windows.py"), *options, str(ROOT / "train.py"), *words]
        return forks.run(argv, tmp_path, dict(os.environ), 200)

    return start


@pytest.mark.skipif(not can_fork(), reason="made of a Linux")
def test_the_command_line(windows, tmp_path):
    helped = windows("--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    mistake = windows("optimizer='α→β'")
    assert mistake.returncode == 2
    assert mistake.stderr.count("\n") == 1

    trained = windows(*RUN, "trainer.max_steps=4", "hydra.run.dir=runs/a")
    assert trained.returncode == 0, trained.stderr
    assert "val/loss" in trained.stdout
    resumed = windows("resume=runs/a", "trainer.max_steps=6", "resume.horizon=extend")
    assert resumed.returncode == 0, resumed.stderr
    last = torch.load(tmp_path / "runs" / "a" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 6

    (tmp_path / "job.py").write_text(JOB)
    options = [f"--jobs={tmp_path / 'job.py'}"]
    sweep = windows("-m", *RUN, "seed=0,1", "hydra.sweep.dir=runs/s", options=options)
    assert sweep.returncode == 1, sweep.stderr
    again = windows("-m", "resume=runs/s", options=options)
    assert again.returncode == 0, again.stdout + again.stderr
    for seed in (0, 1):
        job = json.loads((tmp_path / "runs" / "s" / f"seed={seed}" / "job.json").read_text())
        assert job["status"] == "completed"


@pytest.fixture
def nt(monkeypatch):
    """Modules that see Windows."""
    view = View(os, GONE["os"], name="nt", replace=replace, rename=rename, kill=kill, link=link)
    for module in (system, plan, journal_lock):
        monkeypatch.setattr(module, "os", view)
    monkeypatch.setattr(system, "SECONDS_BETWEEN", 0.001)


def test_a_file_that_somebody_reads_is_replaced_a_moment_later(nt, tmp_path, monkeypatch):
    new, old = tmp_path / "new", tmp_path / "old"
    new.write_text("new")
    old.write_text("old")
    reader = old.open()
    with pytest.raises(PermissionError):
        replace_file(new, old)
    monkeypatch.setattr(system.time, "sleep", lambda seconds: reader.close())
    replace_file(new, old)
    assert old.read_text() == "new"


def test_a_directory_whose_configuration_changed_is_moved_without_an_open_file(nt, tmp_path):
    run_dir = tmp_path / "job"
    run_dir.mkdir()
    (run_dir / "asked.json").write_text('{"seed": 1}')
    where, lock = plan._clear_directory(*plan._lock_directory(run_dir), {"seed": 2})
    lock.close()
    assert where == run_dir
    assert (tmp_path / ".before" / "job" / "asked.json").is_file()
    with pytest.raises(FileExistsError):
        system.os.rename(run_dir, tmp_path / ".before")  # what it is about
    (tmp_path / "empty").mkdir()
    move_directory(run_dir, tmp_path / "empty")
    assert not run_dir.exists()


def test_no_process_is_sent_a_signal_to_find_out_whether_it_lives(nt, monkeypatch, tmp_path):
    assert is_running(os.getpid())
    monkeypatch.setattr(journal_lock, "Path", lambda path: tmp_path / "nothing")
    assert journal_lock._start_of(os.getpid()) == "-"


DEVICES = ["CON", "prn", "Aux", "NUL", "com1", "LPT9", "con.x", "nul.", "COM3.y=1"]


@pytest.mark.parametrize("name", DEVICES)
def test_no_directory_has_the_name_of_a_device(name):
    [found] = name_jobs([[f"+{name}"]])
    assert not names.DEVICE.match(found)
    assert names.DEVICE.match(name)


def test_names_that_differ_by_case_or_a_final_dot_are_different_directories():
    lines = ["A", "a", "a.", "a..", "A.", "ä", "Ä", "a\u0308"]
    found = name_jobs([[f"x={value}"] for value in lines])
    assert len({fold(name) for name in found}) == len(lines)
    words = overview.task_words(type("T", (), {"names": ["a", "A", "a.", "b", ".", ""]}))
    assert len({word.casefold().rstrip(". ") for word in words}) == 6
    assert "b" in words


def test_a_path_of_a_sweep_is_short_enough(monkeypatch):
    monkeypatch.setattr(names, "MAX_NAME_BYTES", 80)
    [_, name] = name_jobs([["seed=0"], [f"x={'y' * 300}"]])
    checkpoint = "checkpoints/.previous.ckpt.sha256.1234567.tmp"
    path = f"C:/Users/somebody/projects/mine/runs/2026-01-31/12-00-00-000000_sweep/{name}/"
    assert len(path + checkpoint) < 260


paths = st.text(st.sampled_from("ab\\:=,.[]{}'\"() $~/"), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["C:\\runs\\", "\\\\host\\share\\", "D:a\\", ".\\"]), paths)
def test_paths_with_backslashes_reach_their_keys(start, path):
    """Also with a backslash at the end, or before a quote."""
    parse = OverridesParser.create().parse_override
    view = View(os, name="nt")
    assert parse(f"resume={quote(start + path)}").value() == start + path
    plain = start + path.strip("'\"").replace("'", "").replace('"', "")
    if "${" not in plain:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lit_optim.config.paths.os", view)
            assert parse(quote_path_value(f"resume={plain}", False)).value() == plain
