"""Runs a tournament in this process, which hands its runs to others: the parent, or a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lit_optim.results.tournament_record import read_tournament, write_tournament
from lit_optim.runs.layout import TOURNAMENT
from lit_optim.runs.resume import check_links
from lit_optim.search.record import name_search
from lit_optim.search.running import SearchRun, composing_by_itself
from lit_optim.search.source import SearchSource
from lit_optim.search.studies import job_lines, plan_search
from lit_optim.sweeps.pool import JobPool, NoProgress, Progress
from lit_optim.sweeps.source import JobSource
from lit_optim.tournament.crashes import SharedCrashes
from lit_optim.tournament.lines import is_tournament, plan_tournament
from lit_optim.tournament.measuring import TimingSource
from lit_optim.tournament.progress import TournamentProgress
from lit_optim.tournament.source import TournamentSource, find_best


class TournamentRun(SearchRun):
    """A tournament in one process.

    Args:
        lines: the overrides of the sweep.
        config: of the sweep, with Hydra's part, which names its directory.
        compose: Hydra's function that composes the configuration of a job.
        **options: of `SearchRun`.
    """

    def __init__(
        self,
        lines: Sequence[str],
        config: DictConfig,
        compose: Callable[[DictConfig, list[str]], DictConfig],
        **options: Any,
    ) -> None:
        self._lines = tuple(lines)
        with composing_by_itself():
            seconds = known_seconds(Path(config.hydra.sweep.dir))
            search, self.tournament = plan_tournament(lines, seconds)
        super().__init__(search, config, compose, **options, make_source=self._add_final_runs)

    def begin(self) -> None:
        """Create the tournament, or check that it is the one that was begun.

        Raises:
            UsageError: it was begun otherwise, its storage cannot be used, or a contestant cannot
                be timed.
            OSError: its directory is not writable.
        """
        check_links(self.sweep_dir)  # before something runs there
        if self.tournament.settings.budget == "seconds":
            self._measure()
        super().begin()
        write_tournament(self.sweep_dir, self.tournament)

    def join(self) -> None:
        """Open a tournament that another process has begun, or is about to begin.

        Raises:
            UsageError: that process has ended before, or its storage cannot be used.
        """
        super().join()
        if self.tournament.settings.budget == "seconds":  # which may just have been measured
            self._plan_with(known_seconds(self.sweep_dir))
            self.search = name_search(self.search, self.sweep_dir)
            self.store = self._open_store()

    def _plan_with(self, seconds: Mapping[str, float]) -> None:
        with composing_by_itself():
            self.search, self.tournament = plan_tournament(self._lines, seconds)

    def _measure(self) -> None:
        """Measure an update of each contestant, alone; what was measured before counts."""
        source = TimingSource(self.search.studies, self.tournament.seconds, self.plan.add)
        if not source.is_exhausted:
            self.console.print("timing a few updates of each contestant, one after another")
            JobPool(
                self.plan, self.starter, source, 1, NoProgress(), self.signals, self.console
            ).run()
        self._plan_with(source.seconds)
        self.sweep_dir.mkdir(parents=True, exist_ok=True)
        # before the studies are created: they must have the same updates after a kill
        write_tournament(self.sweep_dir, self.tournament)

    def _add_final_runs(self, trials: SearchSource, run: SearchRun) -> JobSource:
        best = partial(find_best, self.store)
        self._source = TournamentSource(
            trials, self.tournament, self.search.studies, best, job_lines, self.plan.add,
            SharedCrashes(self.plan.run_dir, self.started),
        )  # fmt: skip
        return self._source

    def make_progress(self, trials: SearchSource) -> Progress:
        """What shows how far the tournament is."""
        return TournamentProgress(self._source, len(self.tournament.tasks), trials, self.console)


def known_seconds(sweep_dir: Path) -> dict[str, float]:
    """The seconds of an update that an earlier start has measured, by study.

    Raises:
        Unreadable: the record of the tournament is damaged.
    """
    path = sweep_dir / TOURNAMENT
    return dict(read_tournament(sweep_dir).seconds) if path.exists() else {}


def make_run(
    lines: Sequence[str],
    config: DictConfig,
    compose: Callable[[DictConfig, list[str]], DictConfig],
    **options: Any,
) -> SearchRun:
    """The search or the tournament that a line asks for.

    Args:
        lines: the overrides of the sweep.
        config: of the sweep, with Hydra's part.
        compose: Hydra's function that composes the configuration of a job.
        **options: of `SearchRun`.

    Raises:
        UsageError: the first thing that is wrong with the line.
    """
    if is_tournament(config):
        return TournamentRun(lines, config, compose, **options)
    with composing_by_itself():
        search = plan_search(lines)
    return SearchRun(search, config, compose, **options)
