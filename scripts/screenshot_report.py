"""The documentation's picture of a report: its page in a headless browser.

    python train.py -m optimizer=adamw,lion,muon,sgd optimizer.lr=... seed=0,1,2
    python scripts/screenshot_report.py runs/.../report.html docs/images/report.png

Needs Chromium (`chromium` or `google-chrome` on the PATH) and playwright.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path

from PIL import Image


def main() -> None:
    """Open the page, point at a run, and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("png", type=Path)
    parser.add_argument("--size", default="1240,1180", help="of the picture, in pixels")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--point", help="the CSS selector of what the pointer is at")
    args = parser.parse_args()
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        sys.exit("screenshot_report: no chromium or google-chrome on the PATH")
    from playwright.sync_api import sync_playwright

    width, height = map(int, args.size.split(","))
    quiet = ["--no-sandbox", "--disable-background-networking", "--disable-sync"]
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=quiet)
        page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if args.dark else "light",
        )
        page.goto(args.page.absolute().as_uri())
        if args.point:
            page.locator(args.point).first.hover(force=True)
            page.wait_for_timeout(300)
        taken = page.screenshot()
        browser.close()
    Image.open(io.BytesIO(taken)).convert("RGB").save(args.png, optimize=True)


if __name__ == "__main__":
    main()
