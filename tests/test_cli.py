"""`lit-optim` lists what there is, quickly, and answers a mistake with one line."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.utils import get_object

import lit_optim.entry
from lit_optim import cli
from lit_optim.cli import main
from lit_optim.command_line.combinations import compose_combinations
from lit_optim.command_line.command import Completion
from lit_optim.command_line.help import help_text
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.command_line.wrapping import wrap_lines
from lit_optim.commands import command_names, load_commands
from lit_optim.config.places import groups, headline, listed_choices
from lit_optim.errors import UsageError
from lit_optim.reports.listing import LISTED_GROUPS, Entry, entries

LISTED = [command.name for command in load_commands() if command.section is not None]
CHOICES = [(group, name) for group in LISTED_GROUPS.values() for name in listed_choices(group)]


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def answer(capsys):
    """The lines that a command line prints."""

    def run(*argv: str) -> list[str]:
        main(argv)
        return capsys.readouterr().out.splitlines()

    return run


@pytest.mark.parametrize(("command", "group"), LISTED_GROUPS.items())
def test_every_choice_has_one_line(answer, monkeypatch, command, group):
    monkeypatch.setenv("COLUMNS", "20")  # a pipe has no width
    lines = answer(command)
    assert [line.split()[0] for line in lines] == list(listed_choices(group))
    for line, path in zip(lines, listed_choices(group).values(), strict=True):
        assert headline(path) in line
        assert line == line.rstrip()


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("*adam*", lambda name: "adam" in name),
        ("dam", lambda name: "dam" in name),
        ("ADA", lambda name: "ada" in name),
        ("a*", lambda name: name.startswith("a")),
        ("ad?m*", lambda name: re.match("ad.m", name)),
        ("[as]*", lambda name: name[0] in "as"),
        ("", lambda name: True),
    ],
)
def test_patterns(answer, pattern, fits):
    expected = [name for name in listed_choices("optimizer") if fits(name)]
    assert len(expected) > 1
    assert [line.split()[0] for line in answer("optimizers", pattern)] == expected


@pytest.mark.parametrize("pattern", ["adagrad", "AdaGrad", "adagra?"])
def test_one_choice_is_shown_in_full(answer, pattern):
    text = "\n".join(answer("optimizers", pattern))
    assert text.startswith("use it with: python train.py optimizer=adagrad\n")
    assert "p = p - lr / (1 + (t - 1) lr_decay) * g / (sqrt(G) + eps)" in text
    assert "Adaptive Subgradient Methods" in text
    assert "Args:" not in text
    assert text.endswith(help_text({"optimizer": "adagrad"}))


def test_an_exact_name_wins_over_those_that_have_it_in_them(answer):
    text = answer("optimizers", "adam")
    assert text[0] == "use it with: python train.py optimizer=adam"
    assert "adamw" in text[-1].removeprefix("see also: ").split(", ")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["optimizer"], "unknown command 'optimizer'; did you mean optimizers?"),
        (["begin"], f"unknown command 'begin'; it is one of {', '.join(LISTED)}\n"),
        (["optimizers", "adagrat"], "no optimizer matches 'adagrat'; did you mean adagrad"),
        (["optimizers", "*dagrat*"], "no optimizer matches '*dagrat*'; did you mean adagrad"),
        (["schedules", "q/q"], "no schedule matches 'q/q'; lit-optim schedules lists all "),
        (
            ["optimizers", "adam", "sgd"],
            "unrecognized arguments: sgd; see lit-optim optimizers --help",
        ),
        (["schedules", "--all"], "unrecognized arguments: --all; see lit-optim schedules --help"),
    ],
)
def test_mistakes_are_answered_in_one_line(capsys, argv, line):
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"lit-optim: {line}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("line", ["plot --to={}", "plot --to {}", "race on=rosenbrock --to={}"])
def test_a_file_that_cannot_be_written_is_named(capsys, tmp_path, line):
    path = tmp_path / "x.png"
    path.symlink_to(tmp_path / "missing" / "y.png")
    with pytest.raises(SystemExit, match="2"):
        main(line.format(path).split())
    assert (
        capsys.readouterr().err.splitlines()[-1] == f"lit-optim: {path}: No such file or directory"
    )


def test_an_error_about_another_file_is_raised(monkeypatch, tmp_path):
    def fail(args):
        raise FileNotFoundError(2, "No such file or directory", "/elsewhere")

    failing = replace(cli.load_command("plot"), run=fail)
    monkeypatch.setattr(cli, "load_command", lambda name: failing)
    with pytest.raises(FileNotFoundError):
        main(["plot", f"--to={tmp_path}"])


#: What takes a path: the subcommand, and the option, if it is one.
PATHS = [
    (command.name, argument.name)
    for command in load_commands()
    for argument in command.arguments
    if argument.completion is Completion.PATHS
]


@pytest.mark.parametrize("path", ["x" * 300, "a/" * 3000, "é" * 200])
@pytest.mark.parametrize(("command", "argument"), [*PATHS, ("explain", "--config-dir")])
def test_a_path_that_no_file_can_have_is_one_line(capsys, command, argument, path):
    named = [f"{argument}={path}"] if argument.startswith("-") else [path]
    with pytest.raises(SystemExit) as end:
        main([command, *named])
    assert end.value.code == 2
    assert re.search("255 bytes|3,500 bytes", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        ("explain", "trainer.strategy=deepspeed", "you must have DeepSpeed installed"),
        ("lr-range", "trainer.accelerator=tpu", "'torch_xla"),
    ],
)
def test_what_lightning_refuses_is_one_line(capsys, command, given, said):
    with pytest.raises(SystemExit) as end:
        main([command, given])
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("lit-optim: ")
    assert said in line


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["--help"], "optimizers  list the optimizers"),
        (["schedules", "--help"], "pattern"),
        (["--version"], "lit-optim "),
    ],
)
def test_help_and_version_are_printed(capsys, argv, shown):
    with suppress(SystemExit):
        main(argv)
    assert shown in capsys.readouterr().out


def test_without_a_command_there_is_help(answer):
    assert answer()[0].startswith("usage: lit-optim")


def test_a_narrow_terminal_is_not_overrun(answer, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in answer("optimizers")]
    assert max(map(len, lines)) <= 60
    words = " ".join(lines).split()
    for entry in entries("optimizer"):
        assert {entry.name, *entry.headline.split(), *entry.cited.split()} <= set(words)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_stops_is_no_error(unbuffered):
    command = [sys.executable, "-c", "from lit_optim.cli import main; main(['optimizers'])"]
    read, write = os.pipe()
    os.close(read)
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=env, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from lit_optim.cli import main;"
        "[main(line.split()) for line in ('optimizers', 'optimizers sgd', 'schedules step')];"
        "heavy = {'torch', 'lightning', 'transformers', 'hydra'} & set(sys.modules);"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_mistake_in_an_override_is_told_before_torch_is_imported():
    """Of every command that takes overrides: torch takes seconds, and an answer half of one."""
    commands = [
        c.name
        for c in load_commands()
        if any(a.completion == Completion.OVERRIDES for a in c.arguments)
    ]
    assert {"train", "explain", "race"} <= {*commands}
    code = (
        "import sys; from lit_optim.cli import main\n"
        "for name in sys.argv[1:]:\n"
        "    try: main([name, 'optimizer=adamv'])\n"
        "    except SystemExit as end: assert end.code == 2, name\n"
        "    else: assert False, name\n"
        "    heavy = {'torch', 'lightning', 'transformers', 'numpy'} & set(sys.modules)\n"
        "    assert not heavy, (name, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code, *commands], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == len(commands)  # one line each
    assert done.stderr.count("unknown optimizer 'adamv'; did you mean") >= 5


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_docstrings_are_read_as_they_are_when_imported(group, name):
    entry = next(entry for entry in entries(group) if entry.name == name)
    imported = inspect.getdoc(get_object(entry.target))
    assert entry.explained
    assert imported.startswith(entry.explained)
    rest = imported.removeprefix(entry.explained).strip()
    assert not rest or re.match(r"(Args|Attributes|Returns|Raises|Note|Example):\n", rest)


@pytest.mark.parametrize(
    ("docstring", "source", "cited"),
    [
        (
            "Small.\n\nKingma & Ba 2014, A\nMethod, arXiv:1412.6980, Alg. 1.\n\n    u = g",
            "Kingma & Ba 2014, A Method, arXiv:1412.6980, Alg. 1",
            "Kingma & Ba 2014, arXiv:1412.6980",
        ),
        (
            "Downhill.\n\nRobbins & Monro 1951; heavy ball: Polyak 1964, 1412.6980.",
            "Robbins & Monro 1951; heavy ball: Polyak 1964, 1412.6980",
            "Robbins & Monro 1951",
        ),
        (
            "Turns.\n\nJordan et al. 2024, Muon, https://kellerjordan.github.io/posts/muon/.",
            "Jordan et al. 2024, Muon, https://kellerjordan.github.io/posts/muon/",
            "Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/",
        ),
        (
            "An id is no year.\n\nZhang et al., arXiv:2010.12402.",
            "Zhang et al., arXiv:2010.12402",
            "Zhang et al., arXiv:2010.12402",
        ),
        (
            "(1 + cos πx) / 2. Loshchilov & Hutter 2016, 1608.03983.",
            "Loshchilov & Hutter 2016, 1608.03983",
            "Loshchilov & Hutter 2016, arXiv:1608.03983",
        ),
        ("gamma^t: down. torch's StepLR.", "torch's StepLR", "torch's StepLR"),
        ("x.\n\ntorch's LR. It has more.", "torch's LR. It has more", "torch's LR"),
        ("1 all the way.", "", ""),
        ("Plain.\n\n    u = g", "", ""),
        ("", "", ""),
    ],
)
def test_where_the_source_stands(docstring, source, cited):
    entry = Entry("x", "", "", Path(), docstring)
    assert entry.source == source
    assert entry.cited == cited


BEFORE = ([], ["--config-dir", "train"], ["--config-dir=plot"], ["-cd", "plot"])


def chosen(monkeypatch, argv):
    """Which of the two programs `python -m lit_optim` becomes."""
    became = []
    monkeypatch.setattr(lit_optim.entry, "command", lambda: became.append("lit-optim"))
    monkeypatch.setattr(lit_optim.entry, "train", lambda: became.append("train.py"))
    monkeypatch.setattr(sys, "argv", ["lit_optim", *argv])
    lit_optim.entry.module()
    return became


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("command", command_names())
def test_the_module_is_the_command_too(monkeypatch, command, before):
    assert chosen(monkeypatch, [*before, command]) == ["lit-optim"]
    assert chosen(monkeypatch, [*before, command, "optimizer=sgd", "--help"]) == ["lit-optim"]


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize(
    "argv",
    [
        [], ["--help"], ["-m", "optimizer=adamw,sgd"], ["optimizer=sgd", "plot"], ["~scheduler"],
        ["+resume=plot"], ["adamw"], ["plots"], ["plot=1"],
    ],
)  # fmt: skip
def test_the_module_trains_by_anything_else(monkeypatch, argv, before):
    """As a sweep and a strategy start it, too."""
    assert chosen(monkeypatch, [*before, *argv]) == ["train.py"]


@pytest.mark.parametrize("command", command_names())
def test_a_command_after_train_is_refused(capsys, command):
    with pytest.raises(SystemExit, match="2"):
        main(["train", command])
    assert f"{command} is a command of its own" in capsys.readouterr().err


@pytest.mark.parametrize("group", [*groups()])
@pytest.mark.parametrize(
    "read",
    [lambda word: prepare_command_line([word]), lambda word: [*compose_combinations([word])]],
)
def test_a_choice_without_its_group_is_told_how_to_write(group, read):
    for name in [*groups()[group]][::7]:
        having = [f"{other}={name}" for other, names in groups().items() if name in names]
        with pytest.raises(UsageError) as error:
            read(name)
        assert str(error.value) == f"cannot read {name!r}; write {' or '.join(having)}"


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_help_fits_a_terminal_and_loses_no_word(columns):
    text = cli.help_text(columns)
    assert max(map(len, text.split("\n"))) <= columns
    assert text.split() == cli.help_text().split()


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("chosen", [{}, {"optimizer": "muon"}, {"scheduler": "phases"}], ids=str)
def test_the_help_of_choices_fits_a_terminal_and_loses_no_word(columns, chosen):
    text = help_text(chosen)
    wrapped = wrap_lines(text, columns)
    longest_word = max(map(len, text.split()))
    assert max(map(len, wrapped.split("\n"))) <= max(columns, longest_word + 4)
    assert [w for w in wrapped.split() if w != "#"] == [w for w in text.split() if w != "#"]
    assert wrap_lines(text, None) == text


def test_the_rest_of_a_line_is_indented():
    assert wrap_lines("  name  first second", 18) == "  name  first\n        second"
    assert wrap_lines("  run it  first second", 14) == "  run it\n      first\n      second"
    assert wrap_lines("  - a b c d e f g", 12) == "  - a b c d\n    e f g"
    assert wrap_lines("x.key=1 # a comment", 12) == "x.key=1 # a\n    comment"
    assert wrap_lines("# a comment of two", 12) == "# a comment\n# of two"
    assert wrap_lines("plain text here", 10) == "plain text\nhere"


def test_only_a_terminal_gets_wrapped_text(answer, monkeypatch):
    long = [line for line in answer("optimizers", "adamw") if len(line) > 80]
    assert long
    monkeypatch.setattr("lit_optim.command_line.wrapping.sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    lines = answer("optimizers", "adamw")
    assert max(map(len, lines)) <= 60
