"""What a tournament writes into presets."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from lit_optim.config.places import conf_dir, use_conf_dir
from lit_optim.errors import UsageError
from lit_optim.results.tournament_record import (
    Task,
    read_tournament,
    write_tournament,
)
from lit_optim.runs.job import JobRecord
from lit_optim.runs.status import Status
from lit_optim.tournament import presets
from lit_optim.tournament.presets import edit_preset, find_tuned, lr_text, write_preset
from tests.tournament.planned import final, tournament_of

TEXT = """\
# @package _global_
# Settings for data=mine
tuned_lr: # best lr found per optimizer; all others keep their default
  adamw: 2.5e-2 # by hand
  # nobody knows why
  lion: 2.5e-3
trainer:
  max_steps: 500 # short
"""


@pytest.mark.parametrize(
    ("lr", "text"),
    [(0.0063096, "6.3e-3"), (0.01, "1e-2"), (1.0, "1"), (6.31, "6.3"), (25.1, "25"),
     (0.25, "2.5e-1"), (100.0, "1e2"), (1e-05, "1e-5"), (0.004044, "4e-3")],
)  # fmt: skip
def test_an_lr_has_two_digits(lr, text):
    assert lr_text(lr) == text
    assert float(text) == pytest.approx(lr, rel=0.05)


def test_known_lrs_are_replaced_and_new_ones_added_and_all_else_stays(tmp_path):
    after = edit_preset(TEXT, {"lion": "1e-4", "muon": "3e-2", "adam": "1e-2"}, tmp_path)
    assert after == TEXT.replace("lion: 2.5e-3", "lion: 1e-4\n  muon: 3e-2").replace(
        "  adamw:", "  adam: 1e-2\n  adamw:"
    )


def test_a_preset_without_lrs_gets_them_behind_its_comments(tmp_path):
    text = "# @package _global_\n# Settings\ntrainer:\n  max_steps: 500\n"
    after = edit_preset(text, {"lion": "1e-4"}, tmp_path)
    assert after.startswith("# @package _global_\n# Settings\ntuned_lr:")
    ours = (conf_dir() / "preset" / "digits.yaml").read_text()
    assert [line for line in after.splitlines() if line.startswith("tuned_lr")] == re.findall(
        "^tuned_lr.*", ours, re.MULTILINE
    )
    assert yaml.safe_load(after) == {"tuned_lr": {"lion": "1e-4"}, "trainer": {"max_steps": 500}}
    assert edit_preset(after.replace(": 1e-4", ": 2e-4"), {"lion": "1e-4"}, tmp_path) == after


def test_an_empty_mapping_is_filled(tmp_path):
    after = edit_preset("tuned_lr: {}\nseed: 1\n", {"lion": "0.1"}, tmp_path)
    assert yaml.safe_load(after) == {"tuned_lr": {"lion": 0.1}, "seed": 1}


@pytest.mark.parametrize(
    "text",
    ["tuned_lr: {adamw: 1e-2, lion: 1}\n", "tuned_lr:\n  'lion': 1\n", "tuned_lr: 3\n",
     "tuned_lr:\n  lion: 1\ntuned_lr:\n  lion: 2\n", "tuned_lr: &a\n  lion: [1,\n 2]\n",
     "a: 1\n---\ntuned_lr:\n  lion: 1\n", "- tuned_lr\n"],
)  # fmt: skip
def test_what_cannot_be_edited_by_lines_is_refused_and_told(tmp_path, text):
    with pytest.raises(UsageError, match=r"write it yourself: lion: 1e-4$"):
        edit_preset(text, {"lion": "1e-4"}, tmp_path / "x.yaml")


def test_the_lrs_are_those_of_the_final_runs(tmp_path):
    tournament_of(tmp_path, "adamw", "lion", "sgd", "muon", "soap", "lars")
    final(tmp_path, "adamw", 1, 0.02512)
    final(tmp_path, "lion", 1, 0.001, status="failed")
    final(tmp_path, "sgd", 1, 0.1, status="diverged")
    final(tmp_path, "muon", 1, 0.01, **{"++optimizer.momentum": 0.9})
    final(tmp_path, "soap", 1, 0.003, status="diverged")
    final(tmp_path, "soap", 2, 0.003)
    (found,) = find_tuned(tmp_path)
    assert found.preset == "mine"
    assert found.lrs == {"adamw": 0.02512, "soap": 0.003}
    assert found.left_out == {
        "lion": "has no run at a best lr",
        "sgd": "diverged at its best lr",
        "muon": "has its lr with optimizer.momentum=0.9, which a preset does not set",
        "lars": "has no run at a best lr",
    }


def ended(run_dir, mode, value):
    """A run's result."""
    run_dir.mkdir(parents=True, exist_ok=True)
    result = {"monitor": "val/x", "mode": mode, "steps": 10, "seconds": 1.0, "choices": {}}
    result |= {"final": {"val/x": value}, "best": {"val/x": value}, "test": {}}
    (run_dir / "result.json").write_text(json.dumps(result))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_an_optimizer_that_is_better_at_its_default_lr_keeps_it(mode, tmp_path):
    sign = 1 if mode == "max" else -1
    tuned = {"adamw": (1, 2), "lion": (1, 2), "sgd": (1, 2), "muon": (1, math.nan)}
    untuned = {"adamw": (1, 1.5), "lion": (1.4, 1.9), "sgd": (9, math.nan), "muon": (1, 1)}
    tournament_of(tmp_path, *tuned, "soap")
    final(tmp_path, "soap", 1, 0.03)
    for name in tuned:
        for seed in (1, 2):
            final(tmp_path, name, seed, 0.01)
            for role, values in (("final", tuned), ("untuned", untuned)):
                place = tmp_path / name / role / f"seed={seed}"
                ended(place, mode, sign * values[name][seed - 1])
    (found,) = find_tuned(tmp_path)
    assert found.lrs == {"adamw": 0.01, "sgd": 0.01, "soap": 0.03}
    assert found.usual == ["lion", "muon"]
    assert set(found.left_out.values()) == {"is better at its own default lr"}
    after = edit_preset(TEXT, {"adamw": "1e-2"}, tmp_path, found.usual)
    assert "lion" not in after
    assert after.splitlines()[3] == "  adamw: 1e-2 # by hand"


@pytest.mark.parametrize(
    ("key", "value"),
    [("++optimizer.momentum", 0.9), ("wrapper", "sam"), ("batch", "full"), ("model", "linear"),
     ("trainer.accumulate_grad_batches", 2), ("scheduler", "linear"),
     ("++trainer.gradient_clip_val", 1)],
)  # fmt: skip
def test_an_lr_that_was_found_with_other_settings_is_not_that_of_the_preset(tmp_path, key, value):
    tournament_of(tmp_path, "sgd", "adamw")
    record = read_tournament(tmp_path)
    typed = f"{key}={value}"
    entries = [replace(e, untuned=(*e.untuned, typed)) for e in record.entries]  # typed for all
    write_tournament(tmp_path, replace(record, tasks=[Task({}, entries)]))
    final(tmp_path, "sgd", 1, 0.1, data="digits", **{key: value})
    final(tmp_path, "adamw", 1, 0.1, data="digits")
    (found,) = find_tuned(tmp_path)
    assert found.lrs == {"adamw": 0.1}
    assert found.left_out["sgd"].startswith(f"has its lr with {typed.lstrip('+')}, which")


def test_usual_settings_treatments_and_lengths_are_no_other_settings(
    tmp_path,
):
    tournament_of(tmp_path, "schedule_free_sgd", "adamw")
    usual = {"++trainer.max_steps": 20, "logger": "none", "wrapper": "none", "model": "cnn"}
    final(tmp_path, "schedule_free_sgd", 1, 0.1, data="digits", scheduler="constant_warmup")
    final(tmp_path, "adamw", 1, 0.1, data="digits", **usual)
    (found,) = find_tuned(tmp_path)
    assert found.lrs == {"schedule_free_sgd": 0.1, "adamw": 0.1}


def test_the_model_that_the_data_brings_along_is_no_other_setting(tmp_path):
    tournament_of(tmp_path, "adamw", "muon", "lion")
    typed = {"model": "gpt", "++data.path": "book.txt", "++trainer.val_check_interval": 100,
             "++trainer.limit_val_batches": 24, "n_jobs": 2}  # fmt: skip
    final(tmp_path, "adamw", 1, 0.1, data="char_lm", **typed)
    final(tmp_path, "muon", 1, 0.1, data="char_lm", **{"++data.path": "book.txt"})
    final(tmp_path, "lion", 1, 0.1, data="char_lm", **typed | {"model": "cnn"})
    (found,) = find_tuned(tmp_path)
    assert found.preset == "char_lm"
    assert found.lrs == {"adamw": 0.1, "muon": 0.1}
    assert found.left_out == {"lion": "has its lr with model=cnn, which a preset does not set"}


def test_what_has_no_lr_for_each_optimizer_is_refused(tmp_path):
    tournament_of(tmp_path, "adamw")
    with pytest.raises(UsageError, match="let the tournament finish first"):
        find_tuned(tmp_path)
    tournament_of(tmp_path, "adamw", by="wrapper")
    with pytest.raises(UsageError, match="compares wrapper"):
        find_tuned(tmp_path)
    tournament_of(tmp_path, "adamw", tasks=2)
    final(tmp_path, "adamw", 1, 0.1)
    with pytest.raises(UsageError, match="several tasks on the same data"):
        find_tuned(tmp_path)
    made = read_tournament(tmp_path)
    tasks = [replace(task, label={"data": name}) for task, name in zip(made.tasks, "ab")]  # noqa: B905
    write_tournament(tmp_path, replace(made, tasks=tasks))  # whose runs say otherwise
    with pytest.raises(UsageError, match="several tasks with data=mine"):
        find_tuned(tmp_path)


@pytest.fixture
def own(tmp_path):
    """A directory of the user's own choices."""
    conf = tmp_path / "conf"
    (conf / "data").mkdir(parents=True)
    (conf / "data" / "mine.yaml").write_text("_target_: x.Y\n")
    use_conf_dir(str(conf))
    yield conf
    use_conf_dir(None)


def test_a_preset_for_data_of_ones_own_stands_beside_it(tmp_path, own):
    tuned = presets.Tuned("mine", {"adamw": 0.0251, "lion": 1e-4}, {})
    path = write_preset(tuned)
    assert path == own / "preset" / "mine.yaml"
    assert path.read_text().startswith("# @package _global_\n")
    path.write_text(TEXT)
    assert write_preset(tuned) == path
    assert path.read_text() == TEXT.replace("lion: 2.5e-3", "lion: 1e-4")
    assert [found.name for found in path.parent.iterdir()] == ["mine.yaml"]


def test_a_preset_of_a_checkout_is_found_and_that_of_an_installed_package_refused(monkeypatch):
    path = presets.find_preset("mnist1d")
    assert path.parts[-3:] == ("conf", "preset", "mnist1d.yaml")
    monkeypatch.setattr(presets, "INSTALLED", path.parts[1])
    with pytest.raises(UsageError, match="is installed; take a checkout"):
        presets.find_preset("mnist1d")
    with pytest.raises(UsageError, match="no preset can be written for it"):
        presets.find_preset("custom")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_preset_that_cannot_be_written_is_one_line(own):
    (own / "preset").mkdir()
    (own / "preset").chmod(0o500)
    with pytest.raises(UsageError, match="cannot be written"):
        write_preset(presets.Tuned("mine", {"adamw": 0.1}, {}))


def test_a_full_disk_leaves_the_preset_as_it_was(own, monkeypatch):
    path = write_preset(presets.Tuned("mine", {"adamw": 0.1}, {}))
    before = path.read_text()

    def full(target, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(presets, "write_whole", full)
    with pytest.raises(UsageError, match="cannot be written: No space left"):
        write_preset(presets.Tuned("mine", {"adamw": 0.2}, {}))
    assert path.read_text() == before


@pytest.mark.parametrize("lr", ["nan", "inf", "-inf", "1e999", "-1", "0", "x", ""])
def test_an_lr_that_is_none_is_not_taken_over(lr):
    record = JobRecord([f"optimizer.lr={lr}"], 0, {}, Status.COMPLETED)
    entry = SimpleNamespace(contestant="adamw")
    assert presets._lr_of(entry, [record]) == (None, "was not searched for its lr")
