"""Cell segmentation served over gRPC: send a raw camera frame, get back segmented cells.

::

    import cytoserve

    with cytoserve.Client("localhost:8001") as client:
        cells = client.segment(frame)  # numpy, [H, W] or [H, W, 3]
        glioma = client.foreground(frame, "glioma_unet")  # a probability for every pixel
        cell = client.prompt(frame, cytoserve.Prompts(points=[[(120, 85)]]))  # the clicked cell
    print(cells, cells.label_image().max(), cells.table()["area"])
    print(glioma, glioma.confluency, glioma.mask.shape)
"""

from cytoserve.cells import Cells, Doubt
from cytoserve.client import AsyncClient, Client
from cytoserve.codec.cards import LearnedAppearance, LearnedScale, ModelCard
from cytoserve.errors import (
    AccessDenied,
    AnswerMalformed,
    CytoserveError,
    DeadlineExceeded,
    FrameTooLarge,
    InvalidPrompts,
    InvalidRequest,
    InvalidSetting,
    PipelineNotServed,
    ServerError,
    ServerNotTrusted,
    ServerUnreachable,
    UnreadableImage,
    UnsupportedImage,
    VersionNotServed,
)
from cytoserve.fake import FakeServer, cells_from_labels
from cytoserve.foreground import Foreground
from cytoserve.images import read_frame
from cytoserve.patches import Region, paint_labels
from cytoserve.planes import Plane, read_planes
from cytoserve.prompts import Prompts
from cytoserve.transport import Request, ServerInfo, Transport

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "AnswerMalformed",
    "AsyncClient",
    "Cells",
    "Client",
    "CytoserveError",
    "DeadlineExceeded",
    "Doubt",
    "FakeServer",
    "Foreground",
    "FrameTooLarge",
    "InvalidPrompts",
    "InvalidRequest",
    "InvalidSetting",
    "LearnedAppearance",
    "LearnedScale",
    "ModelCard",
    "PipelineNotServed",
    "Plane",
    "Prompts",
    "Region",
    "Request",
    "ServerError",
    "ServerInfo",
    "ServerNotTrusted",
    "ServerUnreachable",
    "Transport",
    "UnreadableImage",
    "UnsupportedImage",
    "VersionNotServed",
    "cells_from_labels",
    "paint_labels",
    "read_frame",
    "read_planes",
]
