"""SAM (Kirillov et al. 2023) in its published sizes, and one small enough to train on a CPU.

All sizes are built from segment-anything's own classes, so a checkpoint of any size runs in its
`SamPredictor`. Embeddings of a frozen image encoder can be cached, see :class:`KeptEmbeddings`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from segment_anything import sam_model_registry
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import Tensor, nn

from cytoserve.files import write_atomically
from training.checkpoint import CheckpointError, Recipe, fill_network, load_checkpoint
from training.sam.settings import PUBLISHED, SIZES, TINY

ARCHITECTURE = "sam"

_POSITION_SCALE = 2.0  # scale of a small SAM's positions, relative to the published ones


def small_sam(*, side: int, patch: int, encoder_width: int, depth: int, width: int) -> Sam:
    """Build a SAM of any small size from segment-anything's classes, with random weights.

    Its attention has no windows, since few tokens do not need them. Its positions are encoded at
    higher frequencies, so that it learns to tell a box's corner from its neighbour's without weeks
    of training.

    Args:
        side: side S of its input image, in pixels.
        patch: side of the patch that becomes a token, in pixels; divides ``side``.
        encoder_width: channels of the image encoder, a multiple of 4.
        depth: number of blocks of the image encoder.
        width: E, channels of embedding and decoder, a multiple of 8.
    """
    tokens = side // patch
    prompt_encoder = PromptEncoder(
        embed_dim=width,
        image_embedding_size=(tokens, tokens),
        input_image_size=(side, side),
        mask_in_chans=16,
    )
    prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(_POSITION_SCALE)
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=side,
            patch_size=patch,
            embed_dim=encoder_width,
            depth=depth,
            num_heads=4,
            mlp_ratio=4,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            qkv_bias=True,
            use_rel_pos=True,
            window_size=0,
            out_chans=width,
        ),
        prompt_encoder=prompt_encoder,
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=width, mlp_dim=4 * width, num_heads=4
            ),
            transformer_dim=width,
            iou_head_depth=3,
            iou_head_hidden_dim=width,
        ),
    )
    return sam.eval()


_BUILDERS: Mapping[str, Callable[[], Sam]] = {
    **{size: sam_model_registry[size] for size in PUBLISHED},
    # 3 million parameters, to be trained from random weights on few frames: 32 x 32 tokens, a
    # quarter of those of the published sizes, so that a prompt costs a fiftieth as much in
    # training. Masks of 128 x 128 pixels still follow cells of 20 pixels of 512 to an IoU of 0.93.
    TINY: partial(small_sam, side=512, patch=16, encoder_width=192, depth=4, width=96),
}


def build_sam(size: str) -> Sam:
    """Build a SAM with random weights, in evaluation mode.

    Its image encoder takes float32 ``[B, 3, S, S]`` from `Sam.preprocess`, where S =
    ``image_encoder.img_size`` is 1024, or 512 for ``tiny``.

    Raises:
        ValueError: there is no such size.
    """
    if size not in _BUILDERS:
        raise ValueError(f"a size of SAM is one of {', '.join(SIZES)}; got {size!r}.")
    return _BUILDERS[size]()


def load_sam(folder: Path) -> tuple[Sam, Recipe]:
    """Load a checkpoint written by `python -m training.sam`, in evaluation mode.

    Raises:
        CheckpointError: a file is missing or damaged, or the checkpoint is for another network.
    """
    weights, recipe = load_checkpoint(folder, ARCHITECTURE)
    size = recipe.settings.get("size")
    if not isinstance(size, str) or size not in _BUILDERS:
        raise CheckpointError(
            f"{folder}: the settings in a recipe of SAM name its size, one of {', '.join(SIZES)}; "
            f"here it is {size!r}. Train again, or copy it again."
        )
    sam = build_sam(size)
    fill_network(sam, weights, str(folder))
    return sam, recipe


def load_published(path: Path, size: str) -> Sam:
    """Load a checkpoint published by segment-anything, a ``.pth`` file that holds only weights.

    It is read without arbitrary pickle: a file that requests any class or function is rejected.

    Args:
        path: the file, for example ``sam_vit_b_01ec64.pth``.
        size: expected size, one of :data:`SIZES`.

    Returns:
        The network, in evaluation mode.

    Raises:
        ValueError: there is no such size.
        CheckpointError: the file is missing or damaged, requests code, is not a SAM, or is a SAM of
            another size.
    """
    expected = _shapes_of(size)
    weights = _read_weights(path)
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if found != expected:
        raise CheckpointError(f"{path}: {_difference(found, size, expected)}")
    with torch.device("meta"):  # avoids gigabytes of random weights that would be discarded
        sam = build_sam(size)
    sam.load_state_dict({name: t.float() for name, t in weights.items()}, assign=True)
    return sam


def _shapes_of(size: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        weights = build_sam(size).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(
            f"{path} is no file; give a checkpoint that segment-anything publishes, or the folder "
            "of one that `python -m training.sam` wrote."
        )
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises almost anything
        refused = "GLOBAL" in str(error)
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint of SAM: "
            + (
                "it is a pickle that asks for code to be run, which is not done here"
                if refused
                else "it is no file of torch.save, or is damaged"
            )
            + f" ({_first_line(error)}). Get the file from segment-anything's page again."
        ) from error
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise CheckpointError(
            f"{path} is no checkpoint of SAM: weights by their names are needed, and it holds "
            f"{_describe(content)}. Give a file that segment-anything publishes."
        )
    return content


def _difference(
    found: Mapping[str, tuple[int, ...]], size: str, expected: Mapping[str, tuple[int, ...]]
) -> str:
    """Describe how a file's tensors differ from those of ``size``."""
    for other in SIZES:
        if found == _shapes_of(other):
            return (
                f"it is a SAM of size {other}; here {size} is asked for. Give that size, or "
                f"another file."
            )
    absent = sorted(set(expected) - set(found))
    if absent:
        return (
            f"it is no SAM of size {size}: of its {len(expected)} tensors {len(absent)} are "
            f"absent, {absent[0]} among them. Give a file that segment-anything publishes."
        )
    beyond = sorted(set(found) - set(expected))
    if beyond:
        return (
            f"it is no SAM of size {size}: {len(beyond)} tensors are not of it, {beyond[0]} among "
            "them. Give a file that segment-anything publishes."
        )
    name = next(name for name in expected if found[name] != expected[name])
    return (
        f"it is no SAM of size {size}: {name} is {list(found[name])}, not {list(expected[name])}. "
        "Give a file that segment-anything publishes."
    )


def _describe(content: Any) -> str:
    if isinstance(content, dict):
        return f"a dict of {', '.join(map(repr, list(content)[:3])) or 'nothing'}"
    return f"a {type(content).__name__}"


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [repr(error)]
    return next((line for line in lines if "GLOBAL" in line), lines[0]).split(". ")[0].strip(" .")


class KeptEmbeddings:
    """Embeddings of a frozen encoder: computed once per image, cached below one folder.

    They are cached on disk, not in memory, since an embedding takes 4 MB and a few thousand frames
    would not fit. The encoder takes up to a minute per frame on a CPU. So a run that is resumed, or
    restarted in the same folder with different decoder settings, must not compute them again.

    Each image has one file. It is named by a hash of the encoder's weights and one of the image, so
    that an embedding of other weights or of another image is never used by mistake. The weights
    must not change during the lifetime of this object.
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
