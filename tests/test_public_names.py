"""What `from lit_optim import ...` offers: lazily, completely, with suggestions."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from types import ModuleType

import pytest

import lit_optim
from tests.conftest import ROOT
from tests.optimizers.running import NAMES, class_of

PACKAGES = ["lit_optim"]


def exported(package):
    """The names of a package that type checkers see, read from its stub."""
    path = ROOT / package.replace(".", "/") / "__init__.pyi"
    names = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname for alias in node.names if alias.asname == alias.name}
        elif isinstance(node, ast.AnnAssign):
            names.add(ast.unparse(node.target))
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_stub_has_the_names_that_the_package_has(package):
    module = importlib.import_module(package)
    names = set(module.__all__)
    assert exported(package) == names
    assert names <= set(dir(module))
    public = {name for name in dir(module) if not name.startswith("_")}
    assert public == names
    for name in names:
        value = getattr(module, name)
        assert value.__name__ in (name, f"{package}.{name}")


def test_every_optimizer_is_in_it():
    for name in NAMES:
        assert getattr(lit_optim, class_of(name).__name__) is class_of(name)
        assert class_of(name).__name__ in lit_optim.__all__


def test_star_imports_everything():
    space: dict[str, object] = {}
    exec("from lit_optim import *", space)
    assert set(space) - {"__builtins__"} == set(lit_optim.__all__)


@pytest.mark.parametrize("name", lit_optim.__all__)
def test_a_misspelt_name_is_answered_with_the_right_one(name):
    wrong = name.swapcase() if name.lower() != name else name[:-1] + name[-1].upper()
    assert not hasattr(lit_optim, wrong)
    with pytest.raises(AttributeError, match=f"has no attribute '{wrong}'; did you mean {name}"):
        getattr(lit_optim, wrong)
    with pytest.raises(ImportError, match=f"cannot import name '{wrong}' .* mean {name}"):
        exec(f"from lit_optim import {wrong}")


def test_a_name_like_no_other_gets_no_suggestion():
    assert not hasattr(lit_optim, "qqqqqq")
    with pytest.raises(AttributeError, match=r"has no attribute 'qqqqqq'$"):
        lit_optim.qqqqqq  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'qqqqqq'") as caught:
        exec("from lit_optim import qqqqqq")
    assert "did you mean" not in str(caught.value)
    assert importlib.util.find_spec("lit_optim.qqqqqq") is None


def test_a_traceback_suggests_once():
    code = "import lit_optim; lit_optim.Adamw"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.count("AdamW") == 1


def test_nothing_is_imported_to_list_the_names():
    code = (
        "import sys, lit_optim; dir(lit_optim), lit_optim.__all__, hasattr(lit_optim, 'Adamw');"
        "assert not {'torch', 'lightning', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_modules_are_modules():
    assert isinstance(lit_optim.schedules, ModuleType)
    assert isinstance(lit_optim.param_groups, ModuleType)
