"""Files of strangers: whatever they hold, the answer is one line, at once."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_optim.errors import LONGEST, UsageError, first_line, printable
from lit_optim.runs.resume import _describe_changes
from lit_optim.untrusted import (
    MAX_DEPTH,
    Unreadable,
    read_json,
    read_json_mapping,
    read_text,
    read_yaml_text,
)
from tests.odd_files import BOMB, KINDS, within_seconds

READERS = [read_text, read_json, read_json_mapping, read_yaml_text]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_file_hangs_or_raises_anything_else(tmp_path, read, kind):
    path = tmp_path / "file"
    KINDS[kind](path)
    error = within_seconds(lambda: read(path))
    assert isinstance(error, Unreadable)
    assert str(path) in str(error)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), "1" * 5000, "{", ""],
)
def test_json_that_is_broken_or_too_deep_is_one_line(tmp_path, text):
    path = tmp_path / "job.json"
    path.write_text(text)
    with pytest.raises(Unreadable, match=r"valid JSON|too deeply"):
        read_json(path)


@pytest.mark.parametrize("value", [[], None, 1, 1.5, "x", True])
def test_a_mapping_is_a_mapping(tmp_path, value):
    path = tmp_path / "job.json"
    path.write_text(json.dumps(value))
    with pytest.raises(Unreadable, match="must hold a JSON object"):
        read_json_mapping(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, "aliases"),
        ("a: !!python/object/apply:os.system [ls]", "tags"),
        ("a: !x 1", "tags"),
        ("[" * 10_000, "too deeply"),
        ("a: [", "valid YAML"),
        ("a: \x00", "valid YAML"),
    ],
)
def test_yaml_that_expands_or_runs_something_is_refused(tmp_path, text, why):
    path = tmp_path / "args.yaml"
    path.write_text(text)
    error = within_seconds(lambda: read_yaml_text(path))
    assert isinstance(error, UsageError)
    assert why in str(error)


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=20))
def test_what_json_can_hold_is_read_as_json_reads_it(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_text(json.dumps(value))
    assert read_json(path) == value


@given(st.text())
def test_a_message_is_one_line_that_no_terminal_obeys(text):
    line = first_line(UsageError(text))
    assert line.isprintable()
    assert 0 < len(line) <= LONGEST


def test_a_long_message_keeps_both_ends():
    line = printable("begin " + "x" * 1000 + " end")
    assert len(line) == LONGEST
    assert line.startswith("begin xxx")
    assert line.endswith("xxx end")


@given(st.text(max_size=400), st.text(max_size=400))
def test_a_value_never_cuts_the_message_that_it_stands_in(before, after):
    told = first_line(UsageError(f"key was {before}, now {after}; say which"))
    assert told.startswith("key was ")
    assert told.endswith("; say which")
    assert told.isprintable()
    changes = _describe_changes({"k": before}, {"k": after}, ["k"])
    assert changes.isprintable()
    assert len(changes) < 150
