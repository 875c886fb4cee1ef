"""Our performance profile against the published scores of the AlgoPerf benchmark, version 0.5.

    python scripts/check_profile.py ../shared/data/algoperf_v05

The folder has `time_to_targets.csv` (a row for each submission, a column for each workload; in
seconds, inf: never), `scores.csv` (what AlgoPerf has published) and `workload_targets_v05.json`
(which workloads are scored, and which only have to be reached as well), from mlcommons'
submissions_algorithms, Apache-2.0.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lit_optim.metric_names import best_value
from lit_optim.results.profile import TAU, divide_by_best, integrate_profile

#: For a score that is the same.
CLOSE = 1e-9
#: How many points of a profile AlgoPerf takes.
POINTS = 100


def read_times(path: Path) -> dict[str, dict[str, float]]:
    """The seconds of each submission to the target of each workload; NaN where it has none."""
    with path.open(newline="", encoding="utf-8") as file:
        return {
            row.pop("submission"): {key: float(text or "nan") for key, text in row.items()}
            for row in csv.DictReader(file)
        }


def base_of(variant: str, bases: Sequence[str]) -> str:
    """The workload of which another one is a variant: the longest whose name it begins with."""
    return max((base for base in bases if variant.startswith(base)), key=len)


def count_variants(
    times: Mapping[str, Mapping[str, float]], bases: Sequence[str], variants: Sequence[str]
) -> dict[str, list[float]]:
    """The times of the scored workloads by AlgoPerf's rules.

    A variant is reached only if its workload is; what needs more than four times the fastest is
    not reached; and a workload is reached only if its variant is.
    """
    counted = {name: dict(own) for name, own in times.items()}
    pairs = [(base_of(variant, bases), variant) for variant in variants]
    for own in counted.values():
        for base, variant in pairs:
            if not math.isfinite(own[base]):
                own[variant] = math.inf
    for workload in (*bases, *variants):
        best = best_value([own[workload] for own in counted.values()], "min")
        for own in counted.values():
            if not own[workload] <= TAU * best:
                own[workload] = math.inf
    for own in counted.values():
        for base, variant in pairs:
            if not math.isfinite(own[variant]):
                own[base] = math.inf
    return {name: [own[base] for base in bases] for name, own in counted.items()}


def main() -> None:
    """Print each score beside the published one; the exit code says whether all are the same."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    times = read_times(folder / "time_to_targets.csv")
    with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
        published = {row["submission"]: float(row["score"]) for row in csv.DictReader(file)}
    rules = json.loads((folder / "workload_targets_v05.json").read_text("utf-8"))
    ratios = divide_by_best(
        count_variants(times, rules["base_workloads"], rules["held_out_workloads"])
    )
    columns = ("published", f"{POINTS} points", "exact", "difference")
    print(f"{'submission':24}{''.join(f'{name:>12}' for name in columns)}")
    same, furthest = 0, 0.0
    for name, score in sorted(published.items(), key=lambda pair: -pair[1]):
        found = integrate_profile(ratios[name], points=POINTS)
        exact = integrate_profile(ratios[name])
        same += abs(found - score) <= CLOSE
        furthest = max(furthest, abs(exact - score))
        numbers = (score, found, exact, exact - score)
        print(f"{name:24}{''.join(f'{number:12.6f}' for number in numbers)}")
    print(
        f"{same} of {len(published)} are the same to {CLOSE:g} with {POINTS} points; the exact "
        f"area differs by up to {furthest:.4f}"
    )
    sys.exit(same != len(published))


if __name__ == "__main__":
    main()
