"""`hf=` and `hf.key=` on the command line: files, keys, mistakes, sweeps."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shlex
import subprocess
import sys

import pytest
from transformers import TrainingArguments

from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.compat import transformers_arguments as hf
from lit_optim.compat.transformers_tables import HARMLESS, Arguments
from lit_optim.config.composing import compose_config
from lit_optim.errors import UsageError
from tests.conftest import ROOT

MISTAKES = {
    "hf": "cannot read 'hf'; write hf=args.yaml",
    "hf.learning_rate": "cannot read 'hf.learning_rate'",
    "hf=nowhere.yaml": "hf=nowhere.yaml: No such file",
    "hf=.": "hf=.: Is a directory",
    "hf.learning_rat=1": "unknown key hf.learning_rat; did you mean hf.learning_rate?",
    "++hf.warmup_step=1": "unknown key hf.warmup_step; did you mean hf.warmup_steps",
    "hf.xyz=1": "unknown key hf.xyz; it has optim, ",
    "hf.optim.lr=1": "unknown key hf.optim.lr; hf.optim is a single value",
    "hf.logging_steps=10": "hf.logging_steps is not translated; use trainer.log_every_n_steps",
    "hf.per_device_train_batch_size=8": "is not translated; use data.batch_size",
    "hf.report_to=none": "hf.report_to is not translated; leave it out",
    "hf.learning_rate=-1": "hf.learning_rate must be a number > 0, got -1",
    "hf.learning_rate=abc": "hf.learning_rate must be a number > 0, got 'abc'",
    "hf.learning_rate=null": "hf.learning_rate must be a number > 0, got None",
    "hf.adam_beta2=1": "hf.adam_beta2 must be a number in [0, 1), got 1",
    "hf.warmup_steps=-1": "hf.warmup_steps must be a number >= 0, got -1",
    "hf.max_steps=1.5": "hf.max_steps must be a whole number, got 1.5",
    "hf.num_train_epochs=2.5": "hf.num_train_epochs=2.5 is not a whole number; use hf.max_steps",
    "hf.optim=adamw": "unknown hf.optim 'adamw'; did you mean ",
    "hf.optim=xyz": "unknown hf.optim 'xyz'; it is one of adamw_torch, ",
    "hf.optim=lion_32bit": "use hf.optim=adamw_torch, with 3 to 10 times the lr",
    "hf.lr_scheduler_type=cosin": "unknown hf.lr_scheduler_type 'cosin'; did you mean cosine",
    "hf.lr_scheduler_kwargs={num_cycles: 2}": "hf.lr_scheduler_kwargs.num_cycles is not an arg",
    "hf.lr_scheduler_kwargs=2": "hf.lr_scheduler_kwargs must be text or a mapping or null, got 2",
    "hf.lr_scheduler_kwargs=abc": "hf.lr_scheduler_kwargs must look like {num_cycles: 2}, got",
    "hf.optim_args=abc": "hf.optim_args must look like momentum=0.9,nesterov=true, got 'abc'",
    "hf.learning_rate=1e-4,3e-4": "hf.learning_rate=1e-4,3e-4: several values; to run each of",
    "hf.learning_rate=[1": "cannot read 'hf.learning_rate=[1'",
}


@pytest.mark.parametrize("argument", MISTAKES)
def test_a_mistake_is_answered_in_one_line(argument):
    with pytest.raises(UsageError) as error:
        prepare_command_line([argument])
    assert MISTAKES[argument] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["optimizer=sgd", "hf.learning_rate=1", "hf.optim=sgd"],
            "optimizer=sgd and hf.optim, hf.learning_rate: both choose the optimizer; give one",
        ),
        (["hf.warmup_steps=9", "scheduler=step"], "scheduler=step and hf.warmup_steps: both"),
        (["hf.optim=sgd", "experiment=mnist1d_paper"], "experiment=mnist1d_paper and hf both"),
        (["hf.optim=sgd", "optimizer.betas=[.9,.9]"], "unknown key optimizer.betas (SGD takes lr"),
        (["hf.warmup_steps=50", "trainer.max_steps=20"], "50 steps, but the run has 20"),
        (["hf.bf16=true", "hf.fp16=true"], "hf.bf16 and hf.fp16: give only one of them"),
        (["hf.optim=sgd", "hf.optim_args=momentum=x"], "hf.optim_args.momentum must be a number"),
        (
            ["hf.optim=adamw_anyprecision", "hf.optim_args=momentum_dtype=bfloat16"],
            "hf.optim_args of adamw_anyprecision are not available",
        ),
        (
            ["hf.lr_scheduler_type=polynomial", "hf.lr_scheduler_kwargs.lr_end=1e-3"],
            "hf.learning_rate=5e-05 must be above lr_end=0.001",
        ),
        (
            ["hf.lr_scheduler_type=cosine_with_restarts", "hf.lr_scheduler_kwargs.num_cycles=1.5"],
            "hf.lr_scheduler_kwargs.num_cycles must be a whole number > 0, got 1.5",
        ),
        (["hf.lr_scheduler_type=cosine_with_min_lr"], "needs min_lr or min_lr_rate in hf.lr_sched"),
        (
            [
                "hf.lr_scheduler_type=cosine_with_min_lr",
                "hf.lr_scheduler_kwargs={min_lr: 0, min_lr_rate: 0}",
            ],
            "needs min_lr or min_lr_rate in hf.lr_scheduler_kwargs",
        ),
        (["hf.lr_scheduler_type=warmup_stable_decay"], "needs num_decay_steps in hf.lr_scheduler"),
        (["-m", "hf.optim=sgd,adagrad,adamw_torch"], "hf.optim cannot be swept: it is not one key"),
        (["-m", "hf.learning_rate=1e-4,-1"], "hf.learning_rate must be a number > 0, got -1"),
        (["-m", "hf.learning_rate=interval(0,1)"], "is only for a search; list its values"),
        (["hf.gradient_accumulation_steps=2", "batch=full"], "batch=full needs trainer.accumulate"),
    ],
    ids=str,
)
def test_several_arguments(argv, message):
    with pytest.raises(UsageError) as error:
        prepare_command_line(argv)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "- 1\n- 2\n", "is not YAML or JSON with keys and values"),
        ("a.yaml", "a: [", "is not YAML or JSON with keys and values"),
        ("a.yaml", "hello", "is not YAML or JSON with keys and values"),
        ("a.json", "{", "is not YAML or JSON with keys and values"),
        ("a.json", "[]", "is not YAML or JSON with keys and values"),
        ("a.bin", b"\x80\x02\xff", "is not YAML or JSON with keys and values"),
        ("a.yaml", "learning_rates: 1", "unknown key learning_rates; did you mean learning_rate?"),
        ("a.yaml", "learning_rate: fast", "hf.learning_rate must be a number > 0, got 'fast'"),
    ],
    ids=str,
)
def test_a_file_that_is_none(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as error:
        prepare_command_line([f"hf={tmp_path / name}"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def written(tmp_path):
    """A file of keys, as YAML whose numbers have no point, or as JSON."""

    def write(name="args.yaml", **keys):
        path = tmp_path / name
        if name.endswith(".json"):
            path.write_text(json.dumps(keys, indent="\t"))
        else:
            path.write_text("".join(f"{key}: {json.dumps(v)}\n" for key, v in keys.items()))
        return f"hf={path}"

    return write


def test_keys_win_over_the_file(written):
    kwargs = {"min_lr": 1e-7, "num_cycles": 0.5}
    for name in ("args.yaml", "args.json"):
        file = written(
            name,
            learning_rate=5e-4,
            weight_decay=0.1,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs=kwargs if name == "args.yaml" else json.dumps(kwargs),
        )
        argv = ["hf.lr_scheduler_kwargs.min_lr=1e-6", file, "hf.learning_rate=3e-4"]
        cfg = compose_config(prepare_command_line(argv).argv)
        assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (3e-4, 0.1)
        assert (cfg.scheduler.min_lr, cfg.scheduler.num_cycles) == (1e-6, 0.5)
    file = written(lr_scheduler_type="cosine")
    json_text = 'hf.lr_scheduler_kwargs={"num_cycles": 1.5}'
    assert compose_config(prepare_command_line([file, json_text]).argv).scheduler.num_cycles == 1.5


def test_only_the_first_hf_of_an_argument_is_ours(tmp_path):
    """Not that of a file's name, of its folder, nor of a value."""
    folder = tmp_path / "hf=a"
    folder.mkdir()
    for path in (tmp_path / "hf.yaml", tmp_path / "my_hf.json", folder / "args.hf"):
        path.write_text('{"optim": "adamw_hf"}')
        for argument in (f"hf={path}", f"+hf={path}", "hf.optim=adamw_hf"):
            chosen = compose_config(
                prepare_command_line([argument]).argv
            ).hydra.runtime.choices.optimizer
            assert chosen == "adamw_hf", argument


def test_a_whole_file_is_taken_and_what_is_left_out_is_told(tmp_path, written, capsys):
    theirs = TrainingArguments(str(tmp_path), use_cpu=True, max_steps=50, warmup_steps=0.1)
    for text in (theirs.to_json_string(), json.dumps(theirs.to_dict())):
        path = tmp_path / "args.json"
        path.write_text(text)
        cfg = compose_config(prepare_command_line([f"hf={path}"]).argv)
        assert cfg.scheduler.warmup == 5
        assert (cfg.seed, cfg.trainer.max_steps) == (42, 50)
        first, second = capsys.readouterr().out.splitlines()
        assert first.startswith("hf: optimizer=adamw optimizer.lr=5e-05 'optimizer.betas=[0.9,0.9")
        counted = len([key for key in theirs.to_dict() if HARMLESS.fullmatch(key)])
        told = f"per_device_train_batch_size=8 (use data.batch_size), {counted} of files"
        assert second == f"hf: left out: {told}, logs and devices"


def test_what_matters_is_named_and_no_secret_is_shown(written, capsys):
    prepare_command_line(
        [written(neftune_noise_alpha=5, wandb_api_key="s3cret", hub_token="s3cret", packing=0)]
    )
    assert capsys.readouterr().out.splitlines()[1] == (
        "hf: left out: neftune_noise_alpha=5, wandb_api_key, 1 of files, logs and devices"
    )


def test_no_key_of_theirs_is_taken_for_a_typo(written):
    names = [field.name for field in dataclasses.fields(TrainingArguments)]
    others = [name for name in names if name not in inspect.signature(Arguments).parameters]
    assert len(others) > 80
    assert hf.read(written(**dict.fromkeys(others)).removeprefix("hf="))


def test_the_shown_line_says_the_same(capsys):
    argv = ["hf.lr_scheduler_type=cosine", "hf.warmup_ratio=0.03", "hf.num_train_epochs=2"]
    run = prepare_command_line(argv).argv
    shown = capsys.readouterr().out.strip()
    copied = prepare_command_line(shlex.split(shown.removeprefix("hf: "))).argv
    assert copied == run
    assert capsys.readouterr().out == ""


def test_other_ranks_are_silent(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert prepare_command_line(["hf.optim=sgd"]).argv
    assert capsys.readouterr().out == ""


def test_own_keys_win():
    own = ["optimizer.eps=1e-6", "trainer.max_steps=110", "param_groups=single"]
    argv = prepare_command_line(
        [*own, "hf.warmup_ratio=0.07", "hf.max_steps=1000", "hf.seed=3"]
    ).argv
    cfg = compose_config(argv)
    assert cfg.optimizer.eps == 1e-6
    assert cfg.trainer.max_steps == 110
    assert cfg.scheduler.warmup == 8  # of 110, not of 1000
    assert cfg.hydra.runtime.choices.param_groups == "single"
    assert cfg.seed == 3
    assert len({line.partition("=")[0] for line in argv}) == len(argv)
    epochs = compose_config(
        prepare_command_line(["trainer.max_epochs=2", "hf.max_steps=1000"]).argv
    )
    assert (epochs.trainer.max_epochs, epochs.trainer.max_steps) == (2, -1)


def test_what_hf_does_not_decide_may_be_chosen():
    cfg = compose_config(
        prepare_command_line(["optimizer=rprop", "hf.lr_scheduler_type=cosine"]).argv
    )
    assert cfg.hydra.runtime.choices.optimizer == "rprop"
    assert cfg.hydra.runtime.choices.scheduler == "cosine_warmup"
    assert cfg.trainer.gradient_clip_val == 1.0
    cfg = compose_config(
        prepare_command_line(["scheduler=step", "hf.learning_rate=3e-4", "experiment=none"]).argv
    )
    assert cfg.hydra.runtime.choices.scheduler == "step"
    assert cfg.optimizer.lr == 3e-4


def test_presets_do_not_override_it():
    for data in ("mnist1d", "digits"):  # with a preset of another lr
        assert (
            compose_config(
                prepare_command_line([f"data={data}", "hf.max_steps=10"]).argv
            ).optimizer.lr
            == 5e-5
        )
    assert compose_config(prepare_command_line(["hf.optim=adafactor"]).argv).optimizer.lr == 5e-5


def test_sweeps():
    argv = prepare_command_line(
        ["-m", "hf.learning_rate=1e-4,3e-4", "hf.adam_beta1=0.8,0.9", "seed=1,2"]
    ).argv
    assert "++optimizer.lr=0.0001,0.0003" in argv
    assert "++optimizer.betas=[0.8,0.999],[0.9,0.999]" in argv
    assert "++seed=1,2" in argv
    assert "++seed=1,2" in prepare_command_line(["-m", "hf.seed=range(1,3)", "hf.optim=sgd"]).argv
    own = prepare_command_line(["-m", "optimizer=adamw,sgd", "hf.warmup_steps=0,10"]).argv
    assert "optimizer=adamw,sgd" in own
    assert "++scheduler.warmup=0,10" in own


def test_config_and_help_know_it():
    shown = prepare_command_line(["hf.optim=sgd", "--cfg", "job"]).argv
    assert shown[0] == "--cfg"
    assert "optimizer=sgd" in shown
    assert "optimizer.momentum=0.0" in prepare_command_line(["hf.optim=sgd", "--help"]).text
    assert "hf=args.yaml" in prepare_command_line(["--help"]).text


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from lit_optim.command_line.prepare import prepare_command_line as prepare\n"
        "prepare(['hf.optim=sgd'])\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'numpy')))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0
    )
