"""Check that an image has what the models need; a build that lacks it ends here with the reason.

``versions`` prints TensorRT's version, by which the Dockerfile chooses its Python interface.
``complete`` checks the finished image.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from pathlib import Path

BACKENDS = Path("/opt/tritonserver/backends")
NEEDED = ("onnxruntime", "python", "tensorrt")
LIBRARIES = ("libnvinfer.so.11", "libnvinfer.so.10")
OLDEST = (10, 13)
"""What the plans are written for."""


def backends(folder: Path = BACKENDS) -> None:
    """End if Triton or one of its backends is not there."""
    missing = [name for name in NEEDED if not (folder / name).is_dir()]
    if missing:
        sys.exit(
            f"The base image has no {', no '.join(str(folder / name) for name in missing)}. Build "
            "on NVIDIA's complete image of Triton: --build-arg "
            "BASE=nvcr.io/nvidia/tritonserver:YY.MM-py3"
        )


def tensorrt_version(libraries: tuple[str, ...] = LIBRARIES) -> str:
    """TensorRT's version as its library tells, such as ``11.2.1``; end if it is too old."""
    for name in libraries:
        try:
            number = int(ctypes.CDLL(name).getInferLibVersion())
        except (OSError, AttributeError):
            continue
        version = (number // 10000, number // 100 % 100, number % 100)
        if version < OLDEST:
            break
        return ".".join(map(str, version))
    wanted = ".".join(map(str, OLDEST))
    sys.exit(f"The base image has no TensorRT of {wanted} or later: {' or '.join(libraries)}.")


def packages(version: str) -> None:
    """End if a Python package is missing, is not the locked one, or does not fit Triton."""
    numpy = importlib.import_module("numpy")
    if int(numpy.__version__.split(".")[0]) >= 2:
        sys.exit(f"numpy is {numpy.__version__}, and Triton's Python backend needs one below 2.")
    for name in ("cytoserve", "cv2", "export.variants.plans", "server.access"):
        importlib.import_module(name)
    found = importlib.import_module("tensorrt").__version__
    if not found.startswith(f"{version}."):
        sys.exit(f"TensorRT's library is {version}, and its Python interface {found}.")


if __name__ == "__main__":
    backends()
    if sys.argv[1:] == ["versions"]:
        print(tensorrt_version())  # noqa: T201  the Dockerfile reads it
    else:
        packages(tensorrt_version())
