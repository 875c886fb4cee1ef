"""Chooses the number of CPU threads of a run, by its size and by the CPUs that are free.

OpenMP's threads wait for each other after every operation, and spin while they wait. A thread
without a CPU of its own makes all others wait: 400 updates of a small CNN on two busy CPUs take 4 s
with one thread and 90 s with two. For such a model a second thread does not help on an idle machine
either (`scripts/bench_busy.py`).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lit_optim.system import load_average, seconds_of_others, usable_cpus

#: Environment variables that set the threads of torch.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
#: OMP_NUM_THREADS as set by our launcher for a job: a limit, not the user's choice.
SHARE = "LIT_OPTIM_THREADS"
#: How often a waiting thread of libgomp checks before it sleeps: for some 100 us, which bridges the
#: time between two operations. A small GPT on two idle CPUs is as fast as with the default, 300,000
#: (3,000: a tenth slower; 1,000: a third); a thread without a CPU costs the others 2.3 times the
#: time beside eight busy processes (30,000: 4 times; 3,000: 1.2 times), so such a run gets one.
SPINS = "10000"
#: The same for the runtimes of LLVM and Intel, in ms. Their default is 200.
BLOCK_TIME = "1"
#: The load while a program has been starting says something from so many seconds on.
WATCHED = 0.3
#: When this program began, and what others had computed then.
_begin: list[tuple[float, float | None]] = []
#: Multiplications of an operation, up to which one thread is enough.
SMALL = 2_000_000


@dataclass(frozen=True)
class Cpus:
    """The CPUs that are available.

    Args:
        total: the CPUs of the machine.
        usable: those that this process may use: by its affinity, and by the quota of its container.
        busy: how many are busy now, with any process.
        quota: the CPUs of the container's quota, if it has one.
    """

    total: int
    usable: int
    busy: float
    quota: float | None = None

    @property
    def free(self) -> int:
        """Those that are usable and not busy, at least one."""
        return max(1, min(self.usable, round(self.total - self.busy)))


@dataclass(frozen=True)
class Threads:
    """A number of threads, and the reason in a few words."""

    count: int
    reason: str


def prepare_threads() -> None:
    """Bound how long waiting threads spin, and begin to watch the load; before torch is imported.

    A policy set by the user is kept. For libgomp, and for the runtimes of LLVM and Intel.
    """
    for name, value in (("GOMP_SPINCOUNT", SPINS), ("KMP_BLOCKTIME", BLOCK_TIME)):
        if not {name, "OMP_WAIT_POLICY"} & os.environ.keys():
            os.environ[name] = value
    _begin[:] = [(time.monotonic(), seconds_of_others())]


def read_cpus() -> Cpus:
    """Look at the machine, the affinity of this process, its control groups and the load."""
    quota, usable = read_quota(), usable_cpus()
    if quota is not None:
        usable = min(usable, max(1, round(quota)))
    return Cpus(os.cpu_count() or 1, usable, _count_busy(), quota)


def _count_busy() -> float:
    """The CPUs that others used while this program has been starting; else the load."""
    used = seconds_of_others()
    for begin, used_before in _begin:
        seconds = time.monotonic() - begin
        if used is not None and used_before is not None and seconds >= WATCHED:
            return max(0.0, (used - used_before) / seconds)
    load, running = load_average(), _running()
    # both: the average includes ended processes, and the present count may be a spike
    return load if running is None else min(load, running)


def has_requested_threads(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the user has set a number of threads in the environment."""
    ours = environment.get(SHARE)
    return any(environment.get(name) not in (None, "", ours) for name in VARIABLES)


def limit_threads(environment: dict[str, str], n_jobs: int) -> None:
    """Give a job its share of the CPUs, where the user has not set a number of threads.

    Args:
        environment: of the job; changed.
        n_jobs: how many run at a time.
    """
    if not has_requested_threads(environment):
        share = str(max(1, _usable(environment) // n_jobs))
        environment |= {"OMP_NUM_THREADS": share, SHARE: share}


def _usable(environment: Mapping[str, str]) -> int:
    """The CPUs that this process may use; of a worker, one of several, its share of them."""
    usable, share = read_cpus().usable, environment.get(SHARE, "")
    return min(usable, int(share)) if share.isdecimal() and int(share) else usable


@contextmanager
def shared_cpus(n_jobs: int) -> Iterator[None]:
    """Within it a process that is started gets its share of the CPUs.

    Args:
        n_jobs: how many run at a time.
    """
    before = dict(os.environ)
    shared = dict(before)
    limit_threads(shared, n_jobs)
    os.environ.update(shared)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def choose_threads(
    work: float | None,
    environment: Mapping[str, str] = os.environ,
    at_most: int | None = None,
) -> Threads:
    """The threads for a run.

    Args:
        work: multiplications of an operation, such as those of a layer with a batch, on average;
            None: not known.
        environment: may hold the share of a job of a sweep.
        at_most: what torch takes, which does not count two threads of a core twice.
    """
    cpus = read_cpus()
    if work is not None and work <= SMALL:
        return Threads(1, "small operations are fastest on one")
    share = environment.get(SHARE, "")
    if share.isdecimal() and 0 < int(share) < cpus.free:
        return Threads(int(share), "the share of this job in its sweep")
    if at_most is not None and at_most < cpus.free:
        return Threads(at_most, "as many as torch takes")
    if cpus.free < cpus.usable:
        return Threads(cpus.free, f"{cpus.busy:.1f} of {cpus.total} CPUs are busy")
    return Threads(cpus.free, "as many as there are CPUs")


def read_quota(
    own: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """The CPUs that the control groups of this process allow, of version 1 or 2; None: any.

    Args:
        own: the file that names the groups of this process.
        mount: where the groups are.
    """
    quotas = []
    try:
        lines = own.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            tops = [mount, mount / "unified"]
        elif "cpu" in controllers.split(","):
            tops = [mount / "cpu", mount / "cpu,cpuacct", mount / controllers]
        else:
            continue
        for top in tops:
            group = top / path.lstrip("/")
            # in a container the path is that of the host, and not there
            for place in (group, *group.parents):
                quotas.append(_quota_of(place))
                if place == top:
                    break
    return min((quota for quota in quotas if 0 < quota < math.inf), default=None)


def _quota_of(group: Path) -> float:
    """The CPUs that a control group allows; infinite or less than 0 where it allows any."""
    odd = (OSError, ValueError, ArithmeticError)
    with suppress(*odd):
        quota, period = (group / "cpu.max").read_text("utf-8").split()
        return float(quota) / float(period)  # "max" is no number
    with suppress(*odd):
        limit = float((group / "cpu.cfs_quota_us").read_text("utf-8"))
        return limit / float((group / "cpu.cfs_period_us").read_text("utf-8"))
    return math.inf


def _running() -> int | None:
    """The processes that run or wait for a CPU at this moment, but this one; None if unknown."""
    with suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/loadavg").read_text("utf-8").split()
        return max(0, int(fields[3].partition("/")[0]) - 1)
    return None
