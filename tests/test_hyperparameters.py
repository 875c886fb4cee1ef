"""What an annotation accepts, and reading it without importing."""

from __future__ import annotations

import inspect
import sys
from typing import Annotated, Any, Literal

import pytest

from lit_optim.errors import UsageError
from lit_optim.hyperparameters import accepts, check, describe, inspect_signature, read_signature

POSITIVE = Annotated[float, "> 0"]
BETAS = Annotated[tuple[float, float], "in [0, 1)"]


@pytest.mark.parametrize(
    ("annotation", "good", "bad", "words"),
    [
        (
            POSITIVE,
            [1, 0.5, 1e-30],
            [0, -1, "1", None, True, float("nan"), float("inf"), [1]],
            "a number > 0",
        ),
        (Annotated[int, ">= 0"], [0, 3], [-1, 1.0, True, "3"], "a whole number >= 0"),
        (Annotated[float, "<= 2"], [2, -5.5], [2.1], "a number <= 2"),
        (Annotated[float, "in (0, 1]"], [1, 0.1], [0, 1.1], "a number in (0, 1]"),
        (
            BETAS,
            [[0.9, 0.99], (0, 0.5)],
            [[0.9], [0.9, 1.0], 0.9, None, ["a", 0.9]],
            "2 numbers in [0, 1)",
        ),
        (bool, [True, False], [0, 1, "true", None], "true or false"),
        (str | None, ["a", None], [1, True], "text or null"),
        (int | str, [5, "5%"], [0.5, None], "a whole number or text"),
        (Literal["end", "start"], ["end"], ["middle", None, 0], "one of end, start"),
        (tuple[float, ...], [[], [1, 2.5]], [1, ["a"]], "a list"),
        (list[int], [[1, 2]], [[1.5], "12"], "a list"),
        (dict[str, int], [{"a": 1}], [[1]], "a mapping"),
        (Any, [1, None, "x", object()], [], "something else"),
        (Annotated[int | str, "such as 5%"], [5, "5%"], [0.5], "a whole number or text such as 5%"),
    ],
    ids=str,
)
def test_accepts(annotation, good, bad, words):
    assert all(accepts(value, annotation) for value in good)
    assert not any(accepts(value, annotation) for value in bad)
    assert describe(annotation) == words


def test_check_names_what_is_wrong():
    def make(lr: POSITIVE, betas: BETAS = (0.9, 0.99)) -> None: ...

    check(make, {"lr": 1.0, "betas": (0.1, 0.2)})
    with pytest.raises(UsageError, match=r"^betas must be 2 numbers in \[0, 1\), got \(0.1,\)$"):
        check(make, {"lr": 1.0, "betas": (0.1,)})


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
        "lit_optim.lightning.checkpoint.Checkpoint",
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
    assert {name: p.required for name, p in read.parameters.items()} == expected
    assert {name: p.required for name, p in imported.parameters.items()} == expected
