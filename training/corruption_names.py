"""The corruptions of CIFAR-10-C and ImageNet-C by name (Hendrycks and Dietterich 2019). No torch."""

from __future__ import annotations

CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise",
    "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness",
    "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
"""The 15 that count."""

EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""The four that are meant for validation."""

SEVERITIES = (1, 2, 3, 4, 5)
"""From slight to strong; 0 is no corruption."""
