"""Every error of ours says the same in another process as where it was raised."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import pkgutil
import re
from pathlib import Path

import pytest

import lit_optim
from lit_optim.errors import Diverged, how_many

#: Arguments by the names of their annotations.
ARGUMENTS = {"str": "text in a\nmessage", "int": 3, "bool": True, "type": dict,
             "tuple[Any, ...]": ("a", 1), "Path": Path("a/run")}  # fmt: skip
MODULES = [
    module.name
    for module in pkgutil.walk_packages(lit_optim.__path__, "lit_optim.")
    if module.name != "lit_optim.__main__"
]


def error_classes():
    found = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for kind in vars(module).values():
            is_error = inspect.isclass(kind) and issubclass(kind, BaseException)
            if is_error and kind.__module__ == name:
                found[kind.__qualname__] = kind
    return found


def make(kind):
    own = [base for base in kind.__mro__ if base.__module__.startswith("lit_optim")]
    if not any("__init__" in vars(base) for base in own):
        return kind("text")
    parameters = list(inspect.signature(kind).parameters.values())
    return kind(*(ARGUMENTS[parameter.annotation] for parameter in parameters))


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_an_error_crosses_processes(protocol):
    kinds = error_classes()
    assert {"UsageError", "Diverged", "Interrupted", "NotPlain"} <= kinds.keys()
    for name, kind in kinds.items():
        error = make(kind)
        error.noted = 0.5
        other = pickle.loads(pickle.dumps(error, protocol))
        assert type(other) is kind, name
        assert (str(other), other.args) == (str(error), error.args), name
        assert vars(other) == vars(error), name


def test_a_diverged_run_keeps_its_value():
    error = Diverged("the loss is not finite")
    error.value = 0.75
    assert pickle.loads(pickle.dumps(error)).value == 0.75


#: What is also used without the command line, from plain loops, transformers or Lightning's CLI.
WITHOUT_HYDRA = (
    *("optimizers", "schedules", "wrappers", "param_groups", "kernels", "sharding", "training"),
    *("lightning", "hf.py", "making.py", "release.py", "updates.py", "lr_schedulers.py"),
    "compat/torch_schedules.py",
)
#: `trainer.` is an attribute of Lightning's modules too, and is left to those that know Lightning.
HYDRA_KEY = re.compile(
    r"(?<![\w.])(optimizer|scheduler|wrapper|model|data|callbacks|logger)\.[a-z_]+\b(?!\()"
    r"|\b(model|data)="
)
#: Called by runs of the command line alone.
OF_RUNS = ("lightning/failures.py",)


def messages(path):
    """The texts in a file that are no docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_no_message_names_a_key_that_a_caller_from_python_does_not_have():
    root = Path(lit_optim.__path__[0])
    found = {}
    for place in WITHOUT_HYDRA:
        paths = [root / place] if place.endswith(".py") else (root / place).rglob("*.py")
        for path in paths:
            name = path.relative_to(root).as_posix()
            texts = [text for text in messages(path) if HYDRA_KEY.search(text)]
            if texts and name not in OF_RUNS:
                found[name] = texts
    assert found == {}


@pytest.mark.parametrize(
    ("count", "noun", "expected"),
    [
        (0, "run", "0 runs"),
        (1, "run", "1 run"),
        (2, "trial", "2 trials"),
        (1, "batch", "1 batch"),
        (1000, "batch", "1,000 batches"),
        (3, "process", "3 processes"),
        (float("inf"), "batch", "inf batches"),
        (1.0, "step", "1 step"),
        (2.5, "update", "2.5 updates"),
    ],
)
def test_one_is_not_plural(count, noun, expected):
    assert how_many(count, noun) == expected
