"""Crops of radiographs around their findings, whose zoom and place do not give the label away.

In SKELEX's training a radiograph with a finding is zoomed until little besides the finding is left, and one without is
hardly ever zoomed: how large things look tells the class. Here the zoom of a crop is drawn first, from one law for all
radiographs of all sources: the extents of the marked findings with a margin around them. Then the crop is put where it
contains the finding; one smaller than the finding lies within it. A radiograph without a marked finding gets a
pseudo-box, which is where a finding lies in another radiograph of its source. A share of all views is the whole
radiograph, as prediction also sees it.

What a crop shows of the labels: a finding that is marked is in its crop. One that is known to be there and is not
marked may lie outside, so that its group is unknown in a crop. Were it then still known that it is *not* there in the
crops of others, zoomed would mean negative; so the group is hidden in as large a share of their crops. Implants are
marked by no source: they are learnt on whole radiographs. The bone is that of the marked finding. A source with
findings of which none is marked is never cropped.

A crop has the aspect of its radiograph; its scale is the side of the crop as a fraction of the radiograph's.
H, W: the radiograph, h, w: the network's input, in pixels. L: 38 labels.
"""

import numpy as np
import pandas as pd
import torch
import torchvision
from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from core.tumour_labels import ABNORMAL, GROUP, IMPLANT
from data.datasets.annotation_files import Box
from data.reading.refusal import UnreadableRadiograph
from data.tables.files import require_columns
from data.views.augmentation import brightened, contrasted
from data.views.preprocessing import Preprocessing
from training.sampling import Key, sample_generator
from workflows.regions.records.crop_places import CropPolicy, FindingBoxes, place_crop
from workflows.regions.records.records import label_array

_PRESENT = {  # labels that a marked finding can stand for: what says that it is there, and all that becomes unknown
    "abnormal": ((ABNORMAL,), (ABNORMAL,)),
    "tumour": (GROUP["tumour"].indices[:-1], GROUP["tumour"].indices),
    "fracture": (GROUP["fracture"].indices[:-1], GROUP["fracture"].indices),
}


class RegionCrops(Dataset):
    """Records of workflows/regions/records/records.py as samples of `models.networks.region_guided.RegionGuided`.

    policy: how crops are drawn for training, see the module; None for evaluation: whole radiographs, all labels as they
    are. boxes: what zooms and pseudo-boxes are drawn of, those of `records` if None.
    """

    def __init__(
        self,
        records: pd.DataFrame,
        preprocessing: Preprocessing,
        policy: CropPolicy | None = None,
        seed: int = 0,
        boxes: FindingBoxes | None = None,
    ):
        require_columns(
            "the records", records, ["image", "source", "labels", "boxes", "height", "width"]
        )
        self.records = records.reset_index(drop=True)
        self.preprocessing = preprocessing
        self.policy = policy
        self.seed = seed
        self.labels = label_array(self.records)
        self.found = (FindingBoxes(records) if boxes is None else boxes) if policy else None
        self.hidden = hidden_shares(self.records)
        marked = set(self.records["source"][self.records["boxes"].map(bool)])
        # where findings are and none is marked, no crop would tell anything
        self.never = {
            source for source, shares in self.hidden.items() if any(shares.values())
        } - marked

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key | int) -> dict:
        """key: (epoch, row), or row for evaluation.

        {"image": [1, h, w], "target": float32 [L], 0 where unknown, "unknown": bool [L], "index": row, "scale": of the
        crop, "box": float32 [4], the marked finding in the network's pixels, NaN if none is marked}. Where several are
        marked, it is one of them at random, in evaluation the first. Raises UnreadableRadiograph.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        record = self.records.iloc[index]
        labels = self.labels[index]
        pixels = self.preprocessing.read(record["image"])
        size = pixels.shape[:2]
        if size != (record["height"], record["width"]):
            told = f"is {size[0]} x {size[1]} (height x width), and was {record['height']} x {record['width']}"
            raise UnreadableRadiograph(
                record["image"], "bad-metadata", f"it {told} when its boxes were read"
            )
        if self.policy is None:
            own = record["boxes"][0] if record["boxes"] else None
            image = self.preprocessing.fit(pixels)
            box = self._fitted(own, size)
            return self._sample(image, labels, index, 1.0, box)
        rng = sample_generator(self.seed, epoch, index)
        crop, own, scale = self.view(index, rng)
        labels = self.shown_labels(index, scale, rng)
        image, box = self._augmented(pixels, crop, own, rng)
        return self._sample(image, labels, index, scale, box)

    def view(
        self, index: int, rng: np.random.Generator
    ) -> tuple[tuple[int, int, int, int], Box | None, float]:
        """What of a radiograph is shown: the crop (x0, y0, x1, y1), the marked finding it is of (or None), the scale.

        The scale is drawn before anything is known of the radiograph.
        """
        record = self.records.iloc[index]
        size = int(record["height"]), int(record["width"])
        whole = rng.random() < self.policy.whole
        marked = record["boxes"]
        scale = self.found.scale(self.policy, rng) if len(self.found) else 1.0
        own = marked[rng.integers(len(marked))] if marked else None
        if whole or not len(self.found) or record["source"] in self.never:
            return (0, 0, size[1], size[0]), own, 1.0
        box = own if own else self.found.pseudo_box(record["source"], size, rng)
        return place_crop(box, scale, size, rng), own, scale

    def shown_labels(self, index: int, scale: float, rng: np.random.Generator) -> np.ndarray:
        """The labels [L] of which a view of this scale tells; the others are NaN."""
        labels = self.labels[index].copy()
        draws = rng.random(
            len(_PRESENT)
        )  # always, so that whatever comes next does not depend on the labels
        if scale == 1:
            return labels
        marked = bool(self.records["boxes"].iloc[index])
        labels[IMPLANT] = np.nan
        if not marked:
            labels[list(GROUP["bone"].indices)] = np.nan
        shares = self.hidden[self.records["source"].iloc[index]]
        for draw, (name, (present, group)) in zip(draws, _PRESENT.items()):
            there = any(labels[i] == 1 for i in present)
            if not marked if there else draw < shares[name]:
                labels[list(group)] = np.nan
        return labels

    def _augmented(self, pixels, crop, box, rng) -> tuple[torch.Tensor, np.ndarray]:
        """Crop, rotation and flip of picture and box alike, then the network's size, brightness and contrast."""
        policy, (x0, y0, x1, y1) = self.policy, crop
        angle = rng.uniform(-policy.degrees, policy.degrees)
        flip = rng.random() < policy.flip
        factors = 1 + rng.uniform(-1, 1, 2) * (policy.brightness, policy.contrast)
        changes = (brightened, contrasted) if rng.random() < 0.5 else (contrasted, brightened)
        image = torchvision.tv_tensors.Image(
            torch.from_numpy(np.require(pixels, requirements="W"))[None]
        )
        corners = torch.tensor([box or (0, 0, 1, 1)], dtype=torch.float32)
        boxes = torchvision.tv_tensors.BoundingBoxes(
            corners, format="XYXY", canvas_size=pixels.shape[:2]
        )
        steps = [(v2.crop, (y0, x0, y1 - y0, x1 - x0), {})]
        most = 2 * max(self.preprocessing.height, self.preprocessing.width)
        if (
            max(y1 - y0, x1 - x0) > most
        ):  # a rotation of more pixels than the network sees twice is wasted
            small = [
                max(1, round(side * most / max(y1 - y0, x1 - x0))) for side in (y1 - y0, x1 - x0)
            ]
            steps.append((v2.resize, (small,), {"antialias": True}))
        if angle:
            steps.append((v2.rotate, (angle,), {"interpolation": InterpolationMode.BILINEAR}))
        if flip:
            steps.append((v2.horizontal_flip, (), {}))
        for step, arguments, more in steps:
            image = step(image, *arguments, **more)
            boxes = step(boxes, *arguments, **more)
        fitted = self.preprocessing.fit(image[0].numpy())[0].numpy()
        for change in changes:
            factor = factors[0] if change is brightened else factors[1]
            fitted = change(fitted, factor) if factor != 1 else fitted
        moved = self._fitted(tuple(boxes[0].tolist()) if box else None, image.shape[-2:])
        return torch.from_numpy(np.array(fitted))[None], moved

    def _fitted(self, box: Box | None, size: tuple[int, int]) -> np.ndarray:
        if box is None:
            return np.full(4, np.nan)
        return self.preprocessing.forward_boxes(np.array([box]), size)[0]

    def _sample(
        self, image: torch.Tensor, labels: np.ndarray, index: int, scale: float, box: np.ndarray
    ) -> dict:
        unknown = np.isnan(labels)
        return {
            "image": image,
            "target": torch.from_numpy(np.where(unknown, 0, labels).astype(np.float32)),
            "unknown": torch.from_numpy(unknown),
            "index": index,
            "scale": torch.tensor(scale, dtype=torch.float32),
            "box": torch.from_numpy(box.astype(np.float32)),
        }


def hidden_shares(records: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Source -> "abnormal", "tumour", "fracture" -> the share of those known to have it in whom it is not marked."""
    labels = label_array(records)
    marked = np.array([bool(boxes) for boxes in records["boxes"]])
    shares = {}
    for source in sorted(set(records["source"])):
        here = (records["source"] == source).to_numpy()
        shares[source] = {}
        for name, (present, _) in _PRESENT.items():
            there = here & (labels[:, list(present)] == 1).any(axis=1)
            shares[source][name] = float((~marked[there]).mean()) if there.any() else 0.0
    return shares
