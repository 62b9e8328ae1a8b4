"""Radiographs without labels: a sample is a function of seed, epoch and index, whoever reads it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from data.datasets.loader import step_batches
from data.datasets.unlabelled import UnlabelledRadiographs
from data.reading.radiograph import load_radiograph
from data.reading.refusal import UnreadableRadiograph
from data.views.augmentation import CropFlip
from data.views.preprocessing import Preprocessing
from training.sampling import Plan


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    found = [tmp_path / f"r{i}.png" for i in range(12)]
    for path in found:
        Image.fromarray(rng.integers(0, 60000, (40, 50), dtype=np.uint16)).save(path)
    return found


def dataset(paths, seed=3, patches=16, quarantine=None, **changes):
    preprocessing = Preprocessing(32, 32, **changes)
    return UnlabelledRadiographs(paths, preprocessing, CropFlip(32, 32), seed, patches, quarantine)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(
    "intensity, dtype", [("minmax", torch.uint8), ("percentile", torch.float32)]
)
def test_a_sample(paths, intensity, dtype):
    sample = dataset(paths, intensity=intensity)[2, 5]
    assert (
        sample["image"].shape == (1, 32, 32)
        and sample["image"].dtype == dtype
        and sample["index"] == 5
    )
    assert sample["noise"].shape == (16,) and sample["noise"].dtype == torch.float32
    assert 0 <= sample["noise"].min() and sample["noise"].max() < 1
    assert "noise" not in dataset(paths, patches=0)[2, 5]


def test_a_sample_depends_on_seed_epoch_and_index_alone(paths):
    data = dataset(paths)
    first = data[0, 0]
    [data[1, i] for i in range(12)]
    torch.manual_seed(1), np.random.seed(1)
    assert same(data[0, 0], first) and same(dataset(paths)[0, 0], first)
    for other in (data[1, 0], dataset(paths, seed=4)[0, 0]):
        assert not np.array_equal(other["image"], first["image"])
        assert not np.array_equal(other["noise"], first["noise"])
    assert not np.array_equal(data[0, 1]["noise"], first["noise"])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_samples_in_the_order_of_the_plan(paths, workers):
    data, plan = dataset(paths), Plan(12, batch_size=2, accumulate=2, epochs=2)
    batches = list(step_batches(data, plan, seed=7, rank=0, num_workers=workers)(1))
    assert len(batches) == (plan.last_step - 1) * 2 == 10
    from training.sampling import StepSampler

    for batch, keys in zip(batches, StepSampler(plan, 7, 0, 1)):
        samples = [data[key] for key in keys]
        assert batch["index"].tolist() == [s["index"] for s in samples]
        for key in ("image", "noise"):
            assert torch.equal(batch[key], torch.stack([s[key] for s in samples]))


def test_a_file_that_cannot_be_read_any_more_is_replaced_by_the_next(paths, tmp_path):
    good = dataset(paths)[0, 6]
    paths[5].write_bytes(paths[5].read_bytes()[:100])
    paths[4].unlink()
    quarantine = tmp_path / "quarantine.jsonl"
    data = dataset(paths, quarantine=quarantine)
    for epoch in range(3):
        assert data[epoch, 4]["index"] == data[epoch, 5]["index"] == 6
    assert same(data[0, 6], good)
    assert torch.equal(
        data[0, 4]["noise"], dataset(paths, quarantine=quarantine)[0, 4]["noise"]
    )  # its own
    records = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert [(r["path"], r["reason"]) for r in records[:2]] == [
        (str(paths[4]), "missing"),
        (str(paths[5]), "truncated"),
    ]
    assert len(records) == 4  # once by each data set, not at every look


def test_without_quarantine_it_is_an_error(paths):
    paths[3].write_bytes(b"")
    with pytest.raises(UnreadableRadiograph) as caught:
        dataset(paths)[0, 3]
    assert (caught.value.path, caught.value.reason) == (str(paths[3]), "empty-file")


def test_a_dead_disk_is_not_trained_on(paths, tmp_path):
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(
        UnreadableRadiograph,
        match=r"r3\.png: empty-file: 0 bytes; neither can the files after it be",
    ):
        dataset(paths, quarantine=tmp_path / "q")[0, 3]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_error_arrives_as_it_was_raised_also_from_a_worker(paths, workers):
    paths[7].write_bytes(b"junk")
    batches = step_batches(dataset(paths), Plan(12, 4), seed=0, rank=0, num_workers=workers)
    with pytest.raises(UnreadableRadiograph) as caught:
        list(batches(0))
    assert (caught.value.path, caught.value.reason) == (str(paths[7]), "not-an-image")
    assert "Traceback" not in str(caught.value)


def test_an_intensity_mapping_without_anything_to_stretch(paths, tmp_path):
    """Readable, with content at its rim, but flat where neglog measures the beam."""
    pixels = np.full((40, 50), 500, np.uint16)
    pixels[0], pixels[:, 0] = 30, 9
    Image.fromarray(pixels).save(paths[2])
    load_radiograph(paths[2])
    quarantine = tmp_path / "q"
    assert dataset(paths, quarantine=quarantine, intensity="neglog")[0, 2]["index"] == 3
    record = json.loads(quarantine.read_text())
    assert record["path"] == str(paths[2]) and "flat" in record["detail"]
    assert dataset(paths, quarantine=quarantine)[0, 2]["index"] == 2


def test_names_that_are_not_utf8(paths, tmp_path):
    import os

    odd = tmp_path / os.fsdecode(b"r\xf6ntgen.png")
    odd.write_bytes(b"")
    data = dataset([odd, *paths], quarantine=tmp_path / "q")
    assert data[0, 0]["index"] == 1
    assert os.fsencode(json.loads((tmp_path / "q").read_text())["path"]) == os.fsencode(odd)
