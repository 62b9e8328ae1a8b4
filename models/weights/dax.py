"""What the published DAX checkpoints tell beside their weights (Scheuplein et al., MICCAI 2025).

A file is {"student", "teacher", "optimizer", "dino_loss", "epoch", "args"}. Its radiographs are detector counts; ours
are read with bone bright, so they are turned first (`complement`).
"""

import argparse
from typing import Any

_LOWPASS = (
    20 / 0.305 / 976
)  # sigma as a fraction of the side, see `data.views.intensity.DAX_LOWPASS`


def is_dax(content: dict[str, Any]) -> bool:
    """Whether the content of a checkpoint file is one of DAX.

    DINO's own files have the same keys at the top; DAX's have prototypes in torch's newer form of weight normalisation,
    or the name of an augmentation among their flags.
    """
    teacher = content.get("teacher")
    if "dino_loss" not in content or not isinstance(teacher, dict):
        return False
    return any(
        str(key).endswith("last_layer.parametrizations.weight.original0") for key in teacher
    ) or _flags(content).get("augmentation") in ("v1", "v2")


def _flags(content: dict[str, Any]) -> dict[str, Any]:
    args = content.get("args")
    return vars(args) if isinstance(args, argparse.Namespace) else {}


def dax_preprocessor(content: dict[str, Any]) -> dict[str, Any]:
    """A preprocessor_config.json for it: neg-log to [0, 1] without mean and SD, in the version that its flags tell."""
    flags = _flags(content)
    options: dict[str, Any] = {"complement": True}
    if flags.get("augmentation") == "v2":
        options["contrast"] = 2.75  # the middle of what version B draws
    if str(flags.get("subtract_lowpass", False)).lower() == "true":
        options["lowpass_fraction"] = _LOWPASS
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 224, "width": 224},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
        "radiograph": {"intensity": "neglog", "intensity_options": options, "resize": "squash"},
    }
