"""The length of a run, wherever it is set: the most specific place decides."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.composing import compose_config
from lit_optim.config.places import use_conf_dir
from lit_optim.errors import UsageError

#: From the least to the most specific.
PLACES = ("default", "preset", "trainer", "batch", "experiment", "debug", "typed")
STEPS, EPOCHS = "max_steps", "max_epochs"
OWN = ("trainer", "batch", "experiment", "debug")  # groups of which one has choices of one's own
PRESET = ("preset", STEPS)
DIGITS = 500  # in preset/digits.yaml


@pytest.fixture
def conf(tmp_path):
    """A directory of one's own choices."""
    for group in OWN:
        (tmp_path / "conf" / group).mkdir(parents=True)
    yield tmp_path / "conf"
    use_conf_dir(None)


def write(conf, said):
    """The files that say so, and what is typed."""
    for group in OWN:
        lines = [f"{key}: {value}" for (where, key), value in said.items() if where == group]
        if group == "trainer":
            text = "# mine\ndefaults:\n  - cpu\n\n" + "\n".join(lines)
        elif lines:
            text = "# @package _global_\n# mine\ntrainer:\n" + "".join(f"  {x}\n" for x in lines)
        else:
            text = "# @package _global_\n# mine\n{}\n"
        (conf / group / "mine.yaml").write_text(text)
    typed = [f"trainer.{key}={value}" for (where, key), value in said.items() if where == "typed"]
    data = "digits" if PRESET in said else "mnist1d"
    return [f"data={data}", *(f"{group}=mine" for group in OWN), *typed]


def compose_length(conf, *line):
    """max_steps and max_epochs, None where they do not count."""
    argv = prepare_command_line(["--config-dir", str(conf), *line]).argv
    cfg = compose_config([x for x in argv if "=" in x and not x.startswith("--")])
    steps, epochs = cfg.trainer[STEPS], cfg.trainer[EPOCHS]
    return (None if steps == -1 else steps), (None if epochs == -1 else epochs)


def expected(said):
    """By the rule, written once more."""
    ranked = {STEPS: (0, 4000), EPOCHS: (-1, None)}  # trainer/cpu.yaml
    for (place, key), value in said.items():
        ranked[key] = max(ranked[key], (PLACES.index(place), value))
    (steps_rank, steps), (epochs_rank, epochs) = ranked[STEPS], ranked[EPOCHS]
    if epochs is None or steps_rank > epochs_rank:
        return steps, None
    return (steps if steps_rank == epochs_rank else None), epochs


PAIRS = [pair for pair in itertools.product(PLACES, PLACES) if pair[1] not in ("default", "preset")]
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
    value = DIGITS if steps == "preset" else 700
    said = {(epochs, EPOCHS): 30} | ({} if steps == "default" else {(steps, STEPS): value})
    assert compose_length(conf, *write(conf, said)) == expected(said)


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(s, marks=pytest.mark.slow)
                                               for s in range(6, 40))])  # fmt: skip
def test_any_places(conf, seed):
    """Several places at once, each with a length of its own."""
    chance = random.Random(seed)
    spots = [PRESET, *itertools.product(PLACES[2:], (STEPS, EPOCHS))]
    said = {spot: chance.randint(2, 900) for spot in chance.sample(spots, chance.randint(1, 7))}
    said |= {PRESET: DIGITS} if PRESET in said else {}
    assert compose_length(conf, *write(conf, said)) == expected(said)


def test_what_the_shipped_files_say(conf):
    """The experiment that the report had, and `null` and -1 as typed."""
    (conf / "experiment/long.yaml").write_text(
        "# @package _global_\n# long\ntrainer:\n  max_epochs: 300\n"
    )
    assert compose_length(conf, "experiment=long") == (None, 300)
    line = ["experiment=long", "trainer.max_steps=50"]
    assert compose_length(conf, *line) == (50, None)
    line = ["experiment=long", "trainer.max_epochs=null"]
    assert compose_length(conf, *line) == (4000, None)
    line = ["experiment=long", "trainer.max_steps=-1"]
    assert compose_length(conf, *line) == (None, 300)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("preset", ["mnist1d", "digits", "none"])
@pytest.mark.parametrize("trainer", ["cpu", "gpu"])
def test_no_limit_of_epochs_is_not_replaced_by_a_default(conf, preset, trainer):
    line = [f"preset={preset}", f"trainer={trainer}", "trainer.max_epochs=-1"]
    with pytest.raises(UsageError, match="the run has no end: set"):
        compose_length(conf, *line)
    assert compose_length(conf, *line, "trainer.max_steps=7") == (7, None)
    (conf / "experiment/short.yaml").write_text(
        "# @package _global_\n# short\ntrainer:\n  max_steps: 70\n"
    )
    assert compose_length(conf, *line, "experiment=short") == (70, None)


def test_a_sweep_is_as_long_as_its_experiments_say(train, conf, tmp_path):
    """Hydra composes its runs anew, in processes of their own."""
    (conf / "experiment/long.yaml").write_text(
        "# @package _global_\n# long\ntrainer:\n  max_epochs: 2\n"
    )
    line = [
        "--config-dir",
        str(conf),
        "-m",
        "experiment=long,none",
        "data=digits",
        "data.batch_size=200",
        "test=false",
        "model=linear",
        "trainer.check_val_every_n_epoch=50",
    ]
    done = train(*line)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(p.read_text()) for p in tmp_path.glob("runs/*/*/*/result.json")]
    assert {r["choices"]["experiment"]: r["steps"] for r in results} == {"long": 2 * 5, "none": 500}
    sweep = next(tmp_path.glob("runs/*/*"))
    again = train("--config-dir", str(conf), "-m", f"resume={sweep}")
    assert "2 of 2 runs already done" in again.stdout + again.stderr
