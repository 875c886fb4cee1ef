"""The program behind train.py: checks the command line, then lets Hydra run it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.hydra import Hydra
from hydra.core import utils as hydra_utils
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.check import check_config, to_plain
from lit_optim.config.finishing import finish_config
from lit_optim.config.lr import lr_origin
from lit_optim.config.origin import typed_lines
from lit_optim.config.places import conf_dir
from lit_optim.config.resume_settings import NONE
from lit_optim.config.sweep_settings import run_choices
from lit_optim.environment import forget_ranks, is_first, is_first_here
from lit_optim.errors import Diverged, UsageError, first_line
from lit_optim.interrupts import INTERRUPTED, exit_on_interrupt, say_no_more
from lit_optim.missing import explain_missing
from lit_optim.programs import find_user_packages
from lit_optim.runs.failures import (
    FAILURE,
    USAGE_ERROR,
    End,
    Interrupted,
    JobFailed,
    Recording,
    classify_error,
)
from lit_optim.runs.locks import lock_sweep_dir
from lit_optim.runs.resume import find_own
from lit_optim.runs.status import Status
from lit_optim.streams import allow_any_text, print_without_fail, sign, tell
from lit_optim.sweeps.job_server import serve_jobs
from lit_optim.system import accept_hangups, accept_interrupts
from lit_optim.threads import prepare_threads

#: The process of the command line; a launcher may run jobs in others.
MAIN: list[int] = []


def main() -> None:
    """Run `sys.argv`. Exits with code 0, 1 (failure), 2 (usage) or 130 (Ctrl-C).

    torch is imported only after the command line was checked, and not for `--help`.
    """
    serve_jobs(main)  # where a launcher asks for it, in the forks of this process
    MAIN[:] = [os.getpid()]
    forget_ranks()
    allow_any_text()
    print_without_fail()
    accept_interrupts()
    accept_hangups()
    exit_on_interrupt()
    prepare_threads()
    try:
        find_user_packages()
        line = prepare_command_line(sys.argv[1:])
        if line.text is not None:
            print(line.text, flush=True)
            return
        sys.argv[1:] = line.argv
        if not any(word.startswith("hydra.mode=") for word in line.argv):
            # Hydra would compose the configuration once more to learn what -m says already
            Hydra.get_mode = lambda *args, **kwargs: None  # type: ignore[method-assign]
        hydra_utils._save_config = _explain(hydra_utils._save_config)
        run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(_job)
        if line.sweep_dir is None:
            run()
        else:
            with line.lock or lock_sweep_dir(line.sweep_dir):
                _run_sweep(run, line.sweep_dir)
    except UsageError as error:
        _end(error, USAGE_ERROR)
    except KeyboardInterrupt:
        _end(KeyboardInterrupt("interrupted"), INTERRUPTED)


def _explain(save: Callable[[DictConfig, str, Path], None]) -> Callable[..., None]:
    """Let Hydra's writer of the files in .hydra tell in one line that it could not write them."""

    @wraps(save)
    def call(cfg: DictConfig, filename: str, output_dir: Path) -> None:
        try:
            save(cfg, filename, output_dir)
        except OSError as error:
            where = Path(output_dir) / filename
            _end(UsageError(f"{where} cannot be written: {error.strerror}"), FAILURE)

    return call


def _run_sweep(run: Callable[[], object], sweep_dir: Path) -> None:
    """Let Hydra run a sweep, and report on it, whatever its launcher and its sweeper did.

    Raises:
        SystemExit: with code 1 if a job has failed, or Hydra says so.
    """
    from lit_optim.sweeps.ending import end_sweep  # a table: a mistake is told without

    has_failed = False
    try:
        run()
    except SystemExit as end:
        if end.code not in (None, 0, FAILURE):
            raise  # interrupted
        has_failed = end.code == FAILURE  # Hydra has told why, of the first of them
    except Exception:  # with HYDRA_FULL_ERROR=1
        end_sweep(sweep_dir)
        raise
    if end_sweep(sweep_dir) or has_failed:
        sys.exit(FAILURE)


def _job(cfg: DictConfig) -> float | None:
    """Run what Hydra has composed; in a sweep this may be in a process of any launcher.

    Returns:
        The last value of the monitored metric; of a run that diverged the worst finite one.

    Raises:
        JobFailed: in a sweep. A run alone ends with a line and an exit code.
    """
    print_without_fail()
    accept_hangups()
    with explain_missing():  # Hydra would show a traceback
        from lit_optim.runs.recording import recording
        from lit_optim.runs.run import run

    hydra_cfg: Any = HydraConfig.get()
    where, typed = Path(hydra_cfg.runtime.output_dir), typed_lines(hydra_cfg)
    is_in_sweep = hydra_cfg.mode == RunMode.MULTIRUN
    leaves_nothing = cfg.trainer.get("fast_dev_run")
    try:
        with (
            nullcontext(Recording())
            if leaves_nothing
            else recording(where, typed, lambda: choices_of(hydra_cfg)) as record
        ):
            finish_config(cfg, hydra_cfg, where)
            if is_in_sweep:  # a launcher that stays in this process, or a search: not every
                check_config(cfg)  # combination has been checked before
                _go_on(cfg, where)
            result = run(cfg, where, choices_of(hydra_cfg), typed, lr_origin(cfg, hydra_cfg))
            if result.pruned:
                record.end = End(Status.PRUNED, 0, result.stopped)
            if result.diverged:
                record.end = End(Status.DIVERGED, 0, f"{result.monitor} is not finite at the end")
            return result.value
    except (Exception, SystemExit) as error:
        end = classify_error(error)
        if is_in_sweep:
            return _end_job(error, end)
        _end_run(error, end, cfg)


def _go_on(cfg: DictConfig, where: Path) -> None:
    """Let a job that a cluster has submitted again go on from its own checkpoint."""
    if (own := find_own(to_plain(cfg), where)) is not None:
        cfg.resume["from"] = str(own)


def _end_job(error: BaseException, end: End) -> float:
    """End a job of a sweep, in which other jobs may follow in this process."""
    if isinstance(error, Diverged):
        tell(end.message)
        return error.value
    if end.status == Status.INTERRUPTED and os.getpid() in MAIN:
        _end(error, end.exit_code)  # the signal was for the whole sweep
    if end.is_explained:
        tell(end.message)
    else:
        traceback.print_exception(error)
    raise JobFailed(end.message) from None  # the error itself may not cross processes


def _how_to_resume(cfg: DictConfig) -> str:
    """What follows the line of an interrupted run that has a checkpoint."""
    if cfg.get("branch_from"):
        return "a branch is not resumed; the same command begins it again"
    if cfg.resume["from"] in (None, NONE):
        return "to resume it, add resume=auto to the same command"
    return "to resume it, type the same command again"


def _how_to_converge(cfg: DictConfig) -> str:
    """What follows the line of a run that diverged: the settings that may keep it from that."""
    lr, warmup = cfg.optimizer.get("lr"), (cfg.scheduler or {}).get("warmup")
    advice = [f"optimizer.lr below {lr:g}"] if isinstance(lr, int | float) and lr > 0 else []
    if warmup is not None:
        advice.append(f"scheduler.warmup above {warmup}")
    if cfg.trainer.get("gradient_clip_val") is None and not cfg.trainer.get("gradient_release"):
        advice.append("trainer.gradient_clip_val=1")
    return f"what may help: {', '.join(advice)}" if advice else ""


def _end_run(error: BaseException, end: End, cfg: DictConfig) -> NoReturn:
    """End a process that runs nothing else."""
    from lit_optim.callbacks.ranks import (
        is_broken_connection,
        is_timeout,
        report_lost_parent,
        report_own_end,
    )

    if isinstance(error, SystemExit):
        raise error
    if end.is_explained:
        hint = ""
        if isinstance(error, Interrupted) and error.has_checkpoint:
            hint = _how_to_resume(cfg)
        elif isinstance(error, Diverged):
            hint = _how_to_converge(cfg)
        # all ranks diverge together, and a signal is sent to all of them
        if not is_first_here() and not isinstance(error, Diverged | Interrupted):
            report_own_end(end.message)
        _end(error, end.exit_code, hint)
    if not is_first() and (is_broken_connection(error) or is_timeout(error)):
        report_lost_parent(waited=is_timeout(error))  # else the first one reports it
    else:
        traceback.print_exception(error)  # most likely in the user's own code
    sys.exit(end.exit_code)


def choices_of(hydra_cfg: Any) -> dict[str, str]:
    """The choice of each of our groups, by Hydra's part of a configuration."""
    return run_choices(hydra_cfg.runtime.choices)


def _end(error: BaseException, code: int, hint: str = "") -> NoReturn:
    """Print one line, and the traceback if an environment variable asks for it; exit.

    Args:
        error: that ends the process.
        code: of the process.
        hint: another line, on what to do next.
    """
    say_no_more()
    if os.environ.get("LIT_OPTIM_TRACE") or os.environ.get("HYDRA_FULL_ERROR"):
        traceback.print_exception(error)
    if is_first_here():  # the other ranks add nothing
        print(sign(first_line(error)), *filter(None, [hint]), sep="\n", file=sys.stderr)
    sys.exit(code)
