"""What a run leaves of its start, and what is made of it: results, rerun, ckpt and branch_from."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest
import yaml

from lit_optim import cli, record
from lit_optim.config.command_line import front, rerun_line
from lit_optim.errors import UsageError
from lit_optim.record import git_state, record_start
from tests.sweeps.test_rows import BROKEN, write_run

STORED = ["data=digits", "model=mlp", "++model.width=20", "optimizer=sgd", "scheduler=constant",
          "++trainer.max_steps=40", "seed=7", "++allow=[mine]",
          "++trainer.precision=64-true"]  # fmt: skip


def a_run(where, lines=STORED):
    (where / ".hydra").mkdir(parents=True)
    (where / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(lines)))
    (where / "asked.json").write_text("{}")
    (where / "checkpoints").mkdir()
    file = where / "checkpoints" / "last.ckpt"
    file.touch()
    return file


def test_a_checkpoint_is_tested_with_the_model_and_data_of_its_run(tmp_path, capsys):
    file = a_run(tmp_path / "run")
    line = front(["train=false", f"ckpt={file}"])
    taken = {
        "data=digits",
        "model=mlp",
        "++model.width=20",
        "seed=7",
        "++trainer.precision=64-true",
    }
    assert taken <= {argument.replace("++seed", "seed") for argument in line.argv}
    assert not {"optimizer=sgd", "scheduler=constant", "++trainer.max_steps=40"} & set(line.argv)
    assert not any("allow" in argument for argument in line.argv)  # to be typed again
    assert "data=digits model=mlp" in capsys.readouterr().out
    typed = front(["train=false", f"ckpt={file}", "model=linear"])
    assert "model=linear" in typed.argv
    assert not any(argument.startswith(("model=mlp", "++model.width")) for argument in typed.argv)


def test_a_branch_takes_all_of_its_run(tmp_path):
    file = a_run(tmp_path / "run")
    argv = front([f"branch_from={file}", "optimizer.momentum=0.5"]).argv
    assert {"data=digits", "model=mlp", "optimizer=sgd", "++optimizer.momentum=0.5"} <= set(argv)


@pytest.mark.parametrize(
    "argv", [["train=false", "ckpt={}"], ["branch_from={}"]], ids=["ckpt", "branch"]
)
def test_what_stands_there_is_data(tmp_path, argv):
    file = a_run(tmp_path / "run", ["hydra/launcher=../evil", "model=mlp"])
    with pytest.raises(UsageError, match="which a directory cannot decide"):
        front([one.format(file) for one in argv])


def test_a_checkpoint_that_is_alone(tmp_path):
    alone = tmp_path / "weights.ckpt"
    alone.touch()
    assert "model=mlp" not in front(["train=false", f"ckpt={alone}"]).argv


def test_what_a_run_was_started_with(tmp_path):
    record_start(tmp_path, STORED)
    kept = json.loads((tmp_path / "run.json").read_text())
    assert kept["overrides"] == STORED
    assert shlex.split(kept["command"])[1:] == sys.orig_argv[1:]
    assert kept["versions"].keys() >= {"lit_optim", "python", "torch", "lightning"}
    record_start(tmp_path, ["seed=1"], resumed=True)
    record_start(tmp_path, ["seed=2"], resumed=True)
    again = json.loads((tmp_path / "run.json").read_text())
    assert {key: again[key] for key in kept} == kept
    assert [start["overrides"] for start in again["resumed"]] == [["seed=1"], ["seed=2"]]


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_a_record_of_another_kind_is_replaced(tmp_path, text):
    (tmp_path / "run.json").write_text(text, "latin-1")
    record_start(tmp_path, [], resumed=True)
    assert len(json.loads((tmp_path / "run.json").read_text())["resumed"]) == 1


def git(where, *argv):
    subprocess.run(["git", *argv], cwd=where, check=True, capture_output=True)


def test_the_commit(tmp_path, monkeypatch):
    assert git_state(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) is None  # without a commit
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "one")
    clean = git_state(tmp_path)
    assert clean is not None
    assert (len(clean["commit"]), clean["changed"]) == (40, False)
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == {"commit": clean["commit"], "changed": True}
    (tmp_path / "b").mkdir()
    assert git_state(tmp_path / "b") == {"commit": clean["commit"], "changed": True}

    def fails(*args, **kwargs):
        raise subprocess.TimeoutExpired("git", 5)

    monkeypatch.setattr(record.subprocess, "run", fails)
    assert git_state(tmp_path) is None
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) is None


def test_a_run_again(tmp_path, monkeypatch):
    a_run(tmp_path / "run")
    again = rerun_line(tmp_path / "run", ["seed=8", "optimizer=adamw"])
    assert again == ["data=digits", "model=mlp", "++model.width=20", "scheduler=constant",
                     "++trainer.max_steps=40", "++trainer.precision=64-true", "seed=8",
                     "optimizer=adamw"]  # fmt: skip
    started = []
    monkeypatch.setattr(cli, "_train", lambda directory, argv: started.append(argv))
    cli.main(["rerun", str(tmp_path / "run"), "seed=8", "optimizer=adamw"])
    assert started == [["train", *again]]
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text('{"line": ["seed=0,1", "model=mlp"]}')
    assert rerun_line(tmp_path / "sweep", []) == ["-m", "seed=0,1", "model=mlp"]


def test_what_cannot_be_run_again(tmp_path):
    with pytest.raises(UsageError, match="is no directory of a run or a sweep"):
        rerun_line(tmp_path, [])
    a_run(tmp_path / "run", ["model=mlp", "++branch_from='x/last.ckpt'"])
    with pytest.raises(UsageError, match=r"is a branch; type branch_from='x/last.ckpt' beside it"):
        rerun_line(tmp_path / "run", [])
    assert "model=mlp" in rerun_line(tmp_path / "run", ["branch_from=x"])


def results(capsys, directory):
    cli.main(["results", str(directory)])
    return capsys.readouterr().out


def test_results_of_a_run_a_sweep_and_a_tree(tmp_path, capsys):
    for seed in (0, 1):
        write_run(tmp_path / "day" / "sweep", f"s{seed}", ["optimizer=adamw", f"++seed={seed}"],
                  0.25 + seed / 2, settings={"seed": seed, "data.seed": seed})  # fmt: skip
    write_run(tmp_path / "day", "single", [], 0.9, choices={"optimizer": "sgd"})
    (tmp_path / "day" / "single" / "job.json").unlink()
    a_run(tmp_path / "day" / "cut off")
    (tmp_path / "day" / ".before").mkdir()
    write_run(tmp_path / "day" / ".before", "old", ["optimizer=lion"], 0.99)
    out = results(capsys, tmp_path / "day" / "sweep")
    assert "0.500 ±0.354" in out
    whole = results(capsys, tmp_path)
    lines = [line.split() for line in whole.splitlines() if line.strip()]
    assert [line[0] for line in lines if line[0] in ("adamw", "sgd", "lion")] == ["sgd", "adamw"]
    assert f"no result: {tmp_path / 'day' / 'cut off'}" in whole
    assert "0.9000" in results(capsys, tmp_path / "day" / "single")
    one = results(capsys, tmp_path / "day" / "sweep" / "s0")
    assert "0.2500" in one


@pytest.mark.parametrize("place", ["missing", "empty", "file"])
def test_results_of_nothing(tmp_path, place, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        cli.main(["results", str(tmp_path / place)])
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
