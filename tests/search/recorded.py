"""What a search has recorded."""

from __future__ import annotations

import optuna


def read(directory):
    """The trials of a search: by number, their values, what they were told, and their runs."""
    [name] = optuna.get_all_study_names(f"sqlite:///{directory / 'study.db'}")
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{directory / 'study.db'}")
    return [
        (trial.number, trial.state, trial.params, trial.values, trial.user_attrs["run_dirs"])
        for trial in study.trials
    ]
