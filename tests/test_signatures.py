"""Signatures are read from the source as they are when imported."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import pytest

from lit_optim.hyperparameters import describe
from lit_optim.optimizers.base.options import OPTIONS
from lit_optim.signatures import inspect_signature, read_signature

SOURCE = """
from typing import Annotated, TypedDict
from typing_extensions import Unpack
from elsewhere import Thing
Share = Annotated[float, "in [0, 1]"]

class Common(TypedDict, total=False):
    ticks: str

class Base:
    def __init__(self, eps: float = 1e-8, thing: Thing = None): ...

class Child(Base):
    def __init__(self, lr: Annotated[float, "> 0"], share: Share = 0.5, **more): ...

class Heir(Child):
    pass

class Orphan(Thing):
    pass

def schedule(warmup: int | str = 0, *, gamma: float, **common: Unpack[Common]): ...

raise RuntimeError("reading must not run this")
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "readable"
    folder.mkdir()
    (folder / "__init__.py").write_text("from .inner import Child as Renamed\n")
    (folder / "inner.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    read_signature.cache_clear()
    return "readable"


def test_signatures_are_read_from_source(package):
    child = read_signature(f"{package}.inner.Child")
    assert list(child.parameters) == ["eps", "thing", "lr", "share"]
    assert not child.open
    assert [name for name, p in child.parameters.items() if p.required] == ["lr"]
    assert describe(child.parameters["lr"].annotation) == "a number > 0"
    assert describe(child.parameters["share"].annotation) == "a number in [0, 1]"
    assert child.parameters["thing"].annotation is Any
    assert read_signature(f"{package}.inner.Heir") == child
    assert read_signature(f"{package}.Renamed") == child
    assert read_signature(f"{package}.inner.Orphan").open
    schedule = read_signature(f"{package}.inner.schedule")
    assert list(schedule.parameters) == ["warmup", "gamma", "ticks"]
    assert not schedule.open
    assert read_signature(f"{package}.inner.Nobody") is None
    assert read_signature("no_such_package.Thing") is None
    assert package not in sys.modules


@pytest.mark.parametrize(
    "target",
    [
        "lit_optim.optimizers.adamw.AdamW",
        "lit_optim.tasks.char_lm.GPT",
        "lit_optim.callbacks.checkpoint.Checkpoint",
        "lightning.pytorch.Trainer",
        "lightning.pytorch.callbacks.EarlyStopping",
    ],
)
def test_reading_agrees_with_importing(target):
    from hydra.utils import get_class

    cls = get_class(target)
    read, imported = read_signature(target), inspect_signature(cls)
    expected = {
        name: p.default is p.empty
        for name, p in inspect.signature(cls).parameters.items()
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    if target.startswith("lit_optim.optimizers."):
        expected |= dict.fromkeys(OPTIONS, False)
    assert {name: p.required for name, p in read.parameters.items()} == expected
    assert {name: p.required for name, p in imported.parameters.items()} == expected
