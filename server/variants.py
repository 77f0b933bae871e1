"""Variants of the model repository: what each needs of the machine, and why one is refused.

A variant is chosen by Triton's own ``--model-config-name``: a model that has a
``configs/<variant>.pbtxt`` is configured by it, every other model by its ``config.pbtxt``.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cytoserve.contract import INT8, OPENVINO, SINGLE_GRAPH, THROUGHPUT
from server.errors import VariantError

CPUINFO = Path("/proc/cpuinfo")

OPENVINO_FOLDER = Path(__file__).parents[1] / ".openvino"
"""Folder where ``make openvino`` puts the ONNX Runtime that has OpenVINO.

It is separate because the package has the same name as the one that everything else here runs on,
but another version."""


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
    )
}


def processor_instructions(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """Extensions of the instruction set, as Linux spells them."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = [line.partition(":")[2] for line in lines if line.startswith("flags")]
    return frozenset(flags[0].split()) if flags else frozenset()


def check_machine(
    variant: Variant, instructions: Collection[str], openvino: Path = OPENVINO_FOLDER
) -> None:
    """Raise `VariantError` where a processor with ``instructions`` cannot serve ``variant``."""
    if variant.instructions and not set(variant.instructions) & set(instructions):
        raise VariantError(
            f"Variant {variant.name} needs a processor with {' or '.join(variant.instructions)}; "
            "this one has neither. Serve without --variant."
        )
    # The library is built for one version of Python.
    library = f"onnxruntime/capi/*.{sysconfig.get_config_var('SOABI')}.so"
    if variant.on_openvino and not any(openvino.glob(library)):
        raise VariantError(
            f"Variant {variant.name} needs the ONNX Runtime with OpenVINO, which is not in "
            f"{openvino} for this Python. Install it: make openvino"
        )
