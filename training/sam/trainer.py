"""Training of SAM: its losses, with and without prompts, and its epochs by Lightning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from training.run.lightning import BestEpochTraining, EpochBatches
from training.sam.frames import SamFrame, Sides, dense_truth
from training.sam.network import KeptEmbeddings
from training.sam.prompts import box_prompts, decode
from training.sam.samples import DenseSample, TrainingSample, TrainingSamples
from training.sam.settings import MaskLoss, SamSettings

FOCAL_WEIGHT = 20.0
"""Weight of the focal loss relative to the Dice loss, 20 to 1 (Kirillov et al. 2023, appendix
A)."""


def surroundings(truths: Tensor) -> Tensor:
    """Compute the weight of every pixel, ``[N, G, G]``; the sum is 2 for each cell.

    The pixels in a box around the cell, of twice its sides, share a weight of 1, so that both sides
    of its border count equally. All other pixels share the same weight.

    Args:
        truths: ``[N, G, G]``, share of every pixel that the cell covers, 0..1.
    """
    near = (
        _twice_as_long(truths.amax(dim=2))[:, :, None] & _twice_as_long(truths.amax(dim=1))[:, None]
    )
    inside = near.sum(dim=(1, 2), keepdim=True)
    outside = (near[0].numel() - inside).clamp(min=1)
    return torch.where(near, 1 / inside.clamp(min=1), 1 / outside)


def _twice_as_long(profile: Tensor) -> Tensor:
    """Mark the run of values above 0 in ``[N, G]``, extended by half its length on either side."""
    indices = torch.arange(profile.shape[1], device=profile.device)
    covered = profile > 0
    first = torch.where(covered, indices, profile.shape[1]).amin(dim=1, keepdim=True)
    last = torch.where(covered, indices, -1).amax(dim=1, keepdim=True)
    reach = (last - first + 2) // 2
    return (indices >= first - reach) & (indices <= last + reach)


def mask_losses(logits: Tensor, truths: Tensor, kind: MaskLoss) -> Tensor:
    """Compute the loss ``[N, 3]`` of every mask.

    Args:
        logits: ``[N, 3, G, G]``, the masks for each of N prompts.
        truths: ``[N, G, G]``, share of every pixel that the cell covers, 0..1.
        kind: kind of the loss.
    """
    targets = truths[:, None].expand_as(logits)
    if kind == "focal+dice":
        by_pixel = FOCAL_WEIGHT * sigmoid_focal_loss(logits, targets).mean(dim=(2, 3))
    else:
        entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        by_pixel = (entropy * surroundings(truths)[:, None]).sum(dim=(2, 3))
    probabilities = logits.sigmoid()
    both = (probabilities * targets).sum(dim=(2, 3))
    either = probabilities.sum(dim=(2, 3)) + targets.sum(dim=(2, 3))
    dice: Tensor = 1 - (2 * both + 1) / (either + 1)
    loss: Tensor = by_pixel + dice
    return loss


def mask_ious(logits: Tensor, truths: Tensor) -> Tensor:
    """Compute the IoU ``[N, 3]`` of every mask, cut at probability 0.5, with the truth cut at 0.5.

    Shapes are those of :func:`mask_losses`. The IoU is 0 if both are empty.
    """
    predicted, targets = logits > 0, (truths > 0.5)[:, None]
    both = (predicted & targets).sum(dim=(2, 3))
    either = (predicted | targets).sum(dim=(2, 3))
    return both / either.clamp(min=1)


def sam_loss(logits: Tensor, qualities: Tensor, truths: Tensor, kind: MaskLoss) -> Tensor:
    """Compute the loss of one frame's prompts, a scalar.

    It is the sum of two terms. The first is the mask loss of the best mask alone, so that three
    masks may represent three interpretations of a prompt. The second is the squared error of the
    predicted IoUs of all three masks, since these select the best mask (Kirillov et al. 2023,
    section 3 and appendix A).

    Args:
        logits: ``[N, 3, G, G]``, see :func:`mask_losses`.
        qualities: ``[N, 3]``, the predicted IoUs.
        truths: ``[N, G, G]``.
        kind: kind of the mask loss.
    """
    best = mask_losses(logits, truths, kind).min(dim=1).values.mean()
    errors = (qualities - mask_ious(logits, truths)) ** 2
    return best + errors.mean()


GRID_PER_TOKEN = 4
"""Pixels of SAM's low-resolution grid per token of the embedding, along each axis."""

_MAPS = 4  # foreground, border, offset along x, along y


class DenseHead(nn.Module):
    """Predicts cells, borders and centres from an embedding: ``[B, E, g, g]`` -> ``[B, 4, G, G]``.

    It trains SAM's image encoder without prompts, and is discarded afterwards. A step with prompts
    teaches an encoder about sixteen cells of one frame, through a decoder that is still untrained.
    A step with this small head teaches it about every pixel, at a third of the cost. Borders and
    offsets to the centre separate touching cells (Neven et al. 2019, "Instance segmentation by
    jointly optimizing spatial embeddings and clustering bandwidth").

    The maps are the logits of foreground and border, and the offset (x, y) to the centre of the
    pixel's cell.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, _MAPS * GRID_PER_TOKEN**2, 1),
            nn.PixelShuffle(GRID_PER_TOKEN),
        )

    def forward(self, embedding: Tensor) -> Tensor:
        """Predict the maps of a batch of embeddings."""
        maps: Tensor = self.layers(embedding)
        return maps


def dense_loss(maps: Tensor, truths: Tensor) -> Tensor:
    """Sum cross-entropy and Dice of the foreground, cross-entropy of borders, error of offsets.

    Args:
        maps: predictions ``[B, 4, G, G]`` of :class:`DenseHead`.
        truths: true maps ``[B, 4, G, G]``, see :func:`dense_truth`.
    """
    entropy = F.binary_cross_entropy_with_logits(maps[:, :2], truths[:, :2], reduction="none")
    cells = truths[:, 0]
    found = maps[:, 0].sigmoid()
    dice = 2 * (found * cells).sum() / (found.sum() + cells.sum()).clamp(min=1)
    inside = (cells > 0.5).float()
    wrong = F.smooth_l1_loss(maps[:, 2:], truths[:, 2:], reduction="none").sum(dim=1)
    offsets = (wrong * inside).sum() / inside.sum().clamp(min=1)
    loss: Tensor = entropy.mean(dim=(0, 2, 3)).sum() + (1 - dice) + offsets
    return loss


VALIDATION_CHUNK = 16
"""Number of prompts decoded at once in validation: each needs the memory of some float32 frames."""

_TIMED_STEPS = 10_000
"""Steps into which the learning rate divides a run that is limited by its minutes."""

_FINAL_RATE = 0.01  # share of the peak learning rate that is left at the end


def box_ious(sam: Sam, embedding: Tensor, frame: SamFrame) -> Iterator[tuple[float, float]]:
    """Compute the IoU with the truth, in frame pixels, of the mask for each cell's true box.

    Of the three masks, the one with the best predicted quality is used. Yields the IoU and that
    quality, in the order of the cells.
    """
    cells = iter(frame.cells)
    for boxes in torch.split(frame.boxes().to(embedding.device), VALIDATION_CHUNK):
        logits, qualities = decode(sam, embedding, box_prompts(boxes))
        best = qualities.argmax(dim=1)
        chosen = logits[torch.arange(len(best)), best][:, None]
        masks = sam.postprocess_masks(chosen, frame.pixels.shape[1:], frame.size)[:, 0]
        predicted = (masks > sam.mask_threshold).cpu().numpy()
        for mask, quality in zip(predicted, qualities.amax(dim=1).tolist(), strict=True):
            cell = next(cells)
            height, width = cell.mask.shape
            inside = mask[cell.y : cell.y + height, cell.x : cell.x + width]
            both = int((inside & cell.mask).sum())
            yield both / (int(mask.sum()) + cell.area - both), quality


class SamTraining(BestEpochTraining):
    """Training and validation steps; keeps the weights of the best epoch.

    The mean IoU of the validation cells, prompted by their true boxes, decides which epoch is best.
    Dense epochs come first and are never the best, since nothing can be prompted yet.
    """

    def __init__(
        self,
        sam: Sam,
        settings: SamSettings,
        *,
        samples: TrainingSamples,
        batches: EpochBatches,
        embeddings: KeptEmbeddings | None,
        seed: int,
    ) -> None:
        super().__init__(epochs=settings.epochs, minutes=settings.minutes, seed=seed)
        self.sam = sam.train()  # SAM behaves the same in both modes
        sam.image_encoder.requires_grad_(settings.train_encoder)
        sam.prompt_encoder.requires_grad_(settings.train_prompt_encoder)
        self.dense_head = (
            DenseHead(sam.mask_decoder.transformer_dim) if settings.dense_epochs else None
        )
        self.settings = settings
        self.samples = samples
        self.batches = batches
        self.embeddings = embeddings
        self.scores: list[tuple[float, float]] = []
        self.overlaps: list[tuple[float, float]] = []
        # The state of an interrupted run omits frozen weights, gigabytes in the large sizes.
        self.strict_loading = False

    def draw_epoch(self, epoch: int) -> None:
        """Draw the random numbers and batches of an epoch, and choose dense or prompted samples."""
        super().draw_epoch(epoch)
        self.batches.epoch = epoch
        done = self.share_done
        self.samples.dense = (
            epoch < self.settings.dense_epochs
            if done is None
            else done < self.settings.dense_epochs / self.settings.epochs
        )

    def training_step(self, batch: list[Any], batch_index: int) -> Tensor:
        """Compute the mean loss of some frames' prompts or, in a dense epoch, of their pixels."""
        embeddings = self._embed([sample.image for sample in batch])
        if self.samples.dense:
            kind, loss = "dense_loss", self._dense_loss(batch, embeddings)
        else:
            kind, loss = "loss", self._prompted_loss(batch, embeddings)
        self.log_step(loss, len(batch), kind)
        return loss

    def transfer_batch_to_device(
        self, batch: list[Any], device: torch.device, dataloader_idx: int
    ) -> list[Any]:
        """Move training samples; of validation frames, only image and boxes are moved, later."""
        if isinstance(batch[0], SamFrame):
            return batch
        moved: list[Any] = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradients, so that a single outlier step does not spoil the network."""
        torch.nn.utils.clip_grad_norm_(self._trained(), self.settings.gradient_clip)

    def validation_step(self, batch: list[SamFrame], batch_index: int) -> None:
        """Score every cell of some frames."""
        for frame in batch:
            embedding = self._embed([frame.rgb().to(self.device)])
            if self.samples.dense:
                cells = dense_truth(frame, Sides.of(self.sam))[0].to(self.device) > 0.5
                found = self._dense_maps(embedding)[0, 0] > 0
                both = float((found & cells).sum())
                self.overlaps.append((2 * both, float(found.sum() + cells.sum())))
            else:
                some = frame.spread(self.settings.validation_prompts)
                self.scores.extend(box_ious(self.sam, embedding, some))

    def on_validation_epoch_end(self) -> None:
        """Keep the weights if the mean IoU is the best so far.

        Raises:
            ValueError: the network predicts NaN or infinity.
        """
        if self.samples.dense:
            both, either = torch.tensor(self.overlaps).sum(dim=0).tolist()
            self.overlaps.clear()
            dice = both / max(either, 1)
            self.log("validation/foreground_dice", dice, sync_dist=True)
            self.progress.epoch(self.current_epoch + 1, {"foreground_dice": dice})
            return
        scores = torch.tensor(self.scores, dtype=torch.float64)
        self.scores.clear()
        iou, quality = scores.mean(dim=0).tolist()
        if not math.isfinite(quality):
            raise ValueError(
                f"the training diverged: in epoch {self.current_epoch + 1} the predicted quality "
                f"is {quality}. Lower learning_rate, {self.settings.learning_rate:g}."
            )
        error = float((scores[:, 0] - scores[:, 1]).abs().mean())
        self.end_epoch({"box_iou": iou, "quality_error": error})

    def rank(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Rank an epoch by the mean IoU for true boxes."""
        return (metrics["box_iou"],)

    def weights(self) -> Mapping[str, Tensor]:
        """Return the trained weights: frozen ones take gigabytes in the large sizes."""
        return {n: weights for n, weights in self.sam.named_parameters() if weights.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Omit frozen weights; see the base class for the rest."""
        super().on_save_checkpoint(checkpoint)
        for name, weights in self.sam.named_parameters():
            if not weights.requires_grad:
                del checkpoint["state_dict"][f"sam.{name}"]

    def configure_optimizers(self) -> dict[str, Any]:
        """Use AdamW with a learning rate that rises, then falls by a cosine.

        It does so first in the dense epochs, and again in those with prompts.
        """
        settings = self.settings
        optimizer = torch.optim.AdamW(
            self._trained(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        all_steps = (
            max(1, int(self.trainer.estimated_stepping_batches))
            if self.share_done is None
            else _TIMED_STEPS
        )
        dense_steps = all_steps * settings.dense_epochs // settings.epochs

        def rate(step: int) -> float:
            if self.share_done is not None:
                step = round(self.share_done * all_steps)
            dense = step < dense_steps
            steps = dense_steps if dense else all_steps - dense_steps
            step -= 0 if dense else dense_steps
            rising = round(steps * settings.warmup_share)
            if step < rising:
                return (step + 1) / (rising + 1)
            done = (step - rising) / max(1, steps - rising)
            return _FINAL_RATE + (1 - _FINAL_RATE) * (1 + math.cos(math.pi * done)) / 2

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def best_sam(self) -> dict[str, Tensor]:
        """Return all weights of the best epoch, including the frozen ones."""
        return {**self.sam.state_dict(), **self.best_weights}

    def _embed(self, images: list[Tensor]) -> Tensor:
        """Compute embeddings ``[B, E, g, g]`` of images uint8 ``[3, h, w]``."""
        if self.embeddings is not None:
            return torch.cat([self.embeddings(image) for image in images])
        prepared = [self.sam.preprocess(image.float()) for image in images]
        embeddings: Tensor = self.sam.image_encoder(torch.stack(prepared))
        return embeddings

    def _prompted_loss(self, batch: list[TrainingSample], embeddings: Tensor) -> Tensor:
        losses = []
        for sample, embedding in zip(batch, embeddings, strict=True):
            logits, qualities = decode(self.sam, embedding[None], sample.prompts)
            losses.append(sam_loss(logits, qualities, sample.truths, self.settings.loss))
        return torch.stack(losses).mean()

    def _dense_loss(self, batch: list[DenseSample], embeddings: Tensor) -> Tensor:
        truths = torch.stack([sample.truth for sample in batch])
        return dense_loss(self._dense_maps(embeddings), truths)

    def _dense_maps(self, embeddings: Tensor) -> Tensor:
        assert self.dense_head is not None  # set, since there are dense epochs
        maps: Tensor = self.dense_head(embeddings)
        return maps.float()

    def _trained(self) -> list[Tensor]:
        return [weights for weights in self.parameters() if weights.requires_grad]
