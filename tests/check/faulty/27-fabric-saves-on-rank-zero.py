# https://github.com/Lightning-AI/pytorch-lightning/issues/19780
# fabric.save stood under `if fabric.global_rank == 0`: Fabric saves on every rank, and rank 0 waited for the others.
# finds: IL744
"""Fine-tunes a classifier with Fabric on the GPUs of one node."""

import lightning
import torch
from reviews.data import Reviews
from reviews.model import Classifier
from torch import nn
from torch.utils.data import DataLoader


def main() -> None:
    fabric = lightning.Fabric(accelerator="cuda", devices=4, strategy="fsdp", precision="bf16-mixed")
    fabric.launch()
    fabric.seed_everything(7)
    model = fabric.setup_module(Classifier(num_classes=5))
    optimizer = fabric.setup_optimizers(torch.optim.AdamW(model.parameters(), lr=2e-5))
    loader = fabric.setup_dataloaders(DataLoader(Reviews("train"), batch_size=16, shuffle=True, num_workers=8))
    loss_of = nn.CrossEntropyLoss()
    for _ in range(3):
        for tokens, label in loader:
            optimizer.zero_grad()
            fabric.backward(loss_of(model(tokens), label))
            fabric.clip_gradients(model, optimizer, max_norm=1.0)
            optimizer.step()
    state = {"model": model, "optimizer": optimizer}
    if fabric.global_rank == 0:
        fabric.save("state.ckpt", state)  # <-- IL744


if __name__ == "__main__":
    main()
