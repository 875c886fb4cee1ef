"""Names of jobs, the final table, and the environment of a job."""

from __future__ import annotations

import json

from lit_optim.environment import RANK_VARIABLES
from lit_optim.runs.job import JobRecord, status_of_exit
from lit_optim.runs.status import Status
from lit_optim.sweeps.describing import describe_job
from lit_optim.sweeps.ending import end_sweep
from lit_optim.sweeps.names import name_jobs
from lit_optim.sweeps.plan import unique_dir
from tests.results.directories import write_run


def test_a_directory_is_named_after_what_differs():
    jobs = [
        ["optimizer=adamw", "scheduler=step", "++trainer.max_steps=5", "++seed=0"],
        ["optimizer=sgd", "scheduler=step", "++trainer.max_steps=5", "++seed=1"],
    ]
    assert name_jobs(jobs)[0] == "optimizer=adamw,seed=0"
    assert name_jobs(jobs[:1]) == ["optimizer=adamw,scheduler=step,trainer.max_steps=5,seed=0"]


def test_odd_names_become_directories(tmp_path):
    jobs = [["++data.path='/tmp/a b.txt'"], ["++data.path=/" + "x" * 400], ["++a=[0.9,0.99]"]]
    names = name_jobs(jobs)
    assert names[0] == "data.path=-tmp-a-b.txt"
    assert len(names[1]) < 200
    assert names[2] == "a=[0.9,0.99]"
    for name in names:
        assert unique_dir(tmp_path, name).is_dir()
        assert unique_dir(tmp_path, name).name == f"{name}-2"


def test_rank_variables_are_not_inherited():
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "PL_GLOBAL_SEED"):
        assert RANK_VARIABLES.fullmatch(name)
    for name in ("PATH", "OMP_NUM_THREADS", "PLATFORM"):
        assert not RANK_VARIABLES.fullmatch(name)


def test_exits_in_words():
    def words(code, status=None, message=""):
        return describe_job(JobRecord([], code, {}, status or status_of_exit(code), message))

    assert [words(code) for code in (0, 2, 130, -9)] == [
        "completed", "failed with code 2", "interrupted", "killed by SIGKILL",
    ]  # fmt: skip
    assert words(1, Status.DIVERGED, "the loss is NaN") == "diverged"
    assert words(None, Status.KILLED) == "killed"
    assert words(0, Status.FAILED, "ended without a result") == "ended without a result"
    assert words(2, Status.FAILED, "no such key") == "failed with code 2"
    assert words(None, Status.FAILED) == "failed"


def test_a_run_whose_end_could_not_be_written_counts_as_failed(tmp_path, capsys):
    for name, record in (("a", '{"overrides": [], "exit_code": 0}'), ("b", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.txt").write_text("No space left on device\n")
        if record:
            (tmp_path / name / "job.json").write_text(record)
    (tmp_path / "c").mkdir()  # cut off by another start, and not asked for by this one
    (tmp_path / "c" / "log.txt").touch()
    planned = {"line": [], "jobs": {"a": ["seed=0"], "b": ["seed=1"]}}
    (tmp_path / "sweep.json").write_text(json.dumps(planned))
    assert end_sweep(tmp_path)
    out = capsys.readouterr().out
    assert (
        f"b: how it ended could not be written: a full disk?; {tmp_path / 'b' / 'log.txt'}" in out
    )
    assert "\n  last line of its log: No space left on device\n" in out
    assert "c:" not in out


def test_the_path_of_a_log_can_be_copied(tmp_path, monkeypatch, capsys):
    write_run(tmp_path, "x" * 80, ["optimizer=adamw"], code=3)
    monkeypatch.setenv("COLUMNS", "40")
    assert end_sweep(tmp_path)
    assert str(tmp_path / ("x" * 80) / "log.txt") in capsys.readouterr().out
