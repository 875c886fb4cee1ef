"""How a run ended, from the exception that ended it."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from hydra.errors import CompactHydraException

from lit_optim.errors import Diverged, TrainingFailed, UsageError, first_line, printable
from lit_optim.interrupts import INTERRUPTED
from lit_optim.runs.status import Status

#: Packages that hold no code of the user.
OURS = (
    *("lit_optim", "lightning", "torch", "torchmetrics", "hydra", "omegaconf", "packaging"),
    *("contextlib", "copy", "collections"),
)
#: Where Lightning hands out what a checkpoint holds.
RESTORING = "lightning.pytorch.trainer.connectors.checkpoint_connector"
USAGE_ERROR = 2
FAILURE = 1


class Interrupted(Exception):
    """A signal has ended the training; the newest checkpoint is written.

    Args:
        message: the step that was reached, and the checkpoint.
        code: the exit code of the process: 130 after Ctrl-C, 143 after SIGTERM, 129
            after SIGHUP.
        has_checkpoint: whether there is one to resume from.
    """

    def __init__(self, message: str, code: int, has_checkpoint: bool = False) -> None:
        super().__init__(message)
        self.code, self.has_checkpoint = code, has_checkpoint

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.code, self.has_checkpoint), vars(self)


class JobFailed(CompactHydraException):
    """A job of a sweep has failed, as its message says in one line.

    Sweepers and launchers of any kind see an exception, which crosses processes; Hydra prints its
    message alone.
    """


@dataclass(frozen=True)
class End:
    """How a run ended.

    Args:
        status: of the run.
        exit_code: of a process that runs it alone.
        message: one line.
        is_explained: whether the message is all that a user needs; else the traceback helps.
    """

    status: Status
    exit_code: int
    message: str = ""
    is_explained: bool = True


@dataclass
class Recording:
    """What becomes of a run that is recorded.

    Args:
        end: how it ended; a run may set it before it returns.
    """

    end: End = End(Status.COMPLETED, 0)


def classify_error(error: BaseException) -> End:
    """How a run ended that has raised this."""
    line = first_line(error)
    match error:
        case Diverged():
            return End(Status.DIVERGED, FAILURE, line)
        case Interrupted():
            return End(Status.INTERRUPTED, error.code, line)
        case UsageError():
            return End(Status.FAILED, USAGE_ERROR, line)
        case TrainingFailed():
            return End(Status.FAILED, FAILURE, line)
        case KeyboardInterrupt():
            return End(Status.INTERRUPTED, INTERRUPTED, "interrupted")
        case SystemExit():  # the user's own
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            said = f": {printable(error.code)}" if isinstance(error.code, str) else ""
            return End(Status.FAILED, code, f"the run called sys.exit({code}){said}")
    name = type(error).__name__
    message = line if line == name else printable(f"{name}: {line}")
    if is_checkpoints_fault(error):
        line = f"cannot load the checkpoint: damaged, or from another model or program ({message})"
        return End(Status.FAILED, USAGE_ERROR, line)
    if isinstance(error, Exception) and is_lightnings_complaint(error):
        return End(Status.FAILED, USAGE_ERROR, line)
    return End(Status.FAILED, FAILURE, message, is_explained=False)


def is_lightnings_complaint(error: Exception) -> bool:
    """Whether Lightning refused a setting: it raised, without the user's code on the stack."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    modules = _modules_of(error)
    kinds = MisconfigurationException | ValueError | TypeError | RuntimeError
    # one that was raised on purpose names no attribute or module that was looked up
    says_so = isinstance(error, AttributeError | ImportError) and error.name is None
    refusal = isinstance(error, kinds) or says_so
    is_lightnings = bool(modules) and modules[-1].startswith("lightning.")
    return refusal and is_lightnings and _has_only_ours(modules)


def is_checkpoints_fault(error: BaseException) -> bool:
    """Whether a checkpoint could not be restored, without the user's code on the stack."""
    modules = _modules_of(error)
    return RESTORING in modules and _has_only_ours(modules)


def _modules_of(error: BaseException) -> list[str]:
    """The modules of the functions that were running, the innermost last."""
    stack = traceback.walk_tb(error.__traceback__)
    return [frame.f_globals.get("__name__", "") for frame, _ in stack]


def _has_only_ours(modules: list[str]) -> bool:
    return all(name.split(".")[0] in OURS for name in modules)
