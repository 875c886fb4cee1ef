"""peft: Muon trains the LoRA factors of a model whose own weights stay as they are."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from lit_optim import Muon, schedule, schedules

STEPS = 60
torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
config = LlamaConfig(vocab_size=32, num_attention_heads=2, **sizes)
lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"])
model = get_peft_model(LlamaForCausalLM(config), lora)
optimizer = Muon(model, lr=0.02)  # frozen weights have no gradient, and so no state
scheduler = schedule(optimizer, schedules.cosine_warmup("10%"), steps=STEPS)

tokens = torch.randint(0, 8, (64, 12))
first_loss = model(input_ids=tokens, labels=tokens).loss.item()
for _ in range(STEPS):
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
last_loss = loss.item()
