"""`pip install lit-optim` is enough for a loop of one's own, and with lightning for a Trainer."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from lit_optim.schedules.registry import schedules_by_name
from tests.conftest import ROOT
from tests.optimizers.running import NAMES

CORE = {"torch", "typing_extensions", "simpleeval"}
#: What lightning brings along.
WITH_LIGHTNING = CORE | {"lightning", "numpy", "packaging", "torchmetrics", "yaml"}


def test_the_core_needs_none_of_the_extras():
    """A process, since here the packages have been imported."""
    command = [sys.executable, "-m", "tests.core_alone"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    optimizers, schedules = map(int, re.findall(r"\d+", done.stdout))
    assert optimizers == len(NAMES)
    assert schedules == len(schedules_by_name())


def imports_at_once(path):
    """The modules that a file imports when it is imported, not those of functions."""
    waiting, names = [ast.parse(path.read_text("utf-8"))], set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif not isinstance(node, ast.FunctionDef | ast.Lambda) and not is_for_checkers(node):
            waiting += ast.iter_child_nodes(node)
    return names


def is_for_checkers(node):
    """Whether only a type checker reads a statement."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def third_parties(start):
    """The packages of others that importing a module of ours imports."""
    seen, waiting, others = set(), [start], set()
    while waiting:
        name = waiting.pop()
        top, _, rest = name.partition(".")
        if top != "lit_optim":
            others.add(top)
            continue
        waiting += [name.rpartition(".")[0]] if rest else []
        path = ROOT.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if path not in seen and path.is_file():  # else it is a name in a module
            seen.add(path)
            waiting += imports_at_once(path)
    return others - set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("lit_optim.optimizers.muon", CORE),
        ("lit_optim.schedules.scheduling", CORE),
        ("lit_optim.lr_schedulers", CORE),
        ("lit_optim.wrappers", CORE),
        ("lit_optim.param_groups", CORE),
        ("lit_optim.lightning.configure", WITH_LIGHTNING),
    ],
)
def test_what_a_module_needs(module, allowed):
    found = third_parties(module)
    assert "torch" in found
    assert found <= allowed
    assert Path(find_spec(module).origin).is_relative_to(ROOT)


def test_what_the_command_line_needs_is_found():
    assert {"hydra", "omegaconf", "rich"} <= third_parties("lit_optim.runs.run")
