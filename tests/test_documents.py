"""Code and commands that the README and docs/ show work as they stand there."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch import LightningModule, Trainer

from lit_optim.cli import main
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.places import listed_choices, target_of, use_conf_dir
from lit_optim.errors import UsageError
from lit_optim.moved_names import current_name
from lit_optim.signatures import read_signature
from lit_optim.tasks.classifiers import MLP
from tests.conftest import ROOT
from tests.documents import (
    BLOCKS,
    COMMANDS,
    FAULTS,
    PAGES,
    TEXTS,
    Block,
    Command,
    read_blocks,
)

#: What a page's commands name, besides the files in the page itself.
RUN = re.compile(
    r"(?<![\w/])runs/(?:\.\.\.|[\d-]+/[\w-]+?|lr(?=_sweep)|more(?=_seeds))"
    r"(?P<sweep>_sweep|_seeds)?(?=/|$)"
)
#: Commands that are only looked up: they serve, install, or need a machine of another kind.
LOOKED_UP = {"board", "doctor", "rerun", "completion", "race", "tournament", "worker"}
SHELL = {
    "python -m venv",
    ". .venv/bin/activate",
    "pytest -n",
    "pytest -m",
    "git clone",
    "cd lit-optim",
}
#: Options of a long command in its small run.
SMALL = {"lr-range": ["--steps", "20"]}


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """Directories of a finished run and of a sweep, made by the README's first command."""
    place = tmp_path_factory.mktemp("documents")
    [first, *_] = [command for command in COMMANDS if command.page == "README.md"]
    assert first.words[:2] == ("python", "train.py")
    small = ["model=linear", "data=digits", "trainer.max_steps=20", "logger=none"]
    for more in (["hydra.run.dir=run"], ["-m", "seed=0,1", "hydra.sweep.dir=sweep"]):
        argv = [sys.executable, ROOT / "train.py", *first.words[2:], *small, *more]
        done = subprocess.run(argv, cwd=place, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def place(tmp_path, monkeypatch, runs):
    """A directory with the files that pages name."""
    torch.manual_seed(3)
    torch.save(MLP(features=64, classes=10).state_dict(), tmp_path / "weights.pt")
    shutil.copyfile(runs / "run/checkpoints/last.ckpt", tmp_path / "best.ckpt")
    (tmp_path / "input.txt").write_text("to be or not to be " * 2000)
    (tmp_path / "runs").symlink_to(runs)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    modules = set(sys.modules)
    yield tmp_path
    use_conf_dir(None)
    for name in set(sys.modules) - modules:
        if (tmp_path / f"{name}.py").exists():
            del sys.modules[name]


def write_files(page: str, place: Path) -> None:
    """Write the blocks of a page that are files."""
    for block in BLOCKS:
        if block.page == page and block.file:
            path = place / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code)


def arguments_of_training(words: tuple[str, ...]) -> list[str] | None:
    """The overrides of a command that trains; None for any other command."""
    line = list(words)
    if line[0] in ("srun", "torchrun"):
        line = ["python", *line[line.index("train.py") :]]
    for start in (["python", "train.py"], ["lit-optim", "train"]):
        if line[:2] == start:
            return line[2:]
    return None


TRAINING = [command for command in COMMANDS if arguments_of_training(command.words) is not None]
OTHERS = [command for command in COMMANDS if arguments_of_training(command.words) is None]


def at_real_runs(words: list[str], runs: Path) -> list[str]:
    """The words with example directories replaced by ones that exist."""
    return [RUN.sub(lambda m: str(runs / ("sweep" if m["sweep"] else "run")), w) for w in words]


@pytest.mark.parametrize("command", TRAINING, ids=str)
def test_a_training_command_is_valid(command: Command, place, runs, capsys, monkeypatch):
    write_files(command.page, place)
    monkeypatch.setattr(sys, "path", sys.path)
    words = at_real_runs(arguments_of_training(command.words), runs)
    if "experiment=best" in words:  # which `lit-optim best --export` has written before
        (place / "mine/experiment").mkdir(parents=True)
        (place / "mine/experiment/best.yaml").write_text("# @package _global_\nmonitor: val/acc\n")
    if command.output.startswith("lit-optim: "):
        with pytest.raises(UsageError) as error:
            prepare_command_line(words)
        assert f"lit-optim: {error.value}\n" == command.output
        return
    assert prepare_command_line(words) is not None
    if command.output:
        check_table_of_parameters(words, command.output, capsys)


def check_table_of_parameters(words: list[str], output: str, capsys) -> None:
    """Each row that a page shows is a row of `lit-optim explain`, whatever the widths."""
    main(["explain", *words])
    printed = [split_row(line) for line in capsys.readouterr().out.splitlines()]
    rows = [split_row(line) for line in output.splitlines() if "─" not in line]
    assert len(rows) > 2
    assert [row for row in rows if row not in printed] == []


def split_row(line: str) -> list[str]:
    """The cells of a printed table, which stand two spaces or more apart."""
    return re.split(r" {2,}", line.strip())


@pytest.mark.parametrize("command", OTHERS, ids=str)
def test_another_command_is_valid(command: Command, place, runs, capsys, monkeypatch):
    write_files(command.page, place)
    words = at_real_runs(list(command.words), runs)
    program, *rest = words
    if program == "lit-optim":
        check_subcommand(rest, command.output, place, capsys)
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
        assert set(rest) <= set(targets)
    elif program == "pip":
        check_install(rest)
    elif program == "python" and rest[0].startswith("scripts/"):
        check_options_of_script(rest, capsys, monkeypatch)
    elif program == "python" and rest[0].startswith("examples/hydra_app"):
        check_overrides_of_app(rest)
    elif program == "python" and rest[0] == "main.py":
        check_arguments_of_cli(rest, monkeypatch)
    else:
        assert any(shlex.join(words).startswith(start) for start in SHELL), "how is this checked?"


def check_subcommand(argv: list[str], output: str, place: Path, capsys) -> None:
    """Run a subcommand; of those that would serve or train for long, check the options."""
    if argv[0] in LOOKED_UP:
        with pytest.raises(SystemExit) as end:
            main([argv[0], "--help"])
        assert not end.value.code
        help_text = capsys.readouterr().out
        for word in argv[1:]:
            if word.startswith("-"):
                assert word in help_text
            elif word.startswith("/") and not word.startswith("/shared/"):
                assert Path(word).exists()
        return
    if "--watch" in argv:  # it would go on until Ctrl-C
        start = argv.index("--watch")
        assert float(argv[start + 1]) > 0
        argv = argv[:start] + argv[start + 2 :]
    main([*argv, *SMALL.get(argv[0], [])])
    printed = capsys.readouterr().out
    assert printed or "--to" in argv
    if output:
        assert printed == output


def check_install(argv: list[str]) -> None:
    """The constraints and the extras that a `pip install` names exist."""
    if "-e" not in argv:
        return  # another project's package
    assert (ROOT / argv[argv.index("-c") + 1]).is_file()
    extras = re.findall(r"\w+", "".join(re.findall(r"\[(.*)\]", argv[argv.index("-e") + 1])))
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert all(re.search(rf"^{extra} = \[", project, re.M) for extra in extras)


def check_options_of_script(argv: list[str], capsys, monkeypatch) -> None:
    """The script exists and its --help has every option."""
    monkeypatch.setattr(sys, "argv", [argv[0], "--help"])
    monkeypatch.syspath_prepend(ROOT / "scripts")
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / argv[0]), run_name="__main__")
    help_text = capsys.readouterr().out
    for word in argv[1:]:
        if word.startswith("--"):
            assert word.partition("=")[0] in help_text


def check_overrides_of_app(argv: list[str]) -> None:
    """The overrides of a Hydra app in examples/ compose; of several values the first one."""
    lines = [line.partition(",")[0] for line in argv[1:] if "=" in line]
    with initialize_config_dir(str((ROOT / argv[0]).parent / "conf"), version_base="1.3"):
        assert compose("config", lines)


def check_arguments_of_cli(argv: list[str], monkeypatch) -> None:
    """The page's program, a LightningCLI, takes the arguments."""
    monkeypatch.setattr(sys, "argv", [*argv, "--print_config"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(argv[0], run_name="__main__")
    assert not end.value.code


class Small(LightningModule):
    """A base for the modules of pages, so that their `configure_optimizers` can be used."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        return self.net(batch).square().mean()

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(8, 3), batch_size=2)


#: Names that a block may ask for.
GIVEN = {
    "LightningModule": lambda: Small,
    "lit_optim": lambda: import_module("lit_optim"),
    "model": lambda: MLP(features=64, classes=10),
    "params": lambda: [torch.nn.Parameter(torch.ones(3))],
    "best.ckpt": lambda: None,  # a file, written by a test
}


@pytest.mark.parametrize(
    "block",
    [
        block
        for block in BLOCKS
        if block.language == "python" and not block.in_a_copy and not block.processes
    ],
    ids=str,
)
def test_python_code_runs(block: Block, place):
    if "best.ckpt" in block.names:
        torch.save({"state_dict": MLP(features=64, classes=10).state_dict()}, place / "best.ckpt")
    names = {name: GIVEN[name]() for name in block.names}
    namespace = {"__name__": "page", **names}
    exec(compile(block.code, str(block), "exec"), namespace)
    if block.file:
        return  # a command of its page trains it
    for name in [node.name for node in ast.parse(block.code).body if is_module(node)]:
        trainer = Trainer(
            max_steps=3, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=place,
        )  # fmt: skip
        module = namespace[name]()
        start = module.net.weight.detach().clone()
        trainer.fit(module)
        assert trainer.global_step == 3
        assert not torch.equal(module.net.weight, start)


def is_module(node: ast.stmt) -> bool:
    """Whether a statement defines a LightningModule with `configure_optimizers`."""
    return isinstance(node, ast.ClassDef) and any(
        isinstance(line, ast.FunctionDef) and line.name == "configure_optimizers"
        for line in node.body
    )


def test_the_module_of_the_page_trains(place, run_here):
    """The first command of "Your own model", with the file that stands above it."""
    page = "docs/own_model.md"
    write_files(page, place)
    [command] = [c for c in TRAINING if c.page == page and "model=custom" in c.words]
    result = run_here(*arguments_of_training(command.words))
    assert result.steps == 5 * 16


@pytest.mark.parametrize("target", ["train", "test"])
def test_what_make_does_is_what_the_readme_says(target):
    """The two commands of the README, without the installation."""
    done = subprocess.run(
        ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [" ".join(command.words) for command in COMMANDS if command.page == "README.md"]
    by_hand = {
        "train": "python train.py optimizer=adamw scheduler=cosine_warmup",
        "test": "pytest -n auto --dist worksteal",
    }[target]
    assert by_hand in lines
    assert by_hand in done.stdout


def names_in(text: str) -> set[str]:
    """Dotted names of ours that stand in a page as code."""
    code = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^::: (\S+)$", text, re.M)
    found = [
        re.match(r"((?:lit_optim|hydra_plugins)(?:\.\w+)+)(?:\(.*\))?$", word) for word in code
    ]
    return {match[1] for match in found if match}


@pytest.mark.parametrize(
    ("page", "name"),
    [(page, name) for page, text in TEXTS.items() for name in sorted(names_in(text))],
)
def test_a_name_of_ours_exists_where_it_is_said_to_be(page, name):
    assert current_name(name) == name, f"{page} has an old name"
    words = name.split(".")
    for count in range(len(words), 0, -1):
        try:
            found = import_module(".".join(words[:count]))
        except ModuleNotFoundError:
            continue
        for attribute in words[count:]:
            found = getattr(found, attribute)
        return
    raise AssertionError(name)


#: The page that says which files to write: of these the directory exists.
TELLS_WHAT_TO_WRITE = "docs/contributing.md"


@pytest.mark.parametrize("page", TEXTS)
def test_a_file_that_a_page_names_exists(page):
    named = re.findall(
        r"`((?:lit_optim|scripts|tests|docs|conf|hydra_plugins)/[\w/.-]+)`", TEXTS[page]
    )
    own = {block.file for block in BLOCKS if block.page == page}
    for name in named:
        path = ROOT / name
        path = path.parent if page == TELLS_WHAT_TO_WRITE else path
        assert path.exists() or name in own, f"{page} names {name}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pictures_and_links_of_a_page_exist(path):
    for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", path.read_text("utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("page", TEXTS)
def test_every_block_of_a_page_says_what_it_is(page):
    assert page not in FAULTS, FAULTS[page]


def test_a_block_without_a_language_is_refused():
    with pytest.raises(ValueError, match=r"page.md:3: a block needs a language"):
        read_blocks("# Title\n\n```\ncode\n```\n", "page.md")


def test_an_unknown_mark_is_refused():
    with pytest.raises(ValueError, match=r"page.md:2: unknown mark 'skip it'"):
        read_blocks("<!-- test: skip it -->\n```python\n1 / 0\n```\n", "page.md")


def test_the_page_of_options_has_every_option():
    """An option is what optimizers take that have nothing but lr and weight decay in common."""
    paths = [
        target_of(listed_choices("optimizer")[name])
        for name in ("adamw", "lion", "rprop", "adagrad")
    ]
    parameters = [set(read_signature(path).parameters) for path in paths]
    options = set.intersection(*parameters) - {"params", "lr", "weight_decay"}
    table = TEXTS["docs/options.md"].split("|---|---|\n")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `optimizer\.(\w+)=", table, re.M)) == options
    for setting in re.findall(r"`(optimizer\.\w+=\w+)`", table):
        assert prepare_command_line([setting])


def test_the_readme_is_short():
    assert TEXTS["README.md"].count("\n") < 200
