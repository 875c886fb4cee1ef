"""A small search that several processes run."""

from __future__ import annotations

import json

import pytest

from lit_optim.runs.layout import SEARCH
from tests.user_code import CUSTOM

RUN = (
    *CUSTOM,
    "model.width=5",
    "logger=none",
    "trainer.enable_progress_bar=false",
    "trainer.max_steps=40",
)
SPACE = "optimizer.lr=tag(log,interval(1e-4,1e-1))"


def check_all_ran_once(sweep_dir, n_trials, storage=None):
    """All trials are COMPLETE, each was run once, and its value is that of its run."""
    from lit_optim.search.attempts import last_attempts
    from lit_optim.search.data import Search, Settings, Study
    from lit_optim.search.store import open_store

    content = json.loads((sweep_dir / SEARCH).read_text())
    study = Study("", (), {}, {})
    settings = Settings(n_trials, storage=storage)
    store = open_store(Search((), [study], settings, name=content.get("name", "")), sweep_dir)
    trials = last_attempts(store._load(study).get_trials())
    assert [trial.number for trial in trials] == [*range(n_trials)]
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    for trial in trials:
        run_dirs = [path.parent for path in sweep_dir.glob(f"trial={trial.number:03d}*/*/job.json")]
        assert len(run_dirs) == 1
        result = json.loads((run_dirs[0] / "result.json").read_text())
        assert trial.value == pytest.approx(result["value"], rel=1e-6)
        assert json.loads((run_dirs[0] / "job.json").read_text())["status"] == "completed"
    assert len([*sweep_dir.glob("trial=*")]) == n_trials
    assert not [*sweep_dir.rglob(".before")]
