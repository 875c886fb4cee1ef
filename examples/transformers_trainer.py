"""transformers' Trainer with an optimizer and a schedule from here."""

import tempfile

import torch
import transformers

from lit_optim.hf import TrainerMixin
from lit_optim.schedules import cosine_warmup


class Trainer(TrainerMixin, transformers.Trainer):
    pass


config = transformers.GPT2Config(vocab_size=16, n_positions=8, n_embd=16, n_layer=2, n_head=2)
model = transformers.GPT2LMHeadModel(config)
data = [{"input_ids": row, "labels": row} for row in torch.randint(0, 8, (128, 8))]
args = transformers.TrainingArguments(
    output_dir=tempfile.mkdtemp(), learning_rate=0.02, weight_decay=0.1, num_train_epochs=3,
    per_device_train_batch_size=8, save_strategy="no", report_to="none", use_cpu=True,
)  # fmt: skip
trainer = Trainer(
    model, args, train_dataset=data, eval_dataset=data,
    optimizer="muon", schedule=cosine_warmup("5%"),
)  # fmt: skip
first_loss = trainer.evaluate()["eval_loss"]
trainer.train()
last_loss = trainer.evaluate()["eval_loss"]
optimizer, scheduler = trainer.optimizer, trainer.lr_scheduler
