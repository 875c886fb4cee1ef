"""What can go wrong with a storage, in one line.

Its content is untrusted data: someone else may have written it, or a disk may have damaged it.
Optuna believes what it reads, and fails with whatever error a wrong value happens to lead to.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from optuna import exceptions
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from lit_optim.errors import UsageError, first_line

#: What a storage raises where a trial has ended; older Optuna raises what it is a kind of.
TrialHasEnded: type[Exception] = getattr(exceptions, "UpdateFinishedTrialError", RuntimeError)

#: Errors that say by themselves what is wrong with a storage.
TELLING = (
    SQLAlchemyError,
    sqlite3.Error,
    OSError,
    UnicodeDecodeError,
    json.JSONDecodeError,
    StorageInternalError,
)
#: Errors by which a storage answers, and has not failed.
ANSWERS: tuple[type[Exception], ...] = (DuplicatedStudyError, TrialHasEnded)


class StorageFailed(UsageError):
    """A storage cannot be used; the message names it and says why."""


@contextmanager
def explain(name: str) -> Iterator[None]:
    """Say in one line what is wrong with a storage, around code of ours, whose errors stay.

    Raises:
        StorageFailed: for an error of the database, of the system, or of Optuna's storages.
    """
    try:
        yield
    except UsageError:
        raise
    except TELLING as error:
        raise StorageFailed(f"{name}: {_reason(error)}") from None


@contextmanager
def blame(name: str, answers: tuple[type[Exception], ...] = ANSWERS) -> Iterator[None]:
    """Blame a storage for every error, around a call of Optuna that reads it.

    Args:
        name: of the storage.
        answers: errors that are none.

    Raises:
        StorageFailed: for any other error.
    """
    kept: tuple[type[Exception], ...] = (UsageError, *answers)
    try:
        yield
    except kept:
        raise
    except TELLING as error:
        raise StorageFailed(f"{name}: {_reason(error)}") from None
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise StorageFailed(f"{name}: holds what Optuna cannot read: {why}") from None


def _reason(error: BaseException) -> str:
    """What the database itself has said, without the statement."""
    while error.__cause__ is not None and getattr(error, "orig", None) is None:
        error = error.__cause__
    original = getattr(error, "orig", None)
    if isinstance(original, BaseException):
        error = original
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)
