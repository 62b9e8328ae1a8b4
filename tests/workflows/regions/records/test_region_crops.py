"""Crops for the region-guided classifier: the zoom tells nothing of the labels, boxes follow the pixels."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from core.tumour_labels import GROUP, LABELS, label_vector
from data.reading.refusal import UnreadableRadiograph
from data.views.preprocessing import Preprocessing
from workflows.regions.records.crop_places import CropPolicy, FindingBoxes, context_crop, place_crop
from workflows.regions.records.crops import RegionCrops, hidden_shares

SMALL = Preprocessing(64, 48)


def drawn_records(count=1500, seed=0) -> pd.DataFrame:
    """Three sources as they are: large tumours; small fractures, and hardware without a box; a set half marked."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        source = ("btxrd", "fracatlas", "snuh")[number % 3]
        height, width = (int(side) for side in rng.integers(300, 900, 2))
        u, boxes = rng.random(), []
        low, high = (0.15, 0.6) if source != "fracatlas" else (0.05, 0.2)
        w, h = rng.uniform(low, high, 2) * (width, height)
        x, y = rng.uniform(0, width - w), rng.uniform(0.3 * (height - h), height - h)
        here = [(x, y, x + w, y + h)]
        if source == "btxrd":
            tumour = "malignant" if u < 0.2 else "benign" if u < 0.6 else "no bone tumour"
            boxes = here if u < 0.6 else []
            labels = label_vector(abnormal=u < 0.6, tumour=tumour)
        elif source == "fracatlas":
            boxes = here if u < 0.3 else []
            fracture = "non-pathologic fracture" if u < 0.3 else "no fracture"
            labels = label_vector(
                abnormal=u < 0.4, tumour="no bone tumour", fracture=fracture, implant=0.3 < u < 0.4
            )
        else:
            boxes = here if u < 0.3 else []  # half of the tumours
            tumour, bone = "intermediate" if u < 0.6 else "no bone tumour", LABELS[5 + number % 29]
            labels = label_vector(
                abnormal=u < 0.6, tumour=tumour, bone=bone, fracture="no fracture", implant=u > 0.9
            )
        rows.append(
            {
                "image": f"{number}.png",
                "source": source,
                "patient": str(number),
                "labels": labels,
                "boxes": boxes,
                "height": height,
                "width": width,
            }
        )
    return pd.DataFrame(rows)


def interval(scores, truth) -> tuple[float, float, float]:
    """AUROC with its 99.9 % interval (Hanley and McNeil 1982), ties half."""
    positive, negative = np.sort(scores[truth]), np.sort(scores[~truth])
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(
        negative, positive, "right"
    )
    area = below.mean() / 2 / len(negative)
    n, m = len(positive), len(negative)
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = (
        (area * (1 - area) + (n - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)) / (n * m)
    ) ** 0.5
    return area, area - 3.29 * error, area + 3.29 * error


@pytest.fixture(scope="module")
def views():
    """Scale of each view [V] and what it shows of the labels [V, 38]; several epochs of all records."""
    records = drawn_records()
    crops = RegionCrops(records, SMALL, CropPolicy())
    found = []
    for epoch in range(4):
        for index in range(len(records)):
            rng = np.random.default_rng([epoch, index])
            _, _, scale = crops.view(index, rng)
            found.append((records["source"][index], scale, crops.shown_labels(index, scale, rng)))
    sources, scales, labels = zip(*found)
    return np.array(sources), np.array(scales), np.array(labels)


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ("btxrd", 1),
        ("btxrd", 3),
        ("btxrd", 4),
        ("btxrd", 0),
        ("fracatlas", 35),
        ("snuh", 2),
        ("snuh", 0),
        ("btxrd and fracatlas", 4),
        ("btxrd and fracatlas", 1),
        ("all", 4),
        ("all", 0),
    ],
)
def test_the_scale_of_a_crop_does_not_predict_a_label(source, label, views):
    sources, scales, labels = views
    known = ~np.isnan(labels[:, label]) & (
        np.isin(sources, source.split(" and ")) | (source == "all")
    )
    area, low, high = interval(scales[known], labels[known, label] == 1)
    assert high - low < 0.16
    if source != "all":
        assert low < 0.5 < high, f"{LABELS[label]}: {area:.3f} ({low:.3f} to {high:.3f})"
    else:  # a set that is half marked is learnt more on whole radiographs than others, whatever the label
        assert 0.44 < area < 0.56


def test_the_scale_does_not_depend_on_the_radiograph_at_all():
    records = drawn_records(300)
    crops = RegionCrops(records, SMALL, CropPolicy())
    scales = set()
    for seed in range(30):
        found = {crops.view(index, np.random.default_rng(seed))[2] for index in range(0, 300, 7)}
        assert len(found) == 1
        scales |= found
    assert len(scales) > 10


def test_with_the_reference_s_crops_it_would():
    """SKELEX: scale uniform in 0.2 to 1 until 60 % of a box are inside, ten times; negatives' box is all of it."""
    records, rng = drawn_records(), np.random.default_rng(1)
    records = records[records["source"] == "btxrd"]
    scales, tumours = [], []
    for boxes, labels, H, W in zip(
        records["boxes"], records["labels"], records["height"], records["width"]
    ):
        scale = 1.0
        for _ in range(10):
            tried = rng.uniform(0.2, 1)
            w, h = tried * W, tried * H
            x, y = rng.uniform(0, W - w), rng.uniform(0, H - h)
            inside = [
                max(min(x1, x + w) - max(x0, x), 0)
                * max(min(y1, y + h) - max(y0, y), 0)
                / ((x1 - x0) * (y1 - y0))
                for x0, y0, x1, y1 in boxes or [(0, 0, W, H)]
            ]
            if max(inside) >= 0.6:
                scale = tried
                break
        scales.append(-scale)
        tumours.append(labels[[1, 2, 3]].any())
    area, low, _ = interval(np.array(scales), np.array(tumours))
    assert area > 0.7 and low > 0.6, area


def test_what_is_known_in_crops_is_equally_much_of_all(views):
    """Implants, and findings that are nowhere marked, are learnt on whole radiographs only."""
    sources, scales, labels = views
    cropped = scales < 1
    assert 0.35 < cropped.mean() < 0.5
    assert (
        np.isnan(labels[cropped][:, 37]).all()
        and not np.isnan(labels[~cropped][sources[~cropped] == "snuh", 37]).any()
    )
    here = (sources == "snuh") & cropped
    shown = ~np.isnan(labels[here, 4])
    assert 0.4 < shown.mean() < 0.6  # half of the tumours are marked
    assert (labels[here][shown, 4] == 0).mean() == pytest.approx(
        0.6, abs=0.08
    )  # as many as among whole ones
    bones = ~np.isnan(labels[here, 5])
    assert (
        labels[here][bones, 2] == 1
    ).all() and 0.2 < bones.mean() < 0.4  # of marked findings alone


def test_shares_that_are_not_marked():
    records = drawn_records(600)
    found = hidden_shares(records)
    for source in found:
        here = records[records["source"] == source]
        tumours = here[[labels[[1, 2, 3]].sum() == 1 for labels in here["labels"]]]
        share = (tumours["boxes"].map(len) == 0).mean() if len(tumours) else 0
        assert found[source]["tumour"] == pytest.approx(share)
    assert found["btxrd"]["abnormal"] == 0 < found["fracatlas"]["abnormal"] < 0.5


def test_a_source_whose_findings_are_nowhere_marked_is_not_cropped():
    records = drawn_records(300)
    records.loc[records["source"] == "snuh", "boxes"] = records["boxes"].map(lambda _: [])
    crops, rng = RegionCrops(records, SMALL, CropPolicy()), np.random.default_rng(0)
    scales = {}
    for index in range(300):
        scales.setdefault(records["source"][index], set()).add(crops.view(index, rng)[2])
    assert scales["snuh"] == {1.0} and len(scales["btxrd"]) > 20 and len(scales["fracatlas"]) > 20
    none = records.assign(boxes=[[] for _ in range(300)])
    assert RegionCrops(none, SMALL, CropPolicy()).view(3, rng) == (
        (0, 0, none["width"][3], none["height"][3]),
        None,
        1.0,
    )


def test_crops_contain_their_finding_or_lie_in_it():
    rng = np.random.default_rng(0)
    for _ in range(3000):
        H, W = (int(side) for side in rng.integers(20, 200, 2))
        xs, ys = np.sort(rng.uniform(0, W, 2)), np.sort(rng.uniform(0, H, 2))
        scale = rng.uniform(0.1, 1)
        x0, y0, x1, y1 = place_crop((xs[0], ys[0], xs[1], ys[1]), scale, (H, W), rng)
        assert (x1 - x0, y1 - y0) == (max(round(scale * W), 1), max(round(scale * H), 1))
        for low, high, a, b, side in ((x0, x1, *xs, W), (y0, y1, *ys, H)):
            assert 0 <= low < high <= side
            assert (
                (low <= a + 0.5 and b - 0.5 <= high)
                if high - low >= b - a
                else (a - 0.5 <= low and high <= b + 0.5)
            )


def test_places_are_uniform():
    rng = np.random.default_rng(0)
    found = np.array([place_crop((40, 10, 50, 90), 0.3, (100, 100), rng)[:2] for _ in range(4000)])
    assert found.min(0).tolist() == [20, 10] and found.max(0).tolist() == [40, 60]
    assert np.abs(found.mean(0) - (30, 35)).max() < 1


def test_pseudo_boxes_are_where_findings_of_the_source_are():
    records = drawn_records(600)
    found, rng = FindingBoxes(records), np.random.default_rng(0)
    assert len(found) == sum(map(len, records["boxes"]))
    own = {source: {tuple(np.round(box, 6)) for box in boxes} for source, boxes in found.of.items()}
    for source in own:
        for _ in range(50):
            x0, y0, x1, y1 = found.pseudo_box(source, (200, 400), rng)
            assert tuple(np.round((x0 / 400, y0 / 200, x1 / 400, y1 / 200), 6)) in own[source]
    assert not own["btxrd"] & own["fracatlas"]
    few = FindingBoxes(records[(records["source"] != "snuh") | (records.index < 30)])
    assert len(few.of["snuh"]) == len(few)  # too few of its own
    sizes = np.array(
        [found.scale(CropPolicy(margin=(0, 0), smallest=0.01), rng) for _ in range(3000)]
    )
    extents = np.maximum(found.all[:, 2] - found.all[:, 0], found.all[:, 3] - found.all[:, 1])
    assert np.quantile(sizes, (0.1, 0.5, 0.9)) == pytest.approx(
        np.quantile(extents, (0.1, 0.5, 0.9)), abs=0.03
    )


@pytest.fixture(scope="module")
def lit(tmp_path_factory):
    """One radiograph, dark but for its finding, and a normal one; of other aspects than the network."""
    folder = tmp_path_factory.mktemp("lit")
    pixels = np.full((300, 260), 20, np.uint8)
    pixels[0, 0] = 0
    Image.fromarray(np.where(np.arange(260) % 7 == 0, 30, pixels).astype(np.uint8)).save(
        folder / "normal.png"
    )
    pixels[120:200, 60:160] = 255
    Image.fromarray(pixels).save(folder / "lesion.png")
    rows = [
        (
            folder / "lesion.png",
            [(60.0, 120.0, 160.0, 200.0)],
            label_vector(abnormal=True, tumour="benign"),
        ),
        (folder / "normal.png", [], label_vector(tumour="no bone tumour")),
    ]
    return pd.DataFrame(
        [
            {
                "image": str(image),
                "source": "a",
                "patient": "p",
                "labels": labels,
                "boxes": boxes,
                "height": 300,
                "width": 260,
            }
            for image, boxes, labels in rows
        ]
    )


@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_boxes_follow_the_pixels(resize, lit):
    policy = CropPolicy(whole=0.2, degrees=12, flip=0.5, brightness=0, contrast=0)
    crops = RegionCrops(lit, Preprocessing(96, 64, resize=resize), policy, seed=1)
    scales, right = set(), 0
    for epoch in range(60):
        sample = crops[epoch, 0]
        y, x = np.nonzero(sample["image"][0].numpy() > 130)
        seen = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        assert np.abs(seen - sample["box"].numpy()).max() <= 2.5, (epoch, seen, sample["box"])
        right += seen[0] > 64 - seen[2]
        scales.add(round(float(sample["scale"]), 3))
    assert len(scales) > 20 and 15 < right < 45


def test_large_crops_are_made_smaller_first(lit, tmp_path):
    """The same view, within what resampling twice changes."""
    one = RegionCrops(lit, Preprocessing(200, 200), CropPolicy(brightness=0, contrast=0), seed=1)
    other = RegionCrops(lit, Preprocessing(100, 100), CropPolicy(brightness=0, contrast=0), seed=1)
    for epoch in range(6):
        large, small = one[epoch, 0], other[epoch, 0]
        assert (
            torch.allclose(large["box"], 2 * small["box"], atol=2)
            and large["scale"] == small["scale"]
        )
        halved = torch.nn.functional.avg_pool2d(large["image"].float()[None], 2)[0]
        assert (halved - small["image"].float()).abs().mean() < 4


def test_samples_belong_to_seed_epoch_and_row(lit):
    crops, again = (RegionCrops(lit, SMALL, CropPolicy(), seed=5) for _ in range(2))
    again[7, 1]
    for key in ((0, 0), (3, 1)):
        one, two = crops[key], again[key]
        assert all(
            torch.equal(
                torch.as_tensor(one[name]).nan_to_num(), torch.as_tensor(two[name]).nan_to_num()
            )
            for name in one
        )
    assert not torch.equal(crops[0, 0]["image"], crops[1, 0]["image"])
    assert not torch.equal(
        crops[0, 0]["image"], RegionCrops(lit, SMALL, CropPolicy(), seed=6)[0, 0]["image"]
    )


def test_evaluation_sees_whole_radiographs_and_all_labels(lit):
    crops = RegionCrops(lit, SMALL)
    sample = crops[0]
    assert torch.equal(sample["image"], SMALL.fit(SMALL.read(lit["image"][0]))) and sample[
        "image"
    ].shape == (1, 64, 48)
    assert sample["box"].tolist() == pytest.approx(
        SMALL.forward_boxes([lit["boxes"][0][0]], (300, 260))[0].tolist()
    )
    assert (
        sample["scale"] == 1
        and sample["index"] == 0
        and crops[1]["box"].isnan().all()
        and len(crops) == 2
    )
    assert sample["target"].tolist() == np.nan_to_num(lit["labels"][0]).tolist()
    assert torch.equal(sample["unknown"], torch.from_numpy(np.isnan(lit["labels"][0])))
    assert sample["unknown"][list(GROUP["bone"].indices)].all() and not sample["unknown"][:5].any()
    large, policy = (
        Preprocessing(200, 150),
        CropPolicy(whole=1, degrees=0, brightness=0, contrast=0),
    )
    sample, whole = RegionCrops(lit, large)[0], RegionCrops(lit, large, policy)[4, 0]
    assert torch.equal(whole["image"], sample["image"]) and torch.allclose(
        whole["box"], sample["box"]
    )


def test_a_file_that_has_changed_is_named(lit):
    told = (
        r"lesion\.png: bad-metadata: it is 300 x 260 .*, and was 301 x 260 when its boxes were read"
    )
    with pytest.raises(UnreadableRadiograph, match=told):
        RegionCrops(lit.assign(height=301), SMALL)[0]
    with pytest.raises(ValueError, match="no column 'boxes'"):
        RegionCrops(lit.drop(columns="boxes"), SMALL)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"whole": 1.5}, "whole 1.5; expected 0 to 1"),
        ({"margin": (1, 0.5)}, "margin 1 to 0.5"),
        ({"smallest": 0}, "smallest 0"),
        ({"degrees": -1}, "degrees -1; expected 0 to 180"),
    ],
)
def test_impossible_policies_are_refused(wrong, told):
    with pytest.raises(ValueError, match=f"crop policy: {told}"):
        CropPolicy(**wrong)


def test_prediction_crops_have_their_box_in_the_middle():
    assert context_crop((40, 50, 60, 60), (100, 200), margin=0.5, smallest=0.1) == (30, 45, 70, 65)
    assert context_crop((0, 0, 20, 10), (100, 200), margin=0.5, smallest=0.1) == (0, 0, 40, 20)
    assert context_crop((195, 95, 200, 100), (100, 200), margin=0, smallest=0.3) == (
        140,
        70,
        200,
        100,
    )
    assert context_crop((0, 0, 200, 100), (100, 200), margin=1) == (0, 0, 200, 100)
