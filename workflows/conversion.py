"""Checkpoints from one layout to another."""

from collections.abc import Callable
from pathlib import Path

import timm
import torch
from transformers import AutoModel, ViTMAEForPreTraining

from core.checks import require_finite
from core.files import check_folder
from core.progress import say
from models.backbones.card import converted_card, stated_licence
from models.backbones.dino_export import save_hugging_face_dino, save_timm_dino, settle_periods
from models.backbones.dino_vits import is_dino, load_dino
from models.weights.checkpoint import as_transformer, load_mae, mae_of, read_weights, save_mae
from models.weights.dino_vit_keys import to_timm
from models.weights.export import save_facebook, save_timm, statistics, vision_transformer

ASSUMED = (
    "the checkpoint does not say its mean and SD: those of ImageNet are now in preprocessor_config.json; change them "
    "there if it was trained with others"
)


def convert(config) -> int:
    """Exit status: 0, or 1 if --verify found a difference."""
    out = Path(config.out)
    check_empty(out)

    notes = []
    name = Path(config.source).name
    licence = stated_licence(config.source)
    checkpoint = read_weights(config.source, config.weights)
    if is_dino(checkpoint) and config.to != "mae":
        return convert_dino(config, checkpoint, licence)
    checkpoint = as_transformer(checkpoint)
    if config.to == "timm":
        network, matched = vision_transformer(checkpoint)
        report = "; ".join(
            [f"{checkpoint.family} checkpoint, matched {matched} tensors", *checkpoint.notes]
        )
        say(f"{config.source}: {report}; 0 missing, 0 unexpected")
        known = checkpoint.preprocessor is not None
        card = converted_card(name, checkpoint.family, matched, config.to, known, licence)
        notes = save_timm(checkpoint, out, card)
    else:
        loaded = mae_of(checkpoint)
        network = loaded.model
        preprocessor = loaded.preprocessor
        height, width = network.input_size
        if config.to == "hf" and height != width:
            raise ValueError(
                f"{config.source}: takes {height} x {width}, but transformers builds this network for "
                "square pictures only; --to timm and --to mae keep the rectangle"
            )
        say(f"{config.source}: {loaded.report}; 0 missing, 0 unexpected")
        matched = str(len(network.state_dict()))
        known = preprocessor is not None
        card = converted_card(name, loaded.family, matched, config.to, known, licence)
        if config.to == "hf" and not known:
            preprocessor = plain_preprocessor(network.input_size)
            notes.append(ASSUMED)
        (save_mae if config.to == "hf" else save_facebook)(network, out, preprocessor, card)
    return finished(config, notes, lambda: both_outputs(config.to, out, network))


def check_empty(out: Path) -> None:
    """Refuse a folder that holds something, or into which nothing can be written, before anything is loaded."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"--out {out}: already exists and is not empty")
    check_folder(out)


def convert_dino(config, checkpoint, licence: str | None) -> int:
    """Convert a DINOv2 or DINOv3; exit status as `main`."""
    out = Path(config.out)
    network, report = load_dino(checkpoint)
    mask_token = to_timm(checkpoint.state).mask_token
    say(f"{config.source}: {report}")
    preprocessor = checkpoint.preprocessor
    family = network.architecture.family
    matched = str(len(network.state_dict()))
    known = preprocessor is not None
    card = converted_card(Path(config.source).name, family, matched, config.to, known, licence)
    try:
        notes = settle_periods(network)
        if config.to == "timm":
            notes += save_timm_dino(network, preprocessor, out, card)
        else:
            if not known:
                preprocessor = plain_preprocessor(network.architecture.input_size)
                notes.append(ASSUMED)
            notes += save_hugging_face_dino(network, mask_token, preprocessor, out, card)
    except ValueError as error:
        raise ValueError(f"{config.source}: {error}") from None
    return finished(config, notes, lambda: both_dino_outputs(config.to, out, network))


def finished(config, notes: list[str], both: Callable) -> int:
    """Say what was written and, with --verify, whether `both` outputs are equal: the exit status."""
    out = Path(config.out)
    for note in notes:
        say(f"note: {note}")
    say(f"written: {out}")
    if not config.verify:
        return 0
    found, expected = both()
    require_finite(found, f"{out}: outputs of random pixels")
    require_finite(expected, f"{config.source}: outputs of random pixels")
    difference = float((found - expected).abs().max())
    largest = float(expected.abs().max())
    equal = difference <= config.tolerance * largest
    say(
        f"verify: largest difference {difference:.2g} where outputs reach {largest:.3g}: "
        f"{'equal' if equal else 'NOT equal'} within {config.tolerance:g}"
    )
    return 0 if equal else 1


def plain_preprocessor(size: tuple[int, int]) -> dict:
    """A preprocessor_config.json for weights without one: ImageNet's statistics, pictures squashed to `size` (h, w)."""
    mean, std = statistics(None)
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "size": {"height": size[0], "width": size[1]},
        "resample": 2,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def both_outputs(to: str, out: Path, original):
    """What the library that OUT is for makes of random pixels, and what the `original` network does."""
    generator = torch.Generator().manual_seed(0)
    size = original.patch_embed.img_size
    images = torch.randn(2, 3, *size, generator=generator)
    noise = torch.rand(2, original.patch_embed.num_patches, generator=generator)
    with torch.no_grad():
        if to == "timm":
            return timm.create_model(f"local-dir:{out}", pretrained=True).eval()(images), original(
                images
            )
        expected = original.reconstruct(images, noise).patches
        if to == "hf":
            return ViTMAEForPreTraining.from_pretrained(out).eval()(
                images, noise=noise
            ).logits, expected

        return load_mae(out).model.reconstruct(images, noise).patches, expected


def both_dino_outputs(to: str, out: Path, original):
    """All tokens that the library that OUT is for makes of random pixels, and those of the `original` network."""
    images = torch.randn(
        2, 3, *original.architecture.input_size, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        expected = original.forward_features(images)
        if to == "timm":
            return timm.create_model(f"local-dir:{out}", pretrained=True).eval().forward_features(
                images
            ), expected

        return AutoModel.from_pretrained(out).eval()(images).last_hidden_state, expected
