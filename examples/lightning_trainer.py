"""Lightning: the module returns SAM from configure_optimizers, and stays as it is otherwise.

Run it: python examples/lightning_trainer.py
"""

import logging

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from common import digits, network, report
from lowland import SAM
from lowland.adapters.lightning import SharpnessAware

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # what hardware there is, and tips


class Digits(LightningModule):
    """An ordinary module: nothing in it but the optimizer is of SAM."""

    def __init__(self):
        super().__init__()
        self.net = network()
        self.evaluations = 0

    def training_step(self, batch, batch_idx):
        """Runs once a pass; what it logs is that of the pass at w."""
        x, y = batch
        self.evaluations += 1
        loss = F.cross_entropy(self.net(x), y)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self):
        """Once an epoch."""
        print(f"epoch {self.current_epoch}: loss {self.trainer.callback_metrics['loss']:.4f}")

    def configure_optimizers(self):
        """The line that changes, and a scheduler that takes SAM as it takes any optimizer."""
        optimizer = SAM(torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9), rho=0.05, model=self)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


(x, y), _ = digits()
loader = DataLoader(TensorDataset(x.cpu(), y.cpu()), batch_size=64, shuffle=True, drop_last=True)
module = Digits()
report("before", module.net)

trainer = Trainer(
    max_epochs=5,
    devices=1,
    accumulate_grad_batches=2,  # each batch climbs for itself
    gradient_clip_val=1.0,  # of the step's gradient, behind the passes
    callbacks=[SharpnessAware()],  # to be on the safe side: an installed Lowland adds it by itself
    logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(module, loader)
(optimizer,) = trainer.optimizers
print(f"{trainer.global_step} steps, all of them SAM's: {optimizer.steps == trainer.global_step}")
print(f"two passes of each of two batches a step: {module.evaluations == 4 * optimizer.steps}")

report("after", module.net.to(x.device))
