"""ultralytics' own ONNX export of a checkpoint, as one more model of a repository.

ultralytics' client cannot use the repository's `yolo_targets`. That takes bytes of 0 to 255 where
ultralytics sends fractions of 1, which it rounds down to the model's type, so to a black frame; and
it has no metadata, from which the client learns the classes. Tried, it answered without an error,
157 cells that were none. So it is served what its guide to Triton makes: `YOLO.export`, and the
export's metadata in the model's parameters.
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
"""Name of the added model."""


def link_with_raw_network(repository: Path, checkpoint: Path, folder: Path) -> None:
    """Fill an empty folder with links to a repository's models and the raw network beside them.

    The network's batches and instances are those of the repository's `yolo_targets`.

    Args:
        repository: a model repository.
        checkpoint: of the fine-tuned network.
        folder: an empty folder.
    """
    for model in repository.iterdir():
        (folder / model.name).symlink_to(model.resolve())
    version = folder / RAW_NETWORK / "1"
    version.mkdir(parents=True)
    graph = version / MODEL_FILES["onnxruntime"]
    yolo = UltralyticsYolo(load_network(checkpoint)[0]).yolo
    # What a network has that ultralytics read from a file of its own; the export goes beside it.
    yolo.model.pt_path = str(graph)
    yolo.model.task = yolo.task
    yolo.model.args = {"imgsz": NETWORK_SIZE, "data": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the exporter that ultralytics uses
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
