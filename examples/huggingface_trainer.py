"""Hugging Face's Trainer: SAMTrainer instead of Trainer, the rest unchanged; accumulation, schedule, checkpoints.

Run it: python examples/huggingface_trainer.py
"""

import tempfile

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from common import digits, network, report
from lowland.adapters.huggingface import SAMMixin, SAMTrainer


class Classifier(nn.Module):
    """What a Trainer expects of a model: its loss among what it returns. Yours comes from the Hub."""

    def __init__(self, seed):
        super().__init__()
        self.network = network(seed)

    def forward(self, x, labels=None):
        """The loss, where there are labels, and the logits."""
        logits = self.network(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits} if labels is not None else {"logits": logits}


(x, y), _ = digits()
data = [{"x": image, "labels": label} for image, label in zip(x.cpu(), y.cpu(), strict=True)]


def train(seed, folder, resume=None):
    """Yours, but for rho."""
    arguments = TrainingArguments(
        folder, report_to=[], disable_tqdm=True, logging_steps=50, save_steps=100,
        num_train_epochs=15, per_device_train_batch_size=32, gradient_accumulation_steps=2,
        learning_rate=3e-3, weight_decay=0.01, warmup_steps=20, max_grad_norm=1.0,
        dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    trainer = SAMTrainer(Classifier(seed), arguments, train_dataset=data, rho=0.05)  # was: Trainer(...)
    trainer.train(resume_from_checkpoint=resume)
    return trainer.model.network


class Smoothed(SAMMixin, Trainer):
    """A trainer of one's own: the mixin goes first. Its compute_loss runs in each pass."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Cross-entropy with smooth labels."""
        outputs = model(inputs["x"])
        loss = F.cross_entropy(outputs["logits"], inputs["labels"], label_smoothing=0.1)
        return (loss, outputs) if return_outputs else loss


report("before", network())
with tempfile.TemporaryDirectory() as folder:
    straight = train(0, folder)
    resumed = train(1, folder, resume=f"{folder}/checkpoint-100")  # other weights, as a new process might have them
equal = all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
print("the same bits" if equal else "DIFFERENT WEIGHTS")

with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(folder, report_to=[], disable_tqdm=True, learning_rate=3e-3, save_strategy="no")
    arguments.dataloader_pin_memory = torch.cuda.is_available()
    trainer = Smoothed(Classifier(0), arguments, train_dataset=data, rho=lambda step: min(0.1, 0.001 * step))
    trainer.train()
report("after, with a trainer of one's own", trainer.model.network)
report("after", resumed)
