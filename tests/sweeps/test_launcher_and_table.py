"""Names of jobs, the final table, and the environment of a job."""

from __future__ import annotations

import io
import json

from rich.console import Console

from lit_optim.environment import RANK_VARIABLES
from lit_optim.sweeps.ending import end_sweep
from lit_optim.sweeps.jobs import describe_exit
from lit_optim.sweeps.names import name_jobs
from lit_optim.sweeps.plan import unique_dir
from lit_optim.sweeps.table import read_jobs, table


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
    assert [describe_exit(code) for code in (0, 2, -9)] == [
        "done",
        "failed with code 2",
        "killed by SIGKILL",
    ]


def sweep(tmp_path, values, mode="max"):
    """A sweep's directory: {(optimizer, seed): best value, or None for a failed job}."""
    for (optimizer, seed), value in values.items():
        run_dir = tmp_path / f"{optimizer}-{seed}"
        run_dir.mkdir(parents=True)
        overrides = [f"optimizer={optimizer}", "++trainer.max_steps=5", f"++seed={seed}"]
        job = {"overrides": overrides, "exit_code": int(value is None), "seconds": 1.0}
        (run_dir / "job.json").write_text(json.dumps(job))
        if value is not None:
            scores = {"val/acc": value}
            result = {
                "monitor": "val/acc",
                "mode": mode,
                "final": scores,
                "best": scores,
                "test": {"test/acc": value, "test/loss": 1.0},
                "seconds": 2.0,
            }
            (run_dir / "result.json").write_text(json.dumps(result))
    text = io.StringIO()
    Console(file=text, width=200).print(table(read_jobs(tmp_path)))
    lines = [line.split() for line in text.getvalue().splitlines() if line.strip()]
    return [line for line in lines if line[0] in {key[0] for key in values}]


def test_best_first_over_seeds(tmp_path):
    values = {("a", 0): 0.5, ("a", 1): 0.7, ("b", 0): 0.9, ("b", 1): None, ("c", 0): None}
    rows = sweep(tmp_path, values)
    assert [row[0] for row in rows] == ["b", "a", "c"]
    assert rows[0][1:4] == ["0.9000", "0.9000", "0.9000"]
    assert rows[0][4:7] == ["1", "of", "2"]
    assert rows[1][1:3] == ["0.600", "±0.141"]
    assert rows[2][1] == "-"


def test_smallest_first_and_what_diverged_last(tmp_path):
    values = {("a", 0): 0.3, ("b", 0): float("nan"), ("c", 0): 0.1, ("d", 0): 0.2}
    rows = sweep(tmp_path, values, mode="min")
    assert [row[0] for row in rows] == ["c", "d", "a", "b"]


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
    assert "No space left on device" in out
    assert "c:" not in out
