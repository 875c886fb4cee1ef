"""What a launcher returns for each job of a sweep, as Hydra's sweepers expect it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lit_optim.metric_names import worst_value
from lit_optim.runs.failures import JobFailed
from lit_optim.runs.job import JobRecord
from lit_optim.runs.layout import LOG
from lit_optim.sweeps.describing import describe_job


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        run_dir: of the run.
        cfg: the whole configuration, with Hydra's part.
        record: what is known of its end.
        result: of the run; None if it has none.
        was_known: whether an earlier start of the sweep had done it.
    """

    run_dir: Path
    cfg: DictConfig
    record: JobRecord
    result: Mapping[str, Any] | None
    was_known: bool = False

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to do; else the job has failed."""
        return self.record.is_done


class QuietReturn(JobReturn):
    """A return whose value is the exception of a job that failed, which is not raised.

    Hydra's own sweeper looks at each value only to raise the first failure, before it starts the
    next batch of jobs. How a sweep ended is told at its end.
    """

    @property
    def return_value(self) -> Any:
        """What the job returned, or raised."""
        return self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


def is_basic_sweeper(config: DictConfig) -> bool:
    """Whether a sweep is one of Hydra's own sweeper, which runs every combination."""
    return str(config.hydra.sweeper.get("_target_")).endswith(".BasicSweeper")


def make_returns(
    jobs: Sequence[Sequence[str]],
    outcomes: Mapping[tuple[str, ...], Outcome],
    is_quiet: bool = False,
    earlier: Sequence[Mapping[str, Any] | None] = (),
) -> list[JobReturn]:
    """A return for each job, in their order; equal jobs share a run.

    Args:
        jobs: the overrides of each.
        outcomes: by overrides.
        is_quiet: whether to make each a `QuietReturn`.
        earlier: results of other jobs of the sweep.
    """
    kind = QuietReturn if is_quiet else JobReturn
    worst = find_worst([*earlier, *(outcome.result for outcome in outcomes.values())])
    made = {key: _make_return(kind, key, outcome, worst) for key, outcome in outcomes.items()}
    return [replace(made[tuple(overrides)]) for overrides in jobs]


def _make_return(
    kind: type[JobReturn], overrides: Sequence[str], outcome: Outcome, worst: float | None
) -> JobReturn:
    with read_write(outcome.cfg.hydra.runtime), open_dict(outcome.cfg.hydra.runtime):
        outcome.cfg.hydra.runtime.output_dir = str(outcome.run_dir)
    hydra_cfg = OmegaConf.masked_copy(outcome.cfg, "hydra")
    cfg = OmegaConf.masked_copy(outcome.cfg, [str(key) for key in outcome.cfg if key != "hydra"])
    returned = kind(
        overrides=list(overrides),
        cfg=cfg,
        hydra_cfg=hydra_cfg,
        working_dir=str(outcome.run_dir),
        task_name=hydra_cfg.hydra.job.name,
    )
    if outcome.is_done:
        returned.status, returned.return_value = JobStatus.COMPLETED, _value(outcome.result, worst)
    else:
        message = f"{outcome.run_dir.name}: {describe_job(outcome.record)}; {outcome.run_dir / LOG}"
        returned.status, returned.return_value = JobStatus.FAILED, JobFailed(message)
    return returned


def _value(result: Mapping[str, Any] | None, worst: float | None) -> float | None:
    if result is None:  # of fast_dev_run
        return None
    return worst if result.get("diverged") and worst is not None else read_value(result)


def read_value(result: Mapping[str, Any]) -> float | None:
    """The value by which a run is judged; None if it has none."""
    value = result.get("value")
    if not isinstance(value, int | float) or math.isnan(value):  # of an earlier version
        value = result["final"].get(result["monitor"], result["best"].get(result["monitor"]))
    return None if value is None else float(value)


def find_worst(results: Sequence[Mapping[str, Any] | None]) -> float | None:
    """The worst finite value of some runs; None if no run has one.

    That of a run which diverged may be of its untrained model, on a single batch: it counts only
    where no other run has one.
    """
    known = [result for result in results if result is not None]
    sound = [result for result in known if not result.get("diverged")]
    mode = str(known[0].get("mode")) if known else ""
    worst = worst_value(_values(sound), mode)
    worst = worst_value(_values(known), mode) if math.isnan(worst) else worst
    return None if math.isnan(worst) else worst


def _values(results: Iterable[Mapping[str, Any]]) -> list[float]:
    values = map(read_value, results)
    return [value for value in values if value is not None]
