"""The pictures of TensorBoard in the docs: the page of `lit-optim board`, in a headless browser.

    python train.py -m optimizer=adamw,lion scheduler=wsd,cosine_warmup optimizer.lr=... seed=0,1
    python scripts/screenshot_tensorboard.py runs/... docs/tensorboard.png
    python scripts/screenshot_tensorboard.py runs/... docs/hparams.png --tab hparams

Needs Chromium (`chromium` or `google-chrome` on the PATH) and playwright.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys

MILLISECONDS = 60_000  # that the page may take to show something
#: What has to be there before the picture is taken, and what is left out of it.
SHOWN = {"timeseries": "metrics-pinned-view scalar-card svg path", "hparams": "text=Trial ID"}
SIDE_PANE = "metrics-dashboard .settings-button, button:has-text('Settings')"


def main() -> None:
    """Start TensorBoard, open its page, and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", help="of the runs")
    parser.add_argument("png")
    parser.add_argument("--tab", choices=SHOWN, default="timeseries")
    parser.add_argument("--size", default="1500,1000")
    args = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("screenshot_tensorboard: no chromium or google-chrome on the PATH")

    command = [sys.executable, "-m", "lit_optim", "board", args.directory, "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            server.stdout.readline()  # how many runs there are
            url = server.stdout.readline().strip()
            if not url:
                sys.exit(1)  # it has said why
            take_picture(browser, url, args.tab, args.size, args.png)
        finally:
            server.send_signal(signal.SIGINT)


def take_picture(browser: str, url: str, tab: str, size: str, png: str) -> None:
    """Open the page and write the picture."""
    from playwright.sync_api import sync_playwright

    width, height = map(int, size.split(","))
    with sync_playwright() as started:
        # without 3d its lines are SVG, which a picture keeps
        quiet = ["--no-sandbox", "--disable-3d-apis", "--disable-background-networking"]
        opened = started.chromium.launch(executable_path=browser, args=quiet)
        page = opened.new_page(viewport={"width": width, "height": height})
        page.goto(url)
        page.wait_for_selector(SHOWN["timeseries"], timeout=MILLISECONDS)
        if tab == "hparams":
            page.get_by_text("HPARAMS").click()
            page.wait_for_selector(SHOWN[tab], timeout=MILLISECONDS)
        else:
            page.locator(SIDE_PANE).first.click()
        page.wait_for_timeout(3000)  # until lines, colors and names stand still
        page.screenshot(path=png)
        opened.close()


if __name__ == "__main__":
    main()
