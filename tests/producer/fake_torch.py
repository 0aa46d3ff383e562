"""A stand-in for torch with one slow accelerator: what it is given runs when the test says so.

It has the names of torch that `_device.py` uses and none that would wait: whoever asks a tensor on the device for its
value gets an error.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn


@dataclass(frozen=True)
class Device:
    """torch.device."""

    type: str
    index: int = 0


CPU = Device("cpu")


@dataclass
class Stream:
    """The device's queue; `run` does what is in it."""

    queue: deque[Callable[[], None]] = field(default_factory=deque)

    def run(self, operations: int = 10**6) -> None:
        for _ in range(min(operations, len(self.queue))):
            self.queue.popleft()()


STREAM = Stream()


class Tensor:
    """A tensor of the fake: `cell` holds its numbers, which on the device are only there once the stream has run."""

    def __init__(self, cell: list[float], device: Device, shape: tuple[int, ...] = (), dtype: str = "float32") -> None:
        self.cell, self.device, self.shape, self.dtype = cell, device, shape, dtype

    def detach(self) -> Tensor:
        return self

    def reshape(self, shape: tuple[int, ...]) -> Tensor:
        return Tensor(self.cell, self.device, shape, self.dtype)

    def clone(self) -> Tensor:
        return self._copied(self.device)

    def to(self, place: str, *, non_blocking: bool) -> Tensor:
        assert place == "cpu"
        assert non_blocking
        return self._copied(CPU)

    def fill_(self, value: float) -> None:
        cell = self.cell
        STREAM.queue.append(lambda: cell.__setitem__(slice(None), [value] * len(cell)))

    def _copied(self, device: Device) -> Tensor:
        made, cell = [float("nan")] * len(self.cell), self.cell
        STREAM.queue.append(lambda: made.__setitem__(slice(None), list(cell)))
        return Tensor(made, device, self.shape, self.dtype)

    def tolist(self) -> list[float] | float:
        if self.device != CPU:
            STREAM.run()
        return list(self.cell) if self.shape else self.cell[0]

    def __float__(self) -> NoReturn:
        raise AssertionError("a wait for the device")

    def __radd__(self, other: Any) -> Tensor:
        return self

    item = __bool__ = __index__ = numpy = __float__


def on_device(value: float, kind: str = "cuda", **how: Any) -> Tensor:
    """A scalar that the device will have computed when its stream has run."""
    tensor = Tensor([float("nan")], Device(kind), **how)
    tensor.fill_(value)
    return tensor


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """torch.stack of scalars."""
    made, cells = [float("nan")] * len(tensors), [tensor.cell for tensor in tensors]
    STREAM.queue.append(lambda: made.__setitem__(slice(None), [cell[0] for cell in cells]))
    return Tensor(made, tensors[0].device, (len(tensors),), tensors[0].dtype)


class Event:
    """torch.cuda.Event."""

    def __init__(self) -> None:
        self.has_run = False

    def record(self, stream: Stream) -> None:
        stream.queue.append(lambda: setattr(self, "has_run", True))

    def query(self) -> bool:
        return self.has_run

    def synchronize(self) -> None:
        assert self.has_run, "a wait for the device"


def module() -> types.ModuleType:
    """What stands for torch in sys.modules: `cuda` has events, `mps` has none."""
    made = types.ModuleType("torch")
    made.Tensor, made.stack = Tensor, stack  # type: ignore[attr-defined]
    made.cuda = types.SimpleNamespace(Event=Event, current_stream=lambda _device: STREAM)  # type: ignore[attr-defined]
    made.mps = types.SimpleNamespace()  # type: ignore[attr-defined]
    return made
