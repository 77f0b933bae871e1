"""NVIDIA GPUs of this machine, as their driver tells; no other library is needed."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

DRIVER = "libcuda.so.1"
"""The driver's library. Only the driver installs it, not CUDA's packages."""

_MAJOR, _MINOR = 75, 76
"""``CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR`` and ``_MINOR`` of ``cuda.h``."""

_NAME_BYTES = 256


class NoGpuError(RuntimeError):
    """This machine has no driver for NVIDIA GPUs, or no GPU that it knows."""


@dataclass(frozen=True)
class Gpu:
    """The GPU that CUDA programs use unless they choose another."""

    name: str
    capability: str
    """Compute capability, such as ``9.0``."""
    driver_cuda: str
    """Newest version of CUDA that the driver runs, such as ``13.0``."""


def find_gpu() -> Gpu:
    """Return the first GPU.

    Raises:
        NoGpuError: there is no driver or no GPU; the text says which.
    """
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError as error:
        raise NoGpuError(f"the NVIDIA driver is not installed: {DRIVER} is missing") from error
    _call(driver, "cuInit", 0)
    count, device, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    _call(driver, "cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        raise NoGpuError("the NVIDIA driver finds no GPU")
    _call(driver, "cuDeviceGet", ctypes.byref(device), 0)
    _call(driver, "cuDriverGetVersion", ctypes.byref(version))
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _call(driver, "cuDeviceGetName", name, _NAME_BYTES, device)
    numbers = []
    for attribute in (_MAJOR, _MINOR):
        number = ctypes.c_int()
        _call(driver, "cuDeviceGetAttribute", ctypes.byref(number), attribute, device)
        numbers.append(str(number.value))
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(name.value.decode(), ".".join(numbers), cuda)


def has_gpu() -> bool:
    """Tell whether this machine has a driver and a GPU."""
    try:
        find_gpu()
    except NoGpuError:
        return False
    return True


def _call(driver: ctypes.CDLL, function: str, *arguments: object) -> None:
    status = getattr(driver, function)(*arguments)
    if status:
        raise NoGpuError(f"the NVIDIA driver finds no usable GPU: {function} answers {status}")
