"""A directory that someone else has made is data: it runs nothing and writes nowhere else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.command_line.translate import rerun_arguments
from lit_optim.config.check import to_plain
from lit_optim.config.composing import compose_config
from lit_optim.config.paths import quote_path_value
from lit_optim.config.places import groups
from lit_optim.config.stored import LEFT_OUT, stored_overrides
from lit_optim.errors import UsageError
from lit_optim.runs.resume import write_fingerprint
from tests.conftest import ROOT

#: Every line here names code of a package `d`, or a place outside of the run's directory.
HYDRAS = ("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging", "help", "env")
HYDRAS += ("output", "searchpath", "run", "sweep", "job", "runtime", "anything")
EVIL = "{_target_: d.evil.X}"
CSV = "lightning.pytorch.loggers.CSVLogger"
TENSORBOARD = "lightning.pytorch.loggers.TensorBoardLogger"
ATTACKS = [
    "hydra={callbacks:{e:{_target_:d.evil.X}}}",
    "hydra={launcher:{_target_:d.evil.X}}",
    *(f"hydra/{group}=../../../d/evil" for group in HYDRAS),
    *(f"hydra/{group}=evil" for group in HYDRAS),
    *(f"hydra.{group}.e={EVIL}" for group in HYDRAS),
    "hydra.searchpath=[file://d/evil]",
    "hydra.output_subdir=/tmp/outside",
    "hydra.run.dir=outside",
    "hydra.job.chdir=evil",
    "logger.tensorboard.save_dir=outside",
    "logger.tensorboard.name=../outside",
    "logger.tensorboard.name=/tmp/outside",
    "logger.tensorboard.version=../../outside",
    "logger.tensorboard.sub_dir=../outside",
    "logger.tensorboard={name: ../outside}",
    f"logger.c={{_target_: {CSV}, save_dir: outside}}",
    f"logger.c={{_target_: {TENSORBOARD}, save_dir: outside}}",
    "logger={c: {_target_: lightning.pytorch.loggers.WandbLogger, save_dir: outside}}",
    f"logger.c._target_={EVIL}",
    "callbacks.checkpoint.dirpath=outside",
    "callbacks.checkpoint.filename=../outside",
    "callbacks.checkpoint={dirpath: /tmp/outside}",
    "callbacks.c={_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: outside}",
    "callbacks.c={_target_: lightning.pytorch.callbacks.OnExceptionCheckpoint, dirpath: outside}",
    f"callbacks.c={EVIL}",
    "trainer.default_root_dir=outside",
    *(
        f"{key}={value}"
        for key in (
            "callbacks.checkpoint.dirpath",
            "logger.tensorboard.save_dir",
            "logger.tensorboard.sub_dir",
            "trainer.default_root_dir",
        )
        for value in (
            "{a/../../outside/x: 1}",
            "{outside: 1}",
            "[outside]",
            "[[outside]]",
            "123",
            "1.5",
            "true",
            "~/outside",
            "{a: {b/outside: 1}}",
            "{'outside/x': 1}",
        )
    ),
    "callbacks={checkpoint: {dirpath: {../outside: 1}}}",
    "callbacks.checkpoint={../outside: 1}",
    "logger={../outside: {a: 1}}",
    f"trainer.plugins=[{EVIL}]",
    f"trainer.strategy={EVIL}",
    f"trainer.profiler={EVIL}",
    "trainer.profiler={_target_: lightning.pytorch.profilers.SimpleProfiler, dirpath: outside}",
    "trainer.model_registry=evil",
    "ckpt=outside/evil.ckpt",
    "branch_from=outside/evil.ckpt",
    "resume.from=outside",
    "allow=[d.evil]",
    "allow.0=d.evil",
    *(f"{group}=../../d/evil" for group in ("optimizer", "model", "experiment", "preset")),
    *(f"{group}=/tmp/d/evil" for group in ("scheduler", "data", "trainer", "callbacks")),
    "optimizer/options=../../../d/evil",
    "preset/by_optimizer=../../../d/evil",
    *(f"{group}._target_=d.evil.X" for group in ("optimizer", "model", "data", "param_groups")),
    f"optimizer.lr={EVIL}",
    f"model.width=[{EVIL}]",
    f"param_groups.rules=[{{match: {EVIL}}}]",
    "scheduler=lambda",
    "scheduler.expr=d.evil.f",
    "schedules={momentum: {expr: d.evil.f}}",
    "monitor=${oc.env:evil}",
    "seed=${oc.decode:evil}",
    "optimizer.lr=${hydra:evil}",
    "callbacks.nonfinite.policy=${hydra.evil}",
    "optimizer._target_=${model.evil}",
    "model@hydra.callbacks.evil=custom",
    "experiment@hydra=evil",
    "d.evil=1",
]
SIGNS = ("", "+", "++", "~")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """The directory of a run, whose overrides can be given."""
    run_dir = tmp_path_factory.mktemp("runs") / "foreign"
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / ".hydra").mkdir()
    (run_dir / "checkpoints" / "last.ckpt").write_bytes(b"x")
    write_fingerprint(run_dir, to_plain(compose_config([])))

    def write(lines: list[str]) -> Path:
        (run_dir / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(lines))
        return run_dir

    return write


def spelled(line: str, sign: str, quote: str) -> str:
    key, _, value = line.partition("=")
    if sign == "~":
        return f"~{key}"
    if quote and not set(value) & set("{[$"):
        value = f"{quote}{value}{quote}"
    return f"{sign}{key}={value}"


def nested(line: str, deep: bool) -> str:
    """A value one mapping further out: a.b=c as a={b: c}."""
    key, _, value = line.partition("=")
    above, _, last = key.rpartition(".")
    return f"{above}={{{last}: {value}}}" if deep and above and "/" not in key else line


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(ATTACKS),
    st.sampled_from(SIGNS),
    st.sampled_from(["", "'", '"']),
    st.booleans(),
    st.sampled_from([[], ["optimizer=sgd"], ["++seed=1"]]),
)
def test_no_line_of_a_directory_names_code_or_a_place(foreign, line, sign, quote, deep, before):
    line = spelled(nested(line, deep), sign, quote)
    where = foreign([*before, line])
    try:
        argv = prepare_command_line([f"resume={where}"]).argv
    except UsageError:
        pass
    else:  # what is left of it must not be in what would run
        text = OmegaConf.to_yaml(compose_config([x for x in argv if not x.startswith("-")]))
        assert "evil" not in text
        assert "outside" not in text
    assert "d.evil" not in sys.modules


@pytest.mark.parametrize("line", ATTACKS)
def test_no_line_that_is_run_again_does_either(foreign, line):
    if line == "scheduler=lambda" or line.partition(".")[0].partition("=")[0] in LEFT_OUT:
        return
    with pytest.raises(UsageError):
        prepare_command_line(rerun_arguments(foreign([line]), []))


VALUES = ["adamw", "1", "'a,b'", "'{a: 1}'", "[1,2]", "{a: 1}", "null", "a/b", "~/a", "'~/a'",
          "a b", "1/(1+step)", "power(2)", "''", "'it\\'s'", "[a,'b,c']", "true"]  # fmt: skip


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(["data.path", "model.name", "scheduler.expr", "model.x.dirpath", "weights"]),
    st.lists(st.sampled_from(VALUES), min_size=1, max_size=3),
    st.booleans(),
)
def test_what_is_checked_is_what_is_run_again(foreign, key, values, multirun):
    line = f"{key}={','.join(values if multirun else values[:1])}"
    try:
        [once] = stored_overrides([quote_path_value(line, multirun)], "x", multirun=multirun)
    except UsageError:
        return
    again = str(once.input_line)
    [twice] = stored_overrides([quote_path_value(again, multirun)], "x", multirun=multirun)
    assert (twice.type, twice.value()) == (once.type, once.value())
    if not multirun:
        assert rerun_arguments(foreign([line]), []) == [again]


@pytest.mark.parametrize("line", ATTACKS)
def test_each_as_it_stands(foreign, line):
    if line == "scheduler=lambda" or line.partition(".")[0].partition("=")[0] in LEFT_OUT:
        return  # a choice of ours; and what is not even read
    with pytest.raises(UsageError):
        prepare_command_line([f"resume={foreign([line])}"])


@pytest.mark.parametrize("group", groups())
def test_every_choice_of_ours_is_taken(group):
    for name in groups()[group]:
        [override] = stored_overrides([f"{group}={name}"], "x")
        assert override.value() == name


@pytest.mark.parametrize(
    "line",
    [
        "++trainer.max_steps=100",
        "++trainer.precision=bf16-mixed",
        "++trainer.max_time=00:01:00:00",
        "++callbacks.early={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/acc}",
        "++callbacks.early._target_=lightning.pytorch.callbacks.EarlyStopping",
        "++callbacks.early.monitor=${monitor}",
        "++callbacks.nonfinite.policy=skip",
        "++optimizer.betas=[0.9,0.95]",
        "++scheduler.total=${trainer.max_steps}",
        "++scheduler.expr='1/(1+step)'",
        "++scheduler.phases=[{shape: 'power(2)', to: 0, for: 5%}]",
        "++model._target_=mypackage.Net",  # which `allow`, typed again, decides
        "++data.path=books/shakespeare.txt",
        "++param_groups.rules=[{name: conv.0.*, lr_mult: 0.1}]",
        "++ckpt=best",
        "++ckpt=null",
        "~logger.tensorboard",
        "~callbacks.routing",
        "++schedules.weight_decay=lr",
    ],
)
def test_what_a_run_is_made_of_is_taken(line):
    assert len(stored_overrides([line], "x")) == 1


def test_several_values_are_for_sweeps():
    with pytest.raises(UsageError, match="several values"):
        stored_overrides(["optimizer=adamw,sgd"], "x")
    assert len(stored_overrides(["optimizer=adamw,sgd"], "x", multirun=True)) == 1
    with pytest.raises(UsageError, match="no choice of optimizer"):
        stored_overrides(["optimizer=adamw,../x"], "x", multirun=True)


def test_what_is_typed_takes_the_place_of_what_is_stored(foreign):
    where = foreign(["logger.tensorboard.save_dir=outside"])
    argv = prepare_command_line([f"resume={where}", "logger.tensorboard.save_dir=mine"]).argv
    assert compose_config(argv).logger.tensorboard.save_dir == "mine"


@pytest.mark.parametrize(
    "content", ["", "1", "{a: 1}", "- 1", "- [a]", "[", "- !!x y", "- &a [*a]"]
)
def test_overrides_of_another_kind(foreign, content, monkeypatch):
    monkeypatch.setattr("lit_optim.runs.resume.SECONDS_BETWEEN", 0)
    where = foreign([])
    (where / ".hydra" / "overrides.yaml").write_text(content)
    with pytest.raises(UsageError, match="cannot be read; delete it"):
        prepare_command_line([f"resume={where}"])


@pytest.mark.parametrize("flags", [[], ["--cfg", "job"], ["--info", "all"]], ids=str)
@pytest.mark.parametrize("group", ["launcher", "sweeper", "job_logging", "help", "env"])
@pytest.mark.parametrize("name", ["../../d/evil", "/tmp/d/evil", "d/evil", "evil", "[default]", ""])
def test_a_typed_choice_of_hydras_groups_is_a_plain_name(flags, group, name):
    with pytest.raises(UsageError, match=f"hydra/{group}"):
        prepare_command_line([*flags, f"hydra/{group}={name}"])


@pytest.mark.parametrize(
    "line", ["hydra/launcher=basic", "hydra/sweeper=basic", "hydra/job_logging=none"]
)
def test_what_is_installed_can_be_chosen(line):
    assert line in prepare_command_line([line]).argv


@pytest.mark.parametrize(
    "line",
    [
        "hydra={callbacks: {e: {_target_: d.evil.X}}}",
        "+hydra={job: {name: x}}",
        "~hydra.callbacks",
        "hydra.run={dir: x}",
        "hydra.callbacks.e._target_=d.evil.X",
        "hydra.launcher.e={_target_: d.evil.X}",
        "hydra.launcher.e=[{a: {_target_: d.evil.X}}]",
        "hydra.output_subdir=/tmp/outside",
        "hydra.job.name=../x",
        "model@hydra.callbacks.e=custom",
    ],
)
def test_hydras_own_part_is_not_for_the_command_line(line):
    with pytest.raises(UsageError, match="hydra"):
        prepare_command_line([line])


@example("x")
@given(st.text(max_size=5))
def test_unpickling_a_directory_is_refused(path):
    with pytest.raises(UsageError):
        prepare_command_line(["--experimental-rerun", path or "x"])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(ATTACKS), st.sampled_from(SIGNS))
def test_no_line_of_a_sweep_names_code_or_a_place(tmp_path_factory, line, sign):
    sweep = tmp_path_factory.mktemp("sweep")
    lines = ["optimizer=adamw,sgd", spelled(line, sign, "")]
    (sweep / "multirun.yaml").write_text(yaml.safe_dump({"hydra": {"overrides": {"task": lines}}}))
    try:
        argv = prepare_command_line(["-m", f"resume={sweep}"]).argv
    except UsageError:
        return
    assert not any("evil" in one or "outside" in one for one in argv)


def test_as_a_user_sees_it(tmp_path, foreign):
    """The whole program, with code that would leave a mark when it is imported."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "evil.py").write_text("open('mark', 'w').close()\nclass X: pass\n")
    for name in ("evil.yaml", "__init__.py"):
        (tmp_path / "d" / name).write_text("")
    for line in (
        "hydra={callbacks:{e:{_target_:d.evil.X}}}",
        "logger.tensorboard.save_dir=outside",
    ):
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), f"resume={foreign([line])}"],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 2
        [told] = done.stderr.splitlines()
        assert "type it if you want it" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d"]
