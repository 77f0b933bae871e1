"""Pixel statistics that networks with ImageNet weights were trained with."""

from __future__ import annotations

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation per channel of RGB in 0..1, as torchvision documents them."""
