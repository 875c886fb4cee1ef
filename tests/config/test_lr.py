"""Where the lr comes from, and for whom that of a preset is."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from lit_optim.cli import main
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.composing import compose_config
from lit_optim.config.lr import LIKE_ADAMW, lr_origin
from lit_optim.config.places import listed_choices, use_conf_dir
from lit_optim.reports.listing import entries
from lit_optim.requirements import is_far_lr

OPTIMIZERS = {entry.name: entry for entry in entries("optimizer")}
TORCHS = ["optimizer=custom", "optimizer._target_=torch.optim.AdamW"]
CHEAP = ("sgd", "muon", "adam", "adafactor_hf", "prodigy")


def lr_and_origin(*line):
    cfg = compose_config(
        [x for x in prepare_command_line(list(line)).argv if not x.startswith("--")]
    )
    return cfg.optimizer.get("lr"), lr_origin(cfg.hydra)


def test_what_is_like_adamw_is_looked_for_where_adamw_is():
    """The one place that names optimizers names what there is, and what has AdamW's range."""
    assert set(LIKE_ADAMW) <= set(OPTIMIZERS)
    assert {OPTIMIZERS[name].lr_range for name in LIKE_ADAMW} == {OPTIMIZERS["adamw"].lr_range}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param(name, data, marks=pytest.mark.slow if data == "digits" and k % 4 else ())
        for k, name in enumerate(sorted(listed_choices("optimizer")))
        for data in ("mnist1d", "digits")
    ],
)
def test_a_preset_is_for_what_is_like_adamw(name, data):
    own = OmegaConf.load(listed_choices("optimizer")[name]).lr
    cfg = compose_config([f"optimizer={name}", f"data={data}"])
    lr, origin = cfg.optimizer.lr, lr_origin(cfg.hydra)
    if name in LIKE_ADAMW:
        assert (lr, origin) == (0.01, f"preset {data}")
    else:
        assert (lr, origin) == (own, "default")
        assert own is None or not is_far_lr(own, OPTIMIZERS[name].lr_range)
    if name in CHEAP:
        line = [f"optimizer={name}", f"data={data}", "optimizer.lr=0.5"]
        assert lr_and_origin(*line) == (0.5, "typed")
        assert lr_and_origin(*line[:2], "preset=none") == (own, "default")


def test_a_class_of_ones_own_takes_what_is_typed():
    assert lr_and_origin(*TORCHS) == (None, "default")
    assert lr_and_origin(*TORCHS, "optimizer.lr=2") == (2, "typed")
    argv = prepare_command_line(["-m", *TORCHS, "seed=0,1"]).argv
    assert not any("lr" in x for x in argv)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "mine"])
def test_an_experiment_decides_before_a_preset(tmp_path, optimizer):
    """Also one that takes in another one."""
    for folder, name, text in (
        ("experiment", "base", "# @package _global_\n# base\noptimizer:\n  lr: 0.25\n"),
        ("experiment", "more", "# @package _global_\n# more\ndefaults:\n  - base\nseed: 3\n"),
        ("optimizer", "mine", "# mine\n_target_: lit_optim.optimizers.sgd.SGD\nlr: 0.75\n"),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.yaml").write_text(text)
    try:
        line = ["--config-dir", str(tmp_path), f"optimizer={optimizer}"]
        for experiment in ("base", "more"):
            lr, origin = lr_and_origin(*line, f"experiment={experiment}")
            assert (lr, origin) == (0.25, "experiment base")
        own = {"adamw": 0.01, "sgd": 0.001, "mine": 0.75}[optimizer]
        assert lr_and_origin(*line)[0] == own
    finally:
        use_conf_dir(None)


@pytest.mark.parametrize("name", sorted(name for name, e in OPTIMIZERS.items() if e.lr_range))
def test_ten_times_outside_of_its_range_is_far_lr(name):
    low, high = OPTIMIZERS[name].lr_range
    assert is_far_lr(low / 10, (low, high))
    assert is_far_lr(high * 10, (low, high))
    assert not any(is_far_lr(lr, (low, high)) for lr in (low, high, (low * high) ** 0.5, low / 5))


def test_explain_says_where_the_lr_comes_from_and_that_it_is_far_lr(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ["explain", "data=digits", "model=linear"]
    main([*line, "optimizer=lars", "optimizer.lr=0.01"])
    out = capsys.readouterr().out
    assert "lars  lr 0.01 (typed)" in out
    assert "lr=0.01 is far from where Lars mostly has it, 0.1 to 100" in out
    main([*line, "optimizer=lars"])
    out = capsys.readouterr().out
    assert "lars  lr 1 (default)" in out
    assert "nothing looks like a mistake" in out
    main([*line])
    assert "adamw  lr 0.01 (preset digits)" in capsys.readouterr().out
