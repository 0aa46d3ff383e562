"""What the GPUs do, by NVML: the NVIDIA driver's own library, read through `nvidia-ml-py`.

Which ones, and their numbers N in `system/gpuN/...`:

1. Those that this process sees: CUDA_VISIBLE_DEVICES lists numbers in the order of PCI, UUIDs or their beginnings, or
   UUIDs of MIG instances. N is the place in that list, which is what the process calls the device. As in CUDA the list
   ends before the first entry that is no device, and an empty one means none.
2. One process samples for all ranks of its node. If it sees fewer GPUs than the node has ranks, each rank was given
   its own (SLURM, `--gpus-per-task`): then they are all that NVML shows, N by their order on the PCI bus.

What a card doesn't tell (power of many laptops, anything but the memory of a MIG instance) is left out for good; a
GPU that falls off is left out while NVML says so. Without a driver there is nothing to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LIBRARY = "libnvidia-ml.so.1"
_DIGITS_MAX = 4


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device: its number in the metrics' names, and NVML's handle of it."""

    number: int
    handle: Any


def load_nvml() -> Any:
    """NVML's Python module; None without the driver's library, which is looked for first: the module takes 14 MB."""
    import ctypes  # noqa: PLC0415 - not below `runwire.init`, as the module below

    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    import pynvml  # noqa: PLC0415 - as above

    return pynvml


def choose(visible: str | None, uuids: Sequence[str], ranks: int) -> list[int | str]:
    """The devices to be sampled, in the order of their numbers: places in `uuids`, or UUIDs of MIG instances.

    Args:
        visible: CUDA_VISIBLE_DEVICES.
        uuids: Those of the node's GPUs, in NVML's order.
        ranks: How many ranks of this node the sampler speaks for.
    """
    everything: list[int | str] = list(range(len(uuids)))
    if visible is None:
        return everything
    chosen: list[int | str] = []
    for entry in visible.split(","):
        device = _device(entry.strip(), uuids)
        if device is None:
            break
        if device not in chosen:
            chosen.append(device)
    return everything if chosen and len(chosen) < ranks else chosen


def _device(entry: str, uuids: Sequence[str]) -> int | str | None:
    if entry.isascii() and entry.isdecimal():
        return int(entry) if len(entry) <= _DIGITS_MAX and int(entry) < len(uuids) else None
    if entry.startswith("MIG-"):
        return entry
    named = [at for at, uuid in enumerate(uuids) if entry.startswith("GPU-") and uuid.startswith(entry)]
    return named[0] if len(named) == 1 else None


class GpuProbe:
    """Reads the GPUs; made once, closed once, by one thread."""

    def __init__(self, nvml: Any, visible: str | None, ranks: int, warn: Callable[[str, Exception], None]) -> None:
        """Start NVML and find the devices; where that fails there are none. Never raises.

        Args:
            nvml: The module, or None.
            visible: See `choose`.
            ranks: See `choose`.
            warn: Gets what couldn't be read, and why; as often as it happens.
        """
        self._nvml = nvml
        self._warn = warn
        self._untold: set[tuple[int, str]] = set()
        self._gpus: list[Gpu] = []
        self._is_open = False
        if nvml is None:
            return
        try:
            nvml.nvmlInit()
            self._is_open = True
            uuids = [self._uuid(at) for at in range(nvml.nvmlDeviceGetCount())]
        except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded):
            return  # a machine without a GPU, or an image that brings the library along
        except Exception as error:  # noqa: BLE001 - a driver fails in many ways
            warn("GPUs", error)
            return
        for number, device in enumerate(choose(visible, uuids, ranks)):
            try:
                by = nvml.nvmlDeviceGetHandleByUUID if isinstance(device, str) else nvml.nvmlDeviceGetHandleByIndex
                self._gpus.append(Gpu(number, by(device)))
            except Exception as error:  # noqa: BLE001 - as above
                warn(f"GPU {number}", error)

    def read(self) -> dict[str, float]:
        """Metrics to values; what can't be read is left out, never raises."""
        found: dict[str, float] = {}
        for gpu in self._gpus:
            for what, read in _QUERIES.items():
                if (gpu.number, what) in self._untold:
                    continue
                try:
                    values = read(self._nvml, gpu.handle)
                except (self._nvml.NVMLError_NotSupported, self._nvml.NVMLError_FunctionNotFound):
                    self._untold.add((gpu.number, what))
                except Exception as error:  # noqa: BLE001 - it fell off, or the driver went: perhaps it comes back
                    self._warn(f"GPU {gpu.number}", error)
                else:
                    found |= {f"system/gpu{gpu.number}/{name}": value for name, value in values.items()}
        return found

    def close(self) -> None:
        """Give NVML back; never raises."""
        if self._is_open:
            self._is_open = False
            self._gpus = []
            try:
                self._nvml.nvmlShutdown()
            except Exception as error:  # noqa: BLE001 - as above
                self._warn("GPUs", error)

    def _uuid(self, at: int) -> str:
        """Empty for a GPU that doesn't answer: the others keep their places."""
        try:
            return str(self._nvml.nvmlDeviceGetUUID(self._nvml.nvmlDeviceGetHandleByIndex(at)))
        except Exception:  # noqa: BLE001 - said when it is chosen
            return ""


def _utilization(nvml: Any, handle: Any) -> dict[str, float]:
    return {"utilization_percent": float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)}


def _memory(nvml: Any, handle: Any) -> dict[str, float]:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return {"memory_bytes": float(memory.used), "memory_percent": 100 * memory.used / memory.total}


def _power(nvml: Any, handle: Any) -> dict[str, float]:
    return {"power_watts": nvml.nvmlDeviceGetPowerUsage(handle) / 1_000}


def _temperature(nvml: Any, handle: Any) -> dict[str, float]:
    try:
        degrees = nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
    except nvml.NVMLError_FunctionNotFound:  # drivers from CUDA 14 on
        degrees = nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU)
    return {"temperature_celsius": float(degrees)}


_QUERIES: dict[str, Callable[[Any, Any], dict[str, float]]] = {
    "utilization": _utilization,
    "memory": _memory,
    "power": _power,
    "temperature": _temperature,
}
