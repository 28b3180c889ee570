"""Peak memory of tensors, counted: of real ones, or of fake ones that have shapes and no values."""

import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

BLOCK = 512  # bytes, to which an allocator rounds up


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensor storages, each rounded up to 512 bytes, and their peak.

    Tensors made before count once `track` has seen them. Works under `FakeTensorMode`, entered inside it.
    """

    def __init__(self, existing: Iterable[Tensor] = ()) -> None:
        """Start from the tensors in ``existing``."""
        super().__init__()
        self.now = 0
        self.peak = 0
        self._seen: set[int] = set()
        self._finalizers: dict[int, weakref.finalize[..., Any]] = {}
        self.track(list(existing))

    def track(self, values: Any) -> None:
        """Count the storages of all tensors in ``values``."""
        for value in tree_iter(values):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())

    def reset_peak(self) -> None:
        """Set the peak to what is allocated now."""
        self.peak = self.now

    def exclude(self, tensors: Iterable[Tensor]) -> None:
        """Stop counting the storages of ``tensors``, which stand for tensors in another memory."""
        for storage in (tensor.untyped_storage() for tensor in tensors):
            before = self._finalizers[storage._cdata].detach()
            if before is not None:
                self.now -= before[2][1]
            self._finalizers[storage._cdata] = weakref.finalize(storage, self._remove, storage._cdata, 0)

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._seen.add(key)
        self._finalizers[key] = weakref.finalize(storage, self._remove, key, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _remove(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._finalizers.pop(key, None)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count its outputs."""
        out = func(*args, **(kwargs or {}))
        self.track(out)
        return out

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop counting."""
        super().__exit__(kind, error, trace)
        for finalizer in self._finalizers.values():
            finalizer.detach()

    def __enter__(self) -> Self:
        """Start counting."""
        super().__enter__()
        return self
