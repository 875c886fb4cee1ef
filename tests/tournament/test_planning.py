"""Who meets whom, and how each contestant is treated."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lit_optim.config.composing import compose_config
from lit_optim.errors import UsageError
from lit_optim.results.tournament_record import (
    Entry,
    Task,
    Tournament,
    TournamentSettings,
    read_tournament,
    write_tournament,
)
from lit_optim.search.data import Search, Settings, Span, Study
from lit_optim.tournament.lines import compose_parts, plan_tournament
from lit_optim.tournament.planning import arrange, split_label
from lit_optim.untrusted import Unreadable

LR = "optimizer.lr"


def planned(line, **kwargs):
    return plan_tournament(["tournament=default", *line.split()], **kwargs)


def entry(tournament, contestant, task=0):
    (found,) = [e for e in tournament.tasks[task].entries if e.contestant == contestant]
    return found


def study(search, name):
    (found,) = [study for study in search.studies if study.name == name]
    return found


def test_all_search_in_their_own_range_with_equal_trials_and_all_meet_on_each_task():
    search, tournament = planned("optimizer=adamw,sgd data=digits,mnist1d trainer.max_steps=30")
    assert search.settings.trials == tournament.settings.trials == 6
    assert [task.label for task in tournament.tasks] == [{"data": "digits"}, {"data": "mnist1d"}]
    for task in tournament.tasks:
        assert [e.contestant for e in task.entries] == ["adamw", "sgd"]
        assert {e.updates for e in task.entries} == {30}
        for e in task.entries:
            (span,) = study(search, e.study).space.values()
            assert span == Span(*{"adamw": (1e-4, 1e-1), "sgd": (1e-3, 1.0)}[e.contestant], True)
    assert len(search.studies) == 4
    assert search.line[0] == "tournament=default"


def test_a_tournament_may_have_other_trials_and_another_space():
    search, _ = planned(
        "optimizer=adamw,sgd search.trials=9 optimizer.weight_decay=choice(0,0.1) optimizer.lr=0.1"
    )
    assert search.settings.trials == 9
    assert {tuple(one.space) for one in search.studies} == {("optimizer.weight_decay",)}


def test_the_untuned_runs_have_the_lr_of_the_optimizer_not_of_the_preset():
    _, tournament = planned("optimizer=adamw,lion,adafactor_hf data=mnist1d")
    expected = {"adamw": 1e-3, "lion": 1e-4}
    for name, lr in expected.items():
        cfg = compose_config([*entry(tournament, name).untuned])
        assert cfg.optimizer.lr == lr
    cfg = compose_config([*entry(tournament, "adafactor_hf").untuned])
    assert (cfg.optimizer.lr, cfg.optimizer.relative_step) == (None, True)


def test_those_that_average_keep_a_steady_lr_and_it_is_noted():
    search, tournament = planned("optimizer=adamw,schedule_free_adamw scheduler.min_lr_ratio=0.1")
    cfg = compose_config([*study(search, "optimizer=schedule_free_adamw").fixed])
    assert cfg.hydra.runtime.choices.scheduler == "constant_warmup"
    assert entry(tournament, "schedule_free_adamw").notes == (
        "scheduler=constant_warmup: averages instead of decaying the lr",
    )
    assert entry(tournament, "adamw").notes == ()
    assert "++scheduler.min_lr_ratio=0.1" in study(search, "optimizer=adamw").fixed


def test_a_typed_schedule_wins_over_that_of_a_steady_lr():
    search, tournament = planned("optimizer=adamw,schedule_free_sgd scheduler=linear")
    assert "scheduler=linear" in study(search, "optimizer=schedule_free_sgd").fixed
    (note,) = entry(tournament, "schedule_free_sgd").notes
    assert "one was typed" in note


def test_one_that_takes_no_lr_by_itself_is_made_to():
    search, tournament = planned("optimizer=adamw,adafactor_hf")
    fixed = study(search, "optimizer=adafactor_hf").fixed
    assert "++optimizer.relative_step=false" in fixed
    assert "takes no lr" in entry(tournament, "adafactor_hf").notes[0]


def test_those_that_cannot_take_part_are_named_with_the_reason():
    search, tournament = planned("optimizer=adamw,lbfgs,sparse_adam,muon_torch,prodigy")
    assert [one.label["optimizer"] for one in search.studies] == ["adamw", "prodigy"]
    assert set(tournament.left_out) == {"lbfgs", "sparse_adam", "muon_torch"}
    assert "no equal steps" in tournament.left_out["lbfgs"]
    assert "only matrices" in tournament.left_out["muon_torch"]
    assert "sparse" in tournament.left_out["sparse_adam"]
    assert "step size itself" in entry(tournament, "prodigy").notes[0]


def test_what_evaluates_again_is_left_out_where_gradients_are_accumulated():
    line = "optimizer=adamw,sgd wrapper=none,sam trainer.accumulate_grad_batches=2"
    _, tournament = planned(f"{line} tournament.by=[optimizer,wrapper]")
    assert [e.contestant for e in tournament.entries] == ["adamw,none", "sgd,none"]
    assert "accumulate_grad_batches=2" in tournament.left_out["sgd,sam"]


def test_a_setting_alone_is_no_tournament():
    with pytest.raises(UsageError, match=r"tournament.seeds=\[1\] needs tournament=default"):
        plan_tournament(["optimizer=adamw,sgd", "+tournament.seeds=[1]"])


def test_a_tournament_of_nobody_is_refused():
    with pytest.raises(UsageError, match="no contestant can take part: lbfgs evaluates"):
        planned("optimizer=lbfgs,sparse_adam")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("optimizer=lion", "only lion can take part; choose contestants, with commas: optimizer="),
        ("data=digits,mnist1d", "only adamw can take part; choose"),
        ("optimizer=adamw,sparse_adam", "only adamw can take part: sparse_adam "),
    ],
)
def test_a_tournament_of_one_is_refused(line, said):
    with pytest.raises(UsageError, match=said):
        planned(line)


def test_a_task_decides_for_itself_who_cannot_take_part():
    line = "optimizer=adamw,sgd wrapper=none,sam tournament.by=[optimizer,wrapper]"
    for values in ("1,2", "2,1"):
        _, tournament = planned(f"{line} trainer.accumulate_grad_batches={values}")
        found = {
            task.label["trainer.accumulate_grad_batches"]: [e.contestant for e in task.entries]
            for task in tournament.tasks
        }
        assert found == {
            "1": ["adamw,none", "adamw,sam", "sgd,none", "sgd,sam"],
            "2": ["adamw,none", "sgd,none"],
        }
        assert set(tournament.left_out) == {"adamw,sam", "sgd,sam"}
        for why in tournament.left_out.values():
            assert why.startswith("on trainer.accumulate_grad_batches=2: ")


def test_a_task_decides_for_itself_what_an_update_costs():
    """What tasks sweep may also be what treatments depend on."""
    line = "optimizer=adamw,sgd wrapper=none,sam trainer.max_steps=10 tournament.budget=evaluations"
    _, tournament = planned(line)
    found = {t.label["wrapper"]: {e.updates for e in t.entries} for t in tournament.tasks}
    assert found == {"none": {10}, "sam": {5}}


@pytest.mark.parametrize(
    "typed",
    [
        "optimizer=choice(adamw,sgd)",
        "wrapper=choice(none,sam)",
        "data=choice(digits,mnist1d)",
        "trainer.max_steps=choice(10,20)",
        "trainer.accumulate_grad_batches=choice(1,2)",
        "search.space={wrapper:{choice:[none,sam]}}",
        "model=choice(mlp,cnn) tournament.by=[model]",
    ],
)
def test_the_sampler_does_not_decide_who_competes_on_what_for_how_long(typed):
    key = "wrapper" if "wrapper" in typed else typed.partition("=")[0]
    who = "" if typed.startswith("optimizer=") else "optimizer=adamw,sgd "
    with pytest.raises(UsageError, match=f"^{key}: a tournament does not let the sampler decide"):
        planned(f"{who}{typed} optimizer.lr=interval(1e-3,1e-1)")


def test_the_sampler_may_decide_a_schedule_and_who_wants_none_is_told():
    search, tournament = planned(
        "optimizer=adamw,schedule_free_sgd scheduler=choice(linear,cosine)"
    )
    for one in search.studies:
        assert "scheduler" in one.space
        assert not any(line.startswith("scheduler") for line in one.fixed)
    assert "one was typed" in entry(tournament, "schedule_free_sgd").notes[0]


@pytest.mark.parametrize("line", ["seed=3", "search.seeds=[3]", "seed=9 search.seeds=[8,5]"])
def test_no_seed_both_searches_and_compares(line):
    with pytest.raises(UsageError, match=r"^tournament.seeds=.* has [35], which is one of search"):
        planned(f"optimizer=adamw,sgd {line}")


def test_equal_evaluations_halve_the_updates_of_what_needs_two():
    line = "optimizer=adamw,sgd wrapper=none,sam trainer.max_steps=101"
    line += " tournament.by=[optimizer,wrapper]"
    search, tournament = planned(f"{line} tournament.budget=evaluations")
    assert [e.contestant for e in tournament.tasks[0].entries] == [
        "adamw,none", "adamw,sam", "sgd,none", "sgd,sam",
    ]  # fmt: skip
    assert tournament.by == "optimizer,wrapper"
    found = {e.contestant: e.updates for e in tournament.tasks[0].entries}
    assert found == {"adamw,none": 101, "adamw,sam": 50, "sgd,none": 101, "sgd,sam": 50}
    assert "++trainer.max_steps=50" in study(search, "optimizer=sgd,wrapper=sam").fixed
    assert compose_config([*entry(tournament, "sgd,sam").untuned]).trainer.max_steps == 50
    _, tournament = planned(line)
    assert {e.updates for e in tournament.entries} == {101}
    assert "twice" in entry(tournament, "sgd,sam").notes[0]


def test_equal_seconds_give_the_slow_fewer_updates():
    line = "optimizer=adamw,muon,lbfgs trainer.max_steps=100 tournament.budget=seconds"
    names = [f"optimizer={name}" for name in ("adamw", "muon", "lbfgs")]
    seconds = dict(zip(names, (0.01, 0.025, 0.2), strict=True))
    search, tournament = planned(line, seconds=seconds)
    assert [e.updates for e in tournament.entries] == [100, 40, 5]
    assert "++trainer.max_steps=40" in study(search, "optimizer=muon").fixed
    assert entry(tournament, "muon").notes == ("40 updates, in the time of adamw for 100",)
    assert tournament.seconds == seconds
    _, before = planned(line)  # not measured yet
    assert [e.updates for e in before.entries] == [100, 100, 100]


def test_what_is_swept_of_an_optimizer_is_a_contestant_and_the_rest_is_a_task():
    label = {"optimizer": "sgd", "optimizer.momentum": "0.9", "data": "digits", "model": "mlp"}
    assert split_label(label, ["optimizer"]) == (
        "sgd,momentum=0.9",
        {"data": "digits", "model": "mlp"},
    )


def test_one_optimizer_may_meet_itself_with_other_settings():
    _, tournament = planned("optimizer=sgd optimizer.momentum=0,0.9")
    assert [e.contestant for e in tournament.entries] == ["momentum=0", "momentum=0.9"]


def test_an_optimizer_that_looks_at_whole_tensors_does_not_meet_where_they_are_flattened():
    def compose(lines):
        plain = compose_parts(lines)
        return plain | {"trainer": plain["trainer"] | {"strategy": "fsdp"}}

    studies = [
        Study(name, (f"optimizer={name}",), {LR: Span(1e-3, 1e-1, True)}, {"optimizer": name})
        for name in ("adamw", "sgd", "muon")
    ]
    _, tournament = arrange(Search((), studies, Settings(trials=3)), TournamentSettings(), compose)
    assert [e.contestant for e in tournament.entries] == ["adamw", "sgd"]
    assert "whole tensors" in tournament.left_out["muon"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "tournament.seeds=[0,1]",
            r"tournament.seeds=\[0, 1\] has 0, .* one of search.seeds",
        ),
        ("tournament.seeds=[1,1]", r"tournament.seeds=\[1, 1\] has 1 twice"),
        ("tournament.seeds=[]", "tournament.seeds needs at least one seed"),
        ("tournament.seeds=5", "tournament.seeds must be a list of whole numbers, .*got 5"),
        ("tournament.seeds=[-1]", "tournament.seeds must be a list of whole numbers"),
        ("tournament.trials=0", "tournament.trials must be a whole number in .1, 10000., got 0"),
        ("tournament.untuned=maybe", "tournament.untuned must be true or false, got 'maybe'"),
        ("tournament.budget=hours", "tournament.budget must be one of steps, evaluations, seconds"),
        ("tournament.by=[optimiser]", "tournament.by=.*: optimiser is not a group.*optimizer"),
        ("tournament.by=[search]", "tournament.by=.*: search is not a group"),
        ("tournament.by=[]", "tournament.by must name at least one group"),
        ("tournament.sedes=[1]", "unknown key tournament.sedes.*seeds"),
        ("search.timeout=60", "search.timeout=60: a tournament gives each contestant the same"),
    ],
)
def test_a_mistake_is_one_line(line, said):
    with pytest.raises(UsageError, match=said) as caught:
        planned(f"optimizer=adamw,sgd {line}")
    assert "\n" not in str(caught.value)


def test_what_is_written_is_read_again(tmp_path):
    _, tournament = planned("optimizer=adamw,muon,lbfgs data=digits,mnist1d")
    write_tournament(tmp_path, tournament)
    assert read_tournament(tmp_path) == tournament


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"by": 3, "tasks": [], "settings": {}}', '{"by": "x", "tasks": 3}',
     '{"by": "x", "tasks": [{"label": [], "entries": [{}]}], "settings": {}}',
     '{"by": "x", "tasks": [], "settings": {"trials": "a"}}', '{"by": "x", "tasks": ["a"]}'],
)  # fmt: skip
def test_a_damaged_record_is_one_line(tmp_path, text):
    (tmp_path / "tournament.json").write_text(text)
    with pytest.raises(Unreadable, match=r"tournament\.json"):
        read_tournament(tmp_path)


@pytest.mark.parametrize(
    "value",
    ["Infinity", "-Infinity", "NaN", "-1", "1e300", "1.5", '"1"', "true", "null", "[]"],
)
@pytest.mark.parametrize("where", ["updates", "seeds", "trials", "seconds"])
def test_a_number_of_a_record_is_checked_before_it_is_used(tmp_path, where, value):
    made = Tournament("x", [Task({}, [Entry("s", "a", 1)])], TournamentSettings(seeds=(1,)))
    write_tournament(tmp_path, replace(made, seconds={"s": 0.5}))
    known = read_tournament(tmp_path)
    path = tmp_path / "tournament.json"
    record = json.loads(path.read_text())
    number = json.loads(value)
    match where:
        case "updates":
            record["tasks"][0]["entries"][0]["updates"] = number
        case "seeds":
            record["settings"]["seeds"] = [number]
        case "trials":
            record["settings"]["trials"] = number
        case "seconds":
            record["seconds"]["s"] = number
    path.write_text(json.dumps(record))
    if (where, value) == ("seconds", "1.5"):
        assert read_tournament(tmp_path) == replace(known, seconds={"s": 1.5})
        return
    with pytest.raises(Unreadable, match=r"tournament\.json: is not what a tournament writes"):
        read_tournament(tmp_path)
