"""How long an optimizer's step takes, beside other implementations and what memory allows.

    python scripts/bench_step.py                                     all shapes, four rules
    python scripts/bench_step.py --shapes resnet50 --optimizers "adamw adamw,state_dtype=int8 lion"
    python scripts/bench_step.py --optimizers all-elementwise --executors native,torch --markdown
    python scripts/bench_step.py --first-step                        with an empty and a full cache
    python scripts/bench_step.py --memory                            what a step needs for itself

All candidates of a shape step the same parameters in one process, in turn, round after round; their
gradients are there already, and only `step` is timed. A ratio is the median of the ratios within
the rounds, so that it holds while the machine drifts. Where the states of all do not fit into
memory, candidates go in groups, each with the baseline, torch's fused AdamW, in it.

The limit of a rule is measured beside it: a native kernel that reads and writes as many bytes
(parameter, gradient, states; those in fewer bits without coding) and computes next to nothing.
B/param is what a step must at least move: states and parameter read and written, gradient read;
GB/s is that by the time it took.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NoReturn

import torch
from bench_candidates import BASELINE, SHAPES, Candidate, baseline, ours, parameters, peers
from bench_rounds import ERRORS, Result, measure, state_bytes, stepping, told
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lit_optim.errors import UsageError

MB = 1e6
#: Load per core of other work; threads that wait for each other then wait for that.
BUSY = 0.3


def steps(args: argparse.Namespace, units: list[list[Candidate]], progress: Progress) -> None:
    """The table of each shape: ours first, each with the best of its peers."""
    header = ["optimizer", "ms", f"x {BASELINE}", "B/param", "GB/s", "limit, ms", "of limit"]
    for shape in args.shapes:
        results = measure(shape, units, args.rounds, progress)
        theirs = [one for one in results if one.candidate.kind == "peer"]
        rows = []
        for one in [one for one in results if one.candidate.kind == "ours"]:
            same = [peer for peer in theirs if peer.candidate.algorithm == one.candidate.algorithm]
            best = min(same, key=lambda peer: peer.ratio, default=None)
            told_of = f"{best.ratio:.2f} {best.candidate.label}" if best else "none"
            rows.append([*cells(one, shape), told_of])
        rows += [[*cells(one, shape), ""] for one in theirs]
        show(title(shape), [*header, "best peer"], rows, args)


def cells(one: Result, shape: str) -> list[str]:
    """A row, without the best peer."""
    traffic, speed = one.traffic / sum(sizes(shape)), one.traffic / one.seconds / 1e9
    row = [one.candidate.label, f"{1000 * one.seconds:.3g}", f"{one.ratio:.2f}"]
    row += [f"{traffic:.1f}", f"{speed:.3g}"]
    if one.limit is None or one.share is None:
        return [*row, "", ""]
    return [*row, f"{1000 * one.limit:.3g}", f"{one.share:.0%}"]


def first_step(args: argparse.Namespace, units: list[list[Candidate]], progress: Progress) -> None:
    """The table of what a process waits for, its caches empty or full."""
    taken = [c for unit in units for c in unit if c.kind == "ours" or c.compiled]
    for shape in args.shapes:
        rows = []
        for candidate in progress.track([*units[0], *taken], description=f"{shape}: first steps"):
            seconds: list[list[float]] = [[], [], []]
            for _ in range(args.rounds):
                with tempfile.TemporaryDirectory(prefix="bench_step_") as cache:
                    caches = {"XDG_CACHE_HOME": cache, "TORCHINDUCTOR_CACHE_DIR": cache}
                    cold = child(args, shape, candidate, caches)
                    warm = child(args, shape, candidate, caches)
                for column, value in zip(seconds, [cold[0], *warm], strict=True):
                    column.append(value)
            rows.append([candidate.label, *(f"{1000 * median(column):.3g}" for column in seconds)])
        header = ["optimizer", "first step, ms: empty cache", "full cache", "second step, ms"]
        show(title(shape), header, rows, args)


def memory(args: argparse.Namespace, units: list[list[Candidate]], progress: Progress) -> None:
    """The table of what a step needs beside parameters, gradients and states."""
    taken = [c for unit in units for c in unit if c.kind != "limit" and not c.compiled]
    for shape in args.shapes:
        rows = []
        for candidate in progress.track(taken, description=f"{shape}: memory"):
            found = [child(args, shape, candidate, {}) for _ in range(args.rounds)]
            state, extra, copies = (median(column) for column in zip(*found, strict=True))
            near = round(copies, 1) + 0.0  # no -0.0
            rows.append([candidate.label, f"{round(state)}", f"{round(extra)}", f"{near}"])
        header = ["optimizer", "state, MB", "beside it at the peak, MB", "in models"]
        show(title(shape), header, rows, args)


def child(
    args: argparse.Namespace, shape: str, candidate: Candidate, environment: dict[str, str]
) -> list[float]:
    """What a process of its own finds; see `alone`."""
    command = [sys.executable, __file__, *args.argv, "--shapes", shape]
    command += ["--alone", candidate.label]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or f"code {done.returncode}").splitlines()[-1]
        raise UsageError(f"{candidate.label} fails: {last}")
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def alone(args: argparse.Namespace, candidate: Candidate) -> list[float]:
    """Measure here: seconds of two steps; or MB of state, MB beside it, copies of the model."""
    (shape,) = args.shapes
    if args.first_step:
        _, step = stepping(candidate, parameters(shape))
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        return seconds
    _, step = stepping(candidate, parameters("tiny-mlp"))
    step()  # code and threads are there from now on
    params = parameters(shape)
    before = resident("VmRSS")
    optimizer, step = stepping(candidate, params)
    step()
    step()
    state = state_bytes(optimizer)
    extra = resident("VmHWM") - before - state
    return [state / MB, extra / MB, extra / sum(p.nbytes for p in params)]


def resident(key: str) -> int:
    """Bytes of this process in memory: now (VmRSS), or at most so far (VmHWM)."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        raise UsageError("--memory must run on Linux, which counts a process's peak") from None
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


def sizes(shape: str) -> list[int]:
    """Elements of each tensor."""
    return [torch.Size(size).numel() for size in SHAPES[shape]()]


def title(shape: str) -> str:
    """A shape and its size."""
    total, count = sum(sizes(shape)), len(sizes(shape))
    amount = f"{total / 1e6:.1f}M" if total > 1e5 else f"{total:,}"
    return f"{shape}: {amount} parameters, {count:,} tensor{'s' * (count > 1)}"


def show(name: str, header: list[str], rows: list[list[str]], args: argparse.Namespace) -> None:
    """Print a table, and how it was made."""
    command = shlex.join(["python", "scripts/bench_step.py", *args.argv])
    made = f"torch {torch.__version__}, {torch.get_num_threads()} threads, rounds: {args.rounds}"
    if not args.markdown:
        table = Table(*header, title=name, caption=f"{command}\n{made}")
        for column in table.columns[1:7]:
            column.justify = "right"
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    print(f"**{name}**\n\n| {' | '.join(header)} |\n|---|{'--:|' * (len(header) - 1)}")
    for row in rows:
        print(f"| {' | '.join([*row, *[''] * (len(header) - len(row))])} |")
    print(f"\n`{command}` ({made})\n", flush=True)


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, without the usage."""

    def error(self, message: str) -> NoReturn:  # noqa: D102
        raise UsageError(f"{message}; see --help")


def chosen(text: str, key: str, allowed: Sequence[str]) -> list[str]:
    """Names that are separated by commas or spaces."""
    names = text.replace(",", " ").split()
    for name in names or [text]:
        if name not in allowed:
            raise UsageError(f"{key}: there is no {name!r}; allowed are {', '.join(allowed)}")
    return names


def parsed(argv: list[str]) -> argparse.Namespace:
    """The arguments, checked."""
    usage = "python scripts/bench_step.py [options]"
    style = argparse.RawDescriptionHelpFormatter
    parser = Parser(usage=usage, description=__doc__, formatter_class=style, allow_abbrev=False)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--first-step", action="store_true", help="time it in new processes")
    modes.add_argument("--memory", action="store_true", help="peak beside the state; on Linux")
    add = parser.add_argument
    add("--shapes", help=f"of {', '.join(SHAPES)}; all, or one that fits a mode")
    example = '"adamw adamw,state_dtype=int8 lion,betas=[0.9,0.98]"'
    add(
        "--optimizers",
        default="adamw,momentum,lion,ademamix",
        help=f"ours, by name, settings after it: {example}; or all-elementwise",
    )
    add("--executors", default="native", help="native, torch, or both")
    peers_of = ["same", "all", "none"]
    add("--peers", default="same", choices=peers_of, help="others', of the same algorithms or all")
    add("--compile", action="store_true", help="also what torch compiles; minutes each")
    add("--rounds", type=int, help="default 11; 3 in processes of their own")
    add("--threads", type=int, help="default: torch's")
    add("--markdown", action="store_true", help="print tables in markdown")
    add("--alone", help=argparse.SUPPRESS)  # a label: this process is a child of the benchmark
    args = parser.parse_args(argv)
    for key in ("rounds", "threads"):
        value = getattr(args, key)
        if value is not None and value < 1:
            raise UsageError(f"--{key} must be at least 1, not {value}")
    args.argv = argv
    usual = "tiny-mlp" if args.first_step else "one-big" if args.memory else ",".join(SHAPES)
    args.shapes = chosen(args.shapes or usual, "--shapes", list(SHAPES))
    args.executors = chosen(args.executors, "--executors", ["native", "torch"])
    args.rounds = args.rounds or (3 if args.first_step or args.memory else 11)
    return args


def main() -> None:
    """Measure what is asked for; a bad name is one line and code 2."""
    warnings.simplefilter("ignore")  # peers deprecate their own defaults
    try:
        answer(sys.argv[1:])
    except UsageError as error:
        told(f"bench_step: {error}")
        sys.exit(2)


def answer(argv: list[str]) -> None:
    """Do as the arguments say."""
    args = parsed(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    units = [[baseline()], *ours(args.optimizers, args.executors)]
    if args.peers != "none":
        algorithms = {candidate.algorithm for unit in units[1:] for candidate in unit}
        found, missing = peers(None if args.peers == "all" else algorithms, args.compile)
        units += [[peer] for peer in found if peer.label != BASELINE]
        if missing and not args.alone:
            told(
                f"not installed, so not measured: {', '.join(missing)} (pip install -e '.[bench]')"
            )
    if args.alone:
        (candidate,) = [c for unit in units for c in unit if c.label == args.alone][:1]
        print(json.dumps(alone(args, candidate)))
        return
    if os.getloadavg()[0] > BUSY * (os.cpu_count() or 1):
        told(f"the machine is busy (load {os.getloadavg()[0]:.1f}): figures will be wrong")
    bars = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*bars, console=ERRORS) as progress:
        mode = first_step if args.first_step else memory if args.memory else steps
        mode(args, units, progress)


if __name__ == "__main__":
    main()
