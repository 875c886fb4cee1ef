"""Any command line: it is refused in one line, or it is what the run gets."""

from __future__ import annotations

import contextlib

from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.composing import compose_config
from lit_optim.config.places import groups
from lit_optim.errors import LONGEST, UsageError, first_line

DEFAULT = compose_config([])
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
#: More than a number, a name or a terminal is made for.
LARGE = [
    *("1" * digits for digits in (20, 309, 400, 4000, 5000)),
    *("18446744073709551616", "9223372036854775808", "-" + "9" * 400, "1e300", "1e308", "-1e300"),
    *("1" * 400 + ".5", "1" * 500 + "%", "1" * 5000 + " epochs", "1e5000", "x" * 70_000),
    *(
        "\x1b[31m",
        "a\x07",
        "\x9b",
        "a\nb",
        "\u202e",
        "'" + "y" * 5000 + "'",
        "power(" + "9" * 400 + ")",
    ),
    *("[" * 2000, "[" * 200 + "]" * 200, "{a: " * 100 + "1" + "}" * 100, "{a: " + "1" * 400 + "}"),
    *(
        "[" + ",".join(["1" * 400] * 3) + "]",
        "range(0," + "9" * 400 + ")",
        "choice(" + "1" * 5000 + ")",
    ),
    *(
        "range(0,nan)",
        "range(0,1,1e-300)",
        "range(0,1e308)",
        "9**9**9**9",
        "{weeks: 1e300}",
        "[{shape: linear, to: " + "1" * 400 + "}]",
        "a," * 5000,
    ),
]
MORE = (
    *("schedules.weight_decay", "scheduler.expr", "scheduler.phases", "scheduler.milestones"),
    *(
        "hf",
        "hf.learning_rate",
        "hf.warmup_steps",
        "hf.optim",
        "hf.lr_scheduler_kwargs",
        "branch_from",
    ),
    *(
        "hydra.run.dir",
        "hydra.sweep.dir",
        "hydra.launcher.n_jobs",
        "hydra.verbose",
        "hydra/launcher",
    ),
    *("trainer.max_time", "trainer.num_nodes", "param_groups.rules", "optimizer.lr.x", "logger.c"),
)
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
        prepare_command_line(argv)
    except UsageError as error:
        return str(error)
    return None


@settings(max_examples=100, deadline=None, print_blob=True)
@given(st.lists(lines, min_size=1, max_size=3))
def test_never_a_traceback(argv):
    with contextlib.suppress(SystemExit):  # -h and --version have answered
        assert "\n" not in (refusal(argv) or "")


@settings(
    max_examples=150,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(SIGNS),
    st.sampled_from([*TOP, *DEEP, *MORE, *CHOICES]),
    st.sampled_from(["", *(f".{value}" for value in LARGE[:5])]),
    st.sampled_from(LARGE),
    st.sampled_from([[], [], ["-m"], ["scheduler=lambda"], ["scheduler=phases"]]),
)
def test_what_is_too_much_is_one_short_line(capsys, sign, key, more, value, beside):
    told = ""
    try:
        told = prepare_command_line([f"{sign}{key}{more}={value}", *beside]).text or ""
    except UsageError as error:
        told = first_line(error)
        assert len(told) <= LONGEST
    for line in (*told.splitlines(), *capsys.readouterr().err.splitlines()):
        assert line.isprintable()
        assert len(line) <= LONGEST


@settings(max_examples=40, deadline=None, print_blob=True)
@given(st.sampled_from([*TOP, *DEEP]), st.sampled_from(VALUES))
def test_what_is_taken_is_what_the_run_gets(key, value):
    try:
        argv = prepare_command_line([f"{key}={value}"]).argv
    except UsageError:
        return
    cfg = compose_config(argv)
    if key in CHOICES:
        assert cfg.hydra.runtime.choices[key] == value
        return
    key = "resume.from" if key == "resume" else key  # short for it
    if (key, value) == ("resume.from", "auto"):
        assert not argv  # nothing is there to resume
        return
    [override] = OverridesParser.create().parse_overrides([argv[0]])
    got = OmegaConf.to_container(OmegaConf.create({"x": OmegaConf.select(cfg, key)}))["x"]
    if "${" in value:
        assert got == cfg.seed
    elif isinstance(got, dict):  # mappings are merged
        assert got.items() >= override.value().items()
    else:
        assert repr(got) == repr(override.value())  # nan is not equal to itself
