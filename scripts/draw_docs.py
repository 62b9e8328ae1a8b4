"""Draw the pictures of the README from phantoms only: docs/phantoms.png, docs/heatmaps.png, docs/bone_age.png.

    python scripts/draw_docs.py --model-path demo/mae/model
    python scripts/draw_docs.py --bone-age-model checkpoints/model   # trained on phantom hands: bone_age.png alone
    python scripts/draw_docs.py --model-path demo/mae/model --examples knee:implant wrist:lytic --seed 1000

The model should have been trained on phantoms of the difficulty `clear`, of the regions in --examples, with another
seed than --seed. The same flags and the same model give the same pictures.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import dataclasses
from pathlib import Path

from core.flags import flag, run
from core.system.os_errors import naming
from core.progress import say
from core.text import percent

SIZE = 512  # pixels, longer side of the phantoms
# pixels, longer side of a picture on the page
SHEET_TILE = 190
PANEL_TILE = 248
PASSES = 8
AGES = (2.5, 5.0, 7.5, 10.0, 12.5, 15.5)  # years, of the hands
TOP = 0.98  # quantile of the errors at the top of the colours
CONDITIONS = [  # (region, condition) of the contact sheet's second half
    ("hand", "lytic"),
    ("wrist", "fracture"),
    ("elbow", "fracture"),
    ("shoulder", "lytic"),
    ("hip", "implant"),
    ("femur", "sclerotic"),
    ("knee", "osteochondroma"),
    ("knee", "arthrosis"),
    ("ankle", "implant"),
    ("foot", "lytic"),
]


@dataclasses.dataclass
class Config:
    """Draw docs/phantoms.png and docs/heatmaps.png from phantoms, or docs/bone_age.png."""

    model_path: Path | None = flag(
        None, "checkpoint folder of a masked autoencoder that was trained on phantoms"
    )
    bone_age_model: Path | None = flag(
        None, "model folder of train_bone_age.py, trained on phantom hands"
    )
    out: Path = flag(Path("docs"), "folder of the pictures")
    seed: int = flag(1000, "of the phantoms and the masks")
    examples: list[str] = flag(
        ["knee:implant", "wrist:osteochondroma"], "REGION:CONDITION of each row of heat maps"
    )


def main(config: Config) -> int:
    if config.model_path is None and config.bone_age_model is None:
        raise ValueError("give --model-path or --bone-age-model")
    from core.files import check_folder, make_folder

    check_folder(config.out)
    drawn = {}
    if config.model_path is not None:
        drawn = {"phantoms": phantoms(config.seed), "heatmaps": heatmaps(config)}
    if config.bone_age_model is not None:
        drawn["bone_age"] = bone_ages(config)
    make_folder(config.out)
    for name, picture in drawn.items():
        path = config.out / f"{name}.png"
        with naming(path):
            picture.save(path, optimize=True)
        say(
            f"{path}: {picture.width} x {picture.height} pixels, {path.stat().st_size / 1000:.0f} kB"
        )
    return 0


def phantoms(seed: int):
    """Contact sheet: every region without a finding, then findings with their outlines."""
    from phantoms.study import REGIONS
    from evaluation.pages.pictures import contact_sheet

    normal = [
        example(seed + number, region, "normal", "hard") for number, region in enumerate(REGIONS)
    ]
    changed = [example(seed, region, condition, "clear") for region, condition in CONDITIONS]
    pictures = [eight_bit(p) for p in normal] + [marked(eight_bit(p), p.mask) for p in changed]
    labels = [f"{p.region}, {age(p)}" for p in normal] + [
        f"{p.region}: {p.condition}, {age(p)}" for p in changed
    ]
    return contact_sheet(
        pictures, labels, columns=5, tile=SHEET_TILE, title="Phantom radiographs, drawn by program"
    )


def example(seed: int, region: str, condition: str, difficulty: str):
    """Of the first dozen patients from `seed` on, the view with the largest finding (the first view if normal)."""
    from phantoms.study import study

    kind = {"size": SIZE, "difficulty": difficulty, "region": region, "condition": condition}
    patients = range(1 if condition == "normal" else 12)
    views = [view for patient in patients for view in study(seed, patient, **kind)]
    return max(views, key=lambda view: view.mask.mean())


def age(phantom) -> str:
    """How old the phantom's patient is, for a label."""
    return f"{phantom.age_years:.0f} years"


def eight_bit(phantom):
    """uint8 [H, W]."""
    return (phantom.pixels >> 8).astype("uint8")


def marked(grey, mask, pixels=None):
    """uint8 [H, W, 3]: `pixels` (or the radiograph) with the rim of the finding, a little outside of it."""
    import numpy as np
    from scipy.ndimage import binary_dilation

    from evaluation.pages.pictures import OUTLINE, outline

    pixels = np.repeat(grey[..., None], 3, axis=2) if pixels is None else pixels.copy()
    width = max(2, max(grey.shape) // 150)
    pixels[outline(binary_dilation(mask, iterations=2 * width), width)] = OUTLINE
    return pixels


def heatmaps(config: Config):
    """Rows of: radiograph | one pass with hidden patches | every patch as predicted when hidden | error map."""
    import numpy as np

    from evaluation.pages.pictures import blended, levels, masked_tile, panel
    from models.weights.checkpoint import load_mae

    loaded = load_mae(config.model_path)
    wrong = [text for text in config.examples if text.count(":") != 1]
    if wrong:
        raise ValueError(f"--examples {wrong[0]}: expected REGION:CONDITION, e.g. knee:implant")
    examples = [example(config.seed, *text.split(":"), "clear") for text in config.examples]
    measured = [
        measure(loaded, phantom, config.seed, number) for number, phantom in enumerate(examples)
    ]
    high = float(np.quantile(np.concatenate([error.ravel() for *_, error in measured]), TOP))
    rows = []
    for phantom, (hidden, predicted, error) in zip(examples, measured):
        grey = eight_bit(phantom)
        row = [
            grey,
            masked_tile(grey, hidden > 0.5),
            levels(predicted, 1.0),
            blended(grey, error, high, alpha=0.8),
        ]
        row[3] = marked(grey, phantom.mask, row[3])
        rows.append([centred(tile, PANEL_TILE) for tile in row])
    share = percent(loaded.model.mask_ratio)
    headers = [
        "radiograph (phantom)",
        f"{share} hidden",
        "predicted where hidden",
        "error, finding outlined",
    ]
    return panel(rows, headers)


def measure(loaded, phantom, seed: int, number: int):
    """(hidden in the first pass, mean prediction of hidden pixels, mean error), each at the phantom's size."""
    import numpy as np

    from data.views.preprocessing import Preprocessing
    from evaluation.maps.error_maps import error_maps, mask_generator, visible_patches

    model = loaded.model
    preprocessing = Preprocessing.from_dict(loaded.preprocessor)
    batch = preprocessing.normalise(preprocessing(phantom.pixels)[None])
    generator = mask_generator(seed, str(number))
    visible = visible_patches(PASSES, model.grid, model.config.visible, generator, "complementary")
    maps = error_maps(
        model, batch, visible[None], mean=preprocessing.mean, std=preprocessing.std, shown=PASSES
    )
    P = model.patch_size
    hidden = np.kron(maps.shown_hidden[0], np.ones((P, P), np.float32))  # [R, h, w]
    predicted = (maps.shown[0] * hidden).sum(0) / hidden.sum(0).clip(1)
    size = phantom.pixels.shape
    return tuple(
        preprocessing.map_back(values.astype(np.float32), size)
        for values in (hidden[0], predicted, maps.maps[0])
    )


def bone_ages(config: Config):
    """Phantom hands of several ages beside their Grad-CAM maps, with the true and the predicted bone age."""
    import numpy as np
    import torch
    from PIL import Image

    from phantoms.study import study
    from data.views.preprocessing import Preprocessing
    from workflows.bone_age.case_page import GAP, case_picture
    from workflows.bone_age.reference import BoneAgeReference
    from evaluation.pages.pictures import levels, panel, resized
    from evaluation.statistics.likeness import FILE
    from models.networks.bone_age_saliency import month_maps
    from models.backbones.published_bone_age import load_bone_age

    found = load_bone_age(config.bone_age_model)
    preprocessing = Preprocessing.from_dict(found.preprocessor)
    found.model.normalise = preprocessing.normalise
    reference = BoneAgeReference.load(config.bone_age_model / FILE)
    plan = {"size": SIZE, "region": "hand", "condition": "normal", "views": ("pa",)}
    hands = [
        study(config.seed, patient, age_years=age, **plan)[0] for patient, age in enumerate(AGES)
    ]
    images = torch.stack([preprocessing(hand.pixels) for hand in hands])
    sex = torch.tensor([float(hand.sex == "M") for hand in hands])
    with torch.no_grad():
        there = found.model.last_map(images)
        answer = found.model.months(found.model.pool(there), sex)
    low, high = reference.interval(
        answer.months.numpy(), None if answer.sd is None else answer.sd.numpy()
    )
    cells = []
    for number, (hand, cam) in enumerate(zip(hands, month_maps(found.model, there, sex))):
        cam = torch.nn.functional.interpolate(cam[None, None], images.shape[2:], mode="bicubic")[
            0, 0
        ].clamp(min=0)
        grey = levels(hand.pixels.astype(np.float32), float(hand.pixels.max()))
        both = np.asarray(case_picture(grey, resized(cam.numpy(), grey.shape), grey.shape))
        wide = (both.shape[1] - GAP) // 2
        ends = f" ({low[number]:.0f} to {high[number]:.0f})" if low[number] == low[number] else ""
        told = [
            f"true {hand.bone_age_months:.0f} months",
            f"predicted {answer.months[number]:.0f}{ends}",
        ]
        cells.append(np.asarray(panel([[both[:, :wide], both[:, wide + GAP :]]], told)))
    rows = [np.concatenate(cells[at : at + 3], axis=1) for at in range(0, len(cells), 3)]
    return Image.fromarray(np.concatenate(rows)).quantize(256)  # half the bytes


def centred(tile, side: int):
    """A picture of any shape in the middle of a square of `side` pixels: uint8 [side, side, 3]."""
    import numpy as np
    from PIL import Image

    from evaluation.pages.pictures import BACKGROUND

    picture = Image.fromarray(tile).convert("RGB")
    square = Image.new("RGB", (side, side), BACKGROUND)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(square)


if __name__ == "__main__":
    run(main, Config)
