"""A GAN in Lightning: the generator is updated after every second batch, the critic after each."""

from lightning.pytorch import LightningModule, Trainer
from torch import nn, randn

from lit_optim import configure_optimizers


class Gan(LightningModule):
    def configure_optimizers(self):
        first = configure_optimizers(self, "adamw", "wsd", of=self.generator, updates_per_batch=0.5)
        return first, configure_optimizers(self, "adamw", "wsd", of=self.critic)

    def training_step(self, real, batch_idx):
        fake = self.generator(randn(64, 2))
        for place in (1, 0) if batch_idx % 2 else (1,):
            judged = self.critic(fake.detach() if place else fake)
            loss = judged**2 + (self.critic(real) - 1) ** 2 if place else (judged - 1) ** 2
            self.optimizers()[place].zero_grad()
            self.manual_backward(loss.mean())
            self.optimizers()[place].step()


gan = Gan()
gan.automatic_optimization = False
gan.generator, gan.critic = nn.Linear(2, 2), nn.Linear(2, 1)
first_loss = (gan.generator(randn(1000, 2)).mean(0) - 1).norm()  # the data are around 1
Trainer(max_epochs=9, logger=False, enable_checkpointing=False).fit(gan, 1 + randn(100, 64, 2))
last_loss = (gan.generator(randn(1000, 2)).mean(0) - 1).norm()
(optimizer, _), (scheduler, _) = gan.optimizers(), gan.lr_schedulers()
