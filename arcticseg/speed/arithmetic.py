"""What a training step of a network computes, moves and keeps, counted without a device that could do it.

The network runs on the meta device, where tensors have shapes and no memory: forward and backward, operation by
operation. Attention counts as the fused kernels do it, which keep no scores.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# What an operation is, for its speed.
MATMUL, ATTENTION, CONVOLUTION, OTHER = "matmul", "attention", "convolution", "other"

_VIEWS = {"aten.view", "aten.detach", "aten.t", "aten.transpose", "aten._unsafe_view", "aten.expand", "aten.alias"}


@dataclass(frozen=True)
class Operation:
    """One operation of a step: its kind, floating-point operations, bytes read and written.

    `width`: the fewest channels on either side of a convolution; 0 for other kinds.
    """

    kind: str
    flops: int
    moved: int
    width: int = 0


@dataclass(frozen=True)
class Work:
    """What forward and backward of one micro batch cost.

    Attributes:
        samples: of the micro batch.
        parameters: of the network.
        trained: those that get a gradient.
        operations: in order.
        peak: bytes that exist at once at most, weights and inputs apart, gradients of weights included.
        inputs: bytes of the inputs.
        forward: floating-point operations of the forward pass alone.
        kept: bytes that forward leaves for backward, weights and inputs apart.
    """

    samples: int
    parameters: int
    trained: int
    operations: tuple[Operation, ...]
    peak: int
    inputs: int
    forward: int = 0
    kept: int = 0

    @property
    def flops(self) -> int:
        """Floating-point operations of the micro batch."""
        return sum(operation.flops for operation in self.operations)

    @property
    def flops_a_sample(self) -> float:
        """Floating-point operations of a sample."""
        return self.flops / self.samples


def count(model: nn.Module, forward: Callable[[], Tensor], samples: int, inputs: int) -> Work:
    """Run forward and backward once and count.

    Args:
        model: on the meta device, in the precision of training.
        forward: gives what backward starts from, a number.
        samples: that `forward` takes at once.
        inputs: bytes of what it takes.
    """
    parameters = list(model.parameters())
    with _Fused() as fused, _Counter(parameters) as counter:
        loss = forward()
        # Of each attention the first of the two is forward.
        first = sum(operation.flops for operation in (*counter.operations, *fused.operations[::2]))
        kept = counter.live
        loss.backward()
        # Or it would keep what it was made from, on which the peak of a later count does not depend.
        del loss
    model.zero_grad(set_to_none=True)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    total = sum(p.numel() for p in parameters)
    return Work(samples, total, trained, (*counter.operations, *fused.operations), counter.peak, inputs, first, kept)


class _Counter(TorchDispatchMode):
    """Keeps each operation, and the bytes of the storages that live."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.peak = self.live = 0
        self._known = weakref.WeakSet(p.untyped_storage() for p in parameters)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        inputs = set(_storages((args, kwargs)))
        out = func(*args, **kwargs)
        for storage in _storages(out):
            if storage not in inputs:
                self._add(storage)
        if not func.is_view and str(func.overloadpacket) not in _VIEWS:
            self.operations.append(_operation(func, args, kwargs, out))
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.live -= size


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    return (tensor.untyped_storage() for tensor in _tensors(tree))


def _operation(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Operation:
    packet = func.overloadpacket
    moved = sum(tensor.numel() * tensor.element_size() for tensor in _tensors((args, kwargs, out)))
    if packet not in flop_registry:
        return Operation(OTHER, 0, moved)
    if "convolution" not in str(packet):
        return Operation(MATMUL, int(flop_registry[packet](*args, **kwargs, out_val=out)), moved)
    if "backward" in str(packet):
        values, image, weight, transposed, times = args[0], args[1], args[2], args[7], sum(args[10][:2])
    else:
        values, image, weight, transposed, times = out, args[0], args[1], args[6], 1
    # torch's own count of a backward pass knows no groups: each value of the larger side meets the taps of its group.
    flops = times * 2 * (image if transposed else values).numel() * weight[0].numel()
    return Operation(CONVOLUTION, flops, moved, min(weight.shape[:2]))


class _Fused(TorchFunctionMode):
    """Attention as one operation each way."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args[:3]
        # Two products forward and four backward; what fused kernels compute twice is not counted.
        product = 2 * query.numel() * key.shape[-2]
        one = query.numel() * query.element_size()
        self.operations += [Operation(ATTENTION, 2 * product, 4 * one), Operation(ATTENTION, 4 * product, 8 * one)]
        return _Attention.apply(query, key, value)


class _Attention(torch.autograd.Function):
    """The shapes of fused attention, and what it keeps."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
