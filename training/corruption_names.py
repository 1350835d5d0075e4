"""Names of the corruptions of CIFAR-10-C and ImageNet-C (Hendrycks and Dietterich 2019). Needs no torch."""

CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
"""The fifteen that benchmarks average over."""

EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Four more, published for choosing a method without looking at the fifteen."""

SEVERITIES = (1, 2, 3, 4, 5)
