"""A resumed sweep keeps completed jobs and runs failed and interrupted ones again."""

from __future__ import annotations

import json
import os
import signal
import time

import torch

LINE = [
    "-m", "optimizer=adamw,sgd", "data=digits", "model=mlp", "trainer.max_steps=400",
    "trainer.val_check_interval=20", "test=false",
]  # fmt: skip


def is_done(path):
    return json.loads(path.read_text())["status"] == "completed"


def test_a_sweep_that_was_killed(tmp_path, train, begin):
    process = begin(*LINE)
    deadline = time.monotonic() + 120
    while not any(is_done(path) for path in tmp_path.glob("runs/*/*/optimizer=adamw/job.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    [sweep] = tmp_path.glob("runs/*/*")
    first = sweep / "optimizer=adamw"
    before = (first / "job.json").stat().st_mtime_ns
    done = train(*LINE, f"resume={sweep}")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 runs already done" in done.stderr
    assert sorted(p.name for p in sweep.iterdir() if (p / "job.json").exists()) == [
        "optimizer=adamw",
        "optimizer=sgd",
    ]
    assert (first / "job.json").stat().st_mtime_ns == before
    assert json.loads((sweep / "optimizer=sgd" / "result.json").read_text())["steps"] == 400
    assert "optimizer=adamw:" not in done.stdout  # no failure
    again = train(*LINE, f"resume={sweep}")
    assert (again.returncode, "2 of 2 runs already done" in again.stderr) == (0, True)


def test_a_job_whose_configuration_has_changed_runs_again(tmp_path, train):
    line = ["-m", "seed=0,1", "data=digits", "model=mlp", "trainer.max_steps=4", "test=false"]
    assert train(*line, "hydra.sweep.dir=sweep").returncode == 0
    first = tmp_path / "sweep" / "seed=0"
    asked = json.loads((first / "asked.json").read_text())
    asked["optimizer.weight_decay"] = 0.5  # as if conf/ had said so when it ran
    (first / "asked.json").write_text(json.dumps(asked))
    done = train(*line, "resume=sweep")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 runs already done" in done.stderr
    assert json.loads((first / "asked.json").read_text())["optimizer.weight_decay"] != 0.5
    before = tmp_path / "sweep" / ".before" / "seed=0"
    assert json.loads((before / "asked.json").read_text())["optimizer.weight_decay"] == 0.5
    assert (before / "result.json").exists()


def test_ctrl_c_in_a_sweep_reaches_its_jobs(tmp_path, begin):
    process = begin("-m", "data=digits", "seed=0,1", "n_jobs=1", "trainer.max_steps=1000000")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/*/seed=0/checkpoints/best.ckpt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "lit-optim: interrupted with 0 of 2 runs done" in err
    (job,) = tmp_path.glob("runs/*/*/*/job.json")
    assert json.loads(job.read_text())["exit_code"] == 130
    assert torch.load(job.parent / "checkpoints" / "last.ckpt")["global_step"] > 0
