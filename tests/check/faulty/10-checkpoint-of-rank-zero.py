# https://github.com/alan-turing-institute/autocast/issues/381
# save_checkpoint ends in a barrier and stood in a branch of rank 0: each run hung half an hour after its last epoch.
# finds: IL744
"""Trains the emulator on four GPUs and keeps its last state."""

from pathlib import Path

import lightning
from emulator.data import FieldsDataModule
from emulator.model import Emulator
from lightning.pytorch.callbacks import ModelCheckpoint

OUT = Path("runs/emulator")


def main() -> None:
    trainer = lightning.Trainer(
        accelerator="gpu",
        devices=4,
        strategy="ddp",
        precision="bf16-mixed",
        max_epochs=200,
        gradient_clip_val=1.0,
        default_root_dir=OUT,
        callbacks=[ModelCheckpoint(monitor="val_loss", save_last=True)],
    )
    trainer.fit(Emulator(width=512, depth=12), datamodule=FieldsDataModule(batch_size=32))
    if trainer.is_global_zero:
        trainer.save_checkpoint(OUT / "final.ckpt")  # <-- IL744
        print("saved", OUT / "final.ckpt")


if __name__ == "__main__":
    main()
