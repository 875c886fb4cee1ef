"""Runs that are killed, go on, end, and branch: as a user sees them."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.runs.locks import lock_run_dir
from lit_optim.runs.resume import run_fingerprint

ROOT = Path(__file__).parent.parent
QUICK = ["data=digits", "model=mlp", "trainer.val_check_interval=20"]
#: What is killed: an optimizer, a schedule, and how it runs.
PAIRS = [
    ("adamw", "cosine_warmup", []),
    ("momentum", "wsd", ["trainer.accumulate_grad_batches=3"]),
]
MORE = [
    ("muon", "one_cycle", []),
    ("schedule_free_adamw", "constant_warmup", []),
    ("soap", "plateau", []),
    ("lion", "linear_warmup", ["wrapper=ema"]),
    ("adafactor", "inverse_sqrt", ["optimizer.lr=0.01"]),
    ("prodigy", "cosine_restarts", ["trainer.accumulate_grad_batches=2"]),
    ("ademamix", "multiplicative", ["schedules.weight_decay=lr"]),
    ("sgd", "greedy", []),
]


def weights(run_dir):
    saved = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    return saved["global_step"], saved["state_dict"]


def kill_started(begin, argv, where):
    """Start it, and SIGKILL it after its third checkpoint."""
    process = begin(*argv)
    seen, deadline = set(), time.monotonic() + 120
    while len(seen) < 3:
        assert process.poll() is None, "it has ended before it could be killed"
        assert time.monotonic() < deadline
        seen |= {path.stat().st_mtime_ns for path in where.glob("runs/*/*/checkpoints/last.ckpt")}
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize(
    ("optimizer", "scheduler", "more"),
    [PAIRS[0], *[pytest.param(*one, marks=pytest.mark.slow) for one in (*PAIRS[1:], *MORE)]],
    ids=lambda x: x if isinstance(x, str) else "-".join(x),
)
def test_killed_and_gone_on_with(optimizer, scheduler, more, tmp_path, train, begin):
    argv = [*QUICK, f"optimizer={optimizer}", f"scheduler={scheduler}", *more, "test=false"]
    argv.append("trainer.max_steps=800")
    kill_started(begin, argv, tmp_path)
    [run_dir] = tmp_path.glob("runs/*/*")
    step, _ = weights(run_dir)
    assert step < 800
    with lock_run_dir(run_dir), pytest.raises(UsageError, match="another process is running there"):
        lock_run_dir(run_dir)
    done = train(*argv, "resume=auto")
    assert done.returncode == 0, done.stderr
    assert f"resuming {run_dir.relative_to(tmp_path)}" in done.stdout
    assert f"\nresuming at step {step}\n" in done.stdout
    assert list(tmp_path.glob("runs/*/*")) == [run_dir]
    again = train(*argv, "resume=auto")
    assert (again.returncode, "has already finished" in again.stdout) == (0, True)
    whole = train(*argv)
    assert whole.returncode == 0, whole.stderr
    [other] = set(tmp_path.glob("runs/*/*")) - {run_dir}
    (steps, one), (same_steps, two) = weights(run_dir), weights(other)
    assert steps == same_steps
    assert all(torch.equal(one[name], two[name]) for name in two)


@pytest.mark.parametrize(
    ("scheduler", "length"),
    [("cosine_warmup", 30), ("CosineAnnealingLR", 30), ("PolynomialLR", 40)],  # of 5 updates
)
def test_a_longer_run_may_keep_the_length_of_its_schedule(scheduler, length, tmp_path, train):
    line = (*QUICK, f"scheduler={scheduler}", "trainer.max_steps=30", "test=false")
    assert train(*line, "hydra.run.dir=it").returncode == 0
    longer = train("resume=it", "trainer.max_steps=40", "resume.horizon=keep")
    assert longer.returncode == 0, longer.stderr
    saved = torch.load(tmp_path / "it" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 40
    assert saved["lr_schedulers"][0]["total"] == length


def test_a_branch_is_the_run_that_would_have_cooled_down(tmp_path, train):
    steady = train(*QUICK, "scheduler=constant_warmup", "trainer.max_steps=80", "test=false")
    assert steady.returncode == 0, steady.stderr
    [first] = tmp_path.glob("runs/*/*")
    before = {path.name: path.stat().st_mtime_ns for path in first.rglob("*")}
    argv = [f"branch_from={first / 'checkpoints' / 'last.ckpt'}", "cooldown=20%", "test=false"]
    branch = train(*QUICK, "scheduler=constant_warmup", *argv)
    assert branch.returncode == 0, branch.stderr
    assert {path.name: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    [second] = set(tmp_path.glob("runs/*/*")) - {first}
    assert second.name.endswith("_adamw_cooldown")
    assert "\nbranching off at step 80\n" in branch.stdout
    assert re.search("^scheduler +constant_warmup, then cooldown=20%$", branch.stdout, re.MULTILINE)
    up, flat = "{shape: linear, from: 0, to: 1, for: 4}", "{shape: constant, for: 76}"
    phases = f"[{up}, {flat}, {{shape: 1-sqrt, to: 0}}]"
    argv = ["scheduler=phases", f"scheduler.phases={phases}", "trainer.max_steps=100", "test=false"]
    whole = train(*QUICK, *argv)
    assert whole.returncode == 0, whole.stderr
    [third] = set(tmp_path.glob("runs/*/*")) - {first, second}
    (steps, one), (_, two) = weights(second), weights(third)
    assert steps == 100
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_sigterm_leaves_a_checkpoint(tmp_path, begin):
    process = begin(*QUICK, "trainer.max_steps=1000000")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/*/checkpoints/last.ckpt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    [line] = [line for line in err.splitlines() if line.startswith("lit-optim:")]
    assert line.startswith("lit-optim: terminated at step ")
    step, _ = weights(Path(tmp_path / line.rpartition("checkpoint: ")[2]).parent.parent)
    assert f"at step {step};" in line


@pytest.mark.parametrize(
    ("scheduler", "steps", "name", "better"),
    [
        ("scheduler=wsd", 48, "last", "previous.ckpt, of update 20"),
        ("scheduler=cosine_warmup", 60, "last", "no earlier checkpoint is kept"),
        ("scheduler=linear", 60, "last", "no earlier checkpoint is kept"),
        ("scheduler=wsd", 48, "previous", None),
        ("scheduler=none", 60, "last", None),
        ("scheduler=step", 48, "previous", None),
    ],
)
def test_a_branch_from_where_the_lr_is_gone_is_refused(
    run_here, scheduler, steps, name, better, tmp_path
):
    run_here(*QUICK, scheduler, f"trainer.max_steps={steps}", "test=false", "optimizer=sgd",
             run_dir="first")  # fmt: skip
    folder = tmp_path / "first" / "checkpoints"
    (folder / "best.ckpt").unlink()
    branch = [*QUICK, f"branch_from={folder / name}.ckpt", "cooldown=5", "test=false"]
    if better is None:
        assert run_here(*branch, "optimizer=sgd", run_dir="second").steps > 20
        return
    with pytest.raises(UsageError, match="so there is nothing to cool down from") as refused:
        run_here(*branch, "optimizer=sgd", run_dir="second")
    assert better in str(refused.value)
    assert not (tmp_path / "second" / "checkpoints").exists()


def test_a_key_that_was_added_with_its_old_behavior_makes_no_other_run():
    """Nor is a run from before, whose fingerprint lacks it, another run than the same one now."""
    assert run_fingerprint({"optimizer": {"lr": 1, "ns_dtype": "auto"}}) == {"optimizer.lr": 1}
    told = run_fingerprint({"optimizer": {"ns_dtype": "float32"}, "weights": None})
    assert told == {"optimizer.ns_dtype": "float32"}
