"""Where the lr comes from, and for whom that of a preset is."""

from __future__ import annotations

import json

import pytest
from omegaconf import OmegaConf

from lit_optim.cli import main
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.check import to_plain
from lit_optim.config.composing import compose_config
from lit_optim.config.lr import TUNED, lr_origin, tuned_lrs
from lit_optim.config.places import conf_dir, listed_choices, use_conf_dir
from lit_optim.errors import UsageError
from lit_optim.reports.listing import entries
from lit_optim.requirements import is_far_lr
from lit_optim.runs.resume import run_fingerprint

OPTIMIZERS = {entry.name: entry for entry in entries("optimizer")}
TORCHS = ["optimizer=custom", "optimizer._target_=torch.optim.AdamW"]
PRESETS = ("mnist1d", "digits", "char_lm")
CHEAP = ("sgd", "muon", "adam", "adafactor_hf", "prodigy")


def lr_and_origin(*line):
    cfg = compose_config(
        [x for x in prepare_command_line(list(line)).argv if not x.startswith("--")]
    )
    return cfg.optimizer.get("lr"), lr_origin(cfg, cfg.hydra)


@pytest.fixture
def own_files(tmp_path):
    """Writes choices of the user's own, and returns the option for them."""

    def write(**texts):
        for place, text in texts.items():
            group, _, name = place.partition("__")
            (tmp_path / group).mkdir(exist_ok=True)
            (tmp_path / group / f"{name}.yaml").write_text(f"{text}\n# own\n")
        return ["--config-dir", str(tmp_path)]

    yield write
    use_conf_dir(None)


@pytest.mark.sampled(10)
@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param(name, data, marks=pytest.mark.slow if k % 4 else ())
        for k, name in enumerate(sorted(listed_choices("optimizer")))
        for data in PRESETS
    ],
)
def test_a_preset_has_an_lr_for_each_optimizer_by_its_name(name, data):
    """The oracle reads the files with OmegaConf alone."""
    own = OmegaConf.load(listed_choices("optimizer")[name]).lr
    tuned = OmegaConf.load(conf_dir() / "preset" / f"{data}.yaml").tuned_lr
    expected = (tuned[name], f"preset {data}") if name in tuned else (own, "default")
    line = [f"optimizer={name}", f"data={data}", "data.path=x"][: 3 if data == "char_lm" else 2]
    assert lr_and_origin(*line) == expected
    assert own is None or not is_far_lr(own, OPTIMIZERS[name].lr_range)
    if name in CHEAP:
        assert lr_and_origin(*line, "optimizer.lr=0.5") == (0.5, "typed")
        assert lr_and_origin(*line, "preset=none") == (own, "default")


def test_a_preset_comes_with_its_data():
    assert lr_and_origin() == (tuned_lrs("mnist1d")["adamw"], "preset mnist1d")
    cfg = compose_config(["data=custom"])
    assert (cfg.optimizer.lr, lr_origin(cfg, cfg.hydra)) == (0.001, "default")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_numbers_where_a_search_for_them_looks(preset):
    found = tuned_lrs(preset)
    assert found.keys() <= OPTIMIZERS.keys()
    for name, lr in found.items():
        low, high = OPTIMIZERS[name].lr_range
        assert low <= lr <= high, name


def test_tuned_lrs_are_no_setting_of_a_run():
    cfg = compose_config(["data=digits", "optimizer=lion"])
    assert TUNED not in to_plain(cfg)
    assert "tuned" not in str(run_fingerprint(to_plain(cfg)))


@pytest.mark.parametrize(
    "line", ["tuned_lr.lion=1", "+tuned_lr.lion=1", "tuned_lr={lion: 1}", "~tuned_lr"]
)
def test_tuned_lrs_are_not_for_the_command_line(line):
    with pytest.raises(UsageError, match=r"^~?tuned_lr.*is for files; type optimizer\.lr$"):
        prepare_command_line([line])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tuned_lr: {lyon: 1e-4}", "has an unknown optimizer lyon; did you mean lion?"),
        ("tuned_lr: {lion: 0}", "tuned_lr.lion must be a number > 0, got 0"),
        ("tuned_lr: {lion: -1e-3}", "tuned_lr.lion must be a number > 0, got -0.001"),
        ("tuned_lr: {lion: .inf}", "tuned_lr.lion must be a number > 0, got inf"),
        ("tuned_lr: {lion: .nan}", "tuned_lr.lion must be a number > 0, got nan"),
        ("tuned_lr: {lion: true}", "tuned_lr.lion must be a number > 0, got True"),
        ("tuned_lr: {lion: null}", "tuned_lr.lion must be a number > 0, got None"),
        ("tuned_lr: {lion: fast}", "tuned_lr.lion must be a number > 0, got 'fast'"),
        ("tuned_lr: 1e-3", "tuned_lr must hold optimizers and numbers, as in `lion: 1e-4`"),
        ("tuned_lr: [1e-3]", "tuned_lr must hold optimizers and numbers, as in `lion: 1e-4`"),
        (
            "optimizer: {lr: 1}\n",
            "optimizer.lr would set one lr for all optimizers; write `tuned_lr: {adamw: 1}`, or "
            "put "
            "it into an experiment",
        ),
        (
            "optimizer:\n  lr: 0.5\n",
            "optimizer.lr would set one lr for all optimizers; write `tuned_lr: {adamw: 0.5}`, or "
            "put it into an experiment",
        ),
        ("defaults: [base]\n", "write `tuned_lr: {adamw: 0.25}`"),
    ],
)
def test_a_preset_of_ones_own_that_is_wrong_is_one_line(own_files, text, told):
    own = own_files(
        preset__mine=f"# @package _global_\n{text}",
        preset__base="# @package _global_\noptimizer: {lr: 0.25}\n",
    )
    with pytest.raises(UsageError) as error:
        prepare_command_line([*own, "preset=mine"])
    assert told in str(error.value)
    assert "preset/mine.yaml: " in str(error.value)
    assert "\n" not in str(error.value)


def test_a_preset_of_ones_own_has_its_own_lrs_and_may_include_another_one(own_files):
    own = own_files(
        preset__mine="# @package _global_\ndefaults: [digits]\ntuned_lr: {sgd: 0.125, mine: 3}\n",
        preset__more="# @package _global_\ndefaults:\n  - mine\n",
        optimizer__mine="_target_: lit_optim.optimizers.sgd.SGD\nlr: 0.75\n",
    )
    adamw = tuned_lrs("digits")["adamw"]
    for preset in ("mine", "more"):
        line = [*own, f"preset={preset}"]
        assert lr_and_origin(*line, "optimizer=sgd") == (0.125, f"preset {preset}")
        assert lr_and_origin(*line, "optimizer=mine") == (3, f"preset {preset}")
        assert lr_and_origin(*line) == (adamw, f"preset {preset}")


@pytest.mark.parametrize("optimizer", ["adamw", "lion"])
def test_a_run_goes_on_at_the_lr_that_it_began_with(tmp_path, optimizer):
    """Whatever a later version has in its files; typed, it is what was typed."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    line = [f"optimizer={optimizer}", "data=digits"]
    asked = run_fingerprint(to_plain(compose_config(line))) | {"optimizer.lr": 0.5}
    (run_dir / "asked.json").write_text(json.dumps(asked))
    there = [*line, f"resume.from={run_dir}"]

    def compose(*line):
        cfg = compose_config(list(line))
        return cfg.optimizer.lr, lr_origin(cfg, cfg.hydra)

    assert compose(*there) == (0.5, "as the run began")
    assert compose(*there, "++optimizer.lr=0.25") == (0.25, "typed")
    assert compose(*there, "optimizer=sgd") == compose(*line, "optimizer=sgd")
    (run_dir / ".hydra").mkdir()
    (run_dir / ".hydra/overrides.yaml").write_text("- ++optimizer.lr=0.5\n")  # not by default
    assert compose(*there) == compose(*line)
    (run_dir / ".hydra/overrides.yaml").write_text("- seed=0\n")
    for lr in ("1", "-1", "NaN", "Infinity", "null", "true", "{}", f"1{'0' * 400}"):
        text = json.dumps(asked).replace('"optimizer.lr": 0.5', f'"optimizer.lr": {lr}')
        (run_dir / "asked.json").write_text(text)
        assert compose(*there) == ((1, "as the run began") if lr == "1" else compose(*line))


def test_a_class_of_ones_own_takes_what_is_typed():
    assert lr_and_origin(*TORCHS) == (None, "default")
    assert lr_and_origin(*TORCHS, "optimizer.lr=2") == (2, "typed")
    argv = prepare_command_line(["-m", *TORCHS, "seed=0,1"]).argv
    assert not any("lr" in x for x in argv)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "mine"])
def test_an_experiment_decides_before_a_preset(own_files, optimizer):
    """Also one that takes in another one."""
    own = own_files(
        experiment__base="# @package _global_\noptimizer:\n  lr: 0.25\n",
        experiment__more="# @package _global_\ndefaults:\n  - base\nseed: 3\n",
        optimizer__mine="_target_: lit_optim.optimizers.sgd.SGD\nlr: 0.75\n",
    )
    line = [*own, f"optimizer={optimizer}"]
    for experiment in ("base", "more"):
        assert lr_and_origin(*line, f"experiment={experiment}") == (0.25, "experiment base")
    assert lr_and_origin(*line)[0] == {**tuned_lrs("mnist1d"), "mine": 0.75}[optimizer]


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
    assert "lr=0.01 is far from Lars's usual range, 0.1 to 100" in out
    main([*line, "optimizer=lars", "preset=none"])
    out = capsys.readouterr().out
    assert "lars  lr 1 (default)" in out
    assert "no problems found" in out
    main([*line])
    assert f"adamw  lr {tuned_lrs('digits')['adamw']:g} (preset digits)" in capsys.readouterr().out
