"""Schedules are found by their mark, in whatever file of the package they are."""

from __future__ import annotations

import sys
from importlib import import_module

import lit_optim.schedules
from lit_optim.schedules import registry
from lit_optim.schedules.durations import Horizon

NEW_FILE = '''
"""A file that nothing lists."""

from lit_optim.schedules.phase_spec import Phase
from lit_optim.schedules.phase_schedule import Phases
from lit_optim.schedules.registry import schedule


@schedule
def half() -> Phases:
    """Half of the lr."""
    return Phases((Phase(0.5, 0.5),))
'''


def test_a_schedule_in_a_new_file_is_found(tmp_path, monkeypatch):
    (tmp_path / "new_schedules.py").write_text(NEW_FILE, "utf-8")
    (tmp_path / "unmarked.py").write_text("raise ImportError('there is no schedule here')", "utf-8")
    monkeypatch.setattr(
        lit_optim.schedules, "__path__", [*lit_optim.schedules.__path__, str(tmp_path)]
    )
    monkeypatch.setattr(registry, "_SCHEDULES", dict(registry._SCHEDULES))
    try:
        curve = registry.find_schedule("half").curve(Horizon(10))
        assert [curve(t, 0.2) for t in (0, 9)] == [0.1, 0.1]
        assert "lit_optim.schedules.unmarked" not in sys.modules
    finally:
        sys.modules.pop("lit_optim.schedules.new_schedules", None)


def test_a_file_of_the_same_name_does_not_hide_its_schedule(tmp_path, monkeypatch):
    (tmp_path / "half.py").write_text(NEW_FILE, "utf-8")
    package = lit_optim.schedules
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "_SCHEDULES", dict(registry._SCHEDULES))
    try:
        for _ in range(2):  # before and after the module is imported
            assert package.half().curve(Horizon(10))(0, 0.2) == 0.1
            import_module("lit_optim.schedules.half")
    finally:
        sys.modules.pop("lit_optim.schedules.half", None)
        vars(package).pop("half", None)
