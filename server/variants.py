"""Variants of the model repository: what each needs of the machine, and why one is refused.

A variant is chosen by Triton's own ``--model-config-name``: a model that has a
``configs/<variant>.pbtxt`` is configured by it, every other model by its ``config.pbtxt``.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cytoserve.contract import CUDA, INT8, OPENVINO, SINGLE_GRAPH, TENSORRT, THROUGHPUT
from cytoserve.gpu import NoGpuError, find_gpu
from server.errors import VariantError

DEFAULT = "default"
"""Name of serving every model by its ``config.pbtxt``; the other names are in `VARIANTS`."""

CPUINFO = Path("/proc/cpuinfo")

OPENVINO_FOLDER = Path(__file__).parents[1] / ".openvino"
"""Folder where ``make openvino`` puts the ONNX Runtime that has OpenVINO.

It is separate because the package has the same name as the one that everything else here runs on,
but another version."""

CUDA_FOLDER = OPENVINO_FOLDER.with_name(".cuda")
"""Folder where ``make cuda`` puts the ONNX Runtime that has CUDA, and CUDA's own libraries."""


@dataclass(frozen=True)
class Variant:
    """One way to compute the same pipelines."""

    name: str

    summary: str

    instructions: tuple[str, ...] = ()
    """Instructions of which the processor must have one, as ``/proc/cpuinfo`` spells them.

    Empty: any processor will do. Without them, the variant would give the same answers, but more
    slowly than the default."""

    on_openvino: bool = False

    on_cuda: bool = False

    in_image: bool = False
    """Whether it needs a backend that only NVIDIA's image of Triton has."""

    for_many: bool = False
    """Whether it serves more frames per second to many clients, but is slower for one."""


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(
            OPENVINO.name, "networks on OpenVINO in bfloat16", ("avx512_bf16", "amx_bf16"), True
        ),
        Variant(INT8.name, "YOLO and ResNet50 in 8-bit integers", ("avx512_vnni", "avx_vnni")),
        Variant(SINGLE_GRAPH, "YOLO pipelines as one graph each"),
        Variant(
            THROUGHPUT.name,
            "two instances of these graphs and of the nuclei's network, for many clients",
            for_many=True,
        ),
        Variant(CUDA.name, "networks on an NVIDIA GPU", on_cuda=True),
        Variant(
            TENSORRT, "networks on an NVIDIA GPU by TensorRT, in NVIDIA's image only", in_image=True
        ),
    )
}


def processor_instructions(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Extensions of the instruction set, as Linux spells them."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = [line.partition(":")[2] for line in lines if line.startswith("flags")]
    return frozenset(flags[0].split()) if flags else frozenset()


def check_machine(
    variant: Variant,
    instructions: Collection[str],
    openvino: Path = OPENVINO_FOLDER,
    cuda: Path = CUDA_FOLDER,
) -> None:
    """Raise `VariantError` where this machine cannot serve ``variant``.

    Args:
        variant: the variant.
        instructions: those of the processor.
        openvino: folder of the ONNX Runtime with OpenVINO.
        cuda: folder of the ONNX Runtime with CUDA.
    """
    if variant.in_image:
        raise VariantError(
            f"Variant {variant.name} needs Triton's TensorRT backend, which NVIDIA's image has and "
            "this server has not. Serve it there: tritonserver "
            f"--model-config-name={variant.name}, see docs/deploy.md. Here, a GPU serves "
            f"--variant {CUDA.name}."
        )
    if variant.instructions and not set(variant.instructions) & set(instructions):
        raise VariantError(
            f"Variant {variant.name} needs a processor with {' or '.join(variant.instructions)}; "
            "this one has neither. Serve with --variant default."
        )
    if variant.on_openvino and not has_runtime(openvino):
        raise VariantError(
            f"Variant {variant.name} needs the ONNX Runtime with OpenVINO, which is not in "
            f"{openvino} for this Python. Install it: make openvino"
        )
    if variant.on_cuda:
        check_gpu(variant, cuda)


def check_gpu(variant: Variant, cuda: Path) -> None:
    """Raise `VariantError` where there is no GPU, or no ONNX Runtime for it in ``cuda``."""
    try:
        find_gpu()
    except NoGpuError as error:
        raise VariantError(
            f"Variant {variant.name} needs an NVIDIA GPU: {error}. Serve with --variant default."
        ) from error
    if not has_runtime(cuda):
        raise VariantError(
            f"Variant {variant.name} needs the ONNX Runtime with CUDA, which is not in {cuda} for "
            "this Python. Install it with Python 3.11 or 3.12: make cuda"
        )


def has_runtime(folder: Path) -> bool:
    """Whether a folder holds an ONNX Runtime that is built for the running version of Python."""
    library = f"onnxruntime/capi/*.{sysconfig.get_config_var('SOABI')}.so"
    return any(folder.glob(library))


def runtime_folder(variant: Variant | None) -> Path | None:
    """The folder whose ONNX Runtime serves a variant; None: the one of this environment."""
    if variant and variant.on_openvino:
        return OPENVINO_FOLDER
    return CUDA_FOLDER if variant and variant.on_cuda else None


def runtime_libraries(folder: Path | None) -> tuple[Path, ...]:
    """Folders of the libraries that the ONNX Runtime in ``folder`` loads besides its own."""
    return tuple(sorted(folder.glob("nvidia/*/lib"))) if folder else ()
