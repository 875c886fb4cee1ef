"""The program behind train.py: checks the command line, then lets Hydra run it."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.check import check_config
from lit_optim.config.finishing import finish_config
from lit_optim.config.lr import lr_origin
from lit_optim.config.origin import typed_lines
from lit_optim.config.places import conf_dir
from lit_optim.environment import forget_ranks, is_first, is_first_here
from lit_optim.errors import TrainingFailed, UsageError, first_line
from lit_optim.interrupts import INTERRUPTED, exit_on_interrupt, say_no_more
from lit_optim.missing import explain_missing
from lit_optim.sweeps.job_server import serve_jobs
from lit_optim.system import accept_interrupts, allow_any_text
from lit_optim.threads import limit_spinning

USAGE_ERROR = 2
FAILURE = 1


def main() -> None:
    """Run `sys.argv`. Exits with code 0, 1 (failure), 2 (usage) or 130 (Ctrl-C).

    torch is imported only after the command line was checked, and not for `--help`.
    """
    serve_jobs(main)  # where a launcher asks for it, in the forks of this process
    sys.path.append(os.getcwd())  # where the user's own packages are
    forget_ranks()
    allow_any_text()
    accept_interrupts()
    exit_on_interrupt()
    limit_spinning()
    try:
        line = prepare_command_line(sys.argv[1:])
        if line.text is not None:
            print(line.text, flush=True)
            return
        sys.argv[1:] = line.argv
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(_job)()
    except BrokenPipeError:  # `| head` has seen enough; nor shall Python try again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except UsageError as error:
        _end(error, USAGE_ERROR)
    except KeyboardInterrupt:
        _end(KeyboardInterrupt("interrupted"), INTERRUPTED)


def _job(cfg: DictConfig) -> None:
    with explain_missing():  # Hydra would show a traceback
        from lit_optim.callbacks.ranks import is_broken_connection, is_timeout, report_lost_parent
        from lit_optim.runs.run import Interrupted, run

    hydra_cfg: Any = HydraConfig.get()
    where, typed = Path(hydra_cfg.runtime.output_dir), typed_lines(hydra_cfg)
    finish_config(cfg, hydra_cfg)
    try:
        if hydra_cfg.mode == RunMode.MULTIRUN:  # a launcher that stays in this process, or a
            check_config(cfg)  # search: not every combination has been checked before
        run(cfg, where, choices_of(hydra_cfg), typed, lr_origin(hydra_cfg))
    except UsageError as error:
        _end(error, USAGE_ERROR)
    except Interrupted as error:
        _end(error, error.code)
    except TrainingFailed as error:
        _end(error, FAILURE)
    except Exception as error:
        if _is_lightnings_complaint(error):
            _end(error, USAGE_ERROR)
        if not is_first() and (is_broken_connection(error) or is_timeout(error)):
            report_lost_parent(waited=is_timeout(error))  # else the first one reports it
        else:
            traceback.print_exc()  # most likely in the user's own code
        sys.exit(FAILURE)


def choices_of(hydra_cfg: Any) -> dict[str, str]:
    """The choice of each of our groups, by Hydra's part of a configuration."""
    chosen = {str(group): choice for group, choice in hydra_cfg.runtime.choices.items() if choice}
    return {group: str(name) for group, name in chosen.items() if not group.startswith("hydra/")}


def _is_lightnings_complaint(error: Exception) -> bool:
    """Whether Lightning refused a setting: it raised, without the user's code on the stack."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    frames = [
        frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    ours = ("lit_optim", "lightning", "torch", "hydra", "omegaconf", "contextlib")
    only_ours = all(name.split(".")[0] in ours for name in frames)
    kinds = MisconfigurationException | ValueError | TypeError | RuntimeError
    # one that was raised on purpose names no attribute that was looked up
    says_so = isinstance(error, AttributeError) and error.name is None
    refusal = isinstance(error, kinds) or says_so
    return refusal and only_ours and frames[-1].startswith("lightning.")


def _end(error: BaseException, code: int) -> None:
    """Print one line, and the traceback if an environment variable asks for it; exit."""
    say_no_more()
    if os.environ.get("LIT_OPTIM_TRACE") or os.environ.get("HYDRA_FULL_ERROR"):
        traceback.print_exception(error)
    if is_first_here():  # the other ranks add nothing
        print(f"lit_optim: {first_line(error)}", file=sys.stderr)
    sys.exit(code)
