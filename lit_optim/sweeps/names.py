"""Names the directories of a sweep's jobs: readable, and different for different jobs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import filter_overrides
from hydra.errors import HydraException

from lit_optim.runs.job import WHOLE_SWEEP

#: Bytes of the readable part, so that a hash, ".before" and a counter fit into 255 bytes; a path of
#: Windows, with the checkpoints in it, has at most 260 characters.
MAX_NAME_BYTES = 80 if os.name == "nt" else 150
#: Names of devices on Windows, whatever follows after a dot.
DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
#: The least number of digits of a hash.
HASH_DIGITS = 8

Overrides = tuple[str, ...]


def job_key(overrides: Sequence[str]) -> Overrides:
    """Return what identifies a job: its overrides without those that concern the whole sweep."""
    return tuple(line for line in overrides if not WHOLE_SWEEP.match(line))


def name_jobs(
    jobs: Sequence[Sequence[str]],
    existing: Mapping[str, Overrides | None] | None = None,
    line: Sequence[str] = (),
) -> list[str]:
    """Name the directory of each job: equal overrides get equal names, others different names.

    A name consists of the overrides that not all jobs share, truncated to the length of a file
    name. A hash of the overrides is appended if another job has the same name, also on a file
    system that ignores case.

    Args:
        jobs: the overrides of each job, with one value per key.
        existing: directories that exist, with the overrides of the job in each; None if those are
            unknown. A job that has a directory keeps it.
        line: the overrides of the whole sweep: these are a batch of its jobs, whose names leave out
            what the line fixes, not what the batch happens to share.
    """
    existing = existing or {}
    keys = [job_key(job) for job in jobs]
    free = {known: name for name, known in existing.items() if known is not None}
    named = {key: free.pop(key) for key in dict.fromkeys(keys) if key in free}
    reordered = {tuple(sorted(known)): name for known, name in free.items()}
    for key in keys:  # the same overrides in another order are the same job
        if key not in named and tuple(sorted(key)) in reordered:
            named[key] = reordered.pop(tuple(sorted(key)))
    shared = _shared_lines(jobs, line)
    plain = {key: _readable([line for line in key if line not in shared]) for key in keys}
    taken = {fold(name) for name in existing}
    wanted = [fold(name) for key, name in plain.items() if key not in named]
    for key, name in plain.items():
        if key in named:
            continue
        is_unique = fold(name) not in taken and wanted.count(fold(name)) == 1
        if not is_unique or _is_shortened(key, shared):
            name = _with_hash(name, key, taken.union(wanted))
        named[key] = name
        taken.add(fold(name))
    return [named[key] for key in keys]


def _shared_lines(jobs: Sequence[Sequence[str]], line: Sequence[str]) -> set[str]:
    """The overrides that say nothing about which job of a sweep this is."""
    swept = {_key(one) for one in line if _is_swept(one)}
    if swept:
        fixed = {_key(one) for one in line} - swept
        return {one for job in jobs for one in job if _key(one) in fixed}
    return set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _is_swept(override: str) -> bool:
    try:
        return OverridesParser.create().parse_override(override).is_sweep_override()
    except HydraException:  # recorded by another version of Hydra
        return False


def fold(name: str) -> str:
    """Return a name as a file system sees it that ignores case, Unicode forms and final dots."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).rstrip(". ")


def _readable(overrides: Sequence[str]) -> str:
    return _cut(_sanitize(overrides))


def _sanitize(overrides: Sequence[str]) -> str:
    kept = [line.lstrip("+~") for line in filter_overrides(overrides)]
    name = ",".join(kept).replace("'", "").replace('"', "") or "job"
    name = re.sub(r"[^\w=,.+\-\[\]%]+", "-", name)
    return f"_{name}" if DEVICE.match(name) else name


def _cut(name: str) -> str:
    return name.encode()[:MAX_NAME_BYTES].decode(errors="ignore")


def _is_shortened(key: Overrides, shared: set[str]) -> bool:
    name = _sanitize([line for line in key if line not in shared])
    return _cut(name) != name


def _with_hash(name: str, key: Overrides, taken: set[str]) -> str:
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    lengths = range(HASH_DIGITS, len(digest) + 1)
    candidates = (f"{name}-{digest[:length]}" for length in lengths)
    return next(one for one in candidates if fold(one) not in taken)
