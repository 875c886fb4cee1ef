"""The steps from arguments to a run: each alone, and how often the configuration is worked on."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from hydra._internal.hydra import Hydra

from lit_optim import app
from lit_optim.command_line import prepare
from lit_optim.command_line.arguments import parse_arguments
from lit_optim.command_line.prepare import compose_and_check, find_run, hand_over
from lit_optim.command_line.translate import translate
from lit_optim.config import check, composing
from lit_optim.config.places import use_conf_dir
from lit_optim.errors import UsageError

SMALL = ("data=digits", "model=linear", "trainer.max_steps=2", "trainer.limit_val_batches=1",
         "logger=none", "test=false", "trainer.enable_progress_bar=false")  # fmt: skip


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    use_conf_dir(None)


@pytest.fixture
def calls(monkeypatch):
    """Count the calls that compose a configuration, and those that check one."""
    counts = Counter()

    def spy(owner, name):
        original = getattr(owner, name)

        def counting(*args, **kwargs):
            counts[f"{owner.__name__}.{name}"] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    spy(composing, "compose")
    spy(prepare, "check_config")
    spy(app, "check_config")
    spy(check, "_check_settings")  # what check_config begins with, wherever it is called
    spy(Hydra, "compose_config")
    return counts


def test_one_composition_and_one_check_before_hydra(calls):
    prepare.prepare_command_line(["optimizer=sgd", "optimizer.lr=0.1", "scheduler=wsd"])
    assert calls["lit_optim.config.composing.compose"] == 1
    assert calls["lit_optim.config.check._check_settings"] == 1
    assert calls["Hydra.compose_config"] == 1  # which that one calls


def test_a_run_is_checked_once(calls, monkeypatch):
    """Hydra's main composes again, as it takes arguments only; nothing checks again."""
    monkeypatch.setattr(sys, "argv", ["train.py", *SMALL])
    app.main()
    assert calls["lit_optim.config.composing.compose"] == 1
    assert calls["Hydra.compose_config"] == 1 + 1
    assert calls["lit_optim.config.check._check_settings"] == 1


def test_a_sweep_composes_once_per_choice_and_not_per_value(calls):
    prepare.prepare_command_line(["-m", "optimizer=sgd,adamw", "seed=0,1,2", "optimizer.lr=1,2"])
    assert calls["lit_optim.config.composing.compose"] == 2
    assert calls["lit_optim.config.check._check_settings"] == 5


def test_parse():
    args = parse_arguments(["-m", "+resume=x", "optimizer=sgd"])
    assert args.is_multirun
    assert args.options == ["-m"]
    assert args.overrides == ["resume.from=x", "optimizer=sgd"]
    assert parse_arguments(["--version"]).asks_version
    assert parse_arguments(["--help"]).asks_help
    with pytest.raises(UsageError, match=r"--lr=1; values are given as in optimizer\.lr"):
        parse_arguments(["--lr=1"])


def test_translate():
    translation = translate(["hf.learning_rate=3e-4", "seed=1"], is_multirun=False)
    keys = [override.key_or_group for override in translation.overrides]
    assert keys[-1] == "seed"
    assert "optimizer.lr=0.0003" in translation.from_hf
    assert translation.recorded == []
    with pytest.raises(UsageError, match="unknown optimizer"):
        translate(["optimizer=sdg"], is_multirun=False)


def test_compose_and_check():
    cfg = compose_and_check(translate(["optimizer=sgd", "seed=7"], False), False)
    assert (cfg.seed, cfg.hydra.runtime.choices.optimizer) == (7, "sgd")
    with pytest.raises(UsageError, match=r"optimizer\.lr must be"):
        compose_and_check(translate(["optimizer.lr=-1"], False), False)


def test_find_run_and_hand_over(tmp_path):
    args = parse_arguments(["optimizer=sgd", "optimizer.lr=0.5"])
    translation = translate(args.overrides, False)
    cfg = compose_and_check(translation, False)
    run = find_run(cfg, False)
    assert run is None
    assert hand_over(args, translation, cfg, run).argv == ["optimizer=sgd", "++optimizer.lr=0.5"]
    cfg.resume["from"] = "nowhere"
    with pytest.raises(UsageError, match="is not the directory of a run"):
        find_run(cfg, False)


@pytest.mark.skipif(sys.platform != "linux", reason="no such names")
def test_a_directory_that_is_not_utf_8_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    where = os.path.join(os.fsencode(tmp_path), b"y\xff")
    os.mkdir(where)
    monkeypatch.chdir(os.fsdecode(where))
    for argv in ([], ["-m", "seed=0,1"]):
        with pytest.raises(UsageError, match=r"\.dir=/.*/y\\xff/runs/.* not UTF-8"):
            prepare.prepare_command_line([*SMALL, *argv])
    cfg = compose_and_check(translate([], False), False)
    cfg.resume["from"] = "old"
    old = prepare.ResumableRun(Path("old"), "resuming old")
    monkeypatch.setattr(prepare, "find_resumable", lambda *_, **__: old)
    with pytest.raises(UsageError, match=r"resume=/.*/y\\xff/old: .* not UTF-8"):
        find_run(cfg, False)
    assert not os.listdir(where)
