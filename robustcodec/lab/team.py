"""Several processes that train one network: each has its part of every batch, and gradients are averaged over all.

They are started by torchrun, or anything that sets what it sets; the first one writes, on a disk that all of them see.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import distributed, nn

from robustcodec.errors import TrainingError
from robustcodec.lab.losses import WHOLE, Part
from robustcodec.lab.recipe import Recipe


@dataclass(frozen=True)
class Team:
    """The processes, as one of them sees them. All must call the methods, in the same order."""

    part: Part = WHOLE
    here: int = 1
    """How many of them run on this machine."""

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.part.index == 0

    def check(self, recipe: Recipe) -> None:
        """Raise TrainingError if a batch cannot be shared out evenly."""
        for phase in recipe.phases:
            if phase.batch % self.part.count:
                raise TrainingError(
                    f"a batch of {phase.batch} crops cannot be shared out evenly among {self.part.count} processes; "
                    "start another number of them, or change the recipe's batch"
                )

    def average_gradients(self, network: nn.Module) -> None:
        """Replace each gradient by its mean over all processes."""
        if self.part.count == 1:
            return
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.part.count
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, parts, strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def agree(self, flag: bool) -> bool:
        """Give the first process's flag to all."""
        if self.part.count == 1:
            return flag
        flags = [flag]
        distributed.broadcast_object_list(flags)
        return flags[0]


ALONE = Team()


@contextmanager
def joined() -> Iterator[Team]:
    """Join the processes that were started together; a process that was started alone is its own team.

    Once one has failed, errors of the others say nothing new: they exit with code 1, silently.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # its functions keep the group that exists when they are first imported, as an optimizer does: the group's threads
    # would outlive destroy_process_group, and abort a process in whose last moments they still hold a tensor
    import_module("torch.distributed.nn")
    store, rank, count = next(distributed.rendezvous("env://"))  # type: ignore[attr-defined]
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count)
    try:
        yield Team(Part(rank, count), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    except Exception as error:
        if _another_failed(store):
            raise SystemExit(1) from error
        raise
    finally:
        distributed.destroy_process_group()


def _another_failed(store: Any) -> bool:
    """Count this process among those that failed, and tell whether one had before."""
    try:
        return int(store.add("failed", 1)) > 1
    except RuntimeError:  # the store has gone with the process that kept it
        return True
