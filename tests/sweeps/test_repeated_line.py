"""`-m resume=SWEEP` repeats the sweep's own command line, even if it was killed early."""

from __future__ import annotations

import json
import os

import pytest
from omegaconf import OmegaConf

from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.errors import UsageError
from lit_optim.runs.locks import lock_sweep_dir
from lit_optim.sweeps import launcher as launchers
from lit_optim.sweeps import pool
from lit_optim.sweeps.records import existing_jobs, planned_jobs
from lit_optim.sweeps.signals import Signals

LINE = ["optimizer=adamw,sgd", "data=digits", "++scheduler.warmup=5,10", "n_jobs=2"]


def as_hydra(sweep):
    """What Hydra writes first of all."""
    OmegaConf.save({"hydra": {"overrides": {"task": LINE}}}, sweep / "multirun.yaml")


def as_launcher(sweep):
    (sweep / "sweep.json").write_text(json.dumps({"line": LINE, "jobs": {}}))


def cut_off(sweep):
    (sweep / "multirun.yaml").write_text("hydra: {overrides: {task: [opt")
    as_launcher(sweep)


@pytest.mark.parametrize("write", [as_hydra, as_launcher, cut_off])
def test_the_directory_alone_repeats_the_line(tmp_path, write, capsys):
    write(tmp_path)
    line = prepare_command_line(["-m", f"resume={tmp_path}"])
    for override in ("optimizer=adamw,sgd", "data=digits", "++scheduler.warmup=5,10"):
        assert override in line.argv
    assert f"hydra.sweep.dir='{tmp_path}'" in line.argv
    assert not any("resume" in one for one in line.argv)
    told = capsys.readouterr().out
    line = "optimizer=adamw,sgd data=digits scheduler.warmup=5,10 n_jobs=2"
    assert told == f"resuming {tmp_path}: {line}\n"


def test_what_is_typed_beside_it_wins(tmp_path):
    as_hydra(tmp_path)
    line = prepare_command_line(
        ["-m", f"resume={tmp_path}", "optimizer=adamw,sgd,lion", "scheduler=wsd"]
    )
    assert "optimizer=adamw,sgd,lion" in line.argv
    assert "optimizer=adamw,sgd" not in line.argv
    assert "data=digits" in line.argv


@pytest.mark.parametrize(
    ("line", "message"),
    [(None, "cannot be read; type it again"), (3, "cannot be read"), ([1], "cannot be read"),
     (["optimzer=sgd,adam"], "optimzer is not a key of a run")],
    ids=str,
)  # fmt: skip
def test_an_unreadable_line_of_a_sweep_is_refused(tmp_path, line, message):
    (tmp_path / "sweep.json").write_text(json.dumps({"line": line}))
    with pytest.raises(UsageError, match=message):
        prepare_command_line(["-m", f"resume={tmp_path}"])


def test_a_run_and_a_sweep_are_not_confused(tmp_path):
    with pytest.raises(UsageError, match="must be the directory of a sweep"):
        prepare_command_line(["-m", f"resume={tmp_path}", "seed=0,1"])
    as_hydra(tmp_path)
    with pytest.raises(UsageError, match="is the directory of a sweep: add -m"):
        prepare_command_line([f"resume={tmp_path}"])


def test_the_jobs_are_listed_before_the_first_one_starts(tmp_path, monkeypatch):
    seen = []

    def start(plan, starter, job):
        seen.append(planned_jobs(plan.sweep_dir))
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "start_job", start)
    launcher = launchers.ProcessLauncher()
    launcher.starter, launcher.compose = launchers.JobStarter(1, None), None
    launcher.results, launcher.signals = [], Signals()
    launcher.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path / "new")}}})
    jobs = [["seed=0"], ["seed=1"], ["seed=1"]]
    with pytest.raises(SystemExit):
        launcher.launch(jobs, 0)
    assert seen == [{"seed=0": ("seed=0",), "seed=1": ("seed=1",)}]


def test_directories_of_an_earlier_version_are_known(tmp_path):
    for name, file, content in (
        ("optimizer=adamw", "job.json", '{"overrides": ["optimizer=adamw"], "exit_code": 0}'),
        ("optimizer=sgd", ".hydra/overrides.yaml", "- optimizer=sgd\n- ++resume.from='x'\n"),
        ("seed=3", "log.txt", ""),  # killed before it had read its configuration
        ("notes", "readme.md", ""),
    ):
        (tmp_path / name / file).parent.mkdir(parents=True)
        (tmp_path / name / file).write_text(content)
    assert existing_jobs(tmp_path) == {
        "optimizer=adamw": ("optimizer=adamw",),
        "optimizer=sgd": ("optimizer=sgd",),
        "notes": None,
    }


@pytest.mark.parametrize("name", ["..", "../x", "/tmp/x", "", "."])
def test_a_record_names_no_directory_outside(tmp_path, name):
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": {name: ["seed=0"]}}))
    assert planned_jobs(tmp_path) == {}


def test_a_sweep_that_is_running_is_neither_read_nor_run(tmp_path):
    as_hydra(tmp_path)
    with lock_sweep_dir(tmp_path):
        (tmp_path / "multirun.yaml").write_text("}")  # as it may be at this moment
        with pytest.raises(UsageError) as refused:
            prepare_command_line(["-m", f"resume={tmp_path}"])
    assert str(refused.value) == (
        f"{tmp_path}: another process is running this sweep: process {os.getpid()}"
    )
    as_hydra(tmp_path)
    line = prepare_command_line(["-m", f"resume={tmp_path}"])
    with line.lock, pytest.raises(UsageError, match="is running this sweep"):
        lock_sweep_dir(tmp_path)


def test_a_second_starter_of_a_new_sweep_is_refused(tmp_path, train):
    with lock_sweep_dir(tmp_path / "sweep"):
        done = train("-m", "data=digits", "seed=0,1", "hydra.sweep.dir=sweep")
    assert done.returncode == 2
    told = f"lit-optim: sweep: another process is running this sweep: process {os.getpid()}"
    assert done.stderr.splitlines()[-1] == told
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == [".lock"]
