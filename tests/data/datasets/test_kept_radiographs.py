"""Radiographs kept in shared memory: the same numbers as from the files, in every process, under a limit."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from core.task import Task
from data.datasets.dataset import RadiographDataset
from data.datasets.kept_radiographs import KeptRadiographs
from data.datasets.loader import ordered_batches, step_batches
from data.reading.refusal import UnreadableRadiograph
from data.views.augmentation import CropFlip
from data.views.preprocessing import Preprocessing
from training.sampling import Plan

COUNT = 7


class Ages(RadiographDataset):
    task = Task("regression", unit="months")


@pytest.fixture
def records(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i in range(COUNT):
        paths.append(str(tmp_path / f"{i}.png"))
        pixels = rng.integers(0, 60_000, (40 + i, 60 - 3 * i)).astype(np.uint16)
        Image.fromarray(pixels).save(paths[-1])
    return pd.DataFrame(
        {"image": paths, "target": np.arange(COUNT) * 1.5, "sex": [1.0, -1, 0, 1, 1, -1, 0]}
    )


def delete(records):
    for path in records["image"]:
        open(path, "wb").close()


@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
@pytest.mark.parametrize("intensity", ["minmax", "percentile"])
def test_evaluation_has_the_same_numbers(records, resize, intensity):
    preprocessing = Preprocessing(32, 24, intensity, resize=resize)
    plain = Ages(records, preprocessing)
    expected = [plain[i]["image"] for i in range(COUNT)]
    kept = Ages(
        records, preprocessing, keep=KeptRadiographs(records["image"], preprocessing, 1.0).fill()
    )
    delete(records)  # nothing is read any more
    for i in range(COUNT):
        assert (
            torch.equal(kept[i]["image"], expected[i])
            and kept[i]["image"].dtype == expected[i].dtype
        )
        assert kept[i]["target"] == plain.records["target"][i]


def test_loader_processes_fill_and_read_the_same_memory(records):
    preprocessing = Preprocessing(32, 24)
    kept = KeptRadiographs(records["image"], preprocessing, 1.0).fill(num_workers=2)
    alone = KeptRadiographs(records["image"], preprocessing, 1.0).fill()
    delete(records)
    for path in records["image"]:
        assert np.array_equal(kept.read(path), alone.read(path)) and kept.read(path).any()
    data = Ages(records, preprocessing, keep=kept)
    batches = list(ordered_batches(data, [4, 1, 1, 6, 0], batch_size=2, num_workers=2))
    assert torch.cat([b["index"] for b in batches]).tolist() == [4, 1, 1, 6, 0]
    assert torch.equal(torch.cat([b["image"] for b in batches])[3], data[6]["image"])
    plan = Plan(COUNT, 3, epochs=1)
    augmented = Ages(records, preprocessing, CropFlip(32, 24), keep=kept)
    for batch in step_batches(augmented, plan, seed=0, rank=0, num_workers=2)(0):
        for row, image in zip(batch["index"], batch["image"]):
            assert torch.equal(image, augmented[0, int(row)]["image"])


def test_what_does_not_fit_is_decoded_with_the_same_numbers(records):
    preprocessing = Preprocessing(32, 24)
    kept = KeptRadiographs(records["image"], preprocessing, 3.5 * 32 * 24 / 1e9).fill()
    assert kept.count == 3 and len(kept.notes) == 1
    assert kept.notes[0].startswith(
        "7 radiographs of 32 x 24 pixels need 0.00 GB, the limit is 2.688e-06 GB: 3 are kept"
    )
    plain, data = Ages(records, preprocessing), Ages(records, preprocessing, keep=kept)
    assert all(torch.equal(data[i]["image"], plain[i]["image"]) for i in range(COUNT))
    larger = KeptRadiographs(records["image"], preprocessing, 1.0, enlarge=1.5).fill()
    few = KeptRadiographs(records["image"], preprocessing, 0.0, enlarge=1.5).fill()
    transform = CropFlip(32, 24)
    one, other = (Ages(records, preprocessing, transform, keep=k) for k in (larger, few))
    assert all(torch.equal(one[2, i]["image"], other[2, i]["image"]) for i in range(COUNT))
    assert not larger.notes and few.notes
    delete(records)
    assert torch.equal(data[2]["image"], Ages(records, preprocessing, keep=kept)[2]["image"])
    with pytest.raises(UnreadableRadiograph, match="3.png"):
        data[3]


def test_augmentation_of_the_whole_radiograph_has_the_same_numbers(records):
    preprocessing = Preprocessing(32, 24)
    whole = CropFlip(32, 24, scale=(1, 1), interpolation="bilinear")
    kept = KeptRadiographs(records["image"], preprocessing, 1.0).fill()
    plain, cached = (
        Ages(records, preprocessing, whole),
        Ages(records, preprocessing, whole, keep=kept),
    )
    assert all(
        torch.equal(plain[e, i]["image"], cached[e, i]["image"])
        for i in range(COUNT)
        for e in (0, 1)
    )
    flips = {torch.equal(cached[e, 0]["image"], cached[0, 0]["image"]) for e in range(8)}
    assert flips == {True, False}  # and the flip is really drawn
    # crops come from the kept picture: like those of the file, not the same
    crop = CropFlip(32, 24, scale=(0.5, 0.9), own_aspect=True)
    larger = KeptRadiographs(records["image"], preprocessing, 1.0, enlarge=1.15).fill()
    assert larger.size == (37, 28) and larger.read(records["image"][0]).shape == (37, 28)
    ours = Ages(records, preprocessing, crop, keep=larger)[0, 0]["image"]
    assert ours.shape == (1, 32, 24) and not torch.equal(
        ours, Ages(records, preprocessing, crop)[0, 0]["image"]
    )


def test_pixels_in_memory_cannot_be_changed(records):
    kept = KeptRadiographs(records["image"], Preprocessing(32, 24), 1.0).fill()
    before = kept.read(records["image"][0]).copy()
    with pytest.raises(ValueError, match="read-only"):
        kept.read(records["image"][0])[0] = 0
    assert np.array_equal(kept.read(records["image"][0]), before)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"height": 40}, "height 32, not 40"),
        ({"intensity": "percentile"}, "intensity minmax, not percentile"),
        ({"resize": "pad"}, "resize squash, not pad"),
        ({"interpolation": "bicubic"}, "bilinear, not bicubic"),
    ],
)
def test_another_preprocessing_is_refused(records, change, told):
    preprocessing = Preprocessing(32, 24)
    kept = KeptRadiographs(records["image"], preprocessing, 1.0)
    with pytest.raises(ValueError, match=told):
        Ages(records, dataclasses.replace(preprocessing, **change), keep=kept)
    Ages(
        records, dataclasses.replace(preprocessing, mean=(0, 0, 0)), keep=kept
    )  # applied later, on the device


def test_enlarged_pictures_are_not_for_evaluation(records):
    preprocessing = Preprocessing(32, 24)
    kept = KeptRadiographs(records["image"], preprocessing, 1.0, enlarge=1.15)
    with pytest.raises(ValueError, match="1.15 times as large are for augmentation only"):
        Ages(records, preprocessing, keep=kept)
    for wrong in ({"limit_gb": -1}, {"limit_gb": float("nan")}, {"limit_gb": 1, "enlarge": 0.5}):
        with pytest.raises(ValueError, match="or more"):
            KeptRadiographs(records["image"], preprocessing, **wrong)


def test_an_unreadable_file_is_named_while_filling(records):
    open(records["image"][4], "wb").close()
    kept = KeptRadiographs(records["image"], Preprocessing(32, 24), 1.0)
    for workers in (0, 2):
        with pytest.raises(UnreadableRadiograph, match="4.png"):
            kept.fill(workers)


def test_extra_columns_ride_along(records):
    data = Ages(records.iloc[::-1], Preprocessing(32, 24), extra=["sex", "target"])
    assert data[1]["extra"].tolist() == [-1.0, 7.5] and data[0, 1]["extra"].dtype == torch.float32
    assert "extra" not in Ages(records, Preprocessing(32, 24))[0]
    with pytest.raises(ValueError, match="no column 'age'; the records have image, target, sex"):
        Ages(records, Preprocessing(32, 24), extra=["age"])
    with pytest.raises(ValueError, match="the columns sex have gaps"):
        Ages(records.assign(sex=np.nan), Preprocessing(32, 24), extra=["sex"])
