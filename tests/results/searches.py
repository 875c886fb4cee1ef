"""Directories of searches and tournaments, as the sweeper leaves them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
