"""The documentation builds into a site without a warning, and its pages load nothing remote."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytest.importorskip("mkdocs", reason="needs the extra `docs`")


@pytest.fixture
def site_hooks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import site_hooks

    yield site_hooks
    del sys.modules["site_hooks"]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site, made in a process of its own: mkdocs changes the loggers of its process."""
    place = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", place],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return place


def test_every_page_is_in_the_navigation(site):
    start = (site / "index.html").read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert f'href="{name}"' in start or name == "index.html", name


def test_links_and_pictures_lead_to_files(site):
    """Also those that mkdocs does not know: of HTML in a page."""
    for page in site.rglob("*.html"):
        if page.name == "404.html":
            continue  # its links are from the root of a server
        for target in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text("utf-8")):
            if not re.match(r"\w+:", target):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize(
    ("page", "name", "argument"),
    [
        ("reference", "configure_optimizers", "scheduler"),
        ("reference", "Ema", "decay"),
        ("reference_optimizers", "AdamW", "betas"),
        ("reference_schedules", "cosine_warmup", "min_lr_ratio"),
    ],
)
def test_the_reference_has_signatures_and_arguments(site, page, name, argument):
    text = (site / f"{page}.html").read_text("utf-8")
    section = text.split(f'.{name}" class="doc doc-heading">')[1].split('class="doc doc-heading">')[
        0
    ]
    plain = html.unescape(re.sub(r"<[^>]+>", "", section))
    assert re.search(rf"^ +{argument}: .* = ", plain, re.M), "no signature"


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://example.org/x.js"></script>',
        '<img alt="" src="//example.org/x.png">',
        '<link rel="stylesheet" href="https://example.org/x.css">',
        '<link href="https://example.org/font.css" rel="preload" as="font">',
        "<style>@import url(https://example.org/x.css)</style>",
        "<style>a { background: url('https://example.org/x.png') }</style>",
    ],
)
def test_what_a_page_loads_from_elsewhere_is_found(tmp_path, site_hooks, text):
    (tmp_path / "index.html").write_text(f"<html>{text}</html>")
    assert len(site_hooks.remote_resources(tmp_path)) == 1


def test_a_link_to_another_site_is_no_resource(tmp_path, site_hooks):
    (tmp_path / "index.html").write_text(
        '<a href="https://arxiv.org"><img src="plot.png"></a><link rel="canonical" href="https://x.y">'
    )
    assert site_hooks.remote_resources(tmp_path) == []
