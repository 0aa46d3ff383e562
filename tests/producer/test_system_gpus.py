"""GPUs: which ones, under which number, and everything that NVML refuses."""

# ruff: noqa: D101, N801, N802  the twin below has the names of NVML's module

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from runwire._system_gpus import GpuProbe, choose, load_nvml

UUIDS = ["GPU-aaaa0000", "GPU-aabb0000", "GPU-cccc0000", "GPU-dddd0000"]
MIG = "MIG-11112222"


@pytest.mark.parametrize(
    ("visible", "ranks", "expected"),
    [
        (None, 1, [0, 1, 2, 3]),
        (None, 4, [0, 1, 2, 3]),
        ("", 1, []),
        ("", 4, []),
        ("-1", 1, []),
        ("NoDevFiles", 1, []),
        ("0", 1, [0]),
        ("2,0", 1, [2, 0]),  # the process calls GPU 2 its 0
        (" 1 , 3 ", 1, [1, 3]),
        ("1,1,3", 1, [1, 3]),
        ("0,7,1", 1, [0]),  # the list ends before what is no device
        ("0,-1,1", 1, [0]),
        ("0,x,1", 1, [0]),
        ("0,,1", 1, [0]),
        ("9" * 5_000, 1, []),
        ("\u0663", 1, []),  # a digit for Python alone
        ("GPU-cccc0000,GPU-aabb0000", 1, [2, 1]),
        ("GPU-aab", 1, [1]),
        ("GPU-aa", 1, []),  # two begin so
        ("GPU-eeee", 1, []),
        ("gpu-cccc0000", 1, []),
        ("3,GPU-cccc0000", 1, [3, 2]),
        (MIG, 1, [MIG]),
        # Several ranks: torchrun's see the same devices ...
        ("2,3", 2, [2, 3]),
        ("0,1,2,3", 4, [0, 1, 2, 3]),
        ("GPU-cccc0000,GPU-aabb0000", 2, [2, 1]),
        # ... those of `srun --gpus-per-task=1` one each.
        ("3", 4, [0, 1, 2, 3]),
        ("0,1", 4, [0, 1, 2, 3]),
        (MIG, 2, [0, 1, 2, 3]),
    ],
)
def test_which_gpus_are_sampled(visible: str | None, ranks: int, expected: list[int | str]) -> None:
    """CUDA_VISIBLE_DEVICES numbers them; a rank that was given its own samples the whole node for the others."""
    assert choose(visible, UUIDS, ranks) == expected


def test_a_machine_without_gpus_has_none() -> None:
    assert choose(None, [], 8) == choose("0,1", [], 1) == []


class NVMLError(Exception):
    """The root of the module's errors."""


class NVMLError_LibraryNotFound(NVMLError): ...


class NVMLError_DriverNotLoaded(NVMLError): ...


class NVMLError_NotSupported(NVMLError): ...


class NVMLError_FunctionNotFound(NVMLError): ...


class NVMLError_GpuIsLost(NVMLError): ...


class NVMLError_LibRmVersionMismatch(NVMLError): ...


class FakeNvml:
    """`pynvml` as far as it is used: two GPUs and a MIG instance, and errors planted by name of the call and device."""

    NVML_TEMPERATURE_GPU = 0
    NVMLError_LibraryNotFound = NVMLError_LibraryNotFound
    NVMLError_DriverNotLoaded = NVMLError_DriverNotLoaded
    NVMLError_NotSupported = NVMLError_NotSupported
    NVMLError_FunctionNotFound = NVMLError_FunctionNotFound

    def __init__(self) -> None:
        self.faults: dict[tuple[str, Any], Exception] = {}
        self.asked: list[str] = []
        self.is_open = 0

    def _ask(self, call: str, device: Any = None) -> None:
        self.asked.append(call)
        if (call, device) in self.faults:
            raise self.faults[call, device]

    def nvmlInit(self) -> None:
        self._ask("init")
        self.is_open += 1

    def nvmlShutdown(self) -> None:
        self.is_open -= 1
        self._ask("shutdown")

    def nvmlDeviceGetCount(self) -> int:
        self._ask("count")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self._ask("handle", index)
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self._ask("handle", uuid)
        return uuid

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        self._ask("uuid", handle)
        return UUIDS[handle]

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        self._ask("utilization", handle)
        return SimpleNamespace(gpu=97, memory=40)

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        self._ask("memory", handle)
        return SimpleNamespace(total=80 * 2**30, free=60 * 2**30, used=20 * 2**30)

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        self._ask("power", handle)
        return 312_500

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        self._ask("temperature", handle)
        return 61

    def nvmlDeviceGetTemperatureV(self, handle: Any, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        self._ask("temperature_v", handle)
        return 62


def of_gpu(number: int) -> dict[str, float]:
    return {
        f"system/gpu{number}/utilization_percent": 97.0,
        f"system/gpu{number}/memory_bytes": 20.0 * 2**30,
        f"system/gpu{number}/memory_percent": 25.0,
        f"system/gpu{number}/power_watts": 312.5,
        f"system/gpu{number}/temperature_celsius": 61.0,
    }


def without(metrics: dict[str, float], *endings: str) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.endswith(endings)}


LOST, UNTOLD, MISSING = NVMLError_GpuIsLost(), NVMLError_NotSupported(), NVMLError_FunctionNotFound()
READINGS: list[tuple[str, str | None, dict[tuple[str, Any], Exception], dict[str, float], list[str]]] = [
    ("all is well", None, {}, of_gpu(0) | of_gpu(1), []),
    ("one is visible", "1", {}, of_gpu(0), []),
    ("none is visible", "", {}, {}, []),
    ("no library", None, {("init", None): NVMLError_LibraryNotFound()}, {}, []),
    ("a library without a driver", None, {("init", None): NVMLError_DriverNotLoaded()}, {}, []),
    ("another driver", None, {("init", None): NVMLError_LibRmVersionMismatch()}, {}, ["GPUs LibRmVersionMismatch"]),
    ("no count", None, {("count", None): LOST}, {}, ["GPUs GpuIsLost"]),
    ("lost from the start", None, {("handle", 0): LOST}, of_gpu(1), ["GPU 0 GpuIsLost"]),
    ("no UUID", None, {("uuid", 0): LOST}, of_gpu(0) | of_gpu(1), []),
    (
        "fell off",
        None,
        {(call, 0): LOST for call in ("utilization", "memory", "power", "temperature")},
        of_gpu(1),
        ["GPU 0 GpuIsLost"] * 4,
    ),
    ("no power", "0", {("power", 0): UNTOLD}, without(of_gpu(0), "watts"), []),
    ("an old driver", "0", {("power", 0): MISSING}, without(of_gpu(0), "watts"), []),
    ("unified memory", "0", {("memory", 0): UNTOLD}, without(of_gpu(0), "memory_bytes", "memory_percent"), []),
    ("CUDA 14", "0", {("temperature", 0): MISSING}, of_gpu(0) | {"system/gpu0/temperature_celsius": 62.0}, []),
    (
        "a MIG instance",
        MIG,
        {(call, MIG): UNTOLD for call in ("utilization", "power", "temperature")},
        without(of_gpu(0), "utilization_percent", "watts", "celsius"),
        [],
    ),
    ("no such MIG instance", MIG, {("handle", MIG): LOST}, {}, ["GPU 0 GpuIsLost"]),
    ("a broken binding", "0", {("power", 0): ValueError("x")}, without(of_gpu(0), "watts"), ["GPU 0 ValueError"]),
]


@pytest.mark.parametrize(
    ("visible", "faults", "expected", "said"), [row[1:] for row in READINGS], ids=[row[0] for row in READINGS]
)
def test_what_nvml_refuses_is_left_out(
    visible: str | None, faults: dict[tuple[str, Any], Exception], expected: dict[str, float], said: list[str]
) -> None:
    """It never raises; what is no normal state is told, with the GPU's number; NVML is given back."""
    nvml = FakeNvml()
    nvml.faults = faults
    problems: list[str] = []
    probe = GpuProbe(
        nvml, visible, 1, lambda what, error: problems.append(f"{what} {type(error).__name__.split('_')[-1]}")
    )
    assert probe.read() == expected
    assert problems == said
    probe.close()
    probe.close()
    assert nvml.is_open == 0
    assert probe.read() == {}


def test_a_gpu_that_comes_back_is_read_again() -> None:
    nvml = FakeNvml()
    probe = GpuProbe(nvml, "0", 1, lambda *_: None)
    nvml.faults = {(call, 0): LOST for call in ("utilization", "memory", "power", "temperature")}
    assert probe.read() == {}
    nvml.faults = {}
    assert probe.read() == of_gpu(0)


def test_what_a_card_does_not_tell_is_asked_once() -> None:
    nvml = FakeNvml()
    nvml.faults = {("power", 0): UNTOLD}
    probe = GpuProbe(nvml, "0", 1, lambda *_: None)
    for _ in range(3):
        probe.read()
    assert nvml.asked.count("power") == 1
    assert nvml.asked.count("memory") == 3


def test_a_failing_shutdown_is_only_said() -> None:
    nvml = FakeNvml()
    nvml.faults = {("shutdown", None): LOST}
    problems: list[str] = []
    GpuProbe(nvml, None, 1, lambda what, _: problems.append(what)).close()
    assert problems == ["GPUs"]


def test_the_real_library_has_the_names_that_are_used() -> None:
    """What stands in for it above has no call and no error that it lacks; without a driver there is none to load."""
    import pynvml  # noqa: PLC0415 - heavy

    used = [name for name in vars(FakeNvml) if name.startswith(("nvml", "NVML"))]
    assert [name for name in used if not hasattr(pynvml, name)] == []
    nvml = load_nvml()
    probe = GpuProbe(nvml, None, 1, lambda *_: None)
    assert all(name.startswith("system/gpu") for name in probe.read())
    probe.close()
    assert nvml is None or nvml is pynvml
