"""Fits a line with torch's DistributedDataParallel; torchrun starts it again after a failure."""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import runwire

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--checkpoint", type=Path, default=Path("checkpoint.npz"))
options = parser.parse_args()

dist.init_process_group("gloo")  # "nccl" on GPUs
net = torch.nn.Linear(1, 1)
first_step = 0
if options.checkpoint.exists():
    with np.load(options.checkpoint) as saved:
        net.load_state_dict({name: torch.from_numpy(saved[name]) for name in net.state_dict()})
        first_step = int(saved["step"]) + 1
dist.barrier()  # all have read it before rank 0 writes the next

model = DistributedDataParallel(net)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
resumed_from_step = first_step - 1 if first_step else None
with runwire.init(project="line", params={"lr": 0.1}, resumed_from_step=resumed_from_step) as run:
    torch.manual_seed(run.rank)
    for step in range(first_step, options.steps):
        x = torch.rand(64, 1) * 2 - 1
        loss = torch.nn.functional.mse_loss(model(x), 3 * x + 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log({"train/loss": loss}, step=step)
        if run.rank == 0 and step % 10 == 9:
            np.savez("new.npz", step=step, **{name: value.numpy() for name, value in net.state_dict().items()})
            Path("new.npz").replace(options.checkpoint)
dist.destroy_process_group()
