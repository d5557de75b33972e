# https://github.com/pytorch/examples/issues/1078
# The snapshot was loaded without map_location: every rank put it on GPU 0, where it had been saved, and GPU 0 ran full.
# finds: IL734
"""A trainer that goes on from its snapshot; started with torchrun."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from toy.data import MyTrainDataset
from toy.model import ToyModel

SNAPSHOT = Path("/work/snapshot.pt")


def main() -> None:
    dist.init_process_group(backend="nccl")
    gpu = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(gpu)
    model = ToyModel().to(gpu)
    first_epoch = 0
    if SNAPSHOT.exists():
        snapshot = torch.load(SNAPSHOT, weights_only=True)  # <-- IL734
        model.load_state_dict(snapshot["model"])
        first_epoch = snapshot["epoch"]
    model = DistributedDataParallel(model, device_ids=[gpu])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    dataset = MyTrainDataset(2_000_000)
    sampler = DistributedSampler(dataset)
    loader = DataLoader(dataset, batch_size=512, sampler=sampler, num_workers=4, pin_memory=True)
    for epoch in range(first_epoch, 50):
        sampler.set_epoch(epoch)
        for source, targets in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(source.to(gpu)), targets.to(gpu)).backward()
            optimizer.step()
        if dist.get_rank() == 0:
            torch.save({"model": model.module.state_dict(), "epoch": epoch + 1}, SNAPSHOT)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
