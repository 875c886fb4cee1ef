"""Following docs/contributing.md in a copy of the repository works."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import ROOT
from tests.documents import Block, read_blocks
from tests.forking import Forks

PAGE = (ROOT / "docs/contributing.md").read_text("utf-8")
COPIED = (
    "lit_optim", "conf", "hydra_plugins", "tests", "train.py", "pyproject.toml",
    "scripts", "docs", "README.md", "CHANGELOG.md",
)  # fmt: skip
IGNORED = shutil.ignore_patterns("__pycache__", "images")


def test_every_section_has_something_in_it():
    sections = re.split(r"^## (.*)\n", PAGE, flags=re.M)[1:]
    names, texts = sections[::2], sections[1::2]
    assert {
        "Add an optimizer", "Add a schedule", "Add a subcommand", "Add a callback",
        "Add an option of sweeps",
    } <= set(names)  # fmt: skip
    for name, text in zip(names, texts, strict=True):
        assert len(text.split()) > 20, name


def blocks_of(heading: str, language: str) -> list[Block]:
    """The code blocks of a section of the page."""
    section = re.split(r"^## ", PAGE, flags=re.M)
    [text] = [part for part in section if part.startswith(f"{heading}\n")]
    return [block for block in read_blocks(text, heading) if block.language == language]


#: Runs what `python -m` does.
AS_MODULE = """\
import runpy, sys
sys.path.pop(0)
sys.argv.pop(0)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the repository."""
    copy = tmp_path_factory.mktemp("tree")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=IGNORED)
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def forks_in(tree):
    """Runs modules and scripts of the copy in forks, as it is when the first of them is run."""
    (tree / "as_module.py").write_text(AS_MODULE)
    forks = Forks(tree)

    def run(*arguments):
        argv = [str(tree / arguments[0]), *arguments[1:]]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(tree))
            patch.setenv("OMP_NUM_THREADS", "1")
            done = forks.run(argv, tree, dict(os.environ), 240)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    yield run
    forks.stop()


def run_in(tree, *arguments, **variables):
    """The output of a Python command in the copy."""
    env = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"} | variables
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_an_optimizer_is_two_files_and_an_oracle(tree, forks_in):
    algorithm, oracle = (block.code for block in blocks_of("Add an optimizer", "python"))
    [choice] = (block.code for block in blocks_of("Add an optimizer", "yaml"))
    (tree / "lit_optim/optimizers/signmix.py").write_text(algorithm, "utf-8")
    (tree / "conf/optimizer/signmix.yaml").write_text(choice, "utf-8")
    with (tree / "tests/optimizers/cases_adaptive.py").open("a", encoding="utf-8") as cases:
        cases.write("\n\n" + oracle)

    listed = run_in(tree, "-m", "lit_optim", "optimizers", "signmix")
    assert "The sign of the momentum, mixed with the momentum itself." in listed
    small = ("model=linear", "data=digits", "trainer=cpu", "optimizer=signmix")
    assert "SignMix" in forks_in("as_module.py", "lit_optim", "explain", *small)
    trained = forks_in("train.py", *small, "trainer.max_steps=20")
    assert "signmix" in trained
    forks_in("scripts/tables.py")
    files = ["tests/optimizers/test_optimizers.py", "tests/optimizers/test_options.py"]
    files += ["tests/config/test_conf.py", "tests/test_tables.py"]  # its row has a source
    options = ["-p", "no:cacheprovider", "-n", "0", "-k", "signmix", "-vv"]
    tested = forks_in("as_module.py", "pytest", *options, *files)
    for file in files:
        assert re.search(rf"^{file}::.*signmix.* PASSED", tested, re.M), file  # not deselected
    forks_in("scripts/stubs.py")
    stub = (tree / "lit_optim/__init__.pyi").read_text("utf-8")
    assert "from lit_optim.optimizers.signmix import SignMix as SignMix\n" in stub


#: The installed command `lit-optim`, of the copy.
LIT_OPTIM = ("-c", "from lit_optim.cli import main; main()")


def test_a_subcommand_is_one_file(tree):
    [code] = (block.code for block in blocks_of("Add a subcommand", "python"))
    (tree / "lit_optim/commands/count.py").write_text(code, "utf-8")
    sections = run_in(tree, *LIT_OPTIM, "--help").split("\n\n")
    [section] = [text for text in sections if "\n  count " in text]
    assert section.startswith("choose an optimizer and a schedule\n")
    assert "count the choices of a configuration group" in section
    assert "lit-optim count optimizer" in run_in(tree, *LIT_OPTIM, "count", "--help")
    counted = run_in(tree, *LIT_OPTIM, "count", "optimizer")
    assert int(counted) == len(list((tree / "conf/optimizer").glob("*.yaml")))
    assert run_in(tree, *LIT_OPTIM, "complete", "lit-optim cou").split() == ["count"]
    assert run_in(tree, *LIT_OPTIM, "complete", "lit-optim count o").split() == ["optimizer"]
    for arguments, message in (
        (["count", "optimizr"], "argument group: invalid choice: 'optimizr'"),
        (["coumt"], "unknown command 'coumt'; did you mean count"),
    ):
        env = os.environ | {"PYTHONPATH": str(tree)}
        command = [sys.executable, *LIT_OPTIM, *arguments]
        done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert done.stderr.startswith(f"lit-optim: {message}")


def refuse_in(tree, *arguments):
    """The one line by which the copy answers a mistake."""
    env = os.environ | {"PYTHONPATH": str(tree)}
    command = [sys.executable, "train.py", *arguments]
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    return done.stderr.strip()


def test_a_callback_is_a_file_and_a_choice(tree, forks_in):
    [code] = (block.code for block in blocks_of("Add a callback", "python"))
    [choice] = (block.code for block in blocks_of("Add a callback", "yaml"))
    (tree / "lit_optim/callbacks/step_time.py").write_text(code, "utf-8")
    (tree / "conf/callbacks/step_time.yaml").write_text(choice, "utf-8")
    line = ("callbacks=step_time", "model=linear", "data=digits", "trainer=cpu", "logger=csv")
    run_dir = "hydra.run.dir=step_time"
    forks_in("train.py", *line, "callbacks.step_time.every=5", "trainer.max_steps=60", run_dir)
    [metrics] = (tree / "step_time").rglob("metrics.csv")
    rows = list(csv.DictReader(metrics.open(encoding="utf-8")))
    assert any(float(row["step_time"] or 0) > 0 for row in rows)
    refused = refuse_in(tree, *line, "callbacks.step_time.every=0")
    assert refused in PAGE


def test_an_option_of_sweeps_is_an_argument(tree):
    [code] = (block.code for block in blocks_of("Add an option of sweeps", "python"))
    path = tree / "lit_optim/sweeps/launcher.py"
    text = path.read_text("utf-8")
    start = text.index("    def __init__(self, n_jobs")
    end = text.index("    def setup(")
    code = textwrap.indent(textwrap.dedent(code), "    ")
    text = text[:start] + code + "\n" + text[end:]
    started = "        pool = JobPool("
    used = f"        print('pause', self.pause)\n{started}"
    assert started in text
    path.write_text(text.replace(started, used, 1), "utf-8")
    line = ("-m", "model=linear", "data=digits", "trainer=cpu", "logger=none", "seed=0,1")
    refused = refuse_in(tree, *line, "hydra.launcher.pause=-1")
    assert refused in PAGE
    swept = run_in(tree, "train.py", *line, "trainer.max_steps=5", "hydra.launcher.pause=0.5")
    assert "pause 0.5" in swept


def test_the_table_of_measures_is_up_to_date():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/measure_optimizers.py"), "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
