"""What `from lit_optim import ...` offers: lazily, completely, with suggestions."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import pickle
import subprocess
import sys
from functools import partial
from types import ModuleType

import pytest
from torch import nn

import lit_optim
from lit_optim import optimizers
from lit_optim.schedules.registry import argument_names, schedules_by_name
from tests.conftest import ROOT
from tests.optimizers.running import NAMES, class_of

PACKAGES = ["lit_optim", "lit_optim.schedules"]
LAZY = [*PACKAGES, "lit_optim.lr_schedulers"]


def exported(package):
    """The names of a module that type checkers see, read from its stub."""
    path = ROOT.joinpath(*package.split("."))
    path = path / "__init__.pyi" if path.is_dir() else path.with_suffix(".pyi")
    names = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname for alias in node.names if alias.asname == alias.name}
        elif isinstance(node, ast.AnnAssign):
            names.add(ast.unparse(node.target))
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("package", LAZY)
def test_the_stub_has_the_names_that_the_package_has(package):
    module = importlib.import_module(package)
    names = set(module.__all__)
    assert exported(package) == names
    assert {name for name in dir(module) if not name.startswith("_")} == names
    for name in names:
        value = getattr(module, name)
        assert value.__name__ in (name, f"{package}.{name}")


def test_every_optimizer_is_in_it():
    for name in NAMES:
        assert getattr(lit_optim, class_of(name).__name__) is class_of(name)
        assert class_of(name).__name__ in lit_optim.__all__


@pytest.mark.parametrize(
    ("installed", "missing"),
    [
        ("2.4.1", {"MuonTorch"}),
        ("2.8.0+cpu", {"MuonTorch"}),
        ("2.9.0", set()),
        ("2.10.0", set()),
        ("3.0.0a0", set()),
    ],
)
def test_an_optimizer_that_needs_a_newer_torch_is_not_listed(installed, missing, monkeypatch):
    monkeypatch.setattr(optimizers, "version", lambda name: installed)
    optimizers.is_available.cache_clear()
    try:
        assert set(optimizers.class_places()) - {*lit_optim.__all__} == missing
        assert set(optimizers.class_places()) - {*optimizers.__all__} == missing
    finally:
        optimizers.is_available.cache_clear()


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_is_found_without_importing_the_others(name, monkeypatch):
    imported = []
    monkeypatch.setattr(
        optimizers, "import_module", lambda place: imported.append(place) or sys.modules[place]
    )
    found = class_of(name)
    assert optimizers.find_optimizer(name) is optimizers.find_optimizer(found.__name__) is found
    assert set(imported) == {found.__module__}


def test_every_schedule_is_in_them():
    functions = {function.__name__: function for function in schedules_by_name().values()}
    assert {*functions, "Schedule", "ScheduledLR"} == {*lit_optim.schedules.__all__}
    assert {*functions} == {*lit_optim.lr_schedulers.__all__}
    for name, function in functions.items():
        assert getattr(lit_optim.schedules, name) is function


@pytest.mark.parametrize("package", LAZY)
def test_star_imports_everything(package):
    space: dict[str, object] = {}
    exec(f"from {package} import *", space)
    assert set(space) - {"__builtins__"} == set(importlib.import_module(package).__all__)


@pytest.mark.parametrize("name", schedules_by_name())
def test_the_stub_of_a_scheduler_has_its_arguments(name):
    tree = ast.parse((ROOT / "lit_optim/lr_schedulers.pyi").read_text("utf-8"))
    function = schedules_by_name()[name]
    [stub] = [n for n in tree.body if getattr(n, "name", None) == function.__name__]
    [init] = stub.body
    written = [argument.arg for argument in (*init.args.args, *init.args.kwonlyargs)]
    parameters = inspect.signature(lit_optim.schedule).parameters.values()
    of_run = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert {"steps", "steps_per_epoch"} < {*of_run}
    assert written == ["self", "optimizer", *argument_names(function), *of_run]


@pytest.mark.parametrize("name", lit_optim.__all__)
def test_a_misspelt_name_is_answered_with_the_right_one(name):
    wrong = name.swapcase() if name.lower() != name else name[:-1] + name[-1].upper()
    right = f"(?i:{name})"  # schedule, or Schedule
    assert not hasattr(lit_optim, wrong)
    with pytest.raises(AttributeError, match=f"has no attribute '{wrong}'; did you mean {right}"):
        getattr(lit_optim, wrong)
    with pytest.raises(ImportError, match=f"cannot import name '{wrong}' .* mean {right}"):
        exec(f"from lit_optim import {wrong}")


def test_param_groups_suggests_its_functions():
    wrong = "nodecay"
    with pytest.raises(AttributeError, match=r"has no attribute 'nodecay'; did you mean no_decay"):
        getattr(lit_optim.param_groups, wrong)
    with pytest.raises(ImportError, match=r"cannot import name 'nodecay' .* mean no_decay"):
        exec(f"from lit_optim.param_groups import {wrong}")


def test_a_name_like_no_other_gets_no_suggestion():
    assert not hasattr(lit_optim, "qqqqqq")
    with pytest.raises(AttributeError, match=r"has no attribute 'qqqqqq'$"):
        lit_optim.qqqqqq  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'qqqqqq'") as caught:
        exec("from lit_optim import qqqqqq")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", ["lit_optim.Adamw", "lit_optim.shedule", "lit_optim.qqqqqq"])
def test_a_module_that_is_not_there_has_no_spec(name):
    assert importlib.util.find_spec(name) is None


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


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_callable_package_is_pickled_and_copied_like_a_function(protocol):
    package = lit_optim.param_groups
    assert (package.__module__, package.__qualname__) == ("lit_optim", "param_groups")
    assert pickle.loads(pickle.dumps(package, protocol)) is package
    assert copy.copy(package) is copy.deepcopy(package) is package
    bound = pickle.loads(pickle.dumps(partial(package, base="single"), protocol))
    net = nn.Linear(2, 2)
    names = [group["name"] for group in bound(net)]
    assert names == [group["name"] for group in package(net, base="single")]


def test_modules_are_modules():
    assert isinstance(lit_optim.schedules, ModuleType)
    assert isinstance(lit_optim.param_groups, ModuleType)
