"""What a line of overrides makes: studies, spaces, and the runs of a trial."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.check import check_config
from lit_optim.config.composing import compose_config
from lit_optim.config.places import use_conf_dir
from lit_optim.config.reading import parse_overrides
from lit_optim.errors import UsageError
from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.sgd import SGD
from lit_optim.runs.layout import SEARCH
from lit_optim.search.data import Choice, Settings, Span, Study, Trial
from lit_optim.search.record import name_search, read_search, write_search
from lit_optim.search.space import read_listed, read_typed, value_text
from lit_optim.search.storage_urls import check_storage, has_password, hide_password
from lit_optim.search.studies import job_lines, plan_search

LR = "optimizer.lr"


def plan(*lines):
    return plan_search([*lines, "search.trials=2"])


def auto(optimizer):
    low, high = optimizer.lr_range
    return Span(low, high, is_log=True)


def test_commas_make_studies_and_auto_is_the_range_of_each():
    search = plan("optimizer=adamw,sgd", "model=linear,mlp", "seed=3", f"{LR}=auto")
    assert [study.name for study in search.studies] == [
        f"optimizer={optimizer},model={model}"
        for optimizer in ("adamw", "sgd")
        for model in ("linear", "mlp")
    ]
    assert [dict(study.space) for study in search.studies] == [
        {LR: auto(kind)} for kind in (AdamW, AdamW, SGD, SGD)
    ]
    assert dict(search.studies[1].label) == {"optimizer": "adamw", "model": "mlp"}
    assert search.studies[1].fixed == ("optimizer=adamw", "model=mlp", "++seed=3")
    assert (search.settings.seeds, search.settings.seed) == ((3,), 3)


def test_one_study_has_no_directory_of_its_own():
    [study] = plan(f"{LR}=auto", "trainer.devices=auto").studies
    assert (study.name, dict(study.label)) == ("", {})
    assert study.fixed == ("++trainer.devices=auto",)  # a value, not a range


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("x=interval(1,8)", Span(1.0, 8.0)),
        ("x=int(interval(1,8))", Span(1, 8, is_whole=True)),
        ("x=tag(log,interval(1e-4,1e-1))", Span(1e-4, 1e-1, is_log=True)),
        ("x=tag(log,int(interval(1,8)))", Span(1, 8, is_log=True, is_whole=True)),
        ("x=choice(0,0.01)", Choice((0, 0.01), ("0", "0.01"))),
        ("x=choice(true,a,'b c','1')", None),
        ("x=choice([0.9,0.99],[0.9,0.9])", None),
    ],
)
def test_what_is_typed(typed, found):
    (override,) = parse_overrides([typed])
    read = read_typed(override)
    if found is not None:
        assert read == found
        assert [type(x) for x in asdict(read).values()] == [type(x) for x in asdict(found).values()]
    if isinstance(read, Choice):  # each text is the value when it is typed
        for value, text in zip(read.values, read.texts, strict=True):
            (again,) = parse_overrides([f"x={text}"])
            assert again.value() == value or text == value


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("tag(log, interval(1e-4, 1e-1))", "x=tag(log,interval(1e-4,1e-1))"),
        ({"interval": [1e-4, 0.1], "log": True}, "x=tag(log,interval(1e-4,1e-1))"),
        ({"interval": [1, 8], "int": True}, "x=int(interval(1,8))"),
        ({"interval": [0, 1]}, "x=interval(0,1)"),
        ({"choice": [1, 2.5, False, "a"]}, "x=choice(1,2.5,false,a)"),
        ({"choice": [[0.9, 0.99], [0.9, 0.9]]}, "x=choice([0.9,0.99],[0.9,0.9])"),
    ],
)
def test_a_file_says_what_could_be_typed(said, typed):
    (override,) = parse_overrides([typed])
    read = read_listed("search.space.x", "x", said)
    assert replace(read, **plain(read)) == replace(read_typed(override), **plain(read))


def plain(read):
    return {"texts": ()} if isinstance(read, Choice) else {}  # False, or false


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.text(max_size=12),
                 st.floats(allow_nan=False, allow_infinity=False)))  # fmt: skip
def test_a_value_is_the_same_when_it_is_typed(value):
    """By Hydra's own parser."""
    if isinstance(value, str) and ("\\" in value or "${" in value or not value.isprintable()):
        return
    (override,) = parse_overrides([f"x.y={value_text('x.y', value)}"])
    read = override.value()
    assert read == value
    assert type(read) is type(value)


def test_the_runs_of_a_trial_compose_to_its_values():
    betas = Choice(("[0.9,0.99]", "[0.9,0.9]"), ("[0.9,0.99]", "[0.9,0.9]"))
    space = {LR: Span(1e-4, 1, is_log=True), "optimizer.betas": betas,
             "scheduler": Choice(("linear", "wsd"), ("linear", "wsd"))}  # fmt: skip
    study = Study("", ("optimizer=adamw", "++seed=7"), space)
    values = {LR: 1.25e-05, "optimizer.betas": "[0.9,0.9]", "scheduler": "wsd"}
    cfg = compose_config(job_lines(Trial(study, 0, values), seed=4))
    assert cfg.optimizer.lr == 1.25e-05
    assert OmegaConf.to_container(cfg.optimizer.betas) == [0.9, 0.9]
    assert (cfg.hydra.runtime.choices.scheduler, cfg.seed) == ("wsd", 4)
    assert not {"search", "tournament"} & set(cfg)  # no run has them
    check_config(cfg)


MINE = """\
defaults: [default]
trials: 4
sampler: random
space:
  optimizer.lr: auto
  scheduler.warmup: {choice: [0, 5]}
  by_optimizer:
    sgd: {momentum: {interval: [0, 0.99]}}
    adamw: {betas.1: {choice: [0.95, 0.99, 0.999]}}
"""


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "mine" / "search"
    folder.mkdir(parents=True)
    (folder / "adam_like.yaml").write_text(MINE)
    yield folder.parent
    use_conf_dir(None)


def test_a_space_in_a_file_and_what_is_typed_wins(own):
    line = ["-m", f"--config-dir={own}", "optimizer=adamw,sgd,lion", "search=adam_like",
            "search.sampler=qmc", "scheduler.warmup=3", f"{LR}=interval(0.1,0.2)"]  # fmt: skip
    prepare_command_line(line)
    search = plan_search(line[2:])
    assert (search.settings.trials, search.settings.sampler) == (4, "qmc")
    betas = Choice((0.95, 0.99, 0.999), ("0.95", "0.99", "0.999"))
    assert [dict(study.space) for study in search.studies] == [
        {LR: Span(0.1, 0.2), "optimizer.betas.1": betas},
        {LR: Span(0.1, 0.2), "optimizer.momentum": Span(0.0, 0.99)},
        {LR: Span(0.1, 0.2)},
    ]  # fmt: skip
    longer = plan_search([*line[2:3], "search=adam_like", "search.trials=9"])
    assert longer.settings.trials == 9
    assert list(longer.studies[0].space) == [LR, "scheduler.warmup", "optimizer.betas.1"]


def test_studies_that_are_judged_differently_need_a_metric():
    line = ("model=cnn,gpt", f"{LR}=auto")
    with pytest.raises(UsageError, match=r"by val/acc \(max\) and val/loss \(min\); choose one"):
        plan(*line)
    assert plan(*line, "search.metric=val/loss").settings.mode == "min"


def test_the_metric_is_that_which_the_run_monitors():
    judged = plan(f"{LR}=auto", "data=digits").settings
    assert (judged.metric, judged.mode) == ("val/acc", "max")
    judged = plan(f"{LR}=auto", "search.metric=val/loss").settings
    assert (judged.metric, judged.mode) == ("val/loss", "min")
    judged = plan(f"{LR}=auto", "search.metric=val/odd", "mode=max").settings
    assert (judged.metric, judged.mode) == ("val/odd", "max")


def test_search_json_is_read_as_it_was_written(tmp_path):
    search = name_search(plan("optimizer=adamw,sgd", f"{LR}=auto", "n_jobs=2"), tmp_path)
    write_search(search, tmp_path)
    assert read_search(tmp_path) == search
    assert read_search(tmp_path, ["search.trials=5"]).settings.trials == 5
    assert name_search(plan(f"{LR}=auto"), tmp_path).name == search.name


@pytest.mark.parametrize(
    "line",
    [
        "search.storage=sqlite:////etc/study.db",
        "search.storage=postgresql://elsewhere/db",
        "search.space.hydra.run.dir={choice:[a,b]}",
        "search.space={hydra.run.dir:{choice:[a,b]}}",
        "search.space={allow:{choice:[[os],[sys]]}}",
        "search.space.allow='choice([os],[sys])'",
        "search.space.model._target_={choice:['${oc.env:HOME}',os.abort]}",
        "search.space.logger.tensorboard.save_dir={choice:[/tmp/a,/tmp/b]}",
        "search.space.callbacks.checkpoint.dirpath='choice(/tmp/a,/tmp/b)'",
        "search.space.trainer.default_root_dir={choice:[/tmp/a,/tmp/b]}",
        "search.space.optimizer={choice:[mine,yours]}",
        "search.space.n_jobs={interval:[1,1000000],int:true}",
        "search.space.by_optimizer.adamw={eps:'${oc.env:HOME}'}",
        "optimizer.lr='${oc.env:HOME}'",
        "hydra.run.dir=choice(a,b)",
    ],
)
def test_search_json_may_be_a_strangers(tmp_path, line):
    text = json.dumps({"line": [f"{LR}=auto", "search.trials=2", line], "name": "../../etc"})
    (tmp_path / SEARCH).write_text(text)
    with pytest.raises(UsageError, match=r"search\.json"):
        read_search(tmp_path)
    assert name_search(plan(f"{LR}=auto"), tmp_path).name.isalnum()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"line": 3}', '{"line": [3]}', "{}"])
def test_a_damaged_search_json_is_one_line(tmp_path, text):
    (tmp_path / SEARCH).write_text(text)
    with pytest.raises(UsageError, match=r"search\.json"):
        read_search(tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        *("postgresql://u:pw@h/db", "mysql+pymysql://u:p@w@h:3306/db", "postgresql://u:p/w@h/db"),
        *("postgresql://u:p?w@h/db", "postgresql://u:p#w@h/db", "postgresql://u:1/w@h/db"),
        *("postgresql://h/db?password=pw", "postgresql://h/db?user=u&sslpassword=pw"),
        "postgresql://u:p${oc.env:HOME}w@h/db",
    ],
)
def test_a_password_is_found_and_hidden(url):
    assert has_password(url)
    assert "w" not in hide_password(url)
    with pytest.raises(UsageError, match="leave the password out"):
        check_storage(url, url)


@pytest.mark.parametrize(
    "url",
    [
        *("postgresql://u@h:5432/db?sslmode=require", "grpc://h:13000", "journal:/a:b@c/study.log"),
        *("sqlite:////a:b@c/study.db", "postgresql://h/db?passfile=/home/u/.pgpass"),
        "postgresql://u:${oc.env:PASSWORD}@h/db",
    ],
)
def test_what_is_no_password_stays(url):
    assert hide_password(url) == url


@pytest.mark.parametrize("slashes", ["", "//"])
def test_a_journal_with_and_without_slashes(tmp_path, slashes):
    url = f"journal:{slashes}{tmp_path}/study.log"
    check_storage(url, url)


def test_a_password_that_is_looked_up_is_in_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "secret")
    line = "search.storage='postgresql://u:${oc.env:DB_PASSWORD}@h/db'"
    search = plan(f"{LR}=auto", line)
    assert "secret" in search.settings.storage
    write_search(search, tmp_path)
    assert "secret" not in (tmp_path / SEARCH).read_text()


def test_a_grid_is_not_chosen_where_it_does_not_fit():
    two, many = Choice((1, 2)), Choice(tuple(range(20)))
    chosen = Settings(trials=4)
    assert [chosen.sampler_of({"x": one}) for one in (two, many)] == ["grid", "tpe"]
    line = ["-m", "optimizer.weight_decay=choice(0,0.1,0.2,0.3)"]
    prepare_command_line([*line, "search.trials=2"])
    with pytest.raises(UsageError, match="needs 4 trials or more"):
        prepare_command_line([*line, "search.trials=2", "search.sampler=grid"])


def test_seeds_that_are_typed_are_kept():
    assert plan(f"{LR}=auto", "seed=3", "search.seeds=[0]").settings.seeds == (0,)
    assert plan(f"{LR}=auto", "seed=3", "search.seeds=[4,5]").settings.seeds == (4, 5)
