# SPDX-License-Identifier: Apache-2.0
"""What sums of losses are divided by: counts, averaged over the processes that share a step."""

import torch


def mean_count(
    count: torch.Tensor,  # (): what this process counts, on the device that processes talk by
    least: float = 1.0,  # least count of all processes together
) -> torch.Tensor:
    """
    The mean over processes of what each of them counts, so that the mean over processes of their sums of losses,
    divided by it, is the loss of all their images together. The detectors of transformers do the same.

    Processes meet here only where gradients are wanted. Then they step together; in evaluations one may have more
    batches than another, and would wait for ever.
    """
    processes = 1
    if torch.is_grad_enabled() and torch.distributed.is_available() and torch.distributed.is_initialized():
        processes = torch.distributed.get_world_size()
        count = count.clone()
        torch.distributed.all_reduce(count)
    return count.clamp(min=least) / processes
