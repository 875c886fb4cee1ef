"""Files of --config-dir and hf that no loader can make values of: one line that names the file."""

from __future__ import annotations

import os
import random

import pytest

from lit_optim.cli import first_line
from lit_optim.command_line.completion import _node
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.compat import transformers_arguments as hf
from lit_optim.config.composing import compose_config
from lit_optim.config.places import use_conf_dir
from lit_optim.errors import LONGEST, UsageError, show
from lit_optim.hyperparameters import check
from lit_optim.sweeps.records import overrides_of
from lit_optim.untrusted import MAX_DEPTH, Unreadable, read_yaml

SGD = "_target_: lit_optim.optimizers.sgd.SGD\n"
SEXAGESIMAL = ":".join(["1"] * 300) + ".0"
#: Scalars and keys that parse as YAML, and of which PyYAML makes no value that can be used.
VALUES = {
    "sexagesimal float": f"lr: {SEXAGESIMAL}",
    "sexagesimal int": "lr: " + ":".join(["1"] * 1000),
    "digits": "lr: " + "9" * 6000,
    "hexadecimal": "lr: 0x" + "f" * 5000,
    "binary": "lr: 0b" + "1" * 5000,
    "octal": "lr: 0" + "7" * 5000,
    "in a list": "lr: [[1, {a: 0x" + "f" * 5000 + "}]]",
    "list as key": "? [a, b]\n: 1",
    "mapping as key": "? {a: b}\n: 1",
    "number as merge": "<<: 1",
}
DATES = ["2026-13-45", "2026-02-30", "0000-00-00", "2026-01-01 25:61:61"]
DEFAULTS = ["5", "text", "{a: [1]}", "[[sgd]]", "[{optimizer: {a: b}}]", "[1.5]"]
SHAPES = {
    "nested": "[" * 3000,
    "mappings": "{a: " * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1),
    "list": "- 1\n",
    "bomb": "a0: &a0 [x, x]\n"
    + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40)),
    "recursive": "a: &a [*a]\n",
    "not UTF-8": "# \udcff\n",
    "merges": "a0: &a0 {k: [x, x]}\n"
    + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40)),
}


@pytest.fixture
def own(tmp_path):
    """A directory of choices; a function that writes one."""
    (tmp_path / "cd/optimizer").mkdir(parents=True)

    def write(text, name="mine"):
        path = tmp_path / f"cd/optimizer/{name}.yaml"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        return path

    yield write
    use_conf_dir(None)


def refusal(tmp_path, *argv):
    """The line in which a command line with that directory is refused."""
    with pytest.raises(UsageError) as caught:
        prepare_command_line([f"--config-dir={tmp_path / 'cd'}", *argv])
    line = first_line(caught.value)
    assert len(line) <= LONGEST
    return line


@pytest.mark.parametrize("name", VALUES)
def test_values_that_cannot_be_made(own, tmp_path, name):
    path = own(SGD + VALUES[name] + "\n")
    assert "mine.yaml" in refusal(tmp_path, "optimizer=mine")
    with pytest.raises(Unreadable, match=str(path)):
        read_yaml(path)
    args = tmp_path / "args.yaml"
    args.write_text(VALUES[name].replace("lr:", "learning_rate:") + "\n")
    with pytest.raises(UsageError, match=r"^hf=.*args.yaml"):
        hf.read(str(args))
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/overrides.yaml").write_text(VALUES[name] + "\n")
    assert overrides_of(tmp_path) is None


@pytest.mark.parametrize("date", DATES)
def test_a_date_is_text_to_hydra_and_a_line_to_others(own, tmp_path, date):
    path = own(f"{SGD}lr: {date}\n")
    assert refusal(tmp_path, "optimizer=mine").startswith("optimizer.lr must be a number > 0, got")
    with pytest.raises(Unreadable, match="cannot be read"):
        read_yaml(path)


@pytest.mark.parametrize("name", SHAPES)
def test_files_of_no_use(own, tmp_path, name):
    own(SHAPES[name])
    assert "mine.yaml" in refusal(tmp_path, "optimizer=mine")
    prepare_command_line(
        [f"--config-dir={tmp_path / 'cd'}", "optimizer=adamw"]
    )  # nobody has chosen it


@pytest.mark.parametrize("defaults", DEFAULTS)
def test_defaults_are_a_list_of_choices(own, tmp_path, defaults):
    own(f"defaults: {defaults}\n{SGD}")
    assert "mine.yaml: defaults must be a list of choices" in refusal(tmp_path, "optimizer=mine")


@pytest.mark.parametrize("length", [1, 2, 5])
def test_defaults_that_lead_back_to_themselves(own, tmp_path, length):
    for i in range(length):
        own(f"defaults: [sgd, own{(i + 1) % length}]\n", f"own{i}")
    own("defaults: [own0]\n")
    line = refusal(tmp_path, "optimizer=mine")
    assert f"own{length - 1}.yaml: its defaults lead back to the file itself" in line
    use_conf_dir(str(tmp_path / "cd"))
    _node(tmp_path / "cd/optimizer/own0.yaml")  # of completion, ends as well


def test_a_fifo_is_no_choice_and_stops_nobody(own, tmp_path):
    os.mkfifo(tmp_path / "cd/optimizer/pipe.yaml")
    own("# \udcff\n", "latin")
    assert "unknown optimizer 'pipe'" in refusal(tmp_path, "optimizer=pipe")
    assert "latin.yaml: is not UTF-8" in refusal(tmp_path, "optimizer=latin")
    assert "latin.yaml: is not UTF-8" in refusal(tmp_path, "optimizer=latin", "--help")


def test_help_lists_the_rest_beside_a_file_that_cannot_be_read(own, tmp_path):
    own("# \udcff\n", "latin")
    own("# mine\ndefaults: [sgd]\n", "good")
    text = prepare_command_line([f"--config-dir={tmp_path / 'cd'}", "--help"]).text
    rows = dict(line.split(None, 1) for line in text.splitlines() if line.startswith("  "))
    assert rows["latin"] == "(is not UTF-8)"
    assert rows["good"] == "mine"


def test_aliases_and_tags_of_ones_own_are_welcome(own, tmp_path):
    own(f"{SGD}lr: &a 0.5\nweight_decay: *a\nmomentum: !!float 0.5\n")
    argv = prepare_command_line([f"--config-dir={tmp_path / 'cd'}", "optimizer=mine"]).argv
    chosen = compose_config(argv[1:]).optimizer
    assert chosen.lr == chosen.weight_decay == chosen.momentum == 0.5


def unprintable():
    rows: list = []
    rows.append(rows)
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    number = random.Random(0).getrandbits(40_000)

    class Evil:
        def __repr__(self):
            raise RuntimeError

    return [number, -number, [number], {"a": number}, rows, deep, Evil(), [Evil()], "x" * 10_000]


@pytest.mark.parametrize("value", unprintable(), ids=lambda value: type(value).__name__)
def test_any_value_can_be_shown(value):
    assert 0 < len(show(value)) <= LONGEST // 2

    def takes(lr: bool) -> None: ...

    if show(value) in ("list", "[[...]]"):
        return  # `plain` looks into lists, and is for what constructors are given
    with pytest.raises(UsageError, match="lr must be true or false, got"):
        check(takes, {"lr": value})
