"""Directories of searches and tournaments, as the sweeper leaves them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_optim.results.tournament_record import TournamentSettings
from tests.results.directories import write_history, write_run

RANGE = {"low": 1e-4, "high": 1e-1, "is_log": True, "is_whole": False}


def write_search(
    root: Path, studies: Mapping[str, Sequence[str]], settings: Mapping[str, Any] | None = None
) -> Path:
    """A `search.json`; of each study the keys of its space."""
    root.mkdir(parents=True, exist_ok=True)
    listed = [
        {"name": name, "fixed": [], "space": dict.fromkeys(keys, RANGE), "label": {}}
        for name, keys in studies.items()
    ]
    whole = {"trials": 3, "metric": "val/loss", "mode": "min", "at": "final"} | (settings or {})
    record = {"line": ["search.trials=3"], "studies": listed, "settings": whole}
    (root / "search.json").write_text(json.dumps(record))
    return root


def write_place(
    root: Path,
    place: str,
    value: float,
    typed: Mapping[str, str],
    curve: Sequence[float] = (),
    **more: Any,
) -> Path:
    """A run at a place such as `optimizer=sgd/trial=000/seed=0`, whose name has its seed."""
    seed = int(place.rpartition("=")[2])
    optimizer = typed.get("optimizer", "adamw")
    values = {key: float(text) for key, text in typed.items() if "." in key}
    run_dir = write_run(
        root,
        place,
        [f"{key}={text}" for key, text in typed.items()] + [f"seed={seed}"],
        value,
        choices={"optimizer": optimizer} | {k: v for k, v in typed.items() if k == "data"},
        settings=values | {"seed": seed, "data.seed": seed},
        **{
            "monitor": "val/loss",
            "mode": "min",
            "best": {"val/loss": min([*curve, value])},
            "test": {"test/loss": value + 0.01},
        }
        | more,
    )
    curve = [*curve, value]
    rows = [(50 * (k + 1), k + 1.0, 50 * (k + 1), 0.01, loss) for k, loss in enumerate(curve)]
    write_history(run_dir, rows)
    return run_dir


def write_tournament(root: Path, tasks: Sequence[str], contestants: Sequence[str], **more: Any):
    """A `tournament.json`, and the `search.json` of its studies."""
    names = {(task, one): f"data={task},optimizer={one}" for task in tasks for one in contestants}
    write_search(root, {name: ["optimizer.lr"] for name in names.values()})
    notes = more.pop("notes", {})
    settings = asdict(TournamentSettings(trials=3, seeds=(10, 11, 12))) | more.pop("settings", {})
    record = {
        "by": "optimizer",
        "tasks": [
            {
                "label": {"data": task},
                "entries": [
                    {
                        "study": names[task, one],
                        "contestant": one,
                        "updates": 500,
                        "notes": list(notes.get(one, [])),
                        "untuned": [f"optimizer={one}"],
                    }
                    for one in contestants
                ],
            }
            for task in tasks
        ],
        "settings": settings,
    }
    (root / "tournament.json").write_text(json.dumps(record | more))
    return root


#: The loss of each contestant at the end, its best lr, and after how many of 10 validations it
#: is at 0.5.
SKILLS = {"adamw": (0.30, 0.01, 4), "lion": (0.31, 0.001, 8), "sgd": (0.60, 0.1, 99)}


def write_contest(root: Path, tasks: Sequence[str] = ("digits", "mnist1d"), **more: Any) -> Path:
    """A tournament that has ended: three trials each, then three fresh seeds, also untuned."""
    write_tournament(root, tasks, list(SKILLS), **more)
    for place, task in enumerate(tasks):
        for optimizer, (loss, lr, arrival) in SKILLS.items():
            study, loss = f"data={task},optimizer={optimizer}", loss + 0.01 * place
            typed = {"data": task, "optimizer": optimizer}

            def run(where, seed, lr, loss, study=study, typed=typed, arrival=arrival):
                curve = [0.9 if k + 1 < arrival else 0.5 for k in range(9)]
                lines = typed | {"optimizer.lr": f"{lr:g}"}
                write_place(root, f"{study}/{where}/seed={seed}", loss, lines, curve)

            for number, factor in enumerate((0.1, 1.0, 10.0)):
                run(f"trial={number:03d}", 0, lr * factor, loss + 0.1 * abs(number - 1) - 0.02)
            for seed in (10, 11, 12):
                run("final", seed, lr, loss + 0.01 * (seed - 11))
                run("untuned", seed, 0.123, loss + 0.2 + 0.01 * (seed - 11))
    return root
