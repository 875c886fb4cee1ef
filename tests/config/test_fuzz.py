"""Any command line: it is refused in one line, or it is what the run gets."""

from __future__ import annotations

import contextlib

from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lit_optim.config.command_line import front
from lit_optim.config.composing import composed
from lit_optim.config.places import groups
from lit_optim.errors import UsageError

DEFAULT = composed([])
VISIBLE = OmegaConf.masked_copy(DEFAULT, [str(key) for key in DEFAULT if key != "hydra"])
TOP = [str(key) for key in VISIBLE]
DEEP = [
    f"{group}.{key}"
    for group in ("optimizer", "scheduler", "trainer", "data", "resume", "wrapper", "callbacks")
    for key in DEFAULT[group]
]
CHOICES = {group: list(found) for group, found in groups().items()}
VALUES = [
    *("0", "1", "-1", "2.5", "1e-3", "1e400", "nan", "-inf", "true", "null", "''", "abc", "[]"),
    *("[0.9,0.99]", "[1,[2]]", "{}", "{a: 1}", "5%", "500", "3 epochs", "???", "${seed}", "${x}"),
    *("${", "'", '"', "\\", "a,b", "a=b", "os.system", "val/loss", "../x", "é", "1_000", "0x10"),
    *("range(0,3)", "choice(1)", "glob(*)", "interval(0,1)", "sort(2,1)", "f(x)", "best", "auto"),
]
SIGNS = ("", "", "", "", "+", "++", "~")

words = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\x00"), max_size=8)
values = st.sampled_from(VALUES) | words | st.floats().map(repr) | st.integers().map(str)
keys = st.sampled_from([*TOP, *DEEP]) | st.builds("{}.{}".format, st.sampled_from(TOP), words)
choices = st.sampled_from([f"{g}={name}" for g, names in CHOICES.items() for name in names])
lines = st.one_of(
    choices,
    st.builds("{}{}={}".format, st.sampled_from(SIGNS), keys, values),
    st.builds("~{}".format, keys),
    words,
)


def refusal(argv: list[str]) -> str | None:
    try:
        front(argv)
    except UsageError as error:
        return str(error)
    return None


@settings(max_examples=100, deadline=None, print_blob=True)
@given(st.lists(lines, min_size=1, max_size=3))
def test_never_a_traceback(argv):
    with contextlib.suppress(SystemExit):  # -h and --version have answered
        assert "\n" not in (refusal(argv) or "")


@settings(max_examples=100, deadline=None, print_blob=True)
@given(st.sampled_from([*TOP, *DEEP]), st.sampled_from(VALUES))
def test_what_is_taken_is_what_the_run_gets(key, value):
    try:
        argv = front([f"{key}={value}"]).argv
    except UsageError:
        return
    cfg = composed(argv)
    if key in CHOICES:
        assert cfg.hydra.runtime.choices[key] == value
        return
    key = "resume.from" if key == "resume" else key  # short for it
    [override] = OverridesParser.create().parse_overrides([argv[0]])
    got = OmegaConf.to_container(OmegaConf.create({"x": OmegaConf.select(cfg, key)}))["x"]
    if "${" in value:
        assert got == cfg.seed
    elif isinstance(got, dict):  # mappings are merged
        assert got.items() >= override.value().items()
    else:
        assert repr(got) == repr(override.value())  # nan is not equal to itself
