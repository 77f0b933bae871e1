"""Adds ultralytics' own ONNX export of a checkpoint to a repository.

ultralytics' client cannot use the repository's `yolo_targets`. That model takes bytes of 0 to 255.
ultralytics sends fractions of 1 and rounds them down to the model's type, which gives a black
frame. The model also lacks the metadata from which the client learns the classes. In a trial, the
client raised no error and found 157 cells where there were none. It therefore gets the model that
ultralytics' guide to Triton makes: `YOLO.export`, with the export's metadata in the model's
parameters.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from cytoserve.contract import NETWORK_SIZE
from cytoserve.model_config import MODEL_FILES, read_config
from export.yolo.reference import UltralyticsYolo
from training.yolo.network import load_network

RAW_NETWORK = "ultralytics_targets"
"""Name of the model that is added."""


def link_with_raw_network(repository: Path, checkpoint: Path, folder: Path) -> None:
    """Fill an empty folder with links to a repository's models, and with the raw network.

    The network has the same batches and instances as the repository's `yolo_targets`.

    Args:
        repository: a model repository.
        checkpoint: checkpoint of the fine-tuned network.
        folder: an empty folder.
    """
    for model in repository.iterdir():
        (folder / model.name).symlink_to(model.resolve())
    version = folder / RAW_NETWORK / "1"
    version.mkdir(parents=True)
    graph = version / MODEL_FILES["onnxruntime"]
    yolo = UltralyticsYolo(load_network(checkpoint)[0]).yolo
    # Attributes of a network that ultralytics reads from a file; the export goes beside that file.
    yolo.model.pt_path = str(graph)
    yolo.model.task = yolo.task
    yolo.model.args = {"imgsz": NETWORK_SIZE, "data": None}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # from the exporter that ultralytics uses
        yolo.export(format="onnx", dynamic=True, simplify=False)
    metadata = {entry.key: entry.value for entry in onnx.load(graph).metadata_props}
    ours = read_config(repository / "yolo_targets" / "config.pbtxt")
    config = ModelConfig(
        name=RAW_NETWORK,
        backend=ours.backend,
        max_batch_size=ours.max_batch_size,
        dynamic_batching=ours.dynamic_batching,
        instance_group=ours.instance_group,
    )
    config.input.add(name="images", data_type="TYPE_FP32", dims=[3, NETWORK_SIZE, NETWORK_SIZE])
    config.parameters["metadata"].string_value = str(metadata)
    (version.parent / "config.pbtxt").write_text(text_format.MessageToString(config))
