"""Hooks for mkdocs: pages found by being there, the changelog, and a check for remote files.

mkdocs.yml names this file, so `make docs` runs it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parent.parent
#: Title in the navigation -> directory of docs/ whose pages it lists.
FOLDERS = {"Each optimizer": "optimizers", "Each schedule": "schedules"}
CLIENTS = "In your own code", "clients"
#: What a browser fetches by itself: scripts, style sheets, pictures, frames, imports of CSS.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\ssrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon|modulepreload))"""
    r"""[^>]*?\shref=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|@import\s+(?:url\()?["']?(?:https?:)?//[^"'\s)]+"""
    r"""|url\(["']?(?:https?:)?//[^"')]+"""
)


def on_config(config: Any) -> Any:
    """Add the pages that are found by being there to the navigation."""
    docs = Path(config["docs_dir"])
    folders = [list_pages(docs, title, folder) for title, folder in FOLDERS.items()]
    config["nav"][2:2] = [list_pages(docs, *CLIENTS), {"Learn by looking": folders}]
    return config


def list_pages(docs: Path, title: str, folder: str) -> dict[str, list[str]]:
    """A section of the navigation with the pages of a directory, its index first."""
    pages = sorted((docs / folder).glob("*.md"), key=lambda page: (page.stem != "index", page))
    return {title: [page.relative_to(docs).as_posix() for page in pages]}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put CHANGELOG.md, which belongs beside the README, into its page."""
    if page.file.src_uri != "changelog.md":
        return markdown
    return (ROOT / "CHANGELOG.md").read_text("utf-8").replace("](docs/", "](")


def on_post_build(config: Any) -> None:
    """Refuse a site whose pages load something from elsewhere."""
    remote = remote_resources(Path(config["site_dir"]))
    if remote:
        raise PluginError("the site must work offline, but loads " + "; ".join(remote))


def remote_resources(site: Path) -> list[str]:
    """What pages and style sheets of a built site fetch from another host, with their files."""
    files = sorted([*site.rglob("*.html"), *site.rglob("*.css")])
    return [
        f"{match} in {file.relative_to(site)}"
        for file in files
        for match in FETCHED.findall(file.read_text("utf-8"))
    ]
