"""Names from before a module moved still work: in code, in Hydra, and where nothing is imported."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType

import hydra.utils
import pytest

from lit_optim.config.targets import KINDS, check_allowed
from lit_optim.moved_names import MOVED, current_name
from lit_optim.signatures import read_signature

#: Every `_target_` that conf/ named before the modules moved.
BEFORE = json.loads((Path(__file__).parent / "before" / "targets.json").read_text("utf-8"))
IN_LIGHTNING = [name for name in BEFORE if name.startswith("lit_optim.lightning.")]
OLD_CALLBACKS = [name for name in IN_LIGHTNING if ".lr_rule." not in name]


@pytest.mark.parametrize("name", BEFORE)
def test_a_target_from_before_still_works(name):
    found = hydra.utils.get_object(name)
    assert callable(found)
    module, _, attribute = current_name(name).rpartition(".")
    assert found is getattr(import_module(module), attribute)
    if name.startswith("lit_optim."):
        assert read_signature(name) == read_signature(current_name(name)) is not None


@pytest.mark.parametrize("name", OLD_CALLBACKS)
def test_a_callback_from_before_may_still_be_named(name):
    check_allowed("callbacks.x._target_", name, KINDS["callbacks"], [])


#: A module whose name is that of a schedule now: as an attribute it is the schedule.
HIDDEN = ("lit_optim.schedules.phases",)


@pytest.mark.parametrize("old", MOVED)
def test_a_moved_name_leads_to_what_exists(old):
    found = import_module(old) if old in HIDDEN else hydra.utils.get_object(old)
    current = hydra.utils.get_object(MOVED[old])
    if not isinstance(current, ModuleType):
        assert found is current is not None
        return
    names = [name for name in vars(current) if not name.startswith("__")]
    assert names
    for name in names:
        assert getattr(found, name) is getattr(current, name)


def test_a_name_that_never_was_is_still_an_error():
    with pytest.raises(ModuleNotFoundError):
        import_module("lit_optim.schedules.never_was")
    with pytest.raises(ModuleNotFoundError):
        import_module("lit_optim.never_was")
