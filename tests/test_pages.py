"""The pages on optimizers and schedules are what `scripts/pages.py` writes."""

from __future__ import annotations

import importlib
import inspect
import re
import sys

import pytest
import torch

from lit_optim.config.places import listed_choices, text_of
from lit_optim.errors import UsageError
from lit_optim.optimizers import find_optimizer
from lit_optim.optimizers.base.options import OPTIONS
from lit_optim.reports.listing import Entry, entries
from tests.conftest import ROOT

DOCS = ROOT / "docs"
PICTURE = re.compile(r"!\[[^]]+\]\(\.\./(images/[^)]+)\)")


@pytest.fixture(scope="module")
def pages():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        yield importlib.import_module("pages")
    finally:
        sys.path.remove(str(ROOT / "scripts"))
        sys.modules.pop("pages", None)


@pytest.fixture(scope="module")
def texts(pages):
    return pages.write_pages()


def test_pages_are_up_to_date(texts):
    kinds = {key.partition("/")[0] for key in texts}
    written = {p.relative_to(DOCS).as_posix() for kind in kinds for p in DOCS.glob(f"{kind}/*.md")}
    assert written == set(texts), "run python scripts/pages.py"
    stale = [name for name, text in texts.items() if (DOCS / name).read_text("utf-8") != text]
    assert stale == [], "run python scripts/pages.py"


def test_the_script_says_what_is_stale(texts, pages, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pages, "write_pages", lambda: texts)
    for docs, code in ((DOCS, 0), (tmp_path, 1)):
        monkeypatch.setattr(sys, "argv", ["pages.py", str(docs), "--check"])
        with pytest.raises(SystemExit) as end:
            pages.main()
        assert end.value.code == code
        told = capsys.readouterr().out.splitlines()
        assert len(told) == code * (len(texts) + len(pages.pictures()))
        assert not told or told[0].endswith(
            "is out of date or missing; run python scripts/pages.py"
        )


def test_every_choice_has_a_page(texts):
    for name in set(listed_choices("optimizer")) - {"custom"}:
        assert f"# {name}\n" in texts[f"optimizers/{name}.md"]
        assert f"]({name}.md)" in texts["optimizers/index.md"]
    schedules = "".join(text for page, text in texts.items() if page.startswith("schedules/"))
    for name in listed_choices("scheduler"):
        assert schedules.count(f"\n## {name}\n") == 1
        assert f"#{name.lower()})" in texts["schedules/index.md"]


def test_pictures_are_there_and_each_is_shown(texts, pages):
    shown = {file for text in texts.values() for file in PICTURE.findall(text)}
    drawn = set(pages.pictures())
    assert shown - drawn == set()
    assert drawn - shown <= {"images/race.png"}  # the README's
    for file in drawn:
        assert (DOCS / file).stat().st_size > 1000, "run python scripts/pages.py"
    there = {path.relative_to(DOCS).as_posix() for path in (DOCS / "images").glob("*/*")}
    assert there == {file for file in drawn if file.count("/") == 2}
    assert sum((DOCS / file).stat().st_size for file in drawn) < 6 << 20


def test_notes_are_about_choices_that_exist(pages):
    """And a history has three sentences: what it fixed, its strength, its weakness."""
    notes = pages.read_notes("optimizers")
    assert set(notes) <= set(listed_choices("optimizer"))
    for name, own in notes.items():
        assert set(own) <= {"history", "when", "cost", "overrides"}, name
        sentences = re.split(r"\.\s+(?=[A-Z0-9])", own["history"].replace("et al.", "et al"))
        assert len(sentences) == 3, name
    families = pages.read_notes("schedules")
    members = [name for family in families.values() for name in family["schedules"]]
    assert len(members) == len(set(members))
    assert set(members) <= set(listed_choices("scheduler"))


def test_an_optimizer_without_notes_has_a_page(pages):
    [entry] = [entry for entry in entries("optimizer") if entry.name == "adam"]
    text = pages.optimizer_page(entry, {})
    assert "## Update rule" in text
    assert "## History" not in text
    assert "lit-optim train optimizer=adam\n" in text


def test_a_schedule_without_a_family_has_a_page(pages, monkeypatch):
    monkeypatch.setattr(pages, "read_notes", lambda group: {})
    assert set(pages.read_families()[pages.FURTHER][2]) == set(listed_choices("scheduler"))


TAKES = re.compile(r"^It also takes the options of every optimizer.*$", re.MULTILINE)
WITH_OPTIONS = [
    entry.name for entry in entries("optimizer") if "options/elementwise" in text_of(entry.path)
]


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_an_optimizer_takes_the_options_of_its_page_and_no_other(name, option, pages):
    """A step of a matrix; `decoupled_weight_decay` may be what an option needs."""
    kind, value = find_optimizer(name), pages.ANOTHER_VALUE[option]
    assert value != OPTIONS[option]
    dtype = torch.bfloat16 if option == "master" else torch.float32
    weight = torch.nn.Parameter(torch.ones(4, 4, dtype=dtype))
    known = inspect.signature(kind).parameters
    needed = {"weight_decay": 0.0, "decoupled_weight_decay": True}
    given = {key: needed[key] for key in needed if key in known} | {option: value}
    [said] = TAKES.findall((DOCS / "optimizers" / f"{name}.md").read_text("utf-8"))
    if f"`{option}`" in said:
        with pytest.raises(UsageError, match=rf"^{option}="):
            kind([{"params": [weight], "role": "hidden"}], **given)
        return
    optimizer = kind([{"params": [weight], "role": "hidden"}], **given)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert optimizer.param_groups[0][option] == value


@pytest.mark.parametrize(
    ("name", "size"),
    [("sgd", 0), ("lion", 4), ("adamw", 8), ("adan", 16), ("muon", 4), ("soap", 24)],
)
def test_measured_state(pages, name, size):
    """Bytes for each parameter, as the papers count them."""
    assert sum(pages.measure_state(name).values()) == size


def test_markup(pages, tmp_path):
    explained = "p * q < r.\n\nA & B 2020, T, arXiv:2001.00001.\n\n    x = 1\n      y = 2\n\nMore."
    entry = Entry("mine", "does it", "", tmp_path / "optimizer/mine.yaml", explained)
    assert pages.lead(entry) == "does it."
    assert list(pages.explain(entry)) == [
        r"p \* q \< r.",
        "```text\nx = 1\n  y = 2\n```",
        "More.",
        "Source: A & B 2020, T, [arXiv:2001.00001](https://arxiv.org/abs/2001.00001).",
    ]


def test_a_docstring_that_begins_with_the_headline_is_not_repeated(pages, tmp_path):
    entry = Entry(
        "mine", "Does it", "", tmp_path / "optimizer/mine.yaml", "Does it, fast.\n\n    x"
    )
    assert pages.lead(entry) == "Does it, fast."
    assert list(pages.explain(entry)) == ["```text\nx\n```"]


def test_a_page_without_notes_has_no_empty_section_and_no_trailing_blanks(pages):
    for entry in entries("optimizer"):
        if entry.name in ("adamw", "muon", "lbfgs"):
            page = pages.optimizer_page(entry, {})
            assert ("## When to use it" in page) == (entry.name != "adamw")
            assert not re.search(r"^## .*\n+## ", page, re.M)
    page = pages.family_page("Further schedules", "", {"cosine": "", "none": ""})
    assert [line for line in page.splitlines() if line != line.rstrip()] == []


def test_pages_of_schedules_say_nothing_twice(pages):
    """The docstring of a schedule replaces its headline, and is not repeated below."""
    for name, page in pages.write_pages().items():
        if not name.startswith("schedules/"):
            continue
        for section in page.split("\n## ")[1:]:
            text = re.sub(r"```.*?```|^\|.*$|^!.*$", "", section, flags=re.M | re.S)
            sentences = [s.strip() for s in re.split(r"(?<=\.)\s+", text) if len(s.split()) > 3]
            assert len(sentences) == len(set(sentences)), name
