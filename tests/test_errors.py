"""Every error of ours says the same in another process as where it was raised."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
from pathlib import Path

import pytest

import lit_optim
from lit_optim.errors import Diverged

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
