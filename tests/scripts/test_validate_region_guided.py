"""validate_region_guided.py on phantoms in the releases' layouts: what it writes, what it refuses, and why."""

import csv
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from in_process import script
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import roc_auc_score

import scripts.validate_region_guided as validate
from core import flags as cli
from core.tumour_labels import LABELS
from data.datasets.split_table import file_hashes, seen_in_training, write_splits
from data.datasets.splits import Fold, Splits
from data.reading.radiograph import load_radiograph
from data.views.preprocessing import Preprocessing
from evaluation.statistics.likeness import FILE, Likeness
from evaluation.statistics.novelty import look
from models.backbones.backbone import build_backbone
from models.backbones.finetuned import load_finetuned, save_finetuned
from models.networks.mae import MAEConfig, MaskedAutoencoder
from models.networks.region_guided import RegionGuided
from models.networks.supervised import Supervised
from models.weights.checkpoint import save_mae
from phantoms.layouts.registry import WRITERS, fit_plan
from phantoms.plan import Plan, phantoms
from training.kept_facts import KeptFacts
from workflows.regions.answers import details as region_details
from workflows.regions.answers.predictions import SEED_COLUMNS
from workflows.regions.answers.rule import combined
from workflows.regions.records.crop_places import context_crop
from workflows.regions.records.sources import read_sources
from workflows.regions.records.views import sliding_regions

PREPARED = Preprocessing(32, 32)


@pytest.fixture(scope="module", autouse=True)
def nothing_is_drawn():
    """Plots are not drawn: that takes seconds, and they are tested elsewhere. Panels are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Figure, "savefig", lambda self, file, **_: Image.new("L", (9, 9)).save(file, "PNG")
        )
        patch.setattr(region_details, "curve_grid", lambda *_, **__: (b"", 9))
        patch.setattr(region_details, "reliability_picture", lambda *_: b"")
        patch.setattr(region_details, "confusion_picture", lambda *_: (b"", 9))
        patch.setattr(region_details, "MOST_CASES", 3)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """BTXRD and SNUH-bonetu of phantoms, a masked autoencoder, and the folds of a training."""
    root = tmp_path_factory.mktemp("validation")
    for layout, name in (("btxrd", "BTXRD"), ("snuh", "SNUH")):
        writer = WRITERS[layout](root / name, seed=4)
        for phantom in phantoms(fit_plan(layout, Plan(seed=4, size=48, difficulty="clear")), 16):
            writer.add(phantom)
        writer.close()
    torch.manual_seed(0)
    config = MAEConfig((32, 32), 8, 16, 1, 2, decoder_dim=16, decoder_depth=1, decoder_heads=2)
    save_mae(MaskedAutoencoder(config), root / "mae", PREPARED.to_dict(), "card")
    for fold in range(2):
        model = RegionGuided(build_backbone(str(root / "mae")))
        torch.nn.init.normal_(model.head.weight, std=0.5)
        save_finetuned(
            model, root / "out" / "models" / f"fold{fold}", PREPARED.to_dict(), {}, "card"
        )
    return root


def btxrd(root):
    folder = root / "BTXRD"
    return [
        "--btxrd_image_dir",
        folder / "images",
        "--btxrd_annotation_dir",
        folder / "Annotations",
        "--btxrd_metadata",
        folder / "dataset.csv",
    ]


def snuh(root):
    return [
        "--snuh_bonetu_image_dir",
        root / "SNUH" / "images",
        "--snuh_bonetu_metadata",
        root / "SNUH/metadata.csv",
    ]


def run(root, out, *flags, model="out", sources=btxrd):
    fixed = [
        "--num_workers",
        0,
        "--draws",
        5,
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--output_dir",
        out,
    ]
    return script(validate, "--model_path", root / model, *sources(root), *fixed, *flags)


def table(file):
    return pd.read_csv(file, keep_default_na=False)


def test_windows_and_folds_by_hand(place, tmp_path):
    done = run(
        place, tmp_path, "--regions", "sliding", sources=lambda root: [*btxrd(root), *snuh(root)]
    )
    assert done.returncode == 0, done.stderr
    assert (
        "No splits.csv" in done.stdout
        and "32 radiographs, 288 regions (sliding), 2 networks" in done.stdout
    )
    rows, views = table(tmp_path / "predictions.csv"), table(tmp_path / "regions.csv")
    assert (
        len(rows) == 32
        and len(views) == 320
        and set(SEED_COLUMNS) <= set(rows)
        and "center" in rows
    )
    models = [
        load_finetuned(place / "out" / "models" / f"fold{k}", "region-guided").model
        for k in range(2)
    ]
    for number in (0, 20):
        row = rows.iloc[number]
        pixels = PREPARED.read(row["image"])
        crops = [
            (0, 0, pixels.shape[1], pixels.shape[0]),
            *(r.crop for r in sliding_regions(pixels.shape)),
        ]
        batch = torch.stack(
            [PREPARED.fit(np.ascontiguousarray(pixels[y0:y1, x0:x1])) for x0, y0, x1, y1 in crops]
        )
        batch = PREPARED.normalise(batch)
        each = np.mean([model.predict(batch).numpy() for model in models], axis=0)
        wanted = combined(each.astype(float)).probabilities
        np.testing.assert_allclose(
            row[[f"p_{name}" for name in LABELS]].astype(float), wanted, rtol=1e-4
        )
        found = views[views["image"] == row["image"]][[f"p_{name}" for name in LABELS]]
        np.testing.assert_allclose(found.astype(float), each, rtol=1e-4, atol=1e-7)
        assert float(row["max_class_1"]) == pytest.approx(wanted[1], rel=1e-4)
    for name in (
        "report.html",
        "results.json",
        "labels.csv",
        "confusion_tumour.csv",
        "confusion_bone.csv",
        "comparisons.csv",
        "subgroups.csv",
        "three_way.csv",
        "groups.csv",
    ):
        assert (tmp_path / name).stat().st_size > 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["answers"]) == ["guided (sliding)", "whole image"]
    assert 'src="data:' in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_centres_annotations_and_one_fold(place, tmp_path):
    sheet = pd.read_csv(place / "BTXRD" / "dataset.csv")
    center = int(sheet["center"].mode()[0])
    done = run(
        place, tmp_path, "--regions", "annotation", "--centers", center, model="out/models/fold1"
    )
    assert done.returncode == 0, done.stderr
    rows, views = table(tmp_path / "predictions.csv"), table(tmp_path / "regions.csv")
    assert len(rows) == (sheet["center"] == center).sum() and set(rows["center"]) == {center}
    assert "upper bound" in done.stdout and "1 network," in done.stdout
    names = set(views["name"])
    assert (
        "annotation 1" in names and views.groupby("image").size().min() >= 2
    )  # also those without a mark
    marked = views[views["name"] == "annotation 1"].iloc[0]
    with Image.open(marked["image"]) as picture:
        size = picture.height, picture.width
    crop = context_crop(json.loads(marked["box"]), size)
    model = load_finetuned(place / "out" / "models" / "fold1").model
    pixels = PREPARED.read(marked["image"])[crop[1] : crop[3], crop[0] : crop[2]]
    found = model.predict(PREPARED.normalise(PREPARED.fit(np.ascontiguousarray(pixels))[None]))[0]
    np.testing.assert_allclose(
        marked[[f"p_{name}" for name in LABELS]].astype(float), found, rtol=1e-3
    )


def test_radiographs_unlike_those_of_the_training_are_told(place, tmp_path):
    """Both folds know some of these radiographs and nothing else; one more is noise."""
    root, copy = tmp_path / "trained", tmp_path / "data"
    shutil.copytree(place / "out", root)
    shutil.copytree(place / "BTXRD", copy / "BTXRD")
    images = sorted((copy / "BTXRD" / "images").iterdir())
    pixels = torch.stack([PREPARED(load_radiograph(path)) for path in images for _ in range(6)])
    looks = np.stack([look(one[0].numpy()) for one in pixels])
    for fold in range(2):
        folder = root / "models" / f"fold{fold}"
        loaded = load_finetuned(folder)
        with torch.no_grad():
            features = loaded.model.features(PREPARED.normalise(pixels)).numpy()
        Likeness.fit(
            features=features[1::2],
            training_features=features[::2],
            looks=looks[1::2],
            training_looks=looks[::2],
        ).save(folder / FILE)
        about = {"training": KeptFacts("phantoms", 600 + fold).kept()}
        save_finetuned(loaded.model, folder, loaded.preprocessor, about, "card")
    with Image.open(images[3]) as picture:
        size = picture.size
    Image.effect_noise(size, 90).save(images[3])
    done = run(copy, tmp_path / "o", "--regions", "none", "--model_path", root)
    assert done.returncode == 0, done.stderr
    assert "WARNING: 1 of 16 radiographs are unlike the training radiographs" in done.stdout
    rows = table(tmp_path / "o" / "predictions.csv")
    odd = rows["image"].str.endswith(images[3].name)
    assert set(rows[odd]["like_training"]) == {"no"} and set(rows[~odd]["like_training"]) == {"yes"}
    assert rows[odd]["likeness"].astype(float).item() < rows[~odd]["likeness"].astype(float).min()
    told = "Trained on: 600 to 601 radiographs of phantoms (each of 2 networks)."
    page = (tmp_path / "o" / "report.html").read_text(encoding="utf-8")
    assert told in page and rows["networks"].str.contains(told, regex=False).all()
    assert "By like the training" in page and "1 of 16 radiographs are unlike" in page
    (root / "models" / "fold1" / FILE).unlink()
    done = run(copy, tmp_path / "p", "--regions", "none", "--model_path", root)
    assert (
        done.returncode == 0 and "WARNING: Whether a radiograph is like the training" in done.stdout
    ), done.stderr
    assert set(table(tmp_path / "p" / "predictions.csv")["like_training"]) == {"unknown"}


def test_error_maps_point_and_the_same_command_gives_the_same_bytes(place, tmp_path):
    written = []
    for name in ("a", "b"):
        done = run(
            place, tmp_path / name, "--regions", "error_map", "--error_map_model", place / "mae"
        )
        assert done.returncode == 0, done.stderr
        written.append((tmp_path / name / "regions.csv").read_bytes())
    assert written[0] == written[1] and b"peak 1" in written[0]
    views = table(tmp_path / "a" / "regions.csv")
    assert views.groupby("image").size().between(1, 4).all()
    for box, image in zip(views["box"], views["image"]):
        x0, y0, x1, y1 = json.loads(box)
        with Image.open(image) as picture:
            assert 0 <= x0 < x1 <= picture.width and 0 <= y0 < y1 <= picture.height


def test_boxes_of_a_detector_and_the_whole_where_there_are_none(place, tmp_path):
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("image,xmin,ymin,xmax,ymax,label\nIMG000001.jpeg,5,5,20,20,lesion\n")
    done = run(place, tmp_path / "a", "--regions", "csv", "--boxes", boxes)
    assert done.returncode == 0, done.stderr
    assert run(place, tmp_path / "b", "--regions", "none").returncode == 0
    by_box, whole = (
        table(tmp_path / "a" / "predictions.csv"),
        table(tmp_path / "b" / "predictions.csv"),
    )
    p = [f"p_{name}" for name in LABELS]
    same = np.isclose(by_box[p].astype(float), whole[p].astype(float), rtol=1e-5).all(axis=1)
    boxed = by_box["image"].str.endswith("IMG000001.jpeg")
    assert (same == ~boxed).all() and boxed.sum() == 1
    assert by_box[boxed]["max_class_1_label"].item() == "lesion"
    assert set(by_box[~boxed]["max_class_1_label"]) == {"whole image"}
    assert list(json.loads((tmp_path / "b" / "results.json").read_text())["answers"]) == [
        "whole image"
    ]
    boxes.write_text("image,xmin,ymin,xmax,ymax\nIMG000001.jpeg,5,5,20,2000\n")
    done = run(place, tmp_path / "a", "--regions", "csv", "--boxes", boxes)
    assert (
        done.returncode == 2
        and "boxes.csv: row 2: box" in done.stderr
        and "outside the radiograph" in done.stderr
    )


@pytest.fixture
def trained(place, tmp_path):
    """A training of the same BTXRD whose first radiographs were trained on; returns its folder and the records."""
    root = tmp_path / "trained"
    shutil.copytree(place / "out", root)
    flags = cli.parse(
        validate.Config, [str(word) for word in ["--model_path", root, *btxrd(place)]]
    )
    records = read_sources(flags)
    patients = records["patient"].unique()
    side = (
        records["patient"]
        .map({name: number % 4 for number, name in enumerate(patients)})
        .to_numpy()
    )
    folds = [Fold(np.flatnonzero(side == k), np.flatnonzero(side == 1 - k)) for k in (0, 1)]
    splits = Splits(tuple(folds), np.flatnonzero(side == 2), ())
    hashes = file_hashes(records)
    write_splits(root / "splits.csv", records, splits, place / "BTXRD", hashes)
    return root, records, side, hashes


def test_what_the_training_knew_is_not_validated_on(place, tmp_path, trained):
    root, records, side, _ = trained
    known = int((side < 2).sum())
    done = run(place, tmp_path / "a", "--regions", "none", model=root)
    assert (
        done.returncode == 2
        and f"{known} of 16 radiographs were known to the training" in done.stderr
    )
    assert "--on_leak skip" in done.stderr and not (tmp_path / "a" / "report.html").exists()
    done = run(place, tmp_path / "b", "--regions", "none", "--on_leak", "skip", model=root)
    assert done.returncode == 0, done.stderr
    kept = set(table(tmp_path / "b" / "predictions.csv")["image"])
    assert kept == set(records["image"][side >= 2])
    done = run(
        place,
        tmp_path / "c",
        "--regions",
        "none",
        "--on_leak",
        "keep",
        model=root / "models" / "fold0",
    )
    assert done.returncode == 0 and "WARNING: LEAK" in done.stdout
    assert "too good" in (tmp_path / "c" / "report.html").read_text(encoding="utf-8")


def test_seen_in_training_by_content_and_by_patient(trained):
    root, records, side, hashes = trained
    file = root / "splits.csv"
    assert {row for row, _ in seen_in_training(file, records, hashes)} == set(
        np.flatnonzero(side < 2)
    )
    renamed = records.assign(patient="new")
    assert {row for row, _ in seen_in_training(file, renamed, hashes, [0])} == set(
        np.flatnonzero(side < 2)
    )
    again = seen_in_training(file, records, ["0" * 64] * len(records))
    assert {row for row, _ in again} == set(np.flatnonzero(side < 2))
    assert all("same patient or group" in why for _, why in again)
    assert seen_in_training(file, renamed, ["0" * 64] * len(records)) == []


def assert_ends_with_a_sentence(done, told):
    """Exit status 2 and one line, after the lines of progress bars."""
    *bars, sentence = done.stderr.splitlines()
    assert done.returncode == 2 and told in sentence, done.stderr
    assert all("%|" in line for line in bars), done.stderr


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--boxes", "x.csv"], "--boxes is for --regions csv, not sliding"),
        (["--regions", "csv"], "--regions csv needs --boxes TABLE"),
        (["--regions", "error_map"], "needs --error_map_model"),
        (["--window", "1.5"], "windows of 1.5"),
        (["--tumour_threshold", "1"], "--tumour_threshold 1.0: expected more than 0"),
        (["--draws", "0"], "--draws 0: expected a whole number from 1 on"),
        (["--centers", "4"], "centre 4 of BTXRD; choices 1, 2, 3"),
        (["--meta_cols", "height_cm"], "--meta_cols height_cm: no such column"),
        (
            ["--fracatlas_metadata", "x.csv"],
            "--fracatlas_image_dir, --fracatlas_annotation_dir is missing",
        ),
        (["--regions", "csv", "--boxes", "nowhere.csv"], "nowhere.csv: no such table of boxes"),
        (["--splits", "nowhere.csv"], "nowhere.csv: no such table of splits"),
    ],
)
def test_flags_that_cannot_work_end_with_a_sentence(place, tmp_path, flags, told):
    done = run(place, tmp_path, *flags)
    assert_ends_with_a_sentence(done, told)


def test_sources_and_networks_that_are_not_there(place, tmp_path):
    def words(**changes):
        done = run(place, tmp_path / "o", **changes)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        return done.stderr

    assert "no radiographs: give --btxrd_" in words(sources=lambda root: [])
    assert "of BTXRD, which is not given" in words(
        sources=lambda root: [*snuh(root), "--centers", "2"]
    )
    assert "nowhere: no such folder" in words(model="nowhere")
    (tmp_path / "empty").mkdir()
    assert "neither a network" in words(model=tmp_path / "empty")
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "config.json").touch()
    assert "run/model?" in words(model=tmp_path / "run")
    assert "its head is None" in words(model="mae") or "describes no fine-tuned network" in words(
        model="mae"
    )
    head = Supervised(build_backbone(str(place / "mae")), "binary", 1)
    save_finetuned(head, tmp_path / "binary", PREPARED.to_dict(), {}, "card")
    assert "its head is 'binary'; expected 'region-guided'" in words(model=tmp_path / "binary")
    both = tmp_path / "both"
    shutil.copytree(place / "out", both)
    file = both / "models" / "fold1" / "preprocessor_config.json"
    file.write_text(json.dumps(Preprocessing(32, 32, resize="pad").to_dict()))
    assert "its folds prepare radiographs differently" in words(model=both)


def test_two_classifiers_on_the_same_radiographs(place, tmp_path):
    first = ["--regions", "none", "--model_path", place / "out" / "models" / "fold0"]
    assert run(place, tmp_path / "zero", *first).returncode == 0
    flags = [
        "--regions",
        "none",
        "--against",
        f"fold 0={tmp_path / 'zero'}",
        tmp_path / "zero" / "predictions.csv",
    ]
    done = run(place, tmp_path / "one", *flags, model="out/models/fold1")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "one" / "results.json").read_text())
    before = json.loads((tmp_path / "zero" / "results.json").read_text())
    assert list(results["answers"]) == ["whole image", "fold 0", "zero"]
    for name in ("fold 0", "zero"):
        told = json.dumps(results["answers"][name]["labels"])
        assert told == json.dumps(before["answers"]["whole image"]["labels"]) and '"auroc"' in told
    own, other = (
        table(tmp_path / "one" / "predictions.csv"),
        table(tmp_path / "zero" / "predictions.csv"),
    )
    truth = 1 - own["true_no bone tumour"].astype(float)
    areas = [
        roc_auc_score(truth, 1 - each["p_no bone tumour"].astype(float)) for each in (own, other)
    ]
    rows = table(tmp_path / "one" / "comparisons.csv")
    row = rows[(rows["second"] == "fold 0") & (rows["what"] == "no bone tumour")].iloc[0]
    assert float(row["difference"]) == pytest.approx(areas[0] - areas[1], abs=1e-5)

    def refused(file, told):
        done = run(place, tmp_path / "o", "--regions", "none", "--against", file)
        assert_ends_with_a_sentence(done, told)

    changed = tmp_path / "changed.csv"

    def write(change):
        text = table(tmp_path / "zero" / "predictions.csv")
        change(text).to_csv(changed, index=False)
        return f"x={changed}"

    refused(tmp_path / "nowhere", "nowhere: no such table")
    refused(f"whole image={tmp_path / 'zero'}", "it needs a name of its own")
    refused(write(lambda t: t.drop(columns="p_implant")), "no column 'p_implant'")
    refused(write(lambda t: pd.concat([t, t[:1]])), "is there twice")
    refused(write(lambda t: t.iloc[2:]), "says nothing of 2 of 16 radiographs, first ")
    refused(write(lambda t: t.assign(p_implant="maybe")), "not all probabilities are numbers")
    refused(
        write(
            lambda t: t.assign(
                **{"true_no bone tumour": 1 - t["true_no bone tumour"].astype(float)}
            )
        ),
        "other labels in 16 of 16 radiographs",
    )


def test_a_radiograph_that_cannot_be_decoded(place, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(place / "BTXRD", copy / "BTXRD")
    images = sorted((copy / "BTXRD" / "images").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:-400])
    out = ["--regions", "none", "--model_path", place / "out"]
    done = run(copy, tmp_path / "o", *out)
    assert (
        done.returncode == 2
        and f"1 of 16 radiographs cannot be read, first {images[0]}" in done.stderr
    )
    done = run(copy, tmp_path / "o", *out, "--on_bad_image", "skip")
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "o" / "predictions.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 15
