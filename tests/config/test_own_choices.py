"""--config-dir: choices of the user's own stand beside ours, everywhere."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lit_optim.cli import main
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config import places
from lit_optim.config.composing import compose_config
from lit_optim.config.places import conf_dir, groups, use_conf_dir
from lit_optim.config.sweep_settings import SWEEP_GROUPS
from lit_optim.errors import UsageError
from lit_optim.optimizers.base.options import OPTIONS
from lit_optim.reports.lr_plan import plan_lr

MINE = "# Ours, as we like it\n_target_: lit_optim.optimizers.sgd.SGD\nlr: 0.25\nmomentum: 0.5\n"


@pytest.fixture(autouse=True)
def _none_left():
    yield
    use_conf_dir(None)


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "my conf=1"
    write(directory, "optimizer/mine.yaml", MINE)
    return directory


def write(directory, name, text):
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(text)


@pytest.mark.parametrize(
    "form", [["--config-dir={}"], ["--config-dir", "{}"], ["-cd", "{}"]], ids=str
)
@pytest.mark.parametrize("path", ["my conf=1", "./my conf=1", "~/my conf=1"])
def test_it_is_what_the_run_gets(own, monkeypatch, form, path):
    monkeypatch.setenv("HOME", str(own.parent))
    argv = prepare_command_line(
        [*(part.format(path) for part in form), "optimizer=mine", "seed=3"]
    ).argv
    assert argv[0] == f"--config-dir={own}"  # which Hydra, and other processes, are given
    cfg = compose_config(argv[1:])
    assert (cfg.optimizer.lr, cfg.optimizer.momentum, cfg.seed) == (0.25, 0.5, 3)


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    "group", sorted(path.name for path in conf_dir().iterdir() if path.is_dir())
)
def test_a_choice_of_any_group(own, group):
    """One that builds on one of ours."""
    ours = sorted(groups()[group])[-1]
    text = (conf_dir() / group / f"{ours}.yaml").read_text()
    header = "# @package _global_\n" if "@package _global_" in text else ""
    write(own, f"{group}/another.yaml", f"{header}defaults:\n  - {ours}\n")
    search = ["-m", "optimizer.lr=auto", "search.trials=2"] if group in SWEEP_GROUPS else []
    argv = prepare_command_line([f"--config-dir={own}", f"{group}=another", *search]).argv
    lines = [line for line in argv if not line.startswith(("-", "hydra"))]
    assert compose_config(lines).hydra.runtime.choices[group] == "another"
    with pytest.raises(UsageError, match=f"unknown {group} 'anothe'; did you mean another"):
        prepare_command_line([f"--config-dir={own}", f"{group}=anothe"])


@pytest.mark.parametrize("name", ["elementwise", "walk"])  # walk is the old name
def test_it_takes_the_options_of_our_optimizers(own, name):
    defaults = f"defaults:\n  - options/{name}@_here_\n  - _self_\n"
    write(own, "optimizer/mine.yaml", MINE + "decay: corrected\n" + defaults)
    line = "optimizer.master=split"
    argv = prepare_command_line([f"--config-dir={own}", "optimizer=mine", line]).argv
    optimizer = compose_config(argv[1:]).optimizer
    assert (optimizer.master, optimizer.decay) == ("split", "corrected")
    assert optimizer.keys() >= OPTIONS.keys()


def test_its_keys_are_checked_like_ours(own):
    for line, told in {
        "optimizer.momentu=1": "did you mean optimizer.momentum",
        "optimizer.lr=-1": "optimizer.lr must be a number > 0",
    }.items():
        with pytest.raises(UsageError, match=told):
            prepare_command_line([f"--config-dir={own}", "optimizer=mine", line])
    write(own, "optimizer/mine.yaml", MINE.replace("lit_optim.optimizers.sgd", "evil"))
    with pytest.raises(UsageError, match=r"add allow=\[evil\]"):
        prepare_command_line([f"--config-dir={own}", "optimizer=mine"])
    write(own, "wrapper/mine.yaml", "_target_: evil.W\n")
    with pytest.raises(UsageError, match=r"add allow=\[evil\]"):
        prepare_command_line([f"--config-dir={own}", "wrapper=mine"])


def test_what_is_typed_wins_over_its_lr(own):
    argv = prepare_command_line([f"--config-dir={own}", "optimizer=mine", "optimizer.lr=0.75"]).argv
    assert compose_config(argv[1:]).optimizer.lr == 0.75


def test_it_is_listed(own, capsys):
    main(["optimizers", "--config-dir", str(own)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("mine ")] == ["Ours,"]
    main(["optimizers", "mine", f"--config-dir={own}"])
    assert "optimizer.momentum=0.5" in capsys.readouterr().out
    told = prepare_command_line([f"--config-dir={own}", "optimizer=mine", "--help"]).text
    assert "optimizer.momentum=0.5" in told
    assert "  mine " in prepare_command_line([f"--config-dir={own}", "--help"]).text


def test_it_is_completed(tmp_path, monkeypatch, capsys):
    write(tmp_path / "c", "optimizer/mine.yaml", MINE)
    monkeypatch.chdir(tmp_path)
    for command in ("plot", "explain", "train"):
        main(["complete", f"lit-optim {command} --config-dir c optimizer=min"])
        assert capsys.readouterr().out == "optimizer=mine\n"


def test_it_is_planned_with(own):
    use_conf_dir(str(own))
    [plan] = plan_lr(["optimizer=mine", "scheduler=none", "trainer.max_steps=10"])
    assert plan.lr == 0.25


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([], "has no folder of a group"),
        (["x/y.yaml"], "has no folder of a group"),
        (["optimzer/mine.yaml"], "unknown group optimzer; did you mean optimizer?"),
        (["optimizer/adamw.yaml"], "optimizer/adamw.yaml has the name of a built-in choice"),
        (["train.yaml", "optimizer/mine.yaml"], "rename train.yaml"),
        (None, "no such directory"),
    ],
    ids=str,
)
def test_a_directory_that_would_not_be_what_is_meant(tmp_path, files, told):
    if files is not None:
        (tmp_path / "c").mkdir()
        for name in files:
            write(tmp_path / "c", name, MINE)
    with pytest.raises(UsageError, match=told.replace("?", r"\?")):
        prepare_command_line([f"--config-dir={tmp_path / 'c'}"])
    with pytest.raises(SystemExit):
        main(["plot", f"--config-dir={tmp_path / 'c'}"])
    assert places.own_conf_dir() is None


def test_the_shipped_directory_is_not_the_users_own():
    with pytest.raises(UsageError, match="is lit-optim's own conf/, which is always used; put"):
        prepare_command_line([f"--config-dir={conf_dir()}"])


def test_a_launcher_of_the_users_own_is_chosen_by_name(own):
    basic = "_target_: hydra._internal.core_plugins.basic_launcher.BasicLauncher\n"
    write(own, "hydra/launcher/mine.yaml", basic)
    assert prepare_command_line([f"--config-dir={own}", "hydra/launcher=mine"]).argv
    with pytest.raises(UsageError, match="unknown hydra/launcher"):
        prepare_command_line(["hydra/launcher=mine"])


def test_a_directory_does_not_bring_its_choices_along(own, monkeypatch):
    from lit_optim.config.stored import stored_overrides

    use_conf_dir(str(own))
    assert stored_overrides(["optimizer=mine"], "x")
    use_conf_dir(None)
    with pytest.raises(UsageError, match="wants --config-dir"):
        stored_overrides(["optimizer=mine"], "x")


SMALL = ["data=digits", "model=mlp", "trainer.max_steps=2", "trainer.limit_val_batches=1"]


def started(command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_a_sweep_by_the_installed_command(own):
    """Its processes are started again by the launcher, from another program than train.py."""
    code = "import sys; sys.argv[0] = '/nowhere/lit-optim'; from lit_optim.cli import main; main()"
    line = ["train", "--config-dir", own.name, "-m", "optimizer=mine,sgd", *SMALL]
    started([sys.executable, "-c", code, *line, "hydra.sweep.dir=s"], own.parent)
    results = [json.loads(p.read_text()) for p in own.parent.glob("s/*/result.json")]
    assert sorted(r["choices"]["optimizer"] for r in results) == ["mine", "sgd"]


@pytest.mark.slow
def test_several_processes_by_module(own):
    """Lightning starts the second process itself."""
    line = [
        "-m",
        "lit_optim",
        "--config-dir",
        own.name,
        "optimizer=mine",
        "trainer=ddp_cpu",
        *SMALL,
    ]
    done = started([sys.executable, *line], own.parent)
    assert "steps" in done.stdout
