# https://github.com/pytorch/pytorch/issues/31771
# set_epoch was never called: the DistributedSampler gave each epoch the same order, and shuffle=True shuffled once.
# finds: IL721
"""Trains a ResNet with DDP; started with torchrun."""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from torchvision import datasets, models, transforms


def main() -> None:
    dist.init_process_group("nccl")
    local_rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local_rank)
    model = DistributedDataParallel(models.resnet50().cuda(local_rank), device_ids=[local_rank])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loss_of = nn.CrossEntropyLoss()
    dataset = datasets.ImageFolder("/data/imagenet/train", transforms.ToTensor())
    sampler = DistributedSampler(dataset, shuffle=True)  # <-- IL721
    loader = DataLoader(dataset, batch_size=256, sampler=sampler, num_workers=8, pin_memory=True, drop_last=True)
    for epoch in range(90):
        for images, labels in loader:
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(model(images.cuda(local_rank)), labels.cuda(local_rank))
            loss.backward()
            optimizer.step()
        if dist.get_rank() == 0:
            torch.save(model.module.state_dict(), f"/work/resnet50-{epoch}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
