"""The README's picture: TensorBoard's page on a directory of runs, in a headless browser.

    python train.py -m optimizer=adamw,adagrad scheduler=cosine_warmup,step
    python scripts/screenshot_tensorboard.py runs/... docs/tensorboard.png

Needs Chromium (`chromium` or `google-chrome` on the PATH).
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

SECONDS = 60  # that TensorBoard may take to start


def main() -> None:
    """Start TensorBoard, wait for it, and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logdir")
    parser.add_argument("png")
    parser.add_argument(
        "--tags", nargs="+", default=["lr/decay", "train/loss", "val/loss", "val/acc"]
    )
    parser.add_argument("--size", default="1500,900")
    args = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("screenshot_tensorboard: no chromium or google-chrome on the PATH")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", args.logdir]
    server = subprocess.Popen([*command, "--port", str(port), "--load_fast=false"])
    try:
        _wait(f"http://127.0.0.1:{port}/data/runs")
        pinned = json.dumps([{"plugin": "scalars", "tag": tag} for tag in args.tags])
        query = urllib.parse.urlencode({"smoothing": "0", "pinnedCards": pinned})
        with tempfile.TemporaryDirectory() as profile:
            subprocess.run(
                [
                    browser,
                    "--headless",
                    "--no-sandbox",
                    "--disable-3d-apis",  # its lines are then SVG, which a picture keeps
                    "--disable-background-networking",
                    "--disable-sync",
                    "--no-first-run",
                    "--hide-scrollbars",
                    f"--user-data-dir={profile}",
                    f"--window-size={args.size}",
                    "--virtual-time-budget=20000",
                    f"--screenshot={args.png}",
                    f"http://127.0.0.1:{port}/?{query}#timeseries",
                ],
                check=True,
                timeout=120,
            )
    finally:
        server.terminate()


def _wait(url: str) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with urllib.request.urlopen(url) as answer:
                if json.load(answer):  # the runs have been read
                    return
        except OSError:
            pass
        if time.monotonic() > deadline:
            sys.exit("screenshot_tensorboard: TensorBoard did not come up, or found no runs")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
