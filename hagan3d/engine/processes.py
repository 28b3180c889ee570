"""Several processes that train one model together: who is who, and what they tell each other.

`torchrun` starts them and says so in the environment. Each works through its rows of the same global batch; they meet
once per phase (mean of the gradients) and once per step (mean of the terms, and whether to stop). What decides over a
run travels between CPUs, by gloo, so that a process that has died is noticed by its closed connection.
"""

import contextlib
import datetime
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from hagan3d.errors import InputError

BUCKET = 32 * 2**20  # bytes of gradients that travel in one call
TIMEOUT = datetime.timedelta(minutes=10)  # without an answer: a connection that is cut does not always say so
LONG = datetime.timedelta(days=2)  # for what the first process makes alone, such as a store of phantoms


@dataclass(frozen=True)
class Processes:
    """The processes that train one model, seen from one of them. By default it is alone, and every call is free."""

    rank: int = 0
    """Number of this process; the first, 0, writes and prints."""
    world: int = 1
    """How many there are."""
    local_rank: int | None = None
    """Number of this process on its machine, which is that of its GPU; None where it is alone."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other."""
        return self.world == 1

    def share_of(self, batch_size: int, accumulate: int, group: int = 1) -> int:
        """Return the volumes per step of each process.

        Args:
            batch_size: Volumes per step.
            accumulate: Parts that each process works through.
            group: Volumes that must stay together.

        Raises:
            InputError: If they cannot be dealt out evenly.
        """
        least = self.world * accumulate * group
        if batch_size % least:
            together = f" x {group} volumes that are compared" if group > 1 else ""
            raise InputError(
                f"train.batch_size {batch_size} is for all processes together: want a multiple of {self.world} "
                f"processes x train.accumulate {accumulate}{together} = {least}"
            )
        return batch_size // self.world

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace each gradient by its mean over the processes, which all call this with the same shapes.

        Small ones are copied together into buckets of at most 32 MiB; larger ones need no copy.
        """
        if self.is_alone:
            return
        for bucket in _buckets(gradients):
            if len(bucket) == 1 and bucket[0].is_contiguous():
                self._sum(bucket[0]).div_(self.world)
                continue
            flat = self._sum(torch.cat([gradient.reshape(-1) for gradient in bucket])).div_(self.world)
            pieces = flat.split([gradient.numel() for gradient in bucket])
            for gradient, piece in zip(bucket, pieces, strict=True):
                gradient.copy_(piece.view(gradient.shape))

    def mean(self, terms: Mapping[str, float], flag: bool) -> tuple[dict[str, float], bool]:
        """Return the mean of each term over the processes, and whether the flag is up in any of them.

        A term that is not finite in one process is not finite in the mean: all see it.
        """
        if self.is_alone:
            return dict(terms), flag
        *means, flags = self._sum(torch.tensor([*terms.values(), float(flag)], dtype=torch.float64)).tolist()
        return {name: value / self.world for name, value in zip(terms, means, strict=True)}, flags > 0

    def agree(self, facts: Mapping[str, object]) -> None:
        """Make sure that all processes call this with the same facts (plain values).

        Raises:
            InputError: In all of them if one has others: the message names the first that differs.
        """
        if self.is_alone:
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

    @contextlib.contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Let the first process run this block before the others do."""
        if not self.is_first:
            self._sum(torch.zeros(1), LONG)
        yield
        if self.is_first:
            self._sum(torch.zeros(1), LONG)

    def _sum(self, x: Tensor, timeout: datetime.timedelta = TIMEOUT) -> Tensor:
        """Replace ``x`` by its sum over the processes."""
        if self.is_alone:
            return x
        options = dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp.SUM
        options.timeout = timeout
        with self._no_answer_is_an_error():
            assert dist.group.WORLD is not None
            dist.group.WORLD.allreduce([x], options).wait()
        return x

    def _gather(self, text: str) -> list[str]:
        """Return the texts of all processes."""
        own = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        with self._no_answer_is_an_error():
            dist.all_gather(lengths, torch.tensor([len(own)]))
            longest = max(int(length) for length in lengths)
            padded = torch.cat([own, own.new_zeros(longest - len(own))])
            texts = [torch.empty_like(padded) for _ in range(self.world)]
            dist.all_gather(texts, padded)
        return [bytes(text[: int(length)]).decode() for text, length in zip(texts, lengths, strict=True)]

    @contextlib.contextmanager
    def _no_answer_is_an_error(self) -> Iterator[None]:
        """Turn what gloo and NCCL raise when another process is gone into one line."""
        try:
            yield
        except RuntimeError as error:
            if "out of memory" in str(error):
                raise
            raise InputError(
                f"process {self.rank} of {self.world}: another process of this run has ended or does not answer (if it "
                "said why, its message stands above); the same command again goes on from the last checkpoint"
            ) from error


ALONE = Processes()


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 of the names and values of tensors, on any device."""
    made = hashlib.sha256()
    for name, value in tensors.items():
        made.update(name.encode())
        made.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return made.hexdigest()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Group neighbours of one dtype up to the size of a bucket; a larger tensor has one of its own."""
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


def in_environment() -> Processes:
    """Return what `torchrun` says of this process; where it was not started by it, that it is alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return ALONE
    return Processes(int(os.environ["RANK"]), world, int(os.environ.get("LOCAL_RANK", "0")))


@contextlib.contextmanager
def together() -> Iterator[Processes]:
    """Meet the other processes that `torchrun` started, for the length of this block; alone, do nothing.

    Raises:
        InputError: If they do not meet.
    """
    processes = in_environment()
    if processes.is_alone:
        yield processes
        return
    has_nccl = torch.cuda.is_available() and dist.is_nccl_available()
    # NCCL shall give up on a dead process without ending this one: the next word by gloo then says what happened
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if has_nccl else "gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"process {processes.rank} of {processes.world} did not meet the others at "
            f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}: {str(error).splitlines()[0]}"
        ) from error
    yield processes
    dist.destroy_process_group()  # after an error the end of the process does it, at once and without waiting
