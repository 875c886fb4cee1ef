"""Paths on the command line: whatever the shell hands over is the path that is meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from lit_optim.cli import main
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.compat import transformers_arguments as hf
from lit_optim.config.check import to_plain
from lit_optim.config.composing import compose_config
from lit_optim.config.paths import (
    LAST_PARTS,
    PATH_KEYS,
    quote,
    quote_path_value,
)
from lit_optim.errors import UsageError
from lit_optim.runs.resume import write_fingerprint
from tests.odd_files import BOMB, KINDS, within_seconds
from tests.sampling import sample

#: Signs that mean something to Hydra, to a shell or to nobody.
NAMES = [
    "optimizer=muon,seed=0",
    "a b",
    "a  b ",
    "[x]",
    "{a: 1}",
    "a,b",
    "it's",
    'say "hi"',
    "'quoted'",
    "\"both'",
    "(1)",
    "f(x)",
    "choice(a,b)",
    "50%",
    "Größe-日本",
    "$HOME",
    "a:b",
    "2024",
    "1e5",
    "true",
    "back\\slash",
    "end\\",
    "a\\'b",
    "#x",
    "@x",
    "a=b=c",
    "-x",
]
KEYS = [*PATH_KEYS, *(f"data.{last}" for last in LAST_PARTS)]


def read(line: str) -> object:
    return OverridesParser.create().parse_override(line).value()


@pytest.mark.sampled(150)
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", NAMES)
def test_hydra_reads_what_was_typed(tmp_path, monkeypatch, key, name):
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    for path in (name, f"./{name}/x.ckpt", str(tmp_path / name)):
        for sign in ("", "+", "++"):
            assert read(quote_path_value(f"{sign}{key}={path}", multirun=False)) == path


# at most 255 bytes, as a file's name has
@given(
    st.text(st.characters(exclude_characters="\x00\n\r", codec="utf-8"), min_size=1, max_size=60)
)
@example("a\\")
@example("'")
def test_a_quoted_text_is_read_as_it_is(text):
    assert read(f"x={quote(text)}") == text
    assert quote_path_value(f"ckpt={quote('p' + text)}", False) == f"ckpt={quote('p' + text)}"


@pytest.mark.parametrize("key", KEYS)
def test_home(monkeypatch, tmp_path, key):
    monkeypatch.setenv("HOME", str(tmp_path / "a=b"))
    for typed in ("~/x", "'~/x'", '"~/x"'):
        assert read(quote_path_value(f"{key}={typed}", False)) == f"{tmp_path}/a=b/x"
    assert read(quote_path_value(f"{key}=~", False)) == f"{tmp_path}/a=b"
    assert read(quote_path_value("data.anything=~/x", False)) == f"{tmp_path}/a=b/x"
    assert quote_path_value("~ckpt", False) == "~ckpt"
    assert quote_path_value("~logger.a=b", False) == "~logger.a=b"


@pytest.mark.parametrize(
    "value", ["null", "", "auto", "runs/${optimizer.lr}", "${now:%H}/x", "a/b"]
)
def test_what_hydra_reads_anyway_is_left_alone(value):
    assert quote_path_value(f"ckpt={value}", False) == f"ckpt={value}"


def test_what_is_escaped_for_hydra_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert quote_path_value(r"ckpt=a\=b", False) == r"ckpt=a\=b"
    Path(r"a\=b").touch()
    assert read(quote_path_value(r"ckpt=a\=b", False)) == r"a\=b"


def test_a_sweep_over_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a=1,b=2", "a=3,b=4", "plain"):
        Path(name).touch()

    def swept(line):
        override = OverridesParser.create().parse_override(quote_path_value(line, multirun=True))
        return [*map(read, (f"x={v}" for v in override.sweep_string_iterator()))]

    assert swept("ckpt=a=1,b=2,a=3,b=4") == ["a=1,b=2", "a=3,b=4"]
    assert swept("ckpt=plain,a=3,b=4") == ["plain", "a=3,b=4"]
    assert swept("ckpt=x,y") == ["x", "y"]
    assert swept("ckpt=choice(x,y)") == ["x", "y"]
    assert read(quote_path_value("resume.from=a=1,b=2", multirun=True)) == "a=1,b=2"


@pytest.mark.parametrize("name", sample(NAMES, 3))
def test_a_run_goes_on_in_a_directory_of_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    run_dir = tmp_path / name
    (run_dir / "checkpoints").mkdir(parents=True)
    write_fingerprint(run_dir, to_plain(compose_config([])))
    (run_dir / "checkpoints" / "last.ckpt").write_bytes(b"x")
    for typed in (run_dir, run_dir / "checkpoints" / "last.ckpt", f"./{name}"):
        cfg = compose_config(prepare_command_line([f"resume={typed}"]).argv)
        assert Path(cfg.hydra.run.dir).resolve() == run_dir
        assert Path(cfg.resume["from"]).resolve() == run_dir
    cfg = compose_config(
        prepare_command_line(["train=false", f"ckpt={run_dir / 'checkpoints' / 'last.ckpt'}"]).argv
    )
    assert cfg.ckpt == str(run_dir / "checkpoints" / "last.ckpt")
    assert (
        compose_config(prepare_command_line([f"hydra.run.dir={name}-new"]).argv).hydra.run.dir
        == f"{name}-new"
    )
    (tmp_path / f"{name}.json").write_text('{"learning_rate": 0.25}')
    assert compose_config(prepare_command_line([f"hf={name}.json"]).argv).optimizer.lr == 0.25


def test_plots_go_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    main(["plot", "scheduler=linear", "--to", "~/x.csv"])
    assert (tmp_path / "x.csv").is_file()
    assert not (tmp_path / "~").exists()


def test_what_cannot_be_read_is_told_in_plain_words():
    with pytest.raises(UsageError, match="where the value has characters such as"):
        prepare_command_line(["model.name=a=b,[c"])


@pytest.mark.parametrize("ending", ["yaml", "json", "txt"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_arguments_is_read_with_bounds(tmp_path, kind, ending):
    path = tmp_path / f"args.{ending}"
    KINDS[kind](path)
    assert isinstance(within_seconds(lambda: hf.read(str(path))), UsageError)


@pytest.mark.parametrize("ending", ["yaml", "json"])
@pytest.mark.parametrize(
    "text",
    [BOMB, "[" * 100_000, '{"a":' * 500 + "1" + "}" * 500, "1" * 5000, "a: " + "1" * 5000,
     '{"a": ' + "1" * 5000 + "}", "\x00", "a: !!python/name:os.system"],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_arguments_that_are_none(tmp_path, ending, text):
    path = tmp_path / f"args.{ending}"
    path.write_text(text)
    error = within_seconds(lambda: hf.read(str(path)))
    assert isinstance(error, UsageError)
    assert len(str(error).splitlines()) == 1
