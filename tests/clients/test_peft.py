"""peft: our optimizers train the adapters of a model, and nothing else of it."""

from __future__ import annotations

import pytest
import torch

import lit_optim
from lit_optim import hf, param_groups
from lit_optim.optimizers import class_places
from lit_optim.wrappers import Wrapped
from tests.clients.conftest import import_client

transformers = import_client("transformers")
peft = import_client("peft")

WORDS, LENGTH = 16, 6
pytestmark = pytest.mark.filterwarnings("ignore")
#: Optimizers that take any dense model in a plain loop.
OPTIMIZERS = sorted(set(class_places()) - {"LBFGS", "SparseAdam", "MuonTorch"})


def gpt2(layers=2):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=LENGTH, n_embd=8, n_layer=layers, n_head=2,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def adapted(layers=2, **config):
    given = {"r": 2, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True} | config
    return peft.get_peft_model(gpt2(layers), peft.LoraConfig(**given))


def steps(model, optimizer, count=3):
    """Make updates; returns the losses."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, WORDS // 2, (4, LENGTH), generator=generator)
    losses = []
    for _ in range(count):
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_base_is_untouched(name):
    """Weight decay does not reach it either; the state is that of the adapters."""
    model = adapted()
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    trained = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    optimizer = getattr(lit_optim, name)(model)
    steps(model, optimizer)
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], before) for name, before in frozen.items())
    moved = [name for name, before in trained.items() if not torch.equal(now[name], before)]
    assert moved
    with_state = {p for p, state in optimizer.state.items() if state}
    assert with_state <= {now[name] for name in trained}


ROLES = {
    "LoRA": ({}, {"lora_A": "hidden", "lora_B": "hidden"}),
    "DoRA": ({"use_dora": True}, {"lora_A": "hidden", "lora_magnitude_vector": "vector"}),
    "biases": ({"bias": "lora_only"}, {"bias": "bias", "lora_B": "hidden"}),
    "a head that trains": ({"modules_to_save": ["lm_head"]}, {"lm_head": "head"}),
    "the embedding": (
        {"target_modules": ["wte", "c_proj"]},
        {"lora_embedding_A": "embedding", "lora_embedding_B": "embedding", "lora_A": "hidden"},
    ),
    "single tokens": ({"trainable_token_indices": [0, 1]}, {"tokens_delta": "embedding"}),
    "the head": ({"target_modules": ["lm_head"]}, {"lora_A": "hidden", "lora_B": "hidden"}),
}


@pytest.mark.parametrize("case", ROLES)
@pytest.mark.parametrize("layers", [1, 2])
def test_roles_of_adapters(case, layers):
    """Factors are hidden matrices wherever they are, but those of embeddings belong to AdamW."""
    config, expected = ROLES[case]
    model = adapted(layers, **config)
    roles = param_groups.roles(model)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    for part, role in expected.items():
        found = {roles[name].role for name in trained if part in name}
        assert found == {role}, part
    losses = steps(model, lit_optim.Muon(model, lr=0.02), 8)
    assert losses[-1] < losses[0]


def test_layers_are_those_of_the_model():
    """The lr of a factor falls with its block, as without peft."""
    factors = {}
    for group in param_groups.layer_decay(adapted(), decay=0.5):
        for name in group["param_names"]:
            if "lora_" in name:
                factors.setdefault(name.split(".h.")[1][0], set()).add(group["lr_mult"])
    assert factors == {"0": {0.5}, "1": {1.0}}


def test_the_trainer_trains_adapters(tmp_path):
    """With the mixin: groups of what trains only, and averaged weights in what is saved."""
    model = adapted()
    rows = torch.randint(0, WORDS // 2, (16, LENGTH))
    arguments = transformers.TrainingArguments(
        str(tmp_path), learning_rate=0.02, max_steps=4, per_device_train_batch_size=4,
        use_cpu=True, disable_tqdm=True, report_to="none", save_strategy="no",
    )  # fmt: skip
    trainer = hf.Trainer(
        model,
        arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        optimizer=Wrapped(lit_optim.Muon, lit_optim.Ema),
        schedule="cosine_warmup",
    )
    trainer.train()
    params = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in params} == {id(p) for p in model.parameters() if p.requires_grad}
    trainer.save_model(tmp_path / "saved")
    loaded = peft.PeftModel.from_pretrained(gpt2(), tmp_path / "saved")
    average = trainer.optimizer.optimizer
    average.eval()
    same = dict(model.named_parameters())
    for name, p in loaded.named_parameters():
        assert torch.equal(p, same[name]), name


FORMS = {
    "class": lit_optim.Muon,
    "function": lambda groups: lit_optim.Muon(groups, lr=0.02),
    "wrapped": lambda groups: lit_optim.Ema(lit_optim.Muon(groups, lr=0.02)),
    "keywords": lambda params: lit_optim.Muon(params=params, lr=0.02),
}


@pytest.mark.parametrize("form", FORMS)
def test_roles_where_all_that_trains_is_a_matrix(form, tmp_path, caplog):
    """Embeddings and the head are no hidden matrices, although the optimizer would take them."""
    model = adapted(modules_to_save=["wte", "lm_head"])
    arguments = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    made = hf.Trainer(model, arguments, optimizer=FORMS[form]).create_optimizer()
    expected = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert p.ndim == 2
            ends = {"wte": "embedding", "lm_head": "head"}
            expected[p] = next((r for end, r in ends.items() if f"{end}." in name), "hidden")
    found = {p: group["role"] for group in made.param_groups for p in group["params"]}
    assert found == expected
    assert set(found.values()) == {"hidden", "embedding", "head"}
    assert "without roles" not in caplog.text
