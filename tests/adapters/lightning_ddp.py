"""Two processes of Lightning's DDP on the CPU: python lightning_ddp.py WEIGHTS ACCUMULATE."""

import sys

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lowland import SAM
from lowland.data import load

SIZE, BATCHES, RHO = 64, 6, 0.1


def network():
    """Without batch norm or dropout, so that two halves of a batch are the batch."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).double()


def main(path, accumulate):
    from lightning.pytorch import LightningModule, Trainer

    from lowland.adapters.lightning import SharpnessAware

    train = load("digits").train
    x, y = (train.inputs.flatten(1) / 16).double()[: SIZE * BATCHES], train.targets[: SIZE * BATCHES]

    class Net(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = F.cross_entropy(self.net(x), y)
            self.log("loss", loss, on_epoch=True, sync_dist=True)
            return loss

        def train_dataloader(self):
            # Dealt out in turn: half of each joint batch goes to each process.
            data = TensorDataset(x, y)
            return DataLoader(data, SIZE // 2, sampler=DistributedSampler(data, shuffle=False))

        def configure_optimizers(self):
            base = torch.optim.AdamW(self.parameters(), lr=0.01)
            optimizer = SAM(base, lambda step: RHO * 0.9**step, model=self)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.8)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, accumulate_grad_batches=accumulate,
        gradient_clip_val=0.5, callbacks=[SharpnessAware()], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,  # it would shuffle
    )  # fmt: skip
    module = Net()
    trainer.fit(module)
    if trainer.is_global_zero:
        torch.save({"weights": module.net.state_dict(), "steps": trainer.optimizers[0].steps}, path)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
