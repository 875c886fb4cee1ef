"""TensorBoard on a directory of runs: `lit-optim board`.

Runs get short names, by links in a temporary directory. The address pins what one looks at first:
losses, learning rates and validation metrics, unsmoothed, with a color for each optimizer.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.parse
import webbrowser
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import IO, NoReturn

from lit_optim.errors import UsageError, how_many
from lit_optim.interrupts import INTERRUPTED, interruptible
from lit_optim.printing import Console
from lit_optim.programs import format_path
from lit_optim.reports.run_names import name_runs
from lit_optim.system import OWN_GROUP, kill_group
from lit_optim.untrusted import walk

EVENTS = "events.out.tfevents.*"
#: TensorBoard reads files with this in their name.
IN_NAME = "tfevents"
#: TensorBoard as `python -m tensorboard.main`, but without the current directory among the places
#: that Python imports from: it may be the directory that is looked at.
TENSORBOARD = (
    "import sys; sys.path[:] = filter(None, sys.path); from tensorboard.main import *; run_main()"
)
#: TensorBoard's default port.
USUAL_PORT = 6006
SECONDS_TO_START = 90.0
SECONDS_BETWEEN = 2.0  # between two searches for new runs
#: How many events of a file, and how many files, are read to find the tags.
FEW_EVENTS, FEW_FILES = 3000, 6
MOST_CARDS = 6
#: Tags that are written once, or of little use at first; some of them by earlier versions.
NOT_FIRST = re.compile(r"(best|final|plan|effective_lr|hparams|_hparams_)/|epoch$|hp_metric$|~")
#: The pinned tags in the order of the cards, and how many of each kind at most.
FIRST = (
    (re.compile(r"val.*loss"), 2),
    (re.compile(r"train.*loss|loss$|loss_"), 2),
    (re.compile(r"lr/|lr-"), 1),
    (re.compile(r"val"), 2),
)
#: Pinned while nothing is logged yet: TensorBoard shows a card once its tag exists.
EXPECTED = ("val/loss", "train/loss", "lr/decay", "val/acc")
#: The first word of a name, which is the optimizer if that is known.
COLORS = r"regex:^(\S+)"


def board(directory: Path, console: Console, port: int | None, is_opened: bool) -> NoReturn:
    """Serve a directory until Ctrl-C, and print the address.

    Args:
        directory: of a run, a sweep, or many of them.
        console: for the address.
        port: to serve at; None: a free one.
        is_opened: whether to open a browser.

    Raises:
        UsageError: there are no runs, or TensorBoard does not start.
        SystemExit: with code 130 after Ctrl-C, 143 after SIGTERM.
    """
    if not directory.is_dir():
        raise UsageError(f"no such directory: {directory}")
    runs = find_runs(directory)
    if not runs:
        raise UsageError(f"{directory}: no run in it has TensorBoard logs")
    signal.signal(signal.SIGTERM, _raise_exit)
    port = _free_port(port)
    try:
        with interruptible(), tempfile.TemporaryDirectory(prefix="lit_optim_board_") as folder:
            _serve(Links(directory, Path(folder)), runs, port, console, is_opened)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    raise AssertionError("it serves until it is interrupted")


def _serve(
    links: Links, runs: Sequence[Path], port: int, console: Console, is_opened: bool
) -> NoReturn:
    links.add(runs)
    command = [sys.executable, "-c", TENSORBOARD, "--logdir", str(links.logdir)]
    command += ["--port", str(port), "--host", "localhost", "--reload_multifile=true"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **OWN_GROUP
        )
        try:
            _wait_until_ready(process, port, log)
            url = address(port, read_tags(runs))
            summary = f"{format_path(links.directory)}: {how_many(len(runs), 'run')}"
            console.print(summary, soft_wrap=True, markup=False)
            console.print(url, soft_wrap=True, highlight=False, markup=False)
            console.print("Press Ctrl-C to stop.")
            if is_opened:
                webbrowser.open(url)
            while process.poll() is None:
                time.sleep(SECONDS_BETWEEN)
                links.add(find_runs(links.directory))
            raise UsageError(f"TensorBoard ended with code {process.returncode}")
        finally:
            kill_group(process)
            process.wait()


def _raise_exit(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def find_runs(directory: Path) -> list[Path]:
    """Find the directories with event files, itself included; hidden ones are left out.

    Raises:
        UsageError: something named like an event file would make TensorBoard wait forever.
    """
    found = []
    for folder, entries in walk(directory, is_hidden_too=True):
        event_files = [entry for entry in entries if _is_event_file(entry)]
        if event_files:
            found.append(folder)
    return [path for path in found if not _is_hidden(path.relative_to(directory))]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_event_file(entry: os.DirEntry[str]) -> bool:
    if IN_NAME not in entry.name:
        return False
    try:
        mode = entry.stat().st_mode
    except OSError:  # a broken link
        return False
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UsageError(f"{entry.path}: is not a regular file, and TensorBoard would wait for it")
    return stat.S_ISREG(mode) and fnmatch(entry.name, EVENTS)


class Links:
    """A directory for TensorBoard in which each run has a short name.

    Args:
        directory: with the runs.
        folder: an empty directory for the links.
    """

    def __init__(self, directory: Path, folder: Path) -> None:
        self.directory, self.logdir = directory, folder
        self._names: dict[Path, str] = {}

    def add(self, runs: Sequence[Path]) -> None:
        """Name new runs; known ones keep their names."""
        if self.logdir == self.directory:
            return
        new = [run for run in runs if run not in self._names]
        for run, name in name_runs(self.directory, new, self._names.values()).items():
            try:
                (self.logdir / name).symlink_to(run.resolve(), target_is_directory=True)
            except OSError:  # not allowed, as usual on Windows: then the paths are the names
                self.logdir = self.directory
                return
            self._names[run] = name


def read_tags(runs: Sequence[Path]) -> list[str]:
    """Read the tags of the last of these runs; those of most runs come first."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    counts: Counter[str] = Counter()
    for run in runs[-FEW_FILES:]:
        tags: set[str] = set()
        for path in sorted(path for path in run.glob(EVENTS) if path.is_file())[:2]:
            with suppress(Exception):  # a broken file, or one of another version
                for event in islice(EventFileLoader(str(path)).Load(), FEW_EVENTS):
                    tags |= {value.tag for value in event.summary.value}
        counts.update(sorted(tags))
    return [tag for tag, _ in counts.most_common()]


def cards(tags: Iterable[str]) -> list[str]:
    """Choose the tags to pin."""
    known = [tag for tag in tags if not NOT_FIRST.match(tag)]
    chosen: dict[str, None] = {}
    for kind, most in FIRST:
        fitting = [tag for tag in known if kind.match(tag) and tag not in chosen]
        chosen |= dict.fromkeys(fitting[:most])
    return list(chosen)[:MOST_CARDS] or list(EXPECTED)


def address(port: int, tags: Iterable[str]) -> str:
    """The address of TensorBoard's page with these tags pinned."""
    chosen = [{"plugin": "scalars", "tag": tag} for tag in cards(tags)]
    pinned = json.dumps(chosen, separators=(",", ":"))
    query = {"smoothing": "0", "pinnedCards": pinned, "runColorGroup": COLORS}
    encoded = urllib.parse.urlencode(query, quote_via=urllib.parse.quote)
    return f"http://localhost:{port}/?{encoded}#timeseries"


def has_desktop() -> bool:
    """Whether a browser on this machine would be seen by the user."""
    is_remote = any(name in os.environ for name in ("SSH_CONNECTION", "SSH_TTY"))
    is_local = os.name == "nt" or sys.platform == "darwin"
    return not is_remote and (is_local or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))))


def _free_port(wanted: int | None) -> int:
    for port in (wanted,) if wanted else (USUAL_PORT, 0):
        with socket.socket() as free, suppress(OSError):
            free.bind(("localhost", port or 0))
            return int(free.getsockname()[1])
    raise UsageError(f"--port={wanted} is in use")


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: IO[str]) -> None:
    until = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
            return
        time.sleep(0.2)
    log.seek(0)
    lines = (line.strip() for line in log if line.strip())
    *_, last = ("it printed nothing", *lines)
    raise UsageError(f"TensorBoard does not start: {last}")
