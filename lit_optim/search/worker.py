"""Workers of a search: processes, on any machine, that run its trials beside each other.

A worker needs nothing but the search's directory: what the search is stands in `search.json`, its
trials are in the storage, and the runs are written there. It begins nothing. It takes the trials
that no process runs, those of dead workers first, until all have ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from lit_optim.config.composing import as_hydra_override, own_choices
from lit_optim.config.paths import quote
from lit_optim.config.places import conf_dir
from lit_optim.search.record import read_overrides
from lit_optim.search.running import SearchRun
from lit_optim.sweeps.options import find_options

Compose = Callable[[DictConfig, list[str]], DictConfig]


def work(
    sweep_dir: Path, n_jobs: int, typed: Sequence[str], make_run: Callable[..., SearchRun]
) -> None:
    """Run trials of a search until all have ended.

    Args:
        sweep_dir: of the search.
        n_jobs: how many runs at a time.
        typed: overrides; a storage elsewhere must be typed, as a directory cannot decide it.
        make_run: makes a search of its overrides, its configuration, and what composes its jobs.

    Raises:
        UsageError: there is no search, or its storage cannot be used.
        SystemExit: with a line, after a mistake or a signal.
    """
    lines = [as_hydra_override(one) for one in read_overrides(sweep_dir, typed)]
    with composed(lines, sweep_dir) as (config, compose):
        options = find_options({}, config) | {"n_jobs": n_jobs}
        make_run(lines, config, compose, **options).run(begins=False)


@contextmanager
def composed(lines: Sequence[str], sweep_dir: Path) -> Iterator[tuple[DictConfig, Compose]]:
    """The configuration of a search as Hydra composes it for a sweep, and what composes its jobs.

    Args:
        lines: the overrides of the search.
        sweep_dir: its directory.
    """
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        hydra: Any = GlobalHydra.instance().hydra
        overrides = [*own_choices(), *lines, f"hydra.sweep.dir={quote(sweep_dir)}"]
        config = hydra.compose_config(
            "train", overrides, run_mode=RunMode.MULTIRUN, with_log_configuration=False
        )
        yield config, hydra.config_loader.load_sweep_config
