# SPDX-License-Identifier: Apache-2.0
"""Several processes that together do what one would: torchrun's environment, sums over processes, batch statistics.

torchrun starts one process for each GPU (or any number on CPUs) and tells each its RANK, WORLD_SIZE and LOCAL_RANK.
Each takes its part of every batch, and everything that one process would compute over the whole batch is made of sums
over the processes: the counts that losses are divided by, the gradients, the statistics of BatchNorm. With one process
every function here is the identity, and nothing is started.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn


def started() -> bool:
    """Whether this process was started by torchrun (or a like launcher) as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """Number of this process, 0 for the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def processes(device: torch.device, timeout: timedelta | None = None) -> Iterator[None]:
    """Join the processes that torchrun started, for the length of a run; nothing with one process.

    Args:
        device: this process's; tensors on GPUs are carried by NCCL, others by Gloo.
        timeout: how long one waits for another; None for torch's own.
    """
    if not started() or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    yield
    # Process 0 may still be writing when the others are through. After an exception nobody waits: leaving in order
    # takes all processes, and the launcher ends the others when one dies.
    dist.barrier()
    dist.destroy_process_group()


def local_rank() -> int:
    """Number of this process on its machine: the GPU to take."""
    return int(os.environ.get("LOCAL_RANK", "0"))


class _Sum(torch.autograd.Function):
    """Sum over the processes. Every process's loss depends on it, so the gradient is a sum over them too."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        values = values.contiguous().clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


def total(values: Tensor) -> Tensor:
    """Elementwise sum over the processes, on each of them; gradients flow back to every process."""
    return _Sum.apply(values) if world_size() > 1 else values


def all_rows(values: Tensor) -> Tensor:
    """The rows (B, ...) of all processes, one after another, on each of them; gradients flow back to every process."""
    if world_size() == 1:
        return values
    slots = torch.zeros(world_size(), *values.shape, dtype=values.dtype, device=values.device)
    return total(slots.index_copy(0, torch.tensor([rank()], device=values.device), values[None])).flatten(0, 1)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over the processes, in one message.

    With losses that are shares of the whole batch's loss (see ``tracking_loss``) the sum is the whole batch's gradient.
    torch's DistributedDataParallel would divide by the number of processes and insist on a gradient for every
    parameter; what it gains, sending while the backward pass still runs, is little beside a step of these networks.
    """
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def broadcast(module: nn.Module) -> None:
    """Give every process the parameters and buffers of process 0."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


def gather(rows: list) -> list:
    """The lists of all processes, one after another, on each of them."""
    if world_size() == 1:
        return rows
    parts: list[list] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batch of all processes, with equal parts on each. (torch's SyncBatchNorm is CUDA-only.)"""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W), same shape; statistics in float32."""
        if not self.training or world_size() == 1:
            return super().forward(images)
        pixels = images.float()
        # Mean and variance of every process side by side, then joined as Chan et al. (1979) do: sums of squares
        # would cancel where the mean is large.
        own = torch.stack((pixels.mean((0, 2, 3)), pixels.var((0, 2, 3), unbiased=False)))
        means, variances = all_rows(own[None]).unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + ((means - mean) ** 2).mean(0)
        with torch.no_grad():
            count = world_size() * pixels.numel() / pixels.shape[1]
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (pixels * scale[:, None, None] + shift[:, None, None]).to(images.dtype)


def use_global_batch_norm(module: nn.Module) -> None:
    """Make every BatchNorm2d below ``module`` a :class:`GlobalBatchNorm2d` with the same parameters and names."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                new = GlobalBatchNorm2d(child.num_features, child.eps, child.momentum)
                new.weight, new.bias = child.weight, child.bias
                new.running_mean, new.running_var = child.running_mean, child.running_var
                new.num_batches_tracked = child.num_batches_tracked
                setattr(parent, name, new.train(child.training))
