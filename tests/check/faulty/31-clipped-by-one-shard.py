# https://github.com/pytorch/pytorch/issues/72548
# clip_grad_norm_ of torch.nn.utils on an FSDP model: each rank clips by the norm of its own shard, not of the whole.
# finds: IL723
"""Pretrains a small decoder with FSDP; started with torchrun."""

import functools
import os

import torch
import torch.distributed as dist
from decoder.checkpoint import save
from decoder.data import Tokens
from decoder.model import Block, Decoder
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp import MixedPrecision
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler


def main() -> None:
    dist.init_process_group("nccl")
    local_rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local_rank)
    model = FSDP(
        Decoder(dim=4096, num_layers=32),
        auto_wrap_policy=functools.partial(transformer_auto_wrap_policy, transformer_layer_cls={Block}),
        mixed_precision=MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.float32),
        device_id=local_rank,
        use_orig_params=True,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    dataset = Tokens("/data/tokens", length=4096)
    sampler = DistributedSampler(dataset)
    loader = DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=4, pin_memory=True)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for tokens in loader:
            loss = model(tokens.cuda(local_rank))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # <-- IL723
            optimizer.step()
            optimizer.zero_grad()
        save(model, optimizer, f"/work/checkpoints/{epoch}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
