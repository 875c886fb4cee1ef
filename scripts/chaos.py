"""Interrupts runs and sweeps of random parts in every way, resumes them, and compares the ends.

Each cycle draws a product (optimizer, wrapper, schedule, accumulation, batches, policy), runs it
undisturbed, runs it again under one to three strikes, and resumes it to its end. A strike is a
signal, a full disk or a directory that turns read-only, right after a call that changes a file or
right after a backward pass, or some milliseconds later. Everything is drawn from the seed.

    python scripts/chaos.py --cycles 500 --jobs 2 --log chaos.jsonl    # goes on where it ended
    python scripts/chaos.py --only 17 --keep there                     # one of them, to look at
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(1, str(ROOT / "scripts"))

import strikes  # noqa: E402
import torch  # noqa: E402
from chaos_ends import damages, find_differences, leftovers, newest_steps  # noqa: E402
from chaos_stage import Stage, Strike, Stuck  # noqa: E402

from lit_optim.config.places import groups, listed_choices  # noqa: E402
from lit_optim.sweeps.job_server import fill_caches, import_all  # noqa: E402

#: Not drawn: these need arguments, other parameters, or more time.
NOT_DRAWN = {
    *("custom", "muon_torch", "sparse_adam", "chained", "sequential", "ChainedScheduler"),
    *("SequentialLR", "LambdaLR", "MultiplicativeLR", "CyclicLR", "MultiStepLR", "phases"),
}
#: Cycles that have one product, whose undisturbed run they share.
PER_PRODUCT = 4
WRAPPERS = ("none", "none", "ema", "lookahead", "sam")
#: What a strike does; the last four hinder writing.
HOWS = (
    *("kill", "kill", "kill", "term", "int", "double int", "double term", "stop", "stop and kill"),
    *("full", "full for a while", "small files", "read-only"),
)
#: Exit codes that a strike may lead to, besides that of the undisturbed run.
CODES = {
    "kill": {-9}, "stop and kill": {-9}, "term": {143, -15}, "double term": {143, -15},
    "int": {130}, "double int": {130}, **{how: {1, 2} for how in HOWS[-4:]},
}  # fmt: skip


@dataclass
class Report:
    """What became of a cycle.

    Args:
        seed: of the cycle.
        line: what was run.
        strikes: what happened to it.
        codes: the exit codes of all starts.
        is_finished: whether it came to its end.
        is_equal: whether that is the end of the undisturbed run.
        faults: what was wrong.
        seconds: that it took.
    """

    seed: int
    line: list[str] = field(default_factory=list)
    strikes: list[Strike] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    is_finished: bool = False
    is_equal: bool = False
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def has(self, kind: str) -> bool:
        """Whether there is a fault of this kind."""
        return any(fault.startswith(kind) for fault in self.faults)


def draw_line(chance: random.Random, is_small: bool) -> list[str]:
    """Draw the command line of a run; some are refused."""
    names = [name for name in sorted(listed_choices("optimizer")) if name not in NOT_DRAWN]
    optimizer = chance.choice(names)
    schedules = [name for name in sorted(groups()["scheduler"]) if name not in NOT_DRAWN]
    wrapper = chance.choice(WRAPPERS)
    line = [f"optimizer={optimizer}", f"scheduler={chance.choice(schedules)}", f"wrapper={wrapper}"]
    line += ["data=digits", f"model={chance.choice(['linear', 'mlp', 'mlp'])}"]
    line += [f"data.batch_size={chance.choice([40, 60, 90])}"]
    batches = chance.choice(["mini", "mini", "mini", "full"])
    line += [f"batch={batches}"]
    steps = chance.randint(8, 14) if is_small else chance.randint(12, 40)
    line += [f"trainer.max_steps={steps}"]
    accumulated = 1 if "sam" in wrapper or optimizer == "lbfgs" else chance.choice([1, 1, 2, 3])
    if batches == "mini":
        interval = chance.choice([2, 3, 5])
        line += [f"trainer.val_check_interval={interval}"]
        line += [f"trainer.accumulate_grad_batches={accumulated}"]
        if chance.random() < 0.5:
            line += ["trainer.check_val_every_n_epoch=null"]
    if chance.random() < 0.3:
        line += ["trainer.gradient_clip_val=0.5"]
    if chance.random() < 0.3:
        line += [f"optimizer.state_dtype={chance.choice(['bfloat16', 'int8'])}"]
    line += [f"callbacks.nonfinite.policy={chance.choice(['stop', 'skip', 'rollback'])}"]
    line += [f"param_groups={chance.choice(['no_decay', 'single', 'layer_decay'])}"]
    line += [f"logger={chance.choice(['tensorboard', 'csv', 'none'])}"]
    if is_small:
        line += ["test=false", "trainer.enable_progress_bar=false"]
    return [*line, "trainer.log_every_n_steps=3", "trainer.enable_model_summary=false"]


def draw_strike(chance: random.Random) -> Strike:
    """Draw what happens to a start."""
    how = chance.choice(HOWS)
    place = chance.uniform(0, 1.05)
    within = chance.random() < 0.6 or how in HOWS[-4:]
    delay = None if within else chance.choice([1.0, 10.0, 50.0, 200.0])
    target = chance.choice(["self", "root", "tree"])
    return Strike(how, place, delay, target, chance.choice([1, 2, 5, 20]))


class Product:
    """What some cycles have in common: a line, and the directory of its undisturbed run.

    Args:
        seed: from which it is drawn.
        directory: an empty one.
        is_small: whether it takes little time.
    """

    def __init__(self, seed: int, directory: Path, is_small: bool) -> None:
        chance = random.Random(seed)
        self.seed, self.is_small = seed, is_small
        self.is_sweep = seed % 6 == 5  # which take longer
        self.stage = Stage(directory, False)
        for _ in range(20):  # some are refused, and some diverge
            self.line = draw_line(chance, is_small)
            if self.is_sweep:
                self.line = ["-m", *self.line, "seed=0,1", f"n_jobs={chance.choice([1, 2])}"]
            if self.stage.start([*self.line, *where(self.is_sweep)]) == 0:
                break
            shutil.rmtree(self.stage.place)
            self.stage.place.mkdir()
        self.stage.end()

    @property
    def calls(self) -> int:
        """The calls that its run has made."""
        return len(self.stage.calls)


def run_cycle(seed: int, product: Product, directory: Path, can_mount: bool) -> Report:
    """One cycle, in an empty directory."""
    begun = time.monotonic()
    chance, report = random.Random(f"{seed} of {product.seed}"), Report(seed, product.line)
    counts = [1] if product.is_small else [1, 1, 2, 3]
    report.strikes = [draw_strike(chance) for _ in range(chance.choice(counts))]
    parts = Stage(directory / "parts", can_mount)
    ways = [chance.choice(["auto", "directory", "both"]) for _ in range(8)]
    try:
        _interrupt_and_finish(parts, report, ways, product)
        left = parts.end()
        if left:
            report.faults.append(f"left over: processes {left}")
        if report.is_finished:
            could_not = any(strike.how in HOWS[-4:] for strike in report.strikes)
            ends = product.stage.place / "it", parts.place / "it"
            differing = [*find_differences(*ends, could_not)]
            report.is_equal = not differing
            report.faults += [f"differs: {what}" for what in differing]
        for path in (parts.place, parts.temporary):
            report.faults += [f"left over: {name}" for name in leftovers(path)]
    finally:
        report.seconds = round(time.monotonic() - begun, 1)
        if report.faults:
            for name, stage in (("whole", product.stage), ("parts", parts)):
                shutil.copytree(stage.place, directory / "kept" / name, symlinks=True)
        if parts.has_disk:
            strikes.unmount(parts.place)
    return report


def where(is_sweep: bool) -> list[str]:
    """The override that names the directory."""
    return ["hydra.sweep.dir=it" if is_sweep else "hydra.run.dir=it"]


def _interrupt_and_finish(parts: Stage, report: Report, ways: list[str], product: Product) -> None:
    planned: list[Strike | None] = [*report.strikes, None, None, None]
    for strike, way in zip(planned, ways, strict=False):
        argv = resumed(parts.place, product, way)
        steps = newest_steps(parts.place)
        try:
            code = parts.start(argv, strike, product.calls)
        except Stuck:
            report.faults.append(f"stuck: {argv} after {strike}")
            return
        report.codes.append(code)
        allowed = {0} | (CODES.get(strike.how, set()) if strike is not None else set())
        if strike is not None and product.is_sweep:
            allowed |= {1, 2, 130, 143, -9, -15}
        if code not in allowed:
            report.faults.append(f"code: {code} of {argv} after {strike}: {parts.said[-3000:]}")
        if "Traceback" in parts.said:
            report.faults.append(f"traceback: after {strike}: {parts.said[-3000:]}")
        report.faults += [f"corrupted: {what}" for what in damages(parts.place)]
        now = newest_steps(parts.place)
        lost = [name for name, step in steps.items() if now.get(name, -1) < step]
        report.faults += [f"corrupted: {name} is older than before" for name in lost]
        if strike is None and code == 0:
            report.is_finished = True
            return


def resumed(place: Path, product: Product, way: str) -> list[str]:
    """The command line of the next start."""
    if product.is_sweep:
        if not (place / "it" / "sweep.json").exists():
            return [*product.line, *where(True)]
        return ["-m", "resume=it"] if way == "directory" else [*product.line, "resume=it"]
    has_begun = any(place.glob("it/checkpoints/*.ckpt"))
    if way == "auto" or not has_begun:
        return [*product.line, *where(False), "resume=auto"]
    return ["resume=it"] if way == "directory" else [*product.line, "resume=it"]


def work(seeds: Sequence[int], options: argparse.Namespace, log: Path) -> None:
    """Run cycles, and append a line for each to the log."""
    os.environ["OMP_NUM_THREADS"] = "1"  # a fork has a single thread
    torch.set_num_threads(1)
    strikes.adopt_orphans()
    can_mount = strikes.can_mount()
    strikes.obey_permissions()
    product: Product | None = None
    for seed in seeds:
        directory = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-", dir=options.keep))
        try:
            if product is None or product.seed != seed // PER_PRODUCT:
                if product is not None:
                    shutil.rmtree(product.stage.directory)
                place = Path(tempfile.mkdtemp(prefix="chaos-product-"))
                product = Product(seed // PER_PRODUCT, place, options.small)
            report = run_cycle(seed, product, directory, can_mount)
        except Exception:
            report = Report(seed, faults=[f"error: {traceback.format_exc()}"])
        with log.open("a") as file:
            file.write(json.dumps(asdict(report)) + "\n")
        if options.keep is None or not report.faults:
            shutil.rmtree(directory, ignore_errors=True)
    if product is not None:
        shutil.rmtree(product.stage.directory)


def summarize(reports: Sequence[Report]) -> str:
    """The counts, and the faults."""
    rows = {
        "cycles": len(reports),
        "finished": sum(report.is_finished for report in reports),
        "equal to the bit": sum(report.is_equal for report in reports),
        "corrupted": sum(report.has("corrupted") for report in reports),
        "stuck": sum(report.has("stuck") for report in reports),
        "left over": sum(report.has("left over") for report in reports),
        "ended with a traceback or another code": sum(
            report.has("traceback") or report.has("code") or report.has("error")
            for report in reports
        ),
    }
    return "\n".join(f"{name:40}{count:6}" for name, count in rows.items())


def read_log(log: Path) -> list[Report]:
    """The reports in a log."""
    if not log.exists():
        return []
    known = [json.loads(line) for line in log.read_text().splitlines()]
    return [Report(**{**one, "strikes": [Strike(**s) for s in one["strikes"]]}) for one in known]


def main() -> None:
    """Run the cycles."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the first cycle")
    parser.add_argument("--only", type=int, help="the seed of the only cycle")
    parser.add_argument("--jobs", type=int, default=1, help="cycles at a time")
    parser.add_argument("--log", type=Path, help="a line for each cycle; those in it are done")
    parser.add_argument("--small", action="store_true", help="short runs, one strike each")
    parser.add_argument("--keep", type=Path, help="where the directories of bad cycles are kept")
    options = parser.parse_args()
    seeds = [*range(options.seed, options.seed + options.cycles)]
    if options.only is not None:
        seeds = [options.only]
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        log = options.log or Path(place, "log")
        done = {report.seed for report in read_log(log)}
        todo = [seed for seed in seeds if seed not in done]
        import_all()
        for module in ("sklearn.datasets", "lit_optim.tasks.classifiers"):
            import_module(module)
        fill_caches()
        gc.collect()
        gc.freeze()  # else each fork copies what it looks through
        workers = []
        for number in range(options.jobs):
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                try:
                    mine = [s for s in todo if s // PER_PRODUCT % options.jobs == number]
                    work(mine, options, log)
                except Exception:
                    traceback.print_exc()
                finally:
                    os._exit(0)
            workers.append(pid)
        for pid in workers:
            os.waitpid(pid, 0)
        reports = [report for report in read_log(log) if report.seed in seeds]
    for report in sorted(reports, key=lambda report: report.seed):
        if report.faults:
            print(json.dumps(asdict(report), indent=1))
    print(summarize(reports))
    if len(reports) < len(seeds) or not all(r.is_equal and not r.faults for r in reports):
        sys.exit(1)


if __name__ == "__main__":
    main()
