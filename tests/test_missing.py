"""What is not installed is reported in one line that says what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lit_optim import app, missing
from lit_optim.missing import PACKAGES, explain_missing

ROOT = Path(__file__).parent.parent
#: Where the name to install is not the name to import.
IMPORTED = {
    "hydra-core": "hydra",
    "scikit-learn": "sklearn",
    "typing-extensions": "typing_extensions",
}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Where the package seems to be; with an environment beside it, or none."""
    (tmp_path / "lit_optim").mkdir()
    monkeypatch.setattr(missing, "__file__", str(tmp_path / "lit_optim" / "missing.py"))

    def make(*files):
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()

    return make


def message(capsys, name="hydra", code=1):
    with pytest.raises(SystemExit) as end, explain_missing():
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    assert end.value.code == code
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("system", ["posix", "nt"])
def test_the_environment_that_make_made_is_named(checkout, capsys, monkeypatch, system):
    folder = "bin" if system == "posix" else "Scripts"
    checkout("pyproject.toml", f".venv/{folder}/python")
    with monkeypatch.context() as patched:
        patched.setattr(missing.os, "name", system)
        line = message(capsys)
    assert line.startswith(f"lit-optim: hydra is not installed for {sys.executable}; ")
    start = ". " if system == "posix" else ""
    assert f"`{start}.venv/{folder}/activate`" in line
    assert f"`.venv/{folder}/python train.py`" in line


def test_without_an_environment_it_says_how_to_make_one(checkout, capsys):
    checkout("pyproject.toml")
    assert message(capsys).endswith("pip install -c constraints.txt -e '.[train]'")


def test_installed_from_a_wheel_it_says_what_to_install(checkout, capsys):
    assert message(capsys).endswith("python -m pip install 'lit-optim[train]'")


def test_the_packages_are_those_of_pyproject():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    for key, at_least in (("dependencies", 3), ("train", 6)):
        [listed] = re.findall(rf"^{key} = \[[^\n]*\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
        names = re.findall(r'^ *"([\w-]+)', listed, re.MULTILINE)
        assert len(names) >= at_least
        for name in names:
            assert IMPORTED.get(name, name) in PACKAGES


@pytest.mark.parametrize("name", [*PACKAGES, "torch.nn", "hydra.core.utils"])
def test_each_of_them_is_named(name, capsys):
    assert f"{name.split('.')[0]} is not installed" in message(capsys, name)


@pytest.mark.parametrize(
    "line",
    [
        "from lit_optim import configure_optimizers",
        "import lit_optim; lit_optim.OptimizerMixin",
        "import lit_optim.lightning.configure",
    ],
)
def test_what_needs_lightning_says_so(monkeypatch, line):
    for name in [name for name in sys.modules if name.startswith("lit_optim.lightning")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError) as caught:
        exec(line)
    assert str(caught.value) == (
        "configure_optimizers needs lightning, which is not installed: "
        "python -m pip install 'lit-optim[train]'"
    )
    assert caught.value.name == "lightning"


def test_a_package_of_the_user_keeps_its_traceback():
    with pytest.raises(ModuleNotFoundError), explain_missing():
        raise ModuleNotFoundError("No module named 'mine'", name="mine")


def test_a_python_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    with (
        pytest.raises(SystemExit, match=r"lit-optim: needs Python 3\.10, and .* is "),
        explain_missing(),
    ):
        raise AssertionError("nothing is tried")


def test_old_pythons_can_read_what_tells_them():
    """As far as its grammar goes."""
    import ast

    files = ["entry.py", "missing.py", "streams.py", "__init__.py"]
    for name in ("train.py", *(f"lit_optim/{file}" for file in files)):
        ast.parse((ROOT / name).read_text("utf-8"), feature_version=(3, 7))


@pytest.mark.parametrize("line", [["train.py"], ["-m", "lit_optim"]])
def test_a_bare_python_is_told(line):
    """A process, as nothing may be importable: no packages of an environment, isolated."""
    bare = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
    command = [bare, "-S", *line] if line[0] != "train.py" else [bare, "-S", str(ROOT / "train.py")]
    done = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "is not installed for" in done.stderr or "needs Python" in done.stderr


def test_what_is_missing_when_the_run_begins_is_told_too(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "logger=none"])
    monkeypatch.setitem(sys.modules, "lit_optim.runs.run", None)
    monkeypatch.delitem(sys.modules, "lit_optim.runs.run")

    class Gone:
        def find_spec(self, name, path=None, target=None):
            if name == "lit_optim.runs.run":
                raise ModuleNotFoundError("No module named 'torchmetrics'", name="torchmetrics")

    monkeypatch.setattr(sys, "meta_path", [Gone(), *sys.meta_path])
    with pytest.raises(SystemExit) as end:
        app.main()
    assert end.value.code == 1
    assert "torchmetrics is not installed for" in capsys.readouterr().err


def test_make_ends_with_how_to_go_on():
    # make inside of make says where it goes, unless it is told not to
    shown = subprocess.run(
        ["make", "-n", "--no-print-directory", "train"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ". .venv/bin/activate" in shown.stdout.splitlines()[-1]
    assert ".venv/bin/python train.py" in shown.stdout.splitlines()[-1]
