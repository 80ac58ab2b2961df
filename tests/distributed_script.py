"""Run by torchrun in `test_optimizer_torch.py`: the same training in two processes, each with half of every batch.

    torchrun --standalone --nproc-per-node=2 tests/distributed_script.py FOLDER

Each process writes what it ends with to `FOLDER/RANK.pt`.
"""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mrfq import InvalidParameterError
from mrfq.nn import METHODS, LabelOptimizer

STEPS = 6
GENERATOR = torch.Generator().manual_seed(5)
INPUTS = torch.randn(40, 6, generator=GENERATOR, dtype=torch.float64)
TARGETS = (INPUTS[:, 0] > INPUTS[:, 1]).long()


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def train(method, wrap=lambda model: model, part=slice(None), seed=0):
    """Train on a part of the data; return the latents, and the weights of the discrete network."""
    model = network(seed)
    inside = wrap(model)
    base = torch.optim.SGD(inside.parameters(), lr=0.2, momentum=0.9)
    optimizer = LabelOptimizer(base, labels="ternary", method=method, scale="channel", refit_every=4, steps=STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(inside(INPUTS[part]), TARGETS[part]).backward()
        optimizer.step()
    found = [latent.v.clone() for latent in optimizer._all()]
    optimizer.finalize()
    return [*found, *(p.detach().clone() for p in model.parameters())]


def in_parallel(rank):
    """Train by every method on half of the data, from weights that differ until DDP makes them the same."""
    part = slice(rank * 20, (rank + 1) * 20)
    return {method: train(method, DistributedDataParallel, part, seed=rank) for method in METHODS}


def sharded():
    """Return what an optimiser says to sharded parameters."""
    from torch.distributed.fsdp import fully_shard

    model = network()
    fully_shard(model)
    try:
        LabelOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), method="bc")
    except InvalidParameterError as error:
        return repr(error)
    return "nothing"


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    torch.save({"ddp": in_parallel(rank), "fsdp": sharded()}, Path(sys.argv[1]) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
