"""Every file name in the directory of a run or a sweep.

    runs/<date>/<time>_<optimizer>_<scheduler>/
        .lock           locked while a process is running there
        run.json        how it was started: command, overrides, commit, versions
        asked.json      its fingerprint: every value that makes it this run
        config.yaml     the whole configuration, with what was filled in
        job.json        how it ended, or that it is running
        history.csv     a line for each validation
        log.txt         what it logged; of a job of our launcher, everything that it printed
        .hydra/         the configuration as Hydra composed it, and the overrides
        checkpoints/    last.ckpt, previous.ckpt, best.ckpt
        result.json     what came out, once it has ended
        stop.json       written by a search: the run ends after its next validation

A sweep has `.lock`, `sweep.json` and Hydra's `multirun.yaml`, a directory for each of its jobs,
which are runs, and `report.html` about all of them. A search is a sweep with `search.json`; below
the directory of each study, or its own where there is one study only, the runs are in

    trial=007/seed=0    the trials; `trial=007/.lock` is locked by the process that runs it
    final/seed=10       of a tournament: at the best trial
    untuned/seed=10     of a tournament: at the optimizer's default lr
"""

from __future__ import annotations

LOCK = ".lock"
START = "run.json"
FINGERPRINT = "asked.json"
CONFIG = "config.yaml"
OVERRIDES = ".hydra/overrides.yaml"
HYDRA = ".hydra/hydra.yaml"
RESULT = "result.json"
HISTORY = "history.csv"
JOB = "job.json"
LOG = "log.txt"
#: The first columns of a history; the others are metrics.
HISTORY_COLUMNS = ("step", "seconds", "evaluations", "lr")

CHECKPOINTS = "checkpoints"
LAST_CHECKPOINT = "last.ckpt"
PREVIOUS_CHECKPOINT = "previous.ckpt"

REPORT = "report.html"
#: For a search: what it is; its studies, unless they are elsewhere; for a run that it stops.
SEARCH = "search.json"
STUDY = "study.db"
STOP = "stop.json"
#: For a tournament: which contestants compete on which task.
TOURNAMENT = "tournament.json"
#: What a directory of a study contains; the first with the number of a trial.
TRIAL = "trial="
FINAL = "final"
UNTUNED = "untuned"
#: For a sweep: its overrides and jobs, written by our launcher; earlier, and less of it, by Hydra.
SWEEP = "sweep.json"
MULTIRUN = "multirun.yaml"


def trial_directory(number: int) -> str:
    """The name of the directory of a trial: `trial=007`."""
    return f"{TRIAL}{number:03d}"
