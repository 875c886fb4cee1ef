"""What a run leaves of its start, and what is made of it: results, rerun, ckpt and branch_from."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest
import yaml

from lit_optim import cli
from lit_optim.command_line.command import Completion
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.command_line.translate import rerun_arguments
from lit_optim.commands import load_command, load_commands
from lit_optim.errors import UsageError
from lit_optim.results.reading import read_runs
from lit_optim.runs import record
from lit_optim.runs.record import git_state, record_start
from tests.results.directories import BROKEN, write_run

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
    line = prepare_command_line(["train=false", f"ckpt={file}"])
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
    typed = prepare_command_line(["train=false", f"ckpt={file}", "model=linear"])
    assert "model=linear" in typed.argv
    assert not any(argument.startswith(("model=mlp", "++model.width")) for argument in typed.argv)


def test_a_branch_takes_all_of_its_run(tmp_path):
    file = a_run(tmp_path / "run")
    argv = prepare_command_line([f"branch_from={file}", "optimizer.momentum=0.5"]).argv
    assert {"data=digits", "model=mlp", "optimizer=sgd", "++optimizer.momentum=0.5"} <= set(argv)


@pytest.mark.parametrize(
    "argv", [["train=false", "ckpt={}"], ["branch_from={}"]], ids=["ckpt", "branch"]
)
def test_what_stands_there_is_data(tmp_path, argv):
    file = a_run(tmp_path / "run", ["hydra/launcher=../evil", "model=mlp"])
    with pytest.raises(UsageError, match="which a directory cannot decide"):
        prepare_command_line([one.format(file) for one in argv])


def test_a_checkpoint_that_is_alone(tmp_path):
    alone = tmp_path / "weights.ckpt"
    alone.touch()
    assert "model=mlp" not in prepare_command_line(["train=false", f"ckpt={alone}"]).argv


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


@pytest.fixture
def trained(monkeypatch):
    """Do not train; returns what train.py would have been given."""
    monkeypatch.setattr("runpy.run_module", lambda *args, **kwargs: None)
    monkeypatch.setattr(sys, "argv", ["lit-optim"])
    return lambda: sys.argv[1:]


def test_a_run_again(tmp_path, trained):
    a_run(tmp_path / "run")
    again = rerun_arguments(tmp_path / "run", ["seed=8", "optimizer=adamw"])
    assert again == ["data=digits", "model=mlp", "++model.width=20", "scheduler=constant",
                     "++trainer.max_steps=40", "++trainer.precision=64-true", "seed=8",
                     "optimizer=adamw"]  # fmt: skip
    cli.main(["rerun", str(tmp_path / "run"), "seed=8", "optimizer=adamw"])
    assert trained() == again
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text('{"line": ["seed=0,1", "model=mlp"]}')
    assert rerun_arguments(tmp_path / "sweep", []) == ["-m", "seed=0,1", "model=mlp"]


def test_what_cannot_be_run_again(tmp_path):
    with pytest.raises(UsageError, match="is not the directory of a run or a sweep"):
        rerun_arguments(tmp_path, [])
    a_run(tmp_path / "run", ["model=mlp", "++branch_from='x/last.ckpt'"])
    with pytest.raises(UsageError, match=r"is a branch; type branch_from='x/last.ckpt' with it"):
        rerun_arguments(tmp_path / "run", [])
    assert "model=mlp" in rerun_arguments(tmp_path / "run", ["branch_from=x"])


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
    assert "0.5000" in out
    assert "±" not in out  # two runs have no interval
    whole = results(capsys, tmp_path)
    lines = [line.split() for line in whole.splitlines() if line.strip()]
    best = [word for line in lines for word in line if word in ("adamw", "sgd", "lion")]
    assert best == ["sgd", "adamw", "sgd"]  # what was cut off comes last
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


@pytest.mark.parametrize("stray", ["asked.json", "result.json", "job.json"])
@pytest.mark.parametrize("at", [".", "day", "day/one", "day/one/within"])
def test_no_run_hides_another(tmp_path, stray, at):
    runs = [tmp_path / "day" / "one", tmp_path / "day" / "one" / "within" / "two",
            tmp_path.joinpath("day", *"abcdefghijkl")]  # fmt: skip
    for run_dir in runs:
        write_run(run_dir.parent, run_dir.name, ["optimizer=sgd"], 0.5)
    (tmp_path / at).mkdir(exist_ok=True)
    if not (tmp_path / at / stray).exists():
        (tmp_path / at / stray).write_text("{}")
    found = [run.directory for run in read_runs([tmp_path]).runs if run.finals]
    assert sorted({*runs} - {tmp_path / at}) == sorted({*found} - {tmp_path / at})


CONTROL = ["\x1b[31m", "\x07", "\x9b2J", "\r", "\u202e", "\n"]


@pytest.mark.parametrize("sign", CONTROL)
@pytest.mark.parametrize("where", ["key", "value", "metric", "test", "directory"])
def test_no_terminal_obeys_what_a_run_says(tmp_path, sign, where, capsys):
    put = {where: f"a{sign}b"}
    top = tmp_path / put.get("directory", "runs")
    for k in range(2):
        run_dir = top / f"r{k}"
        write_run(top, f"r{k}", [f"{put.get('key', 'model.x')}={put.get('value', 'v')}{k}"], 0.5)
        result = json.loads((run_dir / "result.json").read_text())
        metric = put.get("metric", "val/loss")
        result |= {"monitor": metric, "final": {metric: 1.0}, "best": {metric: 1.0}}
        result["test"] = {put.get("test", "test/loss"): 1.0}
        (run_dir / "result.json").write_text(json.dumps(result))
    a_run(top / "cut off")
    out = results(capsys, top)
    assert all(character.isprintable() or character == "\n" for character in out)
    assert f"a{sign}b" not in out
    assert sign.encode("unicode_escape").decode() in out


@pytest.mark.parametrize("sign", CONTROL)
@pytest.mark.parametrize("command", ["rerun", "resume", "ckpt", "branch_from"])
def test_no_terminal_obeys_the_overrides_of_a_run(tmp_path, sign, command, capsys, trained):
    run_dir = tmp_path / f"d{sign.strip()}r"
    lines = [*(line for line in STORED if "allow" not in line), f"++data.path='x{sign}y'"]
    file = a_run(run_dir, [line for line in lines if "data.path" not in line])
    if command == "rerun":
        (run_dir / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(lines))
        cli.main(["rerun", str(run_dir)])
    elif command == "resume":
        from lit_optim.config.check import to_plain
        from lit_optim.config.composing import compose_config
        from lit_optim.runs.resume import write_fingerprint

        plain = [line for line in STORED if "allow" not in line]
        write_fingerprint(
            run_dir, to_plain(compose_config([line.replace("seed", "++seed") for line in plain]))
        )
        prepare_command_line([f"resume={run_dir}"])
    else:
        prepare_command_line([f"{command}={file}", *(["train=false"] if command == "ckpt" else [])])
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert all(character.isprintable() for character in out.removesuffix("\n"))


@pytest.mark.parametrize("command", ["results", "rerun", "board", "report", "best"])
def test_every_path_may_begin_at_home(command, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_command(command).parse(["~/x"]).directory in (tmp_path / "x", [tmp_path / "x"])


def test_every_argument_that_completes_paths_expands_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = [argument for command in load_commands() for argument in command.arguments]
    of_paths = [one for one in arguments if one.completion is Completion.PATHS]
    assert {one.name for one in of_paths} == {"directory", "--to", "--export"}
    for argument in of_paths:
        assert argument.parse("~/x") == tmp_path / "x"


def test_a_run_at_home_again(tmp_path, monkeypatch, trained):
    monkeypatch.setenv("HOME", str(tmp_path))
    a_run(tmp_path / "run", ["seed=3"])
    cli.main(["rerun", "~/run"])
    assert trained() == ["seed=3"]
