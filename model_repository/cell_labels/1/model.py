"""The step `cell_labels`: an adapter over `cytoserve.patches.paint_labels`."""

import numpy as np
import triton_python_backend_utils as pb_utils

from cytoserve.contract import CELL_BOXES, CELL_MASKS, FRAME_SIZE, LABELS
from cytoserve.patches import paint_labels


class TritonPythonModel:
    """Paints one label image per request."""

    def execute(self, requests):
        """Answer every request with ``labels`` uint16 ``[H, W]``."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        boxes, masks, size = (
            pb_utils.get_input_tensor_by_name(request, tensor.name).as_numpy()
            for tensor in (CELL_BOXES, CELL_MASKS, FRAME_SIZE)
        )
        labels = paint_labels(boxes, masks, (int(size[0]), int(size[1])))
        painted = pb_utils.Tensor(LABELS.name, labels.astype(np.uint16, copy=False))
        return pb_utils.InferenceResponse([painted])
