"""The length of a run, wherever it is set: the most specific place decides."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import subprocess
import sys

import pytest

from lit_optim.config import composing, places
from lit_optim.config.command_line import front
from lit_optim.config.composing import composed

#: From the least to the most specific.
PLACES = ("default", "preset", "trainer", "batch", "experiment", "debug", "typed")
STEPS, EPOCHS = "max_steps", "max_epochs"
FILES = {
    "preset": "preset/digits.yaml",
    "trainer": "trainer/mine.yaml",
    "batch": "batch/mine.yaml",
    "experiment": "experiment/mine.yaml",
    "debug": "debug/mine.yaml",
}


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """A configuration of one's own."""
    shutil.copytree(places.conf_dir(), tmp_path / "conf")
    for module in (places, composing):
        monkeypatch.setattr(module, "conf_dir", lambda: tmp_path / "conf")
    return tmp_path / "conf"


def write(conf, said):
    """The files that say so, and what is typed."""
    for place, path in FILES.items():
        values = {key: value for (where, key), value in said.items() if where == place}
        lines = [f"{key}: {value}" for key, value in values.items()]
        if place == "trainer":
            text = "# mine\ndefaults:\n  - cpu\n\n" + "\n".join(lines)
        elif lines:
            text = "# @package _global_\n# mine\ntrainer:\n" + "".join(f"  {x}\n" for x in lines)
        else:
            text = "# @package _global_\n# mine\n{}\n"
        (conf / path).write_text(text)
    typed = [f"trainer.{key}={value}" for (where, key), value in said.items() if where == "typed"]
    mine = [f"{group}=mine" for group in ("trainer", "batch", "experiment", "debug")]
    return ["data=digits", *mine, *typed]


def expected(said):
    """By the rule, written once more."""
    ranked = {STEPS: (0, 4000), EPOCHS: (-1, None)}  # trainer/cpu.yaml
    for (place, key), value in said.items():
        ranked[key] = max(ranked[key], (PLACES.index(place), value))
    (steps_rank, steps), (epochs_rank, epochs) = ranked[STEPS], ranked[EPOCHS]
    if epochs is None or steps_rank > epochs_rank:
        return steps, None
    return (steps if steps_rank == epochs_rank else None), epochs


def length(cfg):
    steps, epochs = cfg.trainer[STEPS], cfg.trainer[EPOCHS]
    return (None if steps == -1 else steps), (None if epochs == -1 else epochs)


PAIRS = [pair for pair in itertools.product(PLACES, PLACES) if pair[1] != "default"]
SAMPLE = [
    ("default", "experiment"),
    ("default", "trainer"),
    ("preset", "trainer"),
    ("typed", "experiment"),
    ("experiment", "typed"),
    ("experiment", "experiment"),
]


@pytest.mark.parametrize(
    ("steps", "epochs"),
    [pytest.param(*p, marks=() if p in SAMPLE else pytest.mark.slow) for p in PAIRS],
)
def test_each_pair_of_places(conf, steps, epochs):
    said = {(epochs, EPOCHS): 30} | ({} if steps == "default" else {(steps, STEPS): 700})
    assert length(composed(front(write(conf, said)).argv)) == expected(said)


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(s, marks=pytest.mark.slow)
                                               for s in range(6, 40))])  # fmt: skip
def test_any_places(conf, seed):
    """Several places at once, each with a length of its own."""
    chance = random.Random(seed)
    spots = list(itertools.product(PLACES[1:], (STEPS, EPOCHS)))
    said = {spot: chance.randint(2, 900) for spot in chance.sample(spots, chance.randint(1, 7))}
    assert length(composed(front(write(conf, said)).argv)) == expected(said)


def test_what_the_shipped_files_say(conf):
    """The experiment that the report had, and `null` and -1 as typed."""
    (conf / "experiment/long.yaml").write_text(
        "# @package _global_\n# long\ntrainer:\n  max_epochs: 300\n"
    )
    assert length(composed(front(["experiment=long"]).argv)) == (None, 300)
    line = ["experiment=long", "trainer.max_steps=50"]
    assert length(composed(front(line).argv)) == (50, None)
    line = ["experiment=long", "trainer.max_epochs=null"]
    assert length(composed(front(line).argv)) == (4000, None)
    line = ["experiment=long", "trainer.max_steps=-1"]
    assert length(composed(front(line).argv)) == (None, 300)


def test_a_sweep_is_as_long_as_its_experiments_say(tmp_path):
    """Hydra composes its runs anew, in processes of their own."""

    def train(*argv):
        command = [sys.executable, "train.py", *argv]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    shutil.copy(places.conf_dir().parent / "train.py", tmp_path)
    shutil.copytree(places.conf_dir().parent / "lit_optim", tmp_path / "lit_optim")
    shutil.copytree(places.conf_dir(), tmp_path / "conf")
    (tmp_path / "conf/experiment/long.yaml").write_text(
        "# @package _global_\n# long\ntrainer:\n  max_epochs: 2\n"
    )
    line = ["-m", "experiment=long,none", "data=digits", "batch=full", "test=false", "model=linear"]
    done = train(*line)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(p.read_text()) for p in tmp_path.glob("runs/*/*/*/result.json")]
    assert {r["choices"]["experiment"]: r["steps"] for r in results} == {"long": 2, "none": 500}
    sweep = next(tmp_path.glob("runs/*/*"))
    again = train("-m", f"resume={sweep}")
    assert "2 of 2 runs are done already" in again.stdout + again.stderr
