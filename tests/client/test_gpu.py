"""The GPU of this machine, or why there is none."""

from __future__ import annotations

import ctypes
import re

import pytest

from cytoserve.gpu import DRIVER, NoGpuError, find_gpu


def has_driver() -> bool:
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")
def test_no_driver() -> None:
    with pytest.raises(NoGpuError, match=r"driver is not installed: libcuda\.so\.1 is missing"):
        find_gpu()


@pytest.mark.skipif(not has_driver(), reason="this machine has no NVIDIA driver")
def test_a_driver_tells_its_gpu_or_why_not() -> None:
    try:
        gpu = find_gpu()
    except NoGpuError as error:
        assert "finds no" in str(error)  # noqa: PT017  # a driver may be there without a GPU
        return
    assert gpu.name
    assert re.fullmatch(r"\d+\.\d", gpu.capability)
    assert re.fullmatch(r"\d+\.\d", gpu.driver_cuda)
