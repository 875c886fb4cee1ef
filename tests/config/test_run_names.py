"""The directory of a run is named after what it trains with, and after nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_optim.config.composing import compose_config


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "adamw_cosine_warmup"),
        (["optimizer=lion", "scheduler=wsd"], "lion_wsd"),
        (["optimizer=lion", "branch_from=some.ckpt"], "lion_cooldown"),
        (["train=false", "ckpt=some.ckpt"], "test"),
        (["train=false", "ckpt=some.ckpt", "optimizer=lion"], "test"),
        (["test=false", "debug=fast"], "adamw_cosine_warmup"),
    ],
)
def test_a_directory_is_named_after_what_runs(overrides, name):
    last = Path(compose_config(overrides).hydra.run.dir).name
    assert last.split("_", 1)[1] == name  # after the time
