"""Records a run in its directory while it lasts: the lock, `job.json` and `log.txt`."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lit_optim.environment import is_first
from lit_optim.runs.failures import End, Recording, classify_error
from lit_optim.runs.job import JobRecord, own_record, write_job
from lit_optim.runs.locks import lock_run_dir
from lit_optim.runs.log_file import FILE_ONLY, logging_to_file
from lit_optim.runs.record import package_versions
from lit_optim.streams import sign

LOG = logging.getLogger("lit_optim")


@contextmanager
def recording(
    run_dir: Path, overrides: Sequence[str], choices: Callable[[], Mapping[str, str]]
) -> Iterator[Recording]:
    """Lock the directory of a run, and say there that it runs and, at last, how it ended.

    Only the first of several processes does so.

    Args:
        run_dir: of the run.
        overrides: of the run, as typed.
        choices: returns those of each group.

    Raises:
        UsageError: another process runs there, or nothing can be written there.
    """
    made = Recording()
    if not is_first():
        yield made
        return
    with lock_run_dir(run_dir), logging_to_file(run_dir):
        start = time.perf_counter()
        record = own_record(overrides, choices(), package_versions())
        _write(run_dir, record)
        try:
            yield made
        except BaseException as error:
            made.end = classify_error(error)
            _note(error, made.end)
            raise
        finally:
            end = made.end
            ended = replace(
                record,
                choices=dict(choices()),
                status=end.status,
                exit_code=end.exit_code,
                message=end.message,
                seconds=time.perf_counter() - start,
            )
            _write(run_dir, ended)


def _write(run_dir: Path, record: JobRecord) -> None:
    try:
        write_job(run_dir, record)
    except OSError as error:  # a full disk; readers find an earlier word, or none
        LOG.warning(f"{run_dir}: job.json cannot be written: {error.strerror}")


def _note(error: BaseException, end: End) -> None:
    """Write into the log what the terminal shows too."""
    if not end.is_explained:
        FILE_ONLY.info("".join(traceback.format_exception(error)).rstrip())
    else:
        FILE_ONLY.info(sign(end.message))
