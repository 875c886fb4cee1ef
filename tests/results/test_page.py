"""The page of a report in a real browser: it is silent, sorts, filters, copies, tells, and reads
well in light and dark, on a wide screen and on a phone."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from lit_optim.results.comparing import compare
from lit_optim.results.data import Report
from lit_optim.results.page import write_page
from lit_optim.results.showing import make_report as make_report_of
from lit_optim.results.showing import write
from lit_optim.runs.status import Status
from tests.browser import open_browser
from tests.results.made_up import make_report, make_run
from tests.results.searches import write_contest

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 400, "height": 800}
#: Names that a directory of someone else may hold.
STRANGE = "</script><script>window.hacked=1</script>\"'><img src=x onerror=hacked=1>&amp; $x_1$ 🚀"


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture
def visit(browser):
    """Open a page; whatever it says in the console or asks of a network fails the test."""
    contexts, heard, asked, own = [], [], [], []

    def start(path: Path, is_silent: bool = True, **options):
        context = browser.new_context(**{"viewport": WIDE} | options)
        contexts.append(context)
        context.set_default_timeout(10_000)
        page = context.new_page()
        if is_silent:
            page.on("console", lambda message: heard.append(message.text))
            page.on("pageerror", lambda error: heard.append(str(error)))
            page.on("dialog", lambda dialog: heard.append(dialog.message))
            page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        own.append(path.as_uri())
        return page

    yield start
    assert heard == []
    assert set(asked) <= {*own, "data:,"}  # an empty icon, so that none is looked for
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> tuple[Report, Path]:
    folder = tmp_path_factory.mktemp("page")
    report = make_report(folder, seeds=2)
    for run in report.runs:
        run.directory.mkdir()
    write_page(report, folder / "report.html")
    return report, folder / "report.html"


def column(page, table: str, title: str) -> list[str]:
    """What a column shows, in the rows that are shown."""
    return page.evaluate(
        """([table, title]) => {
            const root = document.getElementById(table);
            const heads = [...root.tHead.rows[0].cells];
            const place = heads.findIndex((head) => head.textContent === title);
            return [...root.tBodies[0].rows].filter((row) => !row.hidden)
                .map((row) => row.cells[place].innerText.trim());
        }""",
        [table, title],
    )


def head(page, table: str, title: str):
    return page.locator(f"#{table} thead th").get_by_role("button", name=title, exact=True)


def numbers(texts: list[str]) -> list[float]:
    return [float(text.split()[0]) for text in texts if text not in ("", "-")]


def test_a_click_sorts(sweep, visit):
    report, path = sweep
    page = visit(path)
    metric = head(page, "runs", report.metric)
    known = sorted(run.value for run in report.runs if math.isfinite(run.value))

    metric.click()
    shown = column(page, "runs", report.metric)
    assert numbers(shown) == pytest.approx(known, abs=1e-2)
    assert len(shown) == len(report.runs)  # those without a value are last
    assert page.locator("#runs th[aria-sort]").get_attribute("aria-sort") == "ascending"
    metric.press("Enter")
    shown = column(page, "runs", report.metric)
    assert numbers(shown) == pytest.approx(known[::-1], abs=1e-2)
    assert page.locator("#runs th[aria-sort]").get_attribute("aria-sort") == "descending"
    head(page, "runs", "status").click()
    statuses = column(page, "runs", "status")
    assert statuses == sorted(statuses)
    head(page, "choices", "optimizer").click()
    assert column(page, "choices", "optimizer") == sorted(
        row.values["optimizer"] for row in report.rows
    )


def test_the_pages_of_a_tournament(tmp_path, visit):
    root = write_contest(tmp_path / "contest")
    first, *others = write(make_report_of([root], target=0.5), tmp_path / "report.html")
    page = visit(first)
    head(page, "choices", "score").click()
    assert column(page, "choices", "optimizer") == ["sgd", "lion", "adamw"]
    page.get_by_label("filter score").fill(">0.5")
    assert column(page, "choices", "optimizer") == ["lion", "adamw"]
    lines = page.locator("#profile .mark")
    assert lines.count() == 3
    page.locator("#row-0").hover()
    assert page.locator('#profile .mark[data-row="0"].on').count() == 1
    page.locator("#tasks tbody tr").first.hover()
    assert page.locator(".on").count() == page.locator("body.dimmed").count() == 0
    for link, other in zip(page.locator("#tasks a").all(), others, strict=True):
        assert (tmp_path / link.inner_text()).name in other.name
        assert link.evaluate("a => a.href") == other.as_uri().replace("=", "%3D")
        task = visit(other)
        assert column(task, "choices", "optimizer")[:2] == ["adamw", "lion"]
        task.locator("#row-1 .only").click()
        assert len(column(task, "runs", "trial")) == 9
        assert set(column(task, "runs", "trial")) >= {"final", "untuned", "0"}


def test_columns_filter(sweep, visit):
    report, path = sweep
    page = visit(path)
    box = page.get_by_label(f"filter {report.metric}").last
    good = [run for run in report.runs if run.value < 0.45]

    box.fill("<0.45")
    assert len(column(page, "runs", "status")) == len(good) < len(report.runs)
    assert page.locator("#shown").inner_text() == f"{len(good)} of {len(report.runs)}"
    assert page.locator("#sensitivity .mark[data-run].out").count() == sum(
        run not in good for run in report.runs
    )
    box.fill("0.3..0.45")
    assert len(column(page, "runs", "status")) == sum(0.3 <= run.value <= 0.45 for run in good)
    box.fill("")
    page.locator("#runs").get_by_label("filter status").fill("!completed")
    assert set(column(page, "runs", "status")) == {"diverged", "failed", "running"}
    page.locator("#runs").get_by_label("filter status").fill("")
    page.get_by_role("group", name="Choices").get_by_role("button", name="lion").click()
    lion = [run for run in report.runs if run.overrides["optimizer"] == "lion"]
    assert len(column(page, "runs", "status")) == len(lion)

    assert page.locator("#curves .mark[data-row].out").count() == sum(
        page.locator(f"#curves .mark[data-row='{place}']").count()
        for place, row in enumerate(report.rows)
        if row.values["optimizer"] != "lion"
    )


def test_what_was_typed_outlives_a_new_version(sweep, visit):
    report, path = sweep
    page = visit(path)
    page.locator("#runs").get_by_label("filter status").fill("diverged")
    head(page, "runs", report.metric).click()
    page.get_by_role("group", name="Choices").get_by_role("button", name="muon").click()
    shown = column(page, "runs", "run")

    page.reload()

    assert set(column(page, "runs", "status")) == {"diverged"}
    assert column(page, "runs", "run") == shown
    assert page.locator("#runs th[aria-sort]").count() == 1
    assert page.locator(".legend [aria-pressed=true]").inner_text() == "muon"


def test_the_command_is_copied(sweep, visit):
    report, path = sweep
    page = visit(path, permissions=["clipboard-read", "clipboard-write"])
    button = page.locator("#run-3 .copy")
    button.click()
    assert page.evaluate("navigator.clipboard.readText()") == report.runs[3].command
    assert "done" in button.get_attribute("class")
    assert page.locator("#run-3 code").inner_text() == report.runs[3].command


def test_pointing_tells_the_run_and_its_command(sweep, visit):
    report, path = sweep
    page = visit(path)
    run = next(run for run in report.runs if run.status is Status.COMPLETED)
    place = report.runs.index(run)
    for figure in ("sensitivity", "parallel"):
        page.locator("#tip").evaluate("tip => tip.hidden = true")
        mark = page.locator(f"#{figure} .mark[data-run='{place}']").first
        # as a pointer would, whatever else lies above this mark
        mark.locator("use, .hit").first.dispatch_event("pointerover", {"clientX": 300})
        assert page.locator("#tip").is_visible()
        told = page.locator("#tip").inner_text()
        assert run.command in told
        assert page.locator(f"#run-{place}").get_attribute("data-name") in told
        assert "on" in page.locator(f"#run-{place}").get_attribute("class").split()
    line = page.locator("#curves .mark[data-row='0'] .hit").first
    line.dispatch_event("pointerover", {"clientX": 300})
    assert page.locator("#row-0").get_attribute("data-name") in page.locator("#tip").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    box = page.locator("#sensitivity .mark[data-run] use").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.locator("#tip").is_visible()
    page.mouse.down()
    page.mouse.up()
    assert page.evaluate("document.activeElement.id").startswith("run-")


def test_rows_link_their_directories(visit, tmp_path):
    names = ["seed=0,optimizer.lr=1e-3", "a#b?c%20d", "100% & 'ü' 🚀", "javascript:alert(1)"]
    runs = [make_run(tmp_path / "sweep" / name, {"seed": name}, 0.5) for name in names]
    (tmp_path / "pages").mkdir()
    report = compare(runs, "x")
    write_page(report, tmp_path / "pages" / "report.html")
    page = visit(tmp_path / "pages" / "report.html")
    links = page.locator("#runs tbody th a").evaluate_all("links => links.map((a) => a.href)")
    found = [Path(url2pathname(urlsplit(link).path)) for link in links]
    assert found == [run.directory for run in runs]
    assert all(not urlsplit(link).query and not urlsplit(link).fragment for link in links)


def test_names_of_strangers_are_text(visit, tmp_path):
    report = make_report(tmp_path, optimizers=(STRANGE, "b\x1b[31m\0"), lrs=2, seeds=1)
    report = replace(report, title=STRANGE, metric="val/loss", notes=[STRANGE])
    write_page(report, tmp_path / "report.html")
    page = visit(tmp_path / "report.html")
    assert page.locator("h1").inner_text() == STRANGE
    assert page.title() == " ".join(STRANGE.split())
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    assert STRANGE in column(page, "choices", "optimizer")
    commands = page.locator("#runs .copy").evaluate_all("all => all.map((b) => b.dataset.command)")
    assert any(STRANGE in command for command in commands)
    assert page.locator("svg.figure text").count() > 40


def test_nothing_that_is_put_in_runs(sweep, visit):
    _, path = sweep
    page = visit(path, is_silent=False)
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.hacked = 1";
            document.body.append(script);
            document.body.setAttribute("style", "display: none");
        }"""
    )
    assert page.evaluate("window.hacked") is None
    assert page.locator("h1").is_visible()


def test_a_phone_scrolls_down_only(sweep, visit):
    _, path = sweep
    page = visit(path, viewport=PHONE, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    sizes = page.evaluate(
        """() => [...document.querySelectorAll("svg.figure text")].map(
            (text) => text.getBoundingClientRect().height)"""
    )
    assert min(sizes) > 8  # pixels
    labels = page.locator("#sensitivity svg").bounding_box()
    assert labels["width"] <= 400
    page.locator("#sensitivity .mark[data-run] use").first.tap(force=True)
    assert page.locator("#tip").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def luminance(rgb: str) -> float:
    """Of a color such as `rgb(14, 17, 22)`, as WCAG defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", rgb)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


COLORS_OF_PAGE = """() => {
    const read = (name) => {
        const probe = document.body.appendChild(document.createElement("i"));
        probe.style.color = `var(--${name})`;
        const color = getComputedStyle(probe).color;
        probe.remove();
        return color;
    };
    const names = ["page", "card", "ink", "muted", "accent", "bad", "good", "warn"];
    const series = [0, 1, 2, 3, 4, 5, 6, 7].map((place) => `c${place}`);
    return Object.fromEntries([...names, ...series].map((name) => [name, read(name)]));
}"""


def test_both_themes_can_be_read(sweep, visit):
    _, path = sweep
    found = {}
    for scheme in ("light", "dark"):
        page = visit(path, color_scheme=scheme)
        found[scheme] = colors = page.evaluate(COLORS_OF_PAGE)
        for name in ("ink", "muted", "accent", "bad", "good", "warn"):
            assert contrast(colors[name], colors["card"]) >= 4.5, (scheme, name)
        for place in range(8):
            assert contrast(colors[f"c{place}"], colors["card"]) >= 2.9, (scheme, place)
        text = page.locator("#sensitivity text").first.evaluate(
            "text => getComputedStyle(text).fill"
        )
        assert text == colors["ink"]
    assert luminance(found["dark"]["page"]) < 0.05 < 0.8 < luminance(found["light"]["page"])

    page.get_by_role("button", name="light or dark").click()
    assert page.evaluate(COLORS_OF_PAGE) == found["light"]
    page.reload()
    assert page.evaluate(COLORS_OF_PAGE) == found["light"]
    page.get_by_role("button", name="light or dark").click()
    assert page.evaluate(COLORS_OF_PAGE) == found["dark"]


def test_it_reads_without_scripts(sweep, visit):
    report, path = sweep
    page = visit(path, java_script_enabled=False)
    assert page.locator("#runs tbody tr").count() == len(report.runs)
    assert page.locator("#choices tbody tr").count() == len(report.rows)
    assert page.locator("svg.figure").count() == 4
    assert page.get_by_role("img", name="Learning curves").is_visible()
    assert page.get_by_role("table", name="Runs").is_visible()


def test_a_page_reads_itself_again(visit, tmp_path):
    write_page(make_report(tmp_path, title="before"), tmp_path / "x.html", refresh=0.3)
    page = visit(tmp_path / "x.html")
    assert page.locator("h1").inner_text() == "before"
    write_page(make_report(tmp_path, title="after"), tmp_path / "x.html")
    page.get_by_role("heading", name="after", exact=True).wait_for()
    assert page.evaluate("document.body.dataset.refresh") is None
    assert [file.name for file in tmp_path.iterdir()] == ["x.html"]


def test_reports_with_little_in_them(visit, tmp_path):
    """Nothing yet; a run that has just begun; runs without a learning rate, a value or a name."""
    nothing = Report("empty", "val/loss", "min", [], [], [])
    begun = [make_run(tmp_path / "a", {}, math.nan, Status.RUNNING, validations=0)]
    alike = [make_run(tmp_path / name, {}, 0.5, validations=1) for name in "ab"]
    worst, lost = (
        [make_run(tmp_path / "a", {"seed": "1"}, value, Status.DIVERGED, validations=0)]
        for value in (9e30, math.nan)
    )
    reports = [nothing, *(compare(runs, "little") for runs in (begun, alike, worst, lost))]
    for place, report in enumerate(reports):
        write_page(report, tmp_path / f"{place}.html")
        page = visit(tmp_path / f"{place}.html")
        assert page.locator(".missing li").count() >= 1
        assert page.locator("#runs tbody tr").count() == len(report.runs)
