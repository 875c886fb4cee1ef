"""A script: kills processes that write to a study at random moments, then lets one end it.

    python killed_writer.py DIRECTORY KILLS TRIALS

A process of its own, as it forks. Prints how many trials had ended at each kill, and the values.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from lit_optim.search.data import Search, Settings, Span, Study, TrialEnd
from lit_optim.search.store import open_store

STUDY = Study("", (), {"lr": Span(1e-4, 1e-1, is_log=True), "momentum": Span(0.0, 0.9)})
LOOKS = (10, 20, 30)


def loss(values: dict[str, float]) -> float:
    return abs(values["lr"] - 0.01) + values["momentum"]


def run_search(folder: Path, trials: int) -> list[tuple[dict[str, float], str, float | None]]:
    store = open_store(Search((), [STUDY], Settings(trials, sampler="tpe")), folder)
    store.begin()
    for number in store.unfinished(STUDY):
        trial = store.propose(STUDY, number)
        assert trial is not None
        for step in LOOKS:
            store.report(trial, step, loss(trial.values) + 1 / step)
        store.tell(trial, TrialEnd("completed", loss(trial.values), {"steps": [100]}))
    return [(dict(trial.values), end.kind, end.value) for trial, end in store.ends(STUDY)]


def main(folder: Path, kills: int, trials: int) -> None:
    chance, killed = random.Random(0), 0
    for _ in range(kills):
        pid = os.fork()
        if not pid:
            run_search(folder, trials)
            os._exit(0)
        time.sleep(chance.uniform(0.0, 0.4))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        killed += os.WIFSIGNALED(status)
    print(json.dumps({"killed": killed, "ends": run_search(folder, trials)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
