"""The main job, started as a user starts it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.runs import build
from lit_optim.runs.failures import is_lightnings_complaint
from lit_optim.schedules.durations import Horizon
from lit_optim.schedules.library import cosine_warmup
from tests.events import hparams, scalars
from tests.user_code import CUSTOM
from tests.whole_runs import assert_same_parameters, checkpoint, only_run

QUICK = (
    "data=digits",
    "data.batch_size=48",  # 17 steps an epoch
    "trainer.max_steps=30",
    "trainer.log_every_n_steps=7",
)


def test_a_run_leaves_what_it_should(train, tmp_path):
    done = train(
        "optimizer=adamw", "scheduler=cosine_warmup", "optimizer.lr=0.01", "seed=0", *QUICK
    )
    assert done.returncode == 0, done.stderr
    run_dir = only_run(tmp_path)
    shown = {
        line.split()[0]: line.split(maxsplit=1)[1]
        for line in done.stdout.splitlines()
        if len(line.split()) > 1
    }
    assert shown["optimizer"].split() == ["adamw", "lr", "0.01", "(typed)"]
    assert shown["scheduler"].strip() == "cosine_warmup"
    assert shown["steps"].strip() == "30"
    assert {"time", "val/loss", "val/acc", "test/acc"} <= shown.keys()
    assert "best" in shown["val/acc"]
    assert shown["run"].strip() == str(run_dir.relative_to(tmp_path))
    program, command, logdir = shown["curves"].split()
    assert shutil.which(program)
    assert (command, logdir) == ("board", str(run_dir.relative_to(tmp_path)))
    assert "Warning" not in done.stdout + done.stderr
    assert "30/30" in done.stderr  # the progress bar

    result = json.loads((run_dir / "result.json").read_text())
    curves = scalars(run_dir)
    planned = cosine_warmup().curve(Horizon(30))
    for group in ("decay", "no_decay"):
        logged = curves[f"lr/{group}"]
        assert sorted(logged) == [0, 6, 13, 20, 27, 29]  # first and last always
        for step, lr in logged.items():
            assert lr == pytest.approx(0.01 * planned(step), abs=1e-9)
    assert sorted(curves["train/loss"]) == [6, 13, 20, 27, 29]
    assert sorted(curves["val/loss"]) == [16, 29]  # after each epoch and after the last update
    for tag in ("train/acc", "val/loss", "val/acc", "~test/loss", "~test/acc"):
        assert curves[tag]
    assert not any(tag.startswith("effective_lr") for tag in curves)
    last = max(curves["val/acc"])
    assert curves["val/acc"][last] == pytest.approx(result["final"]["val/acc"])
    assert curves["~test/acc"] == {30: pytest.approx(result["test"]["test/acc"])}
    assert min(curves) == "lr/decay"  # TensorBoard sorts cards by tag
    assert {tag for tag, points in curves.items() if len(points) == 1} == {
        "~test/acc",
        "~test/loss",
    }

    (entry,) = hparams(run_dir)
    assert entry["optimizer"] == "adamw"
    assert entry["scheduler"] == "cosine_warmup"
    assert entry["optimizer.lr"] == 0.01
    assert "hp_metric" not in curves

    loaded = checkpoint(run_dir)
    assert loaded["global_step"] == 30
    assert checkpoint(run_dir, "best")["global_step"] <= 30

    last = str(run_dir / "checkpoints" / "last.ckpt")
    again = train("train=false", "test=true", f"ckpt={last}", *QUICK)
    assert again.returncode == 0, again.stderr
    tested = sorted(tmp_path.glob("runs/*/*/result.json"), key=lambda p: p.stat().st_mtime)[-1]
    assert json.loads(tested.read_text())["test"] == result["test"]
    assert tested.parent.name.endswith("_test")


def test_the_same_seed_gives_the_same_result(train, tmp_path):
    def weights(*argv):
        before = set(tmp_path.glob("runs/*/*"))
        assert train(*argv, *QUICK).returncode == 0
        (run_dir,) = set(tmp_path.glob("runs/*/*")) - before
        return checkpoint(run_dir)["state_dict"]["out.weight"]

    a, b, c = weights("seed=0"), weights(), weights("seed=1")
    assert torch.equal(a, b)  # 0 is honoured, and the default
    assert not torch.equal(a, c)


def test_effective_lr_is_logged_where_it_differs(train, tmp_path):
    line = ("optimizer=adagrad", "optimizer.lr=0.01", "optimizer.lr_decay=0.5", "scheduler=none")
    done = train(*line, *QUICK)
    assert done.returncode == 0, done.stderr
    curves = scalars(only_run(tmp_path))
    for step in (0, 6, 29):
        assert curves["lr/decay"][step] == pytest.approx(0.01)
    assert 0 not in curves["effective_lr/decay"]
    for step in (6, 29):
        assert curves["effective_lr/decay"][step] == pytest.approx(0.01 / (1 + 0.5 * step))


@pytest.mark.parametrize("more", [("scheduler.warmup=100",), ("scheduler=step",)])
def test_debug_fast_goes_through_everything(train, tmp_path, more):
    done = train("debug=fast", "data=digits", *more)
    assert done.returncode == 0, done.stderr
    assert "test/acc" in done.stdout
    assert [path.name for path in tmp_path.glob("runs/*/*/*")] == [".hydra"]


def test_debug_overfit_overfits(train, tmp_path):
    done = train("debug=overfit", "data=digits")
    assert done.returncode == 0, done.stderr
    losses = scalars(only_run(tmp_path))["train/loss"]
    assert len(losses) == 200
    assert losses[199] < 0.05 < losses[0]


def test_without_validation_data(train, tmp_path):
    done = train("data.val_share=0", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "test/acc" in done.stdout
    assert "val/acc" not in done.stdout
    names = {p.name for p in (only_run(tmp_path) / "checkpoints").iterdir()}
    assert {name for name in names if name.endswith(".ckpt")} <= {"last.ckpt", "previous.ckpt"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trainer.strategy=dpp"], "trainer: You selected an invalid strategy name"),
        (["data=char_lm"], "data.path must be given: a text file, such as data.path="),
        (["trainer.devices=99"], "trainer.devices=99, but this machine has"),
        *[
            (
                ["trainer.devices=" + given],
                f"trainer.devices must be a number of devices > 0, their "
                f"indices such as '0,1', or auto or -1 for all, got {told}",
            )
            for given, told in (
                ("two", "'two'"),
                ("0", "0"),
                ("-2", "-2"),
                ("'1.5'", "'1.5'"),
                ("'0;1'", "'0;1'"),
            )
        ],
        (["optimizer=sgd", "optimizer.nesterov=true"], "nesterov must go with momentum > 0"),
    ],
    ids=str,
)
def test_what_is_seen_when_it_is_built(refusal, argv, message):
    assert message in refusal([*QUICK, *argv])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("trainer.val_check_interval=1000",), "`val_check_interval` (1000) must be less than"),
        (("data.val_share=0", "ckpt=best"), "ckpt=best: this run has not validated"),
    ],
    ids=str,
)
def test_what_only_the_run_can_see(train, argv, message):
    done = train(*QUICK, *argv)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["gpu", "cuda", "mps"])
def test_a_gpu_that_is_not_there(refusal, name, monkeypatch):
    monkeypatch.setattr(build, "GPUS", dict.fromkeys(build.GPUS, ()))
    message = f"trainer.accelerator={name}, but torch found no such device; use trainer=cpu"
    assert message in refusal([*QUICK, f"trainer.accelerator={name}"])


def test_a_checkpoint_of_another_model(train, tmp_path):
    assert train(*QUICK, "test=false").returncode == 0
    kept = next(tmp_path.glob("runs/*/*/checkpoints/last.ckpt"))
    done = train("data=digits", "model.channels=3", "train=false", f"ckpt={kept}")
    assert done.returncode == 2, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("lit-optim: ")]
    assert line.startswith("lit-optim: the checkpoint does not belong to this model: ")
    assert "Traceback" not in done.stderr


def run_pair(train, tmp_path, *argv):
    """The same run on one and on two processes; returns both checkpoints."""
    found = []
    for trainer in ("cpu", "ddp_cpu"):
        before = set(tmp_path.glob("runs/*/*"))
        done = train(f"trainer={trainer}", *argv)
        assert done.returncode == 0, done.stdout + done.stderr
        (run_dir,) = set(tmp_path.glob("runs/*/*")) - before  # the ranks share one
        found.append(run_dir)
    return found


@pytest.mark.usefixtures("user_code")
def test_two_processes_equal_one(train, tmp_path):
    spy = ("callbacks.spy._target_=user_code.Spy", "allow=[user_code]")
    one, two = run_pair(
        train, tmp_path, *QUICK, "trainer.precision=64-true", "data.batch_size=64", *spy
    )
    assert_same_parameters(one, two)
    results = [json.loads((run_dir / "result.json").read_text()) for run_dir in (one, two)]
    assert results[0]["steps"] == results[1]["steps"] == 30
    for stage in ("final", "test"):
        assert results[0][stage] == pytest.approx(results[1][stage], abs=1e-6)
    for run_dir in (one, two):
        curves = scalars(run_dir)
        for group in ("decay", "no_decay"):
            plan, logged = curves[f"plan/{group}"], curves[f"lr/{group}"]
            assert list(plan) == list(range(30))
            assert logged == {step: plan[step] for step in (0, 6, 13, 20, 27, 29)}
    first, second = ((tmp_path / f"lrs_{rank}.txt").read_text().split() for rank in (0, 1))
    assert first == second + second or first[-30:] == second  # rank 0 also wrote the single run's
    assert len(second) == 30
    # and what two have begun one can go on with
    longer = ("trainer=cpu", "trainer.max_steps=40", "resume.horizon=extend", "test=false")
    refused = train(f"resume={two}", *longer, spy[1])
    assert "trainer.devices was 2, now 1" in refused.stderr
    devices = "resume.override=[trainer.devices,trainer.strategy]"
    for run_dir in (one, two):
        done = train(f"resume={run_dir}", *longer, spy[1], devices)
        assert done.returncode == 0, done.stderr
        assert checkpoint(run_dir)["global_step"] == 40
    assert_same_parameters(one, two)


@pytest.mark.usefixtures("user_code")
def test_a_sweep_survives_its_jobs(train, tmp_path):
    done = train("-m", *CUSTOM, "model.width=5", "model.crash=no,raise,segfault,kill", "n_jobs=2")
    assert done.returncode == 1, done.stderr
    (sweep,) = tmp_path.glob("runs/*/*_sweep")
    jobs = {path.parent.name: json.loads(path.read_text()) for path in sweep.glob("*/job.json")}
    assert len(jobs) == 4
    for name, job in jobs.items():
        crash = name.split("model.crash=")[1].split(",")[0]
        assert job["exit_code"] == {"no": 0, "raise": 1, "segfault": -11, "kill": -9}[crash]
        assert (sweep / name / "result.json").exists() == (crash == "no")
    assert "4/4" in done.stderr
    rows = [
        line.split()
        for line in done.stdout.splitlines()
        if line.strip().startswith(("no ", "raise ", "kill "))
    ]
    assert rows[0][0] == "no"  # what succeeded comes first
    assert "killed by SIGSEGV" in done.stdout
    assert "killed by SIGKILL" in done.stdout
    assert "RuntimeError: my own mistake" in done.stdout
    assert done.stdout.count("log.txt") == 3


def test_a_sweep_of_two_process_jobs(train, tmp_path):
    """Ranks do not start the sweep again, and each job has its own directory."""
    common = (*QUICK, "trainer=ddp_cpu", "trainer.precision=64-true")
    done = train("-m", "optimizer=adamw,sgd", *common, RANK="7", WORLD_SIZE="9", MASTER_PORT="1")
    assert done.returncode == 0, done.stdout + done.stderr
    (sweep,) = tmp_path.glob("runs/*/*")
    names = sorted(path.parent.name for path in sweep.glob("*/result.json"))
    assert [name.split(",")[0] for name in names] == ["optimizer=adamw", "optimizer=sgd"]
    alone = train("optimizer=sgd", *common, "trainer=cpu")
    assert alone.returncode == 0, alone.stderr
    (run_dir,) = set(tmp_path.glob("runs/*/*")) - {sweep}
    assert_same_parameters(run_dir, sweep / names[1])


STOP = "callbacks.stop._target_"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            [f"{STOP}=lightning.pytorch.callbacks.EarlyStopping", "callbacks.stop.monitor=val/loss",
             "callbacks.stop.min_delta=1000", "callbacks.stop.patience=1"],
            "stopped early: Monitored metric val/loss did not improve",
        ),
        (["+trainer.max_time=00:00:00:01", "trainer.max_steps=1000000"], "trainer.max_time has"),
        (["trainer.max_steps=40"], ""),
        (["trainer.max_epochs=2"], ""),
    ],
    ids=["early", "time", "steps", "epochs"],
)  # fmt: skip
def test_an_early_stop_is_said(run_here, capsys, argv, message):
    result = run_here("data=digits", "model=linear", "test=false", *argv)
    [line] = [x for x in capsys.readouterr().out.splitlines() if x.strip().startswith("steps")]
    assert ("stopped early" in line) == bool(message)
    assert message in line
    assert message in f"stopped early: {result.stopped}" or not message


@pytest.mark.parametrize("name", ["LearningRateFinder"])
def test_a_finder_without_what_it_sets_is_refused(run_here, name):
    with pytest.raises(UsageError, match="has neither; lit-optim lr-range finds an"):
        run_here("data=digits", "model=linear",
                 f"callbacks.find._target_=lightning.pytorch.callbacks.{name}")  # fmt: skip


@pytest.mark.parametrize(
    ("code", "is_complaint"),
    [
        ('raise AttributeError("the model should have lr")', True),
        ("object().no_such_name", False),
        ('raise ValueError("wrong")', True),
        ('raise KeyError("wrong")', False),
    ],
)
def test_what_lightning_raises_on_purpose_is_a_line(code, is_complaint):
    """Not what it stumbles over."""
    with pytest.raises(Exception) as raised:  # noqa: PT011
        exec(code, {"__name__": "lightning.pytorch.somewhere"})
    error = raised.value
    error.__traceback__ = error.__traceback__.tb_next  # without this test
    assert is_lightnings_complaint(error) == is_complaint
