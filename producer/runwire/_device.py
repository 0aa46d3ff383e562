"""Scalars on accelerators: copied on the device's own stream at once, read later, so that nobody waits for a device.

A framework's scalar is a promise: `float(loss)` and `loss.item()` wait until everything that was given to the device
before has been computed. A `Copy` takes the value of this moment, whatever becomes of the tensor afterwards, and can
be asked whether it has arrived. No framework is imported here: who holds one of its tensors has done that.

    torch        to pinned memory on the current stream, with an event behind it; devices without events keep a clone
    jax          arrays never change: the transfer is begun, and the computation where it hasn't ended
    tensorflow   eager tensors never change: read when somebody may wait
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Copy(Protocol):
    """Some scalars on their way."""

    def has_arrived(self) -> bool | None:
        """Whether `read` wouldn't wait; None where that can't be known."""

    def read(self) -> list[float]:
        """The values, in order; waits for the device where they haven't arrived.

        Raises:
            Exception: The framework's own: the device failed, the memory was given away (jax donates buffers).
        """


@dataclass(frozen=True, slots=True)
class Remote:
    """A scalar that reading now would, or might, make wait for a device, and how it is copied."""

    value: Any
    kind: type[TorchCopy | JaxCopy | TensorFlowCopy]


# Copies on their way, each with the places of what it brings.
Copies = list[tuple[Copy, list[int]]]


def remote(value: Any) -> Remote | None:
    """The value, if it is a remote one."""
    kind = _kind(value)
    return None if kind is None else Remote(value, kind)


def copy_all(values: Sequence[Any]) -> Copies:
    """Begin to copy the remote ones among the values, as many at a time as can travel together.

    Returns:
        The copies, with places in `values`.

    Raises:
        Exception: The framework's own.
    """
    together: dict[Any, list[int]] = {}
    for at, one in enumerate(values):
        if type(one) is Remote:
            group = (one.value.device, one.value.dtype) if one.kind is TorchCopy else at
            together.setdefault(group, []).append(at)
    return [(values[places[0]].kind([values[at].value for at in places]), places) for places in together.values()]


class TorchCopy:
    """Tensors of one device and type: stacked there, one transfer, one event."""

    def __init__(self, tensors: Sequence[Any]) -> None:
        torch = sys.modules["torch"]
        device = tensors[0].device
        scalars = [tensor.detach().reshape(()) for tensor in tensors]
        backend: Any = getattr(torch, device.type, None)
        self._event = None
        if hasattr(backend, "Event") and hasattr(backend, "current_stream"):
            # Torch takes pinned memory for that by itself, from a cache.
            there = scalars[0] if len(scalars) == 1 else torch.stack(scalars)
            self._host = there.to("cpu", non_blocking=True)
            self._event = backend.Event()
            self._event.record(backend.current_stream(device))
        else:
            self._host = scalars[0].clone() if len(scalars) == 1 else torch.stack(scalars)

    def has_arrived(self) -> bool | None:
        """Asks the event, if there is one."""
        return None if self._event is None else bool(self._event.query())

    def read(self) -> list[float]:
        """Waits for the event."""
        if self._event is not None:
            self._event.synchronize()
        values = self._host.tolist()
        return [float(value) for value in values] if isinstance(values, list) else [float(values)]


class JaxCopy:
    """One array."""

    def __init__(self, arrays: Sequence[Any]) -> None:
        (self._array,) = arrays
        self._array.copy_to_host_async()

    def has_arrived(self) -> bool:
        """Asks the array."""
        return bool(self._array.is_ready())

    def read(self) -> list[float]:
        """Waits for the array."""
        return [float(self._array.item())]


class TensorFlowCopy:
    """One eager tensor."""

    def __init__(self, tensors: Sequence[Any]) -> None:
        (self._tensor,) = tensors

    def has_arrived(self) -> None:
        """Nobody can tell."""

    def read(self) -> list[float]:
        """Waits for the tensor."""
        return [float(self._tensor.numpy().item())]


def _kind(value: Any) -> type[TorchCopy | JaxCopy | TensorFlowCopy] | None:
    """How a remote value is copied; None for one that is at hand."""
    kind = type(value)
    torch = sys.modules.get("torch")
    if torch is not None and issubclass(kind, getattr(torch, "Tensor", ())):
        return None if value.device.type in {"cpu", "meta"} else TorchCopy
    root = kind.__module__.partition(".")[0]
    if root in {"jax", "jaxlib"} and kind.__name__ == "ArrayImpl":
        is_here = value.is_ready() and all(device.platform == "cpu" for device in value.devices())
        return None if is_here else JaxCopy
    if root == "tensorflow" and kind.__name__ == "EagerTensor":
        return None if "CPU" in value.device else TensorFlowCopy
    return None
