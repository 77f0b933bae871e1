"""Embeddings of a frozen encoder: computed once for every image, and kept on disk.

On disk, not in memory: an embedding takes 4 MB, so a few thousand frames would not fit; and the
encoder takes up to a minute a frame on a CPU, so a run that is gone on with, or begun anew in the
same folder with other settings of the decoder, must not compute them again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from segment_anything.modeling import Sam
from torch import Tensor


class KeptEmbeddings:
    """Embeddings below one folder, one file an image.

    A file is named by a hash of the encoder's weights and one of the image, so that what other
    weights made, or another image, is never taken for it. The weights must not change while this
    object lives.
    """

    def __init__(self, sam: Sam, folder: Path) -> None:
        self.sam = sam
        self.folder = folder
        self.computed = 0
        """Times that the encoder was run."""
        self._weights = _hash_weights(sam)
        self._used: set[str] = set()

    def __call__(self, image: Tensor) -> Tensor:
        """The embedding float32 ``[1, E, g, g]`` of an image uint8 ``[3, h, w]``, resized."""
        content = hashlib.sha256(repr(tuple(image.shape)).encode())
        content.update(image.cpu().contiguous().numpy().tobytes())
        name = f"{self._weights}-{content.hexdigest()[:32]}.safetensors"
        self._used.add(name)
        kept = self._read(self.folder / name)
        if kept is not None:
            return kept.to(image.device)
        embedding = self._compute(image)
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{name}.part"
        save_file({"embedding": embedding.cpu()}, part)
        part.replace(self.folder / name)
        return embedding

    def drop_others(self) -> None:
        """Remove what this object was not asked for: of other weights or frames."""
        for file in self.folder.glob("*.safetensors*"):
            if file.name not in self._used:
                file.unlink()

    def _compute(self, image: Tensor) -> Tensor:
        self.computed += 1
        # In full precision, whatever the training's is: it is done once.
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            embedding: Tensor = self.sam.image_encoder(self.sam.preprocess(image.float())[None])
        return embedding

    def _read(self, file: Path) -> Tensor | None:
        if not file.is_file():
            return None
        try:
            return load_file(file)["embedding"]
        except SafetensorError:  # a damaged one is computed again
            return None


def _hash_weights(sam: Sam) -> str:
    total = hashlib.sha256()
    for name, tensor in sam.image_encoder.state_dict().items():
        total.update(name.encode())
        total.update(tensor.cpu().contiguous().numpy().tobytes())
    for statistics in (sam.pixel_mean, sam.pixel_std):
        total.update(statistics.cpu().numpy().tobytes())
    return total.hexdigest()[:32]
