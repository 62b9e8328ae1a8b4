"""Bone ages from the command line: BoneXage's own line, tables, tags, doubts, the files; with a tiny random network."""

import csv
import io
import math
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from in_process import script
from PIL import Image

import scripts.predict_bone_age as predict_bone_age
from data.views.preprocessing import Preprocessing
from evaluation.statistics.likeness import Likeness
from models.backbones.backbone import build_backbone
from models.backbones.finetuned import save_finetuned
from models.backbones.published_bone_age import load_bone_age, save_published
from models.networks.bone_age import BoneAge
from workflows.bone_age.checks import FACTS, describe
from workflows.bone_age.reference import BoneAgeReference
from workflows.bone_age.result import COLUMNS

SIDE = 64
CPU = ("--device", "cpu", "--num_workers", "0", "--draws", "20")


def hand(seed: int, side: int = 72) -> np.ndarray:
    """Five fingers on a dark ground, each hand a little other."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 16, (side, side * 3 // 4)).astype(np.float32)
    wide = picture.shape[1]
    for finger in range(5):
        left = wide // 6 + finger * wide // 7 + rng.integers(0, 2)
        picture[
            side // 6 + 4 * abs(2 - finger) + rng.integers(0, 4) :, left : left + wide // 11
        ] += 160
    picture[side * 3 // 5 :, wide // 5 : wide * 4 // 5] += rng.integers(50, 80)
    return picture.clip(0, 255).astype(np.uint8)


def chest(seed: int, side: int = 72) -> np.ndarray:
    """Two dark lungs in a bright body."""
    down, across = np.mgrid[:side, :side] / side
    picture = np.random.default_rng(seed).integers(170, 200, (side, side)).astype(np.uint8)
    for middle in (0.28, 0.72):
        picture[((across - middle) / 0.17) ** 2 + ((down - 0.5) / 0.36) ** 2 < 1] = 30
    return picture


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A network that has learnt nothing, and a reference of 40 and 120 hands."""
    folder = tmp_path_factory.mktemp("bone_age") / "model"
    preprocessing = Preprocessing(SIDE, SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = BoneAge(
            build_backbone("none:resnet10t", input_size=(SIDE, SIDE)), preprocessing.normalise
        ).eval()
    pixels = [preprocessing.fit(preprocessing.scale(hand(seed))) for seed in range(160)]
    with torch.no_grad():
        features = torch.cat(
            [network.features(torch.stack(pixels[at : at + 40])) for at in range(0, 160, 40)]
        )
        last = network.head[-1]
        logits = (network.months(features, torch.ones(160)).months / 240).logit()
        slope = 1 / logits.std()  # so that ages differ
        last.weight.mul_(slope)
        last.bias.sub_(logits.mean()).mul_(slope)
        predicted = network.months(features, torch.ones(160)).months.numpy()
        features = features.numpy()
    assert predicted.std() > 30
    save_finetuned(network, folder, preprocessing.to_dict(), {}, "card")
    looks = np.stack([describe(one[0].numpy()) for one in pixels])[:, :-FACTS]
    target = predicted + np.random.default_rng(0).normal(0, 10, 160)
    likeness = Likeness.fit(
        features=features[40:],
        training_features=features[:40],
        looks=looks[40:],
        training_looks=looks[:40],
    )
    BoneAgeReference.fit(
        target[40:],
        predicted[40:],
        training_target=[0.0, 10.0, 20.0, 80.0, 240.0],
        training_sex=[*"FFFMM"],
        likeness=likeness,
    ).save(folder / "reference.npz")
    return folder


@pytest.fixture
def hands(tmp_path) -> Path:
    folder = tmp_path / "hands"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(hand(1000 + number)).save(folder / f"h{number}.png")
    return folder


def run(*flags):
    return script(predict_bone_age, *flags, *CPU)


def rows_of(folder: Path) -> list[dict]:
    with open(folder / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def months_of(model: Path, path: Path, sex: float) -> float:
    """What the network says, called by hand."""
    loaded = load_bone_age(model)
    preprocessing = Preprocessing.from_dict(loaded.preprocessor)
    loaded.model.normalise = preprocessing.normalise
    image = preprocessing.fit(preprocessing.read(path))[None]
    return float(loaded.model.months(loaded.model.features(image), torch.tensor([sex])).months)


def test_the_published_line(model, hands, monkeypatch):
    monkeypatch.chdir(hands.parent)
    Path("image_list.txt").write_bytes(b"\xef\xbb\xbfhands/h0.png\r\n\r\nhands/h1.png\r\n")
    ran = run("image_list.txt", "M", "64", model)
    lines = ran.stdout.splitlines()
    assert ran.returncode == 0 and len(lines) == 2 and lines[0].startswith("hands/h0.png: ")
    months = months_of(model, hands / "h0.png", 1.0)
    assert (
        lines[0].endswith(f" months ({months:.1f} months)")
        and f"{math.floor(months) // 12} years" in lines[0]
    )
    assert (
        run("image_list.txt", "male", "64", model).stdout
        == run("image_list.txt", "1", 64, model).stdout
        == ran.stdout
    )
    girl = run("image_list.txt", "0", "64", model).stdout
    assert girl == run("image_list.txt", "Female", "64", model).stdout != ran.stdout
    assert not list(hands.parent.glob("out*"))  # it writes nothing
    for words, told in (
        (("image_list.txt",), "1 word without a flag"),
        (("image_list.txt", "X"), "sex is 'X'; expected male or female"),
        (("image_list.txt", "M", "big"), "SIZE 'big'"),
        (("none.txt", "M", "64", model), "none.txt: no such list"),
        (("image_list.txt", "M"), "best_model.pth: no such bone-age network"),
        (("image_list.txt", "M", "--images", "hands"), "not both"),
        ((), "give --images"),
    ):
        wrong = run(*words)
        assert wrong.returncode == 2 and told in wrong.stderr and wrong.stderr.count("\n") == 1, (
            wrong.stderr
        )


def test_files_that_are_not_there_or_black_are_named_and_the_others_go_on(model, hands):
    Image.new("L", (60, 60)).save(hands / "black.png")
    (hands / "cut.png").write_bytes((hands / "h0.png").read_bytes()[:300])
    source = hands / "list.txt"
    source.write_text("h0.png\nlost.png\nblack.png\ncut.png\nh1.png\n")
    ran = run(source, "F", "64", model)
    assert ran.returncode == 3 and [line.split(":")[0] for line in ran.stdout.splitlines()] == [
        "h0.png",
        "h1.png",
    ]
    for name, reason in (
        ("lost.png", "missing: no such file; line 2"),
        ("black.png", "constant"),
        ("cut.png", "trunc"),
    ):
        assert any(name in line and reason in line for line in ran.stderr.splitlines()), ran.stderr
    out = hands.parent / "out"
    assert run("--images", source, "--model_path", model, "--output_dir", out).returncode == 3
    failed = list(csv.DictReader(open(out / "failed.csv", newline="")))
    assert [row["reason"] for row in failed] == ["missing", "constant", "truncated"] and len(
        rows_of(out)
    ) == 2
    source.write_text("lost.png\n")
    alone = run(source, "F", "64", model)
    assert alone.returncode == 2 and "none of the 1 files is there, first lost.png" in alone.stderr


def test_a_table_with_sexes_ages_and_truth(model, hands):
    table, out = hands / "t.csv", hands.parent / "out"
    table.write_text(
        "image,male,age_months,bone_age_months\nh0.png,True,100,90\nh1.png,0,,120\nh2.png,,,\n"
    )
    ran = run("--images", table, "--model_path", model, "--output_dir", out)
    assert ran.returncode == 0 and "the sex of 1 of 3 radiographs is unknown" in ran.stderr, (
        ran.stderr
    )
    rows = rows_of(out)
    assert tuple(rows[0]) == COLUMNS and [row["sex"] for row in rows] == ["M", "F", "unknown"]
    boy, girl = (months_of(model, hands / "h2.png", sex) for sex in (1.0, 0.0))
    assert float(rows[0]["bone_age_months"]) == pytest.approx(
        months_of(model, hands / "h0.png", 1.0), abs=0.051
    )
    assert float(rows[2]["bone_age_months"]) == pytest.approx((boy + girl) / 2, abs=0.051)
    assert float(rows[2]["male_months"]) == pytest.approx(boy, abs=0.051)
    assert rows[0]["male_months"] == "" and rows[1]["deviation_sd"] == ""
    reference = BoneAgeReference.load(model / "reference.npz")
    ends = [reference.interval([months]) for months in (boy, girl)]
    assert float(rows[2]["low_months"]) == pytest.approx(min(low[0] for low, _ in ends), abs=0.06)
    assert float(rows[2]["high_months"]) == pytest.approx(
        max(high[0] for _, high in ends), abs=0.06
    )
    deviation = float(rows[0]["bone_age_months"]) - 100
    assert float(rows[0]["deviation_months"]) == pytest.approx(deviation, abs=0.06)
    assert float(rows[0]["deviation_sd"]) == pytest.approx(
        deviation / reference.sd([months_of(model, hands / "h0.png", 1.0)])[0], abs=0.02
    )
    page = (out / "index.html").read_text()
    assert (
        page.count("<img") == 3
        and "sex unknown" in page
        and "For research only" in page
        and "deviation" in page
    )
    assert {"report.html", "scores.csv", "subgroups.csv", "comparisons.csv"} <= {
        p.name for p in out.iterdir()
    }
    scores = {
        (row["of"], row["metric"]): row
        for row in csv.DictReader(open(out / "scores.csv", newline=""))
    }
    wanted = np.mean(
        [abs(float(rows[k]["bone_age_months"]) - truth) for k, truth in ((0, 90), (1, 120))]
    )
    assert float(scores["network", "mae"]["value"]) == pytest.approx(wanted, abs=0.06)
    assert float(scores["one age for each sex", "mae"]["value"]) == pytest.approx(
        (abs(160 - 90) + abs(10 - 120)) / 2
    )
    again = run("--images", table, "--model_path", model, "--output_dir", out)
    assert again.returncode == 2 and "--overwrite" in again.stderr
    assert (
        run(
            "--images", hands / "h0.png", "--model_path", model, "--output_dir", out, "--overwrite"
        ).returncode
        == 0
    )
    assert (
        not (out / "report.html").exists() and len(rows_of(out)) == 1
    )  # nothing of before is left
    table.write_text("image,sex\nh0.png,2\n")
    wrong = run("--images", table, "--model_path", model, "--output_dir", hands.parent / "other")
    assert wrong.returncode == 2 and "row 2" in wrong.stderr and "'2'" in wrong.stderr


def test_an_age_table_of_ones_own(model, hands):
    table, sds, out = hands / "t.csv", hands.parent / "sd.csv", hands.parent / "out"
    table.write_text("image,sex,age_months\nh0.png,M,100\nh1.png,M,300\n")
    sds.write_text("sex,age_months,sd_months\nM,80,4\nM,120,12\nF,80,1\n")
    assert (
        run(
            "--images", table, "--model_path", model, "--output_dir", out, "--age_sd", sds
        ).returncode
        == 0
    )
    first, second = rows_of(out)
    assert float(first["deviation_sd"]) == pytest.approx(
        float(first["deviation_months"]) / 8, abs=0.02
    )
    assert (
        second["deviation_sd"] == ""
        and "that of the table given" in (out / "index.html").read_text()
    )
    for text, told in (
        ("sex,age_months,sd_months\nX,1,1\n", "expected M or F"),
        ("sex,age\nM,1\n", "age_months"),
        ("sex,age_months,sd_months\nM,1,0\n", "more than 0"),
        ("sex,age_months,sd_months\nM,1,2\nM,1,3\n", "twice"),
    ):
        sds.write_text(text)
        wrong = run(
            "--images",
            table,
            "--model_path",
            model,
            "--output_dir",
            out,
            "--age_sd",
            sds,
            "--overwrite",
        )
        assert wrong.returncode == 2 and told in wrong.stderr


def test_what_is_no_hand_is_doubted_and_hands_are_not(model, hands):
    for number in range(3):
        Image.fromarray(chest(number)).save(hands / f"x{number}.png")
    Image.fromarray(255 - hand(1000)).save(hands / "y_inverted.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 50), dtype=np.uint8)).save(
        hands / "z_noise.png"
    )
    out = hands.parent / "out"
    ran = run("--images", hands, "--sex", "M", "--model_path", model, "--output_dir", out)
    rows = {Path(row["path"]).stem: row for row in rows_of(out)}
    assert ran.returncode == 0 and {row["like_training"] for row in rows.values()} == {"yes", "no"}
    lines = {Path(line.split(":")[0]).stem: line for line in ran.stdout.splitlines()}
    for name in ("h0", "h1", "h2"):
        assert (
            rows[name]["like_training"] == "yes"
            and not rows[name]["do_not_use"]
            and rows[name]["low_months"]
        )
        assert not rows[name]["warnings"] and "do not use" not in lines[name]
    for name in ("x0", "x1", "x2", "y_inverted", "z_noise"):
        assert rows[name]["do_not_use"].startswith("unlike the training radiographs: at most ")
        assert (
            rows[name]["do_not_use"].endswith("perhaps no hand: do not use")
            and not rows[name]["low_months"]
        )
        assert rows[name]["like_training"] == "no" and rows[name]["do_not_use"] in lines[name]
        assert rows[name]["do_not_use"] not in ran.stderr
    assert "inverted" in rows["y_inverted"]["warnings"] and "noise" in rows["z_noise"]["warnings"]
    page = (out / "index.html").read_text()
    assert "WARNING" in ran.stderr and "<dt>with a warning</dt><dd>5</dd>" in page
    assert page.count("<b>DO NOT USE: ") == 5 and "5 of 8 bone ages must not be used" in page


def test_an_answer_outside_the_training_ages_is_not_to_be_used(model, hands, tmp_path):
    """0.0 months from a network of 86 to 192 months once came with the words that it may be younger or older."""
    copy, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(model, copy)
    arrays = dict(np.load(copy / "reference.npz"))
    with (copy / "reference.npz").open("wb") as file:
        np.savez(file, **arrays | {"ages": np.array([86.0, 192.0], np.float32)})
    loaded = load_bone_age(copy)
    with torch.no_grad():
        loaded.model.head[-1].bias.fill_(-1e4)
    about = {
        "training": {
            "data": "phantoms",
            "radiographs": 600,
            "score": {
                "metric": "mean absolute error",
                "value": 41.24,
                "unit": "months",
                "against": "one age for all",
                "baseline": 38.9,
                "verdict": "loses to",
                "radiographs": 120,
            },
        }
    }
    save_finetuned(loaded.model, copy, loaded.preprocessor, about, "card")
    ran = run(
        "--images",
        hands / "h0.png",
        "--sex",
        "M",
        "--age_from_dicom",
        "--model_path",
        copy,
        "--output_dir",
        out,
    )
    told = "outside the range of the training data by 86 months: do not use"
    assert ran.returncode == 0 and ran.stdout.splitlines()[0].endswith(
        f"0 years 0 months (0.0 months); {told}"
    )
    other_size = ("--image_size", 96, "--output_dir", out.with_name("other_size"))
    ran_larger = run("--images", hands / "h0.png", "--sex", "M", "--model_path", copy, *other_size)
    assert ran_larger.stdout.splitlines()[0].endswith(told)
    (row,), page = rows_of(out), (out / "index.html").read_text()
    assert (
        row["do_not_use"] == told
        and row["low_months"] == row["high_months"] == ""
        and row["like_training"] == "yes"
    )
    assert told in page and "<b>DO NOT USE: 0 years 0 months</b>" in page
    sentences = (
        "Trained on: 600 radiographs of phantoms.",
        "Validation score: mean absolute error 41.2 months on 120 "
        "validation radiographs: the network loses to one age for all (38.9 months).",
    )
    for sentence in sentences:
        assert sentence in page and sentence in row["network"] and sentence in ran.stderr
    save_finetuned(
        loaded.model, copy, loaded.preprocessor, {"training": {"radiographs": -1}}, "card"
    )
    wrong = run(
        "--images",
        hands / "h0.png",
        "--sex",
        "M",
        "--model_path",
        copy,
        "--output_dir",
        out,
        "--overwrite",
    )
    assert (
        wrong.returncode == 2 and "config.json: about.training.radiographs is '-1'" in wrong.stderr
    )
    with (copy / "reference.npz").open("wb") as file:
        np.savez(file, **arrays | {"network_kept": np.zeros((3, 5)), "network_centre": np.zeros(5)})
    save_finetuned(loaded.model, copy, loaded.preprocessor, {}, "card")
    wrong = run(
        "--images",
        hands / "h0.png",
        "--sex",
        "M",
        "--model_path",
        copy,
        "--output_dir",
        out,
        "--overwrite",
    )
    assert wrong.returncode == 2 and "reference.npz: of another network" in wrong.stderr


def test_flips_and_batches(model, hands):
    out = [hands.parent / name for name in ("plain", "one", "tta")]
    common = (
        "--images",
        hands,
        "--sex",
        "M",
        "--model_path",
        model,
        "--no-saliency",
        "--output_dir",
    )
    assert (
        run(*common, out[0]).returncode == run(*common, out[1], "--batch_size", 1).returncode == 0
    )
    assert run(*common, out[2], "--tta").returncode == 0
    plain, one, tta = (
        np.array([float(row["bone_age_months"]) for row in rows_of(folder)]) for folder in out
    )
    assert np.abs(plain - one).max() <= 0.11
    Image.open(hands / "h1.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
        hands / "flipped.png"
    )
    mean = (
        months_of(model, hands / "h1.png", 1.0) + months_of(model, hands / "flipped.png", 1.0)
    ) / 2
    assert tta[1] == pytest.approx(mean, abs=0.06) and abs(tta[1] - plain[1]) > 1
    assert (out[0] / "index.html").read_text().count("<img") == 3


def test_the_folds_of_a_training_answer_together(model, hands, tmp_path):
    folds, out = (
        [tmp_path / "training" / "models" / name for name in ("fold0", "fold1", "fold10")],
        tmp_path / "out",
    )
    for number, fold in enumerate(folds):
        shutil.copytree(model, fold)
        loaded = load_bone_age(model)
        with torch.no_grad():
            loaded.model.head[-1].bias.add_(0.7 * number)
        save_finetuned(loaded.model, fold, loaded.preprocessor, {}, "card")
    common = ("--images", hands, "--sex", "M", "--output_dir", out, "--overwrite", "--model_path")
    alone = []
    for fold in folds:
        assert run(*common, fold).returncode == 0
        alone.append([float(row["bone_age_months"]) for row in rows_of(out)])
    likeness = [row["likeness"] for row in rows_of(out)]
    ran = run(*common, tmp_path / "training" / "models")
    assert ran.returncode == 0 and "note" not in ran.stderr, ran.stderr
    rows, reference = rows_of(out), BoneAgeReference.load(model / "reference.npz")
    together = np.array([float(row["bone_age_months"]) for row in rows])
    assert (
        together == pytest.approx(np.mean(alone, axis=0), abs=0.11)
        and np.ptp(alone, axis=0).min() > 5
    )
    low, high = reference.interval(together)
    assert [float(row["low_months"]) for row in rows] == pytest.approx(low.tolist(), abs=0.11)
    assert [row["likeness"] for row in rows] == likeness  # their features are the same
    page = (out / "index.html").read_text()
    assert page.count("<img") == 3 and "3 networks of a cross-validation" in page
    assert run(*common, tmp_path / "training", "--tta").returncode == 0
    arrays = dict(np.load(folds[1] / "reference.npz"))
    with (folds[1] / "reference.npz").open("wb") as file:
        np.savez(file, **arrays | {"error": arrays["error"] + 1})
    wrong = run(*common, tmp_path / "training")
    assert (
        wrong.returncode == 2 and "fold1" in wrong.stderr and "different trainings" in wrong.stderr
    )
    (folds[1] / "reference.npz").unlink()
    ran = run(*common, tmp_path / "training")
    assert (
        ran.returncode == 0
        and "no reference.npz of its training" in ran.stderr
        and not rows_of(out)[0]["likeness"]
    )
    prepared = folds[2] / "preprocessor_config.json"
    prepared.write_text(prepared.read_text().replace("0.5", "0.4"))
    wrong = run(*common, tmp_path / "training")
    assert (
        wrong.returncode == 2 and "fold10" in wrong.stderr and "in different ways" in wrong.stderr
    )


def test_sex_and_age_of_dicom_files_only_if_asked(model, hands, monkeypatch):
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = (
        "CANARY^A",
        "CANARY7",
        "20100301",
    )
    dataset.PatientSex, dataset.StudyDate, dataset.PhotometricInterpretation = (
        "F",
        "20200915",
        "MONOCHROME2",
    )
    dataset.Rows, dataset.Columns = hand(1).shape
    dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 8, 8, 7
    dataset.PixelRepresentation, dataset.PixelData = 0, hand(1).tobytes()
    folder, out = hands.parent / "dicom", hands.parent / "out"
    folder.mkdir()
    dataset.save_as(folder / "a.dcm", enforce_file_format=True)
    common = ("--images", folder, "--model_path", model, "--output_dir", out, "--overwrite")
    assert run(*common).returncode == 0 and rows_of(out)[0]["sex"] == "unknown"
    ran = run(*common, "--sex_from_dicom", "--sex", "M")
    (row,) = rows_of(out)
    assert row["sex"] == "F" and row["chronological_age_months"] == ""
    assert run(*common, "--sex_from_dicom", "--age_from_dicom").returncode == 0
    assert rows_of(out)[0]["chronological_age_months"] == "127"
    told = ran.stdout + ran.stderr + "".join(file.read_text() for file in out.glob("*.*"))
    assert "CANARY" not in told and "20100301" not in told and "20200915" not in told


def test_without_the_training_nothing_is_promised(model, hands, tmp_path):
    bare, out = tmp_path / "bare", tmp_path / "out"
    bare.mkdir()
    for file in model.iterdir():
        if file.name != "reference.npz":
            (bare / file.name).symlink_to(file)
    common = (
        "--images",
        hands / "h0.png",
        "--sex",
        "M",
        "--output_dir",
        out,
        "--overwrite",
        "--model_path",
    )
    ran = run(*common, bare)
    assert ran.returncode == 0 and "no reference.npz of its training: no intervals" in ran.stderr, (
        ran.stderr
    )
    (row,) = rows_of(out)
    assert row["low_months"] == row["likeness"] == row["level"] == "" and row["bone_age"]
    assert row["like_training"] == "unknown" and "Trained on: not stated." in row["network"]
    assert "it is unknown whether a radiograph is like the training radiographs" in ran.stderr
    assert "Read this first" in (out / "index.html").read_text()
    ran = run(*common, model, "--level", 0.999)
    assert (
        "an interval of 99.9 % needs 999 validation radiographs" in ran.stderr
        and not rows_of(out)[0]["low_months"]
    )
    ran = run(*common, model, "--image_size", 96)
    assert ran.returncode == 0 and "trained on 64 x 64 pixels, not 96" in ran.stderr
    assert "no intervals, and it is unknown" in ran.stderr and not rows_of(out)[0]["low_months"]


@pytest.mark.slow
def test_a_published_file_takes_the_intervals_of_its_own_training_alone(model, hands, tmp_path):
    preprocessing, path, out = (
        Preprocessing(SIDE, SIDE),
        tmp_path / "best_model.pth",
        tmp_path / "out",
    )
    network = BoneAge(
        build_backbone("none:convnext_tiny", input_size=(SIDE, SIDE)), preprocessing.normalise
    )
    assert save_published(network, path, preprocessing.to_dict(), {}, {})
    common = (
        "--images",
        hands / "h0.png",
        "--sex",
        "M",
        "--model_path",
        path,
        "--output_dir",
        out,
        "--overwrite",
    )
    ran = run(*common)
    assert (
        ran.returncode == 0
        and "no reference.npz" in ran.stderr
        and not rows_of(out)[0]["low_months"]
    )
    (tmp_path / "model").symlink_to(model)  # beside it lies another network
    assert "holds another network" in run(*common).stderr and not rows_of(out)[0]["low_months"]
    (tmp_path / "model").unlink()
    save_finetuned(network, tmp_path / "model", preprocessing.to_dict(), {}, "card")
    (tmp_path / "model" / "reference.npz").write_bytes(reference_without_features(model))
    assert "holds another" not in run(*common).stderr and rows_of(out)[0]["low_months"]


def reference_without_features(model: Path) -> bytes:
    """The reference of another network, whose features do not fit."""
    with np.load(model / "reference.npz") as stored:
        arrays = {name: values for name, values in stored.items() if not name.startswith("network")}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
