"""Plans of tournaments."""

from __future__ import annotations

import json

from lit_optim.results.tournament_record import (
    Entry,
    Task,
    Tournament,
    TournamentSettings,
    write_tournament,
)


def final(sweep, study, seed, lr, status="completed", data="mine", **more):
    run_dir = sweep / study / "final" / f"seed={seed}"
    run_dir.mkdir(parents=True)
    values = {"optimizer": study, "data": data, "++optimizer.lr": lr} | more
    lines = [f"{key}={value}" for key, value in values.items()]
    choices = {"optimizer": study, "data": data}
    record = {"overrides": lines, "exit_code": 0, "choices": choices, "status": status}
    (run_dir / "job.json").write_text(json.dumps(record))


def tournament_of(sweep, *names, by="optimizer", tasks=1):
    entries = [Entry(name, name, 10, untuned=(f"optimizer={name}",)) for name in names]
    made = Tournament(by, [Task({}, entries)] * tasks, TournamentSettings())
    write_tournament(sweep, made)
