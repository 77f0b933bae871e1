"""Index of the modules that steps' graphs are made from, to look up what a step does."""

from __future__ import annotations

STEP_MODULES = {
    "yolo_prepare": "training.preprocessing.cutting.NetworkTiles",
    "yolo_cells": "training.yolo.network.YoloNetwork",
    "yolo_targets": "training.yolo.network.YoloNetwork",
    "yolo_decode": "training.yolo.decode.YoloDecode",
    "cell_crops": "training.preprocessing.cutting.CellCrops",
    "resnet50_cells": "export.resnet.network.ClassifierNetwork",
    "cell_classes": "export.resnet.network.CellClasses",
    "maskrcnn_prepare": "training.preprocessing.cutting.FrameTiles",
    "maskrcnn_network": "export.maskrcnn.network.MaskRcnnNetwork",
    "maskrcnn_cells": "export.maskrcnn.network.MaskRcnnCells",
    "sam_prepare": "export.sam.prepare.SamPrepare",
    "sam_prepare_tiles": "export.sam.prepare.SamPrepareTiles",
    "sam_encoder": "export.sam.network.ImageEncoder",
    "sam_box_prompts": "export.sam.network.SamBoxPrompts",
    "sam_decoder": "export.sam.network.SamDecoder",
    "sam_cells": "export.sam.network.SamCells",
    "glioma_prepare": "training.preprocessing.normalise.PrepareWholeFrame",
    "glioma_network": "export.unet.network.WholeFrameNetwork",
    "glioma_livecell_network": "export.unet.network.WholeFrameNetwork",
    "nuclei_prepare": "export.unet.tiles.PrepareTiles",
    "nuclei_network": "export.unet.network.TileNetwork",
    "nuclei_stitch": "export.unet.tiles.StitchTiles",
    "nuclei_centres": "export.unet.network.NucleiCentres",
    "foreground": "export.unet.network.Foreground",
}
"""Step -> ``package.module.Class`` of the torch module that its graph is traced from.

``cell_labels`` has no graph: it is ``model_repository/cell_labels/1/model.py``."""
