"""Embeddings of a frozen encoder: computed once per image, and cached on disk.

They are cached on disk, not in memory, since an embedding takes 4 MB and a few thousand frames
would not fit. The encoder takes up to a minute per frame on a CPU. So a run that is resumed, or
restarted in the same folder with different decoder settings, must not compute them again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from segment_anything.modeling import Sam
from torch import Tensor

from cytoserve.files import write_atomically


class KeptEmbeddings:
    """Embeddings cached below one folder, one file per image.

    A file is named by a hash of the encoder's weights and one of the image, so that an embedding of
    other weights or of another image is never used by mistake. The weights must not change during
    the lifetime of this object.
    """

    def __init__(self, sam: Sam, folder: Path) -> None:
        self.sam = sam
        self.folder = folder
        self.computed = 0
        """Number of times that the encoder was run."""
        self._weights = _hash_weights(sam)
        self._used: set[str] = set()

    def __call__(self, image: Tensor) -> Tensor:
        """Return the embedding float32 ``[1, E, g, g]`` of a resized image uint8 ``[3, h, w]``."""
        content = hashlib.sha256(repr(tuple(image.shape)).encode())
        content.update(image.cpu().contiguous().numpy().tobytes())
        name = f"{self._weights}-{content.hexdigest()[:32]}.safetensors"
        self._used.add(name)
        kept = self._read(self.folder / name)
        if kept is not None:
            return kept.to(image.device)
        embedding = self._compute(image)
        write_atomically(self.folder / name, save({"embedding": embedding.cpu()}))
        return embedding

    def drop_others(self) -> None:
        """Remove files that this object did not use: those of other weights or frames."""
        for file in self.folder.glob("*.safetensors*"):
            if file.name not in self._used:
                file.unlink()

    def _compute(self, image: Tensor) -> Tensor:
        self.computed += 1
        # In full precision, regardless of the training's, since it is done only once.
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            embedding: Tensor = self.sam.image_encoder(self.sam.preprocess(image.float())[None])
        return embedding

    def _read(self, file: Path) -> Tensor | None:
        if not file.is_file():
            return None
        try:
            return load_file(file)["embedding"]
        except SafetensorError:  # a damaged file is computed again
            return None


def _hash_weights(sam: Sam) -> str:
    total = hashlib.sha256()
    for name, tensor in sam.image_encoder.state_dict().items():
        total.update(name.encode())
        total.update(tensor.cpu().contiguous().numpy().tobytes())
    for statistics in (sam.pixel_mean, sam.pixel_std):
        total.update(statistics.cpu().numpy().tobytes())
    return total.hexdigest()[:32]
