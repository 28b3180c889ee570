"""Data-parallel training on several ranks, started by `torchrun`.

Each rank works on its rows of the same global batch. Ranks communicate once per phase (mean of the gradients) and once
per step (mean of the loss terms, and whether to stop). Control messages go between CPUs by gloo, so that a dead rank is
noticed by its closed connection.
"""

import contextlib
import datetime
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hagan3d.errors import InputError, is_device_fault, is_out_of_memory

BUCKET = 32 * 2**20  # bytes of gradients per all-reduce
TIMEOUT = datetime.timedelta(minutes=10)  # a cut connection is not always reported
LONG = datetime.timedelta(days=2)  # for what the first rank does alone, such as making a store of phantoms


@dataclass(frozen=True)
class Distributed:
    """The rank of this process and its communication; with a single rank, the default, calls are no-ops."""

    rank: int = 0
    """Rank of this process; rank 0 writes and prints."""
    world_size: int = 1
    """Number of ranks."""
    local_rank: int | None = None
    """Rank on its machine, which is the index of its GPU; None with a single rank."""

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes and prints."""
        return self.rank == 0

    @property
    def is_single(self) -> bool:
        """Whether there is one rank."""
        return self.world_size == 1

    def per_rank_batch(self, batch_size: int, accumulate: int, group: int = 1) -> int:
        """Return the volumes per step of each rank.

        Args:
            batch_size: Volumes per step.
            accumulate: Micro-batches of each rank.
            group: Volumes that must stay in one micro-batch.

        Raises:
            InputError: If the batch cannot be divided evenly.
        """
        least = self.world_size * accumulate * group
        if batch_size % least:
            compared = f" x {group} volumes that are compared with each other" if group > 1 else ""
            raise InputError(
                f"train.batch_size {batch_size}: is for all ranks together; it must be a multiple of {self.world_size} "
                f"processes x train.accumulate {accumulate}{compared} = {least}"
            )
        return batch_size // self.world_size

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace each gradient by its mean over the ranks, which all call this with the same shapes.

        Small tensors are copied into buckets of at most 32 MiB; larger ones are reduced in place.
        """
        if self.is_single:
            return
        for bucket in _buckets(gradients):
            if len(bucket) == 1 and bucket[0].is_contiguous():
                self._sum(bucket[0]).div_(self.world_size)
                continue
            flat = self._sum(torch.cat([gradient.reshape(-1) for gradient in bucket])).div_(self.world_size)
            pieces = flat.split([gradient.numel() for gradient in bucket])
            for gradient, piece in zip(bucket, pieces, strict=True):
                gradient.copy_(piece.view(gradient.shape))

    def mean(self, terms: Mapping[str, float], flag: bool) -> tuple[dict[str, float], bool]:
        """Return the mean of each term over the ranks, and whether the flag is set on any.

        A term that is not finite on one rank is not finite in the mean, so that all ranks see it.
        """
        if self.is_single:
            return dict(terms), flag
        *means, flags = self._sum(torch.tensor([*terms.values(), float(flag)], dtype=torch.float64)).tolist()
        return {name: value / self.world_size for name, value in zip(terms, means, strict=True)}, flags > 0

    def check_same_on_all_ranks(self, facts: Mapping[str, object]) -> None:
        """Check that all ranks call this with the same facts (plain values).

        Raises:
            InputError: On all ranks if one differs: the message names the first difference.
        """
        if self.is_single:
            return
        everyone = [json.loads(text) for text in self._gather(json.dumps(dict(facts)))]
        for rank, theirs in enumerate(everyone):
            for key in {**everyone[0], **theirs}:
                ours, other = everyone[0].get(key), theirs.get(key)
                if ours != other:
                    raise InputError(
                        f"{key}: process {rank} has {other}, process 0 has {ours}; all processes of a run need "
                        "the same command, version and store, and one folder --out that all can see"
                    )

    def of_largest(self, size: float, value: Any) -> Any:
        """Return the value (plain, as JSON has them) of the rank with the largest size, the first of equal ones."""
        everyone = [json.loads(text) for text in self._gather(json.dumps([size, value]))]
        return max(everyone, key=lambda one: one[0])[1]

    @contextlib.contextmanager
    def first_rank_first(self) -> Iterator[None]:
        """Let rank 0 run this block before the others do."""
        if not self.is_first:
            self._sum(torch.zeros(1), LONG)
        yield
        if self.is_first:
            self._sum(torch.zeros(1), LONG)

    def _sum(self, x: Tensor, timeout: datetime.timedelta = TIMEOUT) -> Tensor:
        """Replace ``x`` by its sum over the ranks."""
        if self.is_single:
            return x
        options = dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp.SUM
        options.timeout = timeout
        with self._readable_errors():
            assert dist.group.WORLD is not None
            dist.group.WORLD.allreduce([x], options).wait()
        return x

    def _gather(self, text: str) -> list[str]:
        """Return the texts of all ranks."""
        own = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        with self._readable_errors():
            dist.all_gather(lengths, torch.tensor([len(own)]))
            longest = max(int(length) for length in lengths)
            padded = torch.cat([own, own.new_zeros(longest - len(own))])
            texts = [torch.empty_like(padded) for _ in range(self.world_size)]
            dist.all_gather(texts, padded)
        return [bytes(text[: int(length)]).decode() for text, length in zip(texts, lengths, strict=True)]

    @contextlib.contextmanager
    def _readable_errors(self) -> Iterator[None]:
        """Turn what gloo and NCCL raise when another rank is gone into one line."""
        try:
            yield
        except RuntimeError as error:
            # A fault of the GPU shows up in whichever call follows it: it is no sign of a dead rank.
            if is_out_of_memory(error) or is_device_fault(error):
                raise
            raise InputError(
                f"process {self.rank} of {self.world_size}: another process of this run has ended or does not answer "
                "(its own message, if any, is above); the same command again resumes from the last checkpoint"
            ) from error


SINGLE = Distributed()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Group neighbours of one dtype up to the size of a bucket; a larger tensor has its own."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size + tensor.nbytes > BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket


def from_environment() -> Distributed:
    """Return the rank that `torchrun` gave this process in its environment; without it, a single rank.

    Raises:
        InputError: If the environment names other ranks than torchrun would.
    """
    world, rank, local = (os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    if world in ("", "1"):
        return SINGLE
    if not (world.isdecimal() and rank.isdecimal() and (local or "0").isdecimal() and int(rank) < int(world)):
        raise InputError(
            f"WORLD_SIZE {world}, RANK {rank or 'unset'}: are not those of a process that torchrun started; start with "
            "torchrun, or unset WORLD_SIZE"
        )
    return Distributed(int(rank), int(world), int(local or "0"))


@contextlib.contextmanager
def init_distributed() -> Iterator[Distributed]:
    """Initialize torch.distributed for this block; no-op with a single rank.

    Raises:
        InputError: If the ranks cannot connect.
    """
    processes = from_environment()
    if processes.is_single:
        yield processes
        return
    has_nccl = torch.cuda.is_available() and dist.is_nccl_available()
    # On a dead peer, abort the NCCL collective but not the process: the next gloo call then raises a readable error.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if has_nccl else "gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"process {processes.rank} of {processes.world_size} could not connect to the others at "
            f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}: {str(error).splitlines()[0]}"
        ) from error
    yield processes
    dist.destroy_process_group()  # after an error the end of the process does this, without waiting
