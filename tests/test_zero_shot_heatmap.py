"""zero_shot_heatmap.py from end to end on small pictures and a tiny network."""

import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import corpora
import numpy as np
import pytest
import torch
from fork_harness import exit_status, spawn
from PIL import Image

import zero_shot_heatmap
from core.files import lock_folder
from core.flags import parse
from data.reading.audit import audit
from data.views.preprocessing import Preprocessing
from evaluation.maps.localisation import METRICS
from models.networks.mae import MAEConfig, MaskedAutoencoder
from models.weights.checkpoint import save_mae
from workflows.heatmaps import figures as heatmap_figures
from zero_shot_heatmap import Config, main

ROOT = Path(__file__).parents[1]
SIZES = {"knee/a.png": (60, 40), "knee/b.jpg": (50, 70), "c.png": (48, 64), "d.tif": (90, 33)}


@pytest.fixture(autouse=True)
def small_and_alone(monkeypatch):
    """Small figures and one thread: quicker."""
    torch.set_num_threads(1)
    monkeypatch.setattr(heatmap_figures, "OVERLAY_SIDE", (160, 240))
    monkeypatch.setattr(heatmap_figures, "TILE_SIDE", 64)


def save_model(folder, seed=0, preprocessing=None, **changes):
    torch.manual_seed(seed)
    preprocessing = preprocessing or Preprocessing(height=32, width=48)
    config = MAEConfig(
        input_size=(32, 48),
        patch_size=8,
        dim=32,
        depth=1,
        heads=2,
        decoder_dim=32,
        decoder_depth=1,
        decoder_heads=2,
        **changes,
    )
    save_mae(MaskedAutoencoder(config), folder, preprocessing.to_dict(), "test")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


def picture(path, size, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (7, 7), dtype=np.uint8)
    Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def images(tmp_path):
    for number, (name, size) in enumerate(SIZES.items()):
        picture(tmp_path / "in" / name, size, number)
    return tmp_path / "in"


def heatmap(model, folders, out, **flags):
    """main() with a few passes; returns its exit status."""
    folders = folders if isinstance(folders, list) else [folders]
    settings = {"passes": 3, "panel_passes": 2, "device": "cpu"} | flags
    if isinstance(settings.get("reference"), Path):
        settings["reference"] = [settings["reference"]]
    return main(Config(model_path=model, in_dirs=folders, out=out, **settings))


def contents(folder, pattern="**/*.png"):
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.glob(pattern)
    }


def maps(out):
    return {p.relative_to(out).as_posix(): np.load(p) for p in sorted(out.rglob("*_error.npy"))}


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_radiograph_gets_its_outputs(model, images, tmp_path, capsys):
    assert heatmap(model, images, tmp_path / "out") == 0
    rows = {row["outputs"]: row for row in table(tmp_path / "out" / "err_mean_summary.csv")}
    assert set(rows) == {"in/c", "in/d", "in/knee/a", "in/knee/b"}
    for name, size in SIZES.items():
        stem = f"in/{name[:-4]}"
        error = np.load(tmp_path / "out" / f"{stem}_error.npy")
        assert error.shape == size and error.dtype == np.float32 and np.nanmin(error) >= 0
        row = rows[stem]
        assert np.isfinite(error).mean() == pytest.approx(float(row["coverage"]), abs=0.02)
        assert float(row["mean_error"]) == pytest.approx(np.nanmean(error), rel=0.1)
        assert (int(row["height"]), int(row["width"])) == size and 0.5 < float(row["coverage"]) <= 1
        for ending in (".png", "_hotspot.png"):
            with Image.open(tmp_path / "out" / f"{stem}{ending}") as figure:
                assert min(figure.size) > 100
    page = (tmp_path / "out" / "index.html").read_text()
    assert (
        page.count("data:image/jpeg;base64,") == 4 and "http:" not in page and "https:" not in page
    )
    assert table(tmp_path / "out" / "failed.csv") == []
    assert "matched" in capsys.readouterr().out


def test_bad_files_are_listed_and_change_nothing_else(model, images, tmp_path):
    assert heatmap(model, images, tmp_path / "good") == 0
    (images / "knee" / "a2.png").write_bytes((images / "knee" / "a.png").read_bytes()[:60])
    (images / "0.png").write_text("no picture")
    Image.new("L", (40, 40)).save(images / "constant.png")
    assert heatmap(model, images, tmp_path / "mixed") == 3
    failed = {Path(row["path"]).name: row for row in table(tmp_path / "mixed" / "failed.csv")}
    assert set(failed) == {"a2.png", "0.png", "constant.png"}
    assert failed["constant.png"]["reason"] == "constant" and all(
        row["detail"] for row in failed.values()
    )
    for pattern in ("**/*.png", "**/*.npy", "err_mean_summary.csv"):
        assert contents(tmp_path / "mixed", pattern) == contents(tmp_path / "good", pattern)
    assert "3 files could not be read" in (tmp_path / "mixed" / "index.html").read_text()


@pytest.mark.slow
def test_bad_files_of_other_projects_change_nothing_either(model, images, tmp_path):
    """Hundreds of files that the reader refuses, in every folder, before, between and after the good ones."""
    assert heatmap(model, images, tmp_path / "good") == 0
    _, refused = audit([*corpora.pillow_images(), *corpora.pydicom_files()])
    reasons = {}
    for number, (path, reason) in enumerate(zip(refused["path"], refused["reason"])):
        place, extension = (
            ("knee/0", "b", "z")[number % 3],
            ("png", "jpg", "tif", "dcm")[number % 4],
        )
        name = f"{place}{number}.{extension}"
        shutil.copyfile(path, images / name)
        reasons[str(images / name)] = reason
    assert len(reasons) > 500 and len(set(reasons.values())) >= 12
    assert heatmap(model, images, tmp_path / "mixed") == 3
    assert {
        row["path"]: row["reason"] for row in table(tmp_path / "mixed" / "failed.csv")
    } == reasons
    for pattern in ("**/*.png", "**/*.npy", "err_mean_summary.csv"):
        assert contents(tmp_path / "mixed", pattern) == contents(tmp_path / "good", pattern)
    assert len(contents(tmp_path / "mixed", "**/*.npy")) == len(SIZES)


def test_same_seed_same_bytes_other_seed_other_maps(model, images, tmp_path):
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        heatmap(model, images, tmp_path / name, seed=seed)
    assert contents(tmp_path / "one", "in/**/*.*") == contents(tmp_path / "again", "in/**/*.*")
    first, other = maps(tmp_path / "one"), maps(tmp_path / "other")
    assert all(np.nanmax(np.abs(first[k] - other[k])) > 1e-4 for k in first)


def test_batch_size_and_neighbours_do_not_change_maps(model, images, tmp_path):
    heatmap(model, images, tmp_path / "whole")
    heatmap(model, images, tmp_path / "single", batch_size=1, num_workers=1)
    picture(images / "a_first.png", (44, 44), 99)
    heatmap(model, images, tmp_path / "more", batch_size=7)
    whole = maps(tmp_path / "whole")
    for other in (maps(tmp_path / "single"), maps(tmp_path / "more")):
        for name, values in whole.items():
            np.testing.assert_allclose(other[name], values, atol=1e-6)


def test_flags_change_what_they_name(model, images, tmp_path):
    runs = {
        "default": {},
        "ratio": {"mask_ratio": 0.25},
        "l1": {"l1": True},
        "passes": {"passes": 4},
        "complementary": {"masks": "complementary", "passes": 4},
        "plain": {"imagenet_norm": False},
    }
    results = {}
    for name, flags in runs.items():
        heatmap(model, images / "c.png", tmp_path / name, **flags)
        results[name] = maps(tmp_path / name)["in/c_error.npy"]
    for name in list(runs)[1:]:
        assert np.nanmax(np.abs(results[name] - results["default"])) > 1e-4, name
    rows = {name: table(tmp_path / name / "err_mean_summary.csv")[0] for name in runs}
    assert float(rows["complementary"]["coverage"]) == 1 > float(rows["ratio"]["coverage"])
    assert float(rows["l1"]["mean_error"]) > float(rows["default"]["mean_error"])


def test_overlay_flags_touch_the_overlay_only(model, images, tmp_path):
    heatmap(model, images, tmp_path / "default")
    before = contents(tmp_path / "default", "in/**/*.png")
    for name, flags in {
        "image": {"scale": "image"},
        "fixed": {"scale": "fixed", "scale_max": 0.01},
        "own": {"plot_norm": False},
        "unit": {"plot_norm": True},
        "colours": {"colours": "grey"},
        "alpha": {"alpha": 0.9},
    }.items():
        heatmap(model, images, tmp_path / name, **flags)
        after = contents(tmp_path / name, "in/**/*.png")
        changed = {k for k in before if before[k] != after[k]}
        assert {k for k in changed if k.endswith("_hotspot.png")}, name
        assert name == "colours" or all(k.endswith("_hotspot.png") for k in changed), name


def test_plot_norm_fixes_the_scale_as_in_the_seed(model, images, tmp_path):
    same = {"own": {"scale": "image"}, "unit": {"scale": "fixed", "scale_max": 1.0}}
    for plot_norm, name in ((False, "own"), (True, "unit")):
        heatmap(model, images / "c.png", tmp_path / name, **same[name])
        heatmap(model, images / "c.png", tmp_path / "plot", plot_norm=plot_norm, overwrite=True)
        assert contents(tmp_path / "plot", "in/*_hotspot.png") == contents(
            tmp_path / name, "in/*_hotspot.png"
        )


def test_never_hidden_is_nan_and_clear(model, images, tmp_path):
    heatmap(
        model,
        images / "c.png",
        tmp_path / "out",
        passes=1,
        mask_ratio=0.25,
        scale="image",
        alpha=1.0,
    )
    error = np.load(tmp_path / "out" / "in" / "c_error.npy")  # 48 x 64 pixels of 4 x 6 patches
    cells = np.isnan(error).reshape(4, 12, 64)[:, :, np.arange(6) * 64 // 6 + 5].mean(1)
    assert set(np.unique(cells)) == {0, 1} and cells.sum() == 18
    row = table(tmp_path / "out" / "err_mean_summary.csv")[0]
    assert float(row["coverage"]) == 0.25 and float(row["mean_error"]) == pytest.approx(
        np.nanmean(error), rel=0.1
    )
    for flags in ({"truth": tmp_path / "t.csv"}, {"reference": images / "knee"}):
        (tmp_path / "t.csv").write_text("image,xmin,ymin,xmax,ymax\nc.png,5,5,20,20\n")
        with pytest.raises(
            ValueError, match="1 random masks never hide .* 1 of 1 .*--masks complementary or"
        ):
            heatmap(model, images / "c.png", tmp_path / "refused", passes=1, **flags)


def test_unknown_patches_do_not_dilute_known_ones():
    from workflows.heatmaps.study import mapped_back

    known = np.random.default_rng(0).random((4, 6)) > 0.4
    values = np.kron(np.where(known, 0.5, 0.0), np.ones((8, 8)))
    for resize in ("squash", "pad", "crop"):
        full = mapped_back(
            Preprocessing(height=32, width=48, resize=resize), values, known, (75, 90)
        )
        assert np.isnan(full).any() and np.nanmin(full) == pytest.approx(0.5) == np.nanmax(full)


def test_a_folder_without_radiographs_spoils_nothing_else(model, images, tmp_path, monkeypatch):
    from data.reading import listing

    def guarded(folder):
        if not isinstance(folder, int) and Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    scandir = listing.os.scandir
    monkeypatch.setattr(listing.os, "scandir", guarded)
    for name in ("empty", "locked"):
        (tmp_path / name).mkdir()
    assert heatmap(model, [tmp_path / "empty", images, tmp_path / "locked"], tmp_path / "out") == 3
    failed = {
        Path(row["path"]).name: row["reason"] for row in table(tmp_path / "out" / "failed.csv")
    }
    assert failed == {"empty": "no-radiographs", "locked": "no-permission"}
    assert len(maps(tmp_path / "out")) == 4
    with pytest.raises(
        ValueError, match="no radiographs in .*empty.*locked: this folder cannot be listed"
    ):
        heatmap(model, [tmp_path / "empty", tmp_path / "locked"], tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        heatmap(model, [images, tmp_path / "nowhere"], tmp_path / "nothing")


def test_a_radiograph_without_contrast_is_one_failure(images, tmp_path):
    model = save_model(
        tmp_path / "neglog", preprocessing=Preprocessing(height=32, width=48, intensity="neglog")
    )
    frame = np.full((64, 64), 128, np.uint8)
    frame[:4] = frame[-4:] = np.arange(64) * 4
    Image.fromarray(frame).save(images / "flat.png")
    assert heatmap(model, images, tmp_path / "out") == 3
    (row,) = table(tmp_path / "out" / "failed.csv")
    assert (
        Path(row["path"]).name == "flat.png"
        and row["reason"] == "constant"
        and "flat" in row["detail"]
    )
    assert len(maps(tmp_path / "out")) == 4


def test_resume_skips_what_is_finished(model, images, tmp_path, monkeypatch):
    out = tmp_path / "out"
    heatmap(model, images, out)
    before = contents(out, "in/**/*.*")
    picture(images / "knee" / "new.png", (40, 40), 50)
    picture(images / "c.png", (48, 64), 51)  # other content under the same name
    (out / "in" / "d_error.npy").unlink()
    seen = []
    forward = MaskedAutoencoder.embed
    monkeypatch.setattr(
        MaskedAutoencoder, "embed", lambda self, x: seen.append(len(x)) or forward(self, x)
    )
    assert heatmap(model, images, out, resume=True) == 0
    assert sum(seen) == 3  # new, changed, incomplete
    after = contents(out, "in/**/*.npy")
    assert after["in/knee/a_error.npy"] == before["in/knee/a_error.npy"]
    assert after["in/c_error.npy"] != before["in/c_error.npy"]
    assert len(table(out / "err_mean_summary.csv")) == 5
    with pytest.raises(ValueError, match="other settings.*seed"):
        heatmap(model, images, out, resume=True, seed=9)
    with pytest.raises(ValueError, match="--overwrite"):
        heatmap(model, images, out, l1=True)
    with pytest.raises(ValueError, match="--resume .* --overwrite"):
        heatmap(model, images, out)
    assert (out / "records.jsonl").read_text().count("\n") >= 5
    assert heatmap(model, images, out, l1=True, overwrite=True) == 0


def test_each_radiograph_is_decoded_once_and_overlays_do_not_depend_on_it(
    model, images, tmp_path, monkeypatch
):
    """What an overlay needs is kept until it is drawn; a stopped run's leftovers are used by its resumption only."""
    from data.views import preprocessing
    from workflows.heatmaps import figures as heatmap_figures
    from workflows.heatmaps import report as heatmap_report

    decoded, original = [], preprocessing.load_radiograph
    monkeypatch.setattr(
        preprocessing, "load_radiograph", lambda path: decoded.append(path) or original(path)
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    heatmap(model, images, whole)
    assert len(decoded) == len(set(decoded)) == 4
    assert not (whole / heatmap_figures.DRAWINGS).exists()

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(heatmap_report, "cohort_tops", interrupted)
        with pytest.raises(KeyboardInterrupt):
            heatmap(model, images, stopped)
    kept = sorted((stopped / heatmap_figures.DRAWINGS).iterdir())
    assert len(kept) == 4
    kept[0].unlink()
    kept[1].write_bytes(kept[1].read_bytes()[:500])  # the power failed
    left_over = [stopped / ".settings.json.abc.part", stopped / "in" / "knee" / ".a.png.abc.part"]
    for path in left_over:
        path.touch()  # of a kill
    decoded.clear()
    heatmap(model, images, stopped, resume=True)
    assert len(decoded) == 2 and not any(path.exists() for path in left_over)
    assert contents(stopped, "in/**/*.*") == contents(whole, "in/**/*.*")
    with monkeypatch.context() as patched:
        patched.setattr(heatmap_report, "cohort_tops", interrupted)
        with pytest.raises(KeyboardInterrupt):
            heatmap(model, images, stopped, seed=9, overwrite=True)
    heatmap(model, images, stopped, overwrite=True)
    assert contents(stopped, "in/**/*.*") == contents(whole, "in/**/*.*")


def test_two_runs_into_one_folder(model, images, tmp_path):
    (tmp_path / "out").mkdir()
    lock = lock_folder(tmp_path / "out", "taken")

    def second() -> int:
        with pytest.raises(
            FileExistsError, match=r"out: another run is writing into this folder; .* another --out"
        ):
            heatmap(model, images, tmp_path / "out")
        return 0

    assert exit_status(spawn(second)) == 0
    lock.close()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    heatmap(model, images, tmp_path / "out")


def test_outputs_of_equal_names_stay_apart(model, tmp_path):
    for number, name in enumerate(
        ["one/images/a.png", "one/images/a.bmp", "one/images/a_hotspot.png", "two/images/a.png"]
    ):
        picture(tmp_path / name, (40, 40), number)
    heatmap(model, [tmp_path / "one" / "images", tmp_path / "two" / "images"], tmp_path / "out")
    found = maps(tmp_path / "out")
    assert len(found) == 4 and len({m.tobytes() for m in found.values()}) == 4
    assert set(found) == {
        "one_images/a_bmp_error.npy",
        "one_images/a_png_error.npy",
        "one_images/a_hotspot_error.npy",
        "two_images/a_error.npy",
    }
    # outputs inside an input folder are not read as radiographs
    heatmap(model, tmp_path / "one", tmp_path / "one" / "out")
    heatmap(model, tmp_path / "one", tmp_path / "one" / "out", overwrite=True)
    assert len(maps(tmp_path / "one" / "out")) == 3


def test_second_format_and_no_panel(model, images, tmp_path):
    heatmap(model, images / "c.png", tmp_path / "out", format="pdf")
    assert (tmp_path / "out" / "in" / "c_hotspot.pdf").read_bytes().startswith(b"%PDF")
    heatmap(model, images / "c.png", tmp_path / "bare", panel_passes=0)
    assert {p.name for p in (tmp_path / "bare" / "in").iterdir()} == {
        "c_error.npy",
        "c_hotspot.png",
    }


def test_padding_and_cropping_are_undone(images, tmp_path):
    truth = tmp_path / "truth.csv"
    truth.write_text("image,xmin,ymin,xmax,ymax\nc.png,5,5,20,20\n")
    for resize in ("pad", "crop"):
        model = save_model(
            tmp_path / resize, preprocessing=Preprocessing(height=32, width=48, resize=resize)
        )
        out = tmp_path / f"out_{resize}"
        assert heatmap(model, images, out, truth=truth, masks="complementary") == 0
        for name, size in SIZES.items():  # none has the aspect of the network's input
            error = np.load(out / f"in/{name[:-4]}_error.npy")
            assert error.shape == size and np.isnan(error).any() == (resize == "crop")
        assert all(float(row["iou"]) >= 0 for row in table(out / "localisation.csv"))
        assert all(float(row["mean_error"]) > 0 for row in table(out / "err_mean_summary.csv"))


def test_normalised_targets_work(images, tmp_path, capsys):
    model = save_model(tmp_path / "norm_pix", norm_pix_loss=True)
    heatmap(model, images, tmp_path / "out")
    assert all(np.nanmax(m) <= 1 for m in maps(tmp_path / "out").values())
    assert "normalised patches" in capsys.readouterr().out


def test_reference_gives_z_maps_and_can_be_reused(model, images, tmp_path):
    for number in range(6):
        picture(tmp_path / "normal" / "knee" / f"{number}.png", (50, 50), 200 + number)
        picture(tmp_path / "normal" / "hand" / f"{number}.png", (50, 50), 300 + number)
    heatmap(model, images, tmp_path / "out", reference=tmp_path / "normal", masks="complementary")
    rows = {row["outputs"]: row for row in table(tmp_path / "out" / "err_mean_summary.csv")}
    assert (
        rows["in/knee/a"]["reference_group"] == "knee" and rows["in/c"]["reference_group"] == "all"
    )
    z = np.load(tmp_path / "out" / "in" / "c_z.npy")
    assert z.shape == (48, 64) and z.dtype == np.float32 and np.isfinite(z).all()
    assert float(rows["in/c"]["z_max"]) == pytest.approx(z.max(), rel=0.3)
    stored = {"reference": tmp_path / "out" / "reference.npz", "masks": "complementary"}
    heatmap(model, images, tmp_path / "reused", **stored)
    assert contents(tmp_path / "reused", "in/**/*.*") == contents(tmp_path / "out", "in/**/*.*")
    with pytest.raises(ValueError, match="made with another passes"):
        heatmap(model, images, tmp_path / "wrong", **stored, passes=5)


def body_part(path, part, seed):
    """A hand is a bright bar in the dark, a pelvis fills the picture."""
    rng = np.random.default_rng([seed, len(part)])
    pixels = rng.normal(20, 3, (56, 48))
    if part == "hand":
        pixels[8:52, 18:32] += 120 + rng.normal(0, 10, (44, 14))
    else:
        coarse = Image.fromarray(rng.uniform(90, 220, (9, 8)).astype(np.float32))
        pixels += np.asarray(coarse.resize((48, 56), Image.Resampling.BICUBIC))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def parts(tmp_path):
    """Normal hands and pelves, and other hands and pelves in folders of their own."""
    for part in ("hand", "pelvis"):
        for number in range(8):
            body_part(tmp_path / "normals" / part / f"{number}.png", part, number)
        for number in range(6):
            body_part(tmp_path / part / f"{number}.png", part, 100 + number)
    return tmp_path


EVEN = {"masks": "complementary", "panel_passes": 0}


def groups_of(out):
    return {row["outputs"]: row["reference_group"] for row in table(out / "err_mean_summary.csv")}


def test_folders_name_their_normals(model, parts, capsys):
    """hand/ and pelvis/ as input folders find the normals of their names, whatever folder is given."""
    reference = parts / "normals"
    heatmap(model, [parts / "hand", parts / "pelvis"], parts / "out", reference=reference, **EVEN)
    said = capsys.readouterr().out
    assert "z-scores: 6 by hand, 6 by pelvis\n" in said
    assert "reference: 16 normal radiographs (hand 8, pelvis 8)\n" in said
    assert "fewer than 50 normal radiographs are coarse (hand 8, pelvis 8)" in said
    used = groups_of(parts / "out")
    assert len(used) == 12 and all(name.startswith(group) for name, group in used.items())
    # the normals of one part, given by themselves or as two folders
    several = [reference / "pelvis", reference / "hand"]
    heatmap(model, [parts / "hand", parts / "pelvis"], parts / "several", reference=several, **EVEN)
    assert groups_of(parts / "several") == used
    heatmap(model, parts / "hand", parts / "one", reference=reference / "hand", **EVEN)
    assert set(groups_of(parts / "one").values()) == {"hand"}
    z = {name: np.load(parts / name / "hand" / "3_z.npy") for name in ("out", "several", "one")}
    np.testing.assert_array_equal(z["several"], z["one"])
    assert np.nanmax(np.abs(z["out"])) < 100
    page = (parts / "out" / "index.html").read_text()
    assert (
        "mixture" not in page
        and "6 by hand, 6 by pelvis" in page
        and "by pelvis \u00b7 mean z" in page
    )
    assert re.search(r"\d+ % \(limit \d+ %\)", page)


def test_lists_and_the_flag_name_the_normals(model, parts, capsys):
    normals = [f"normals/{part}/{number}.png" for part in ("hand", "pelvis") for number in range(8)]
    rows = [f"{name},{'Hand, adult' if 'hand' in name else 'Pelvis'}" for name in normals]
    (parts / "normals.csv").write_text(
        "image,group\n" + "\n".join(f'{r.split(",")[0]},"{r.split(",", 1)[1]}"' for r in rows)
    )
    (parts / "new.csv").write_text(
        'image,group\nhand/0.png,"Hand, adult"\npelvis/0.png,Pelvis\npelvis/1.png,\n'
    )
    heatmap(model, parts / "new.csv", parts / "out", reference=parts / "normals.csv", **EVEN)
    used = {
        Path(row["path"]).parts[-2:]: row["reference_group"]
        for row in table(parts / "out" / "err_mean_summary.csv")
    }
    assert used == {
        ("hand", "0.png"): "Hand, adult",
        ("pelvis", "0.png"): "Pelvis",
        ("pelvis", "1.png"): "all",
    }
    assert "1 by Hand, adult, 1 by Pelvis, 1 by all: no group pelvis" in capsys.readouterr().out
    page = (parts / "out" / "index.html").read_text()
    assert (
        "z-scores say little: 1 of 3 radiographs are compared with a mixture of Hand, adult, Pelvis."
        in page
    )
    heatmap(
        model,
        parts / "pelvis",
        parts / "flag",
        reference=parts / "normals.csv",
        group="Pelvis",
        **EVEN,
    )
    assert set(groups_of(parts / "flag").values()) == {"Pelvis"}
    with pytest.raises(
        ValueError, match="--group hip: the reference has no two .* it has Hand, adult, Pelvis"
    ):
        heatmap(
            model,
            parts / "pelvis",
            parts / "typo",
            reference=parts / "normals.csv",
            group="hip",
            **EVEN,
        )
    (parts / "twice.csv").write_text("image,group\nhand/0.png,a\nhand/0.png,b\n")
    with pytest.raises(
        ValueError, match=r"twice\.csv: row 3 puts hand/0\.png into a second group, b"
    ):
        heatmap(model, parts / "twice.csv", parts / "typo", reference=parts / "normals.csv", **EVEN)
    for flags in ({"group": "Pelvis"}, {"force_reference": True}):
        with pytest.raises(ValueError, match="--group and --force_reference need .* --reference"):
            heatmap(model, parts / "pelvis", parts / "typo", **flags)


@pytest.mark.parametrize("wrong", ["all of them", "one folder of two", "by the flag"])
def test_the_wrong_body_part_is_refused(model, parts, wrong, monkeypatch, capsys):
    """No page comes of it; --force_reference goes on from what was measured and says so on the page."""
    shutil.rmtree(parts / "normals" / "pelvis")
    folders = [parts / "pelvis"] if wrong == "all of them" else [parts / "hand", parts / "pelvis"]
    flags = (
        EVEN
        | {"reference": parts / "normals"}
        | ({"group": "hand"} if wrong == "by the flag" else {})
    )
    told = "6 of 6 of pelvis|6 of 12 of hand|6 of 6 radiographs"
    if wrong == "by the flag":  # more than half, so that no folder has to say so
        shutil.rmtree(parts / "hand")
        folders = [parts / "pelvis"]
        told = "6 of 6 of hand"
    with pytest.raises(
        ValueError, match=f"are unlike the normal .*({told}).*--force_reference --resume"
    ):
        heatmap(model, folders, parts / "out", **flags)
    assert not (parts / "out" / "index.html").exists()
    monkeypatch.setattr(MaskedAutoencoder, "embed", lambda *_: pytest.fail("measured again"))
    capsys.readouterr()
    assert heatmap(model, folders, parts / "out", force_reference=True, resume=True, **flags) == 0
    assert "do not use their z-scores" in capsys.readouterr().err
    page = (parts / "out" / "index.html").read_text()
    assert (
        "class=banner role=note>Do not use these z-scores: 6 of" in page
        and "unlike these normals" in page
    )
    rows = {
        row["outputs"]: row["outside_reference"]
        for row in table(parts / "out" / "err_mean_summary.csv")
    }
    assert {name for name, outside in rows.items() if outside == "True"} == {
        f"pelvis/{n}" for n in range(6)
    }


def test_findings_of_the_same_part_are_not_refused(model, parts):
    for number in range(6):
        with Image.open(parts / "hand" / f"{number}.png") as picture:
            pixels = np.array(picture)
        pixels[25:31, 20:26] = 40  # a hole
        Image.fromarray(pixels).save(parts / "hand" / f"{number}.png")
    assert heatmap(model, parts / "hand", parts / "out", reference=parts / "normals", **EVEN) == 0
    assert "class=banner" not in (parts / "out" / "index.html").read_text()


def test_members_of_the_reference_are_left_out_of_it(model, parts, capsys):
    """The same file, the same pixels in another file, the file under another name: scored without themselves."""
    normals, new = parts / "normals" / "hand", parts / "new"
    new.mkdir()
    shutil.copy(normals / "0.png", new / "0.png")
    shutil.copy(normals / "1.png", new / "renamed.png")
    with Image.open(normals / "2.png") as picture:
        picture.save(new / "2.bmp")
    heatmap(model, new, parts / "out", reference=normals, **EVEN)
    assert (
        "3 of 3 radiographs are in the reference, or near-duplicates of them"
        in capsys.readouterr().out
    )
    rows = {row["outputs"]: row for row in table(parts / "out" / "err_mean_summary.csv")}
    for name, member in (("0", "0.png"), ("renamed", "1.png"), ("2", "2.png")):
        row = rows[f"new/{name}"]
        assert (row["left_out"], row["reference_normals"]) == ("1", "7")
        others = parts / f"without_{name}"
        shutil.copytree(normals, others)
        (others / member).unlink()
        heatmap(
            model, new / Path(row["path"]).name, parts / f"out_{name}", reference=others, **EVEN
        )
        expected = np.load(parts / f"out_{name}" / "new" / f"{name}_z.npy")
        np.testing.assert_allclose(
            np.load(parts / "out" / "new" / f"{name}_z.npy"), expected, rtol=1e-3, atol=1e-4
        )
    # a saved reference knows them, too; a folder compared with itself leaves each out in turn
    written = (parts / "out" / "reference.npz").read_bytes()
    assert "hand".encode("utf-32-le") in written  # the group, as numpy writes text
    assert not any(word.encode("utf-32-le") in written for word in (".png", str(parts), parts.name))
    heatmap(model, new, parts / "stored", reference=parts / "out" / "reference.npz", **EVEN)
    assert contents(parts / "stored", "new/*.npy") == contents(parts / "out", "new/*.npy")
    heatmap(model, normals, parts / "itself", reference=normals, **EVEN)
    rows = table(parts / "itself" / "err_mean_summary.csv")
    assert len(rows) == 8 and {row["left_out"] for row in rows} == {"1"}
    page = (parts / "itself" / "index.html").read_text()
    assert (
        "z from 8 normal radiographs (hand) is coarse" in page
        and "could reach z = 2.47 at most" in page
    )


def test_a_member_of_a_pair_of_normals_has_no_map(model, parts):
    pair, new = parts / "pair", parts / "new"
    for number in range(2):
        pair.mkdir(exist_ok=True)
        shutil.copy(parts / "normals" / "hand" / f"{number}.png", pair / f"{number}.png")
    shutil.copytree(pair, new)
    shutil.copy(parts / "hand" / "0.png", new / "other.png")
    assert heatmap(model, new, parts / "out", reference=pair, **EVEN) == 3
    failed = {Path(row["path"]).name: row for row in table(parts / "out" / "failed.csv")}
    assert set(failed) == {"0.png", "1.png"} and {row["reason"] for row in failed.values()} == {
        "too-few-normals"
    }
    assert (
        "without this radiograph and its near-duplicates the reference has 1 other"
        in failed["0.png"]["detail"]
    )
    assert groups_of(parts / "out") == {"new/other": "all"}


def test_z_maps_have_a_scale_for_each_group_that_ends_at_10(model, parts):
    from workflows.heatmaps.figures import HIGHEST_Z

    for number in range(6):  # what no normal has, in hands alone
        with Image.open(parts / "hand" / f"{number}.png") as picture:
            pixels = np.array(picture)
        pixels[:14, :16] = pixels.max()
        Image.fromarray(pixels).save(parts / "hand" / f"{number}.png")
    flags = EVEN | {"reference": parts / "normals", "force_reference": True}
    heatmap(model, [parts / "hand", parts / "pelvis"], parts / "out", **flags)
    rows = {row["outputs"]: row for row in table(parts / "out" / "err_mean_summary.csv")}
    assert float(rows["hand/0"]["z_max"]) > 2 * HIGHEST_Z
    for row in rows.values():
        z = np.load(parts / "out" / f"{row['outputs']}_z.npy")
        assert float(row["z_mean"]) < float(row["z_p99"]) <= float(row["z_max"]) <= 1.5 * z.max()
    assert "top of the colours" in (parts / "out" / "index.html").read_text()
    tops = json.loads((parts / "out" / "overlays.json").read_text())[0]
    assert tops["hand"] == HIGHEST_Z and 0 < tops["pelvis"] < HIGHEST_Z
    page = (parts / "out" / "index.html").read_text()
    assert f'<p class=score title="highest z">z {float(rows["hand/0"]["z_max"]):.4g}</p>' in page
    for order in ("highest z, highest first", "mean z, highest first", "p99 z, highest first"):
        assert f">{order}</option>" in page
    assert "What the maps cannot say" in page


def test_truth_is_measured_beside_baselines(model, images, tmp_path, capsys):
    truth = tmp_path / "truth.csv"
    truth.write_text(
        "image,xmin,ymin,xmax,ymax,condition\nknee/a.png,5,5,20,20,lytic\nknee/b.jpg,30,10,50,30,fracture\nc.png,,,,,normal\n"
    )
    heatmap(model, images, tmp_path / "out", truth=truth, masks="complementary")
    rows = table(tmp_path / "out" / "localisation.csv")
    methods = {
        "error map",
        "untrained network",
        "local contrast",
        "edge magnitude",
        "smoothed intensity",
        "chance",
    }
    assert {row["method"] for row in rows} == methods and len(
        rows
    ) == 12  # nothing for the normal and the unknown
    assert {row["condition"] for row in rows} == {"lytic", "fracture"}
    assert all(
        0 <= float(row[m]) <= 1
        for row in rows
        for m in ("pixel_auroc", "aupro", "pointing_game", "iou")
    )
    summary = table(tmp_path / "out" / "localisation_summary.csv")
    mean = np.mean([float(row["iou"]) for row in rows if row["method"] == "error map"])
    (line,) = [
        r
        for r in summary
        if (r["condition"], r["method"], r["metric"]) == ("all", "error map", "iou")
    ]
    assert float(line["estimate"]) == pytest.approx(mean)
    assert "untrained network" in capsys.readouterr().out
    assert (
        "Localisation: all findings, 2 radiographs" in (tmp_path / "out" / "index.html").read_text()
    )
    truth.write_text("image,xmin,ymin,xmax,ymax\nknee/zzz.png,5,5,20,20\n")
    with pytest.raises(ValueError, match="mentions none of the 4 radiographs"):
        heatmap(model, images, tmp_path / "none", truth=truth, masks="complementary")


def test_the_first_line_says_whether_maps_beat_what_needs_no_network():
    from workflows.heatmaps.report import localisation_verdict

    rng = np.random.default_rng(0)
    areas = {
        "error map": 0.7,
        "untrained network": 0.6,
        "local contrast": 0.65,
        "smoothed intensity": 0.85,
        "chance": 0.5,
    }
    rows = [
        {
            "path": f"{number}.png",
            "patient": "",
            "method": method,
            "pixel_auroc": area + 0.02 * rng.normal(),
        }
        for number in range(12)
        for method, area in areas.items()
    ]
    assert localisation_verdict(rows) == (
        "The error map (pixel AUROC) is worse than the smoothed intensity. "
        "The error map (pixel AUROC) is better than the untrained network."
    )
    few = [row for row in rows if row["path"] in ("0.png", "1.png")]
    expected = "not shown to be better than the smoothed intensity (too few patients (2))"
    assert expected in localisation_verdict(few)
    assert localisation_verdict([]) == ""


def test_a_run_that_finished_nothing_does_not_bind_the_next(images, model, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises((FileNotFoundError, ValueError), match="empty"):
        heatmap(
            model, images, tmp_path / "maps", masks="complementary", reference=tmp_path / "empty"
        )
    assert heatmap(model, images, tmp_path / "maps", masks="complementary") == 0


def test_the_folder_of_a_run_is_answered_with_its_checkpoint(images, model, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(model)
    with pytest.raises(FileNotFoundError, match="did you mean .*/run/model"):
        heatmap(tmp_path / "run", images, tmp_path / "maps")


def test_without_findings_the_first_line_says_that_nothing_was_tested(images, model, tmp_path):
    assert heatmap(model, images, tmp_path / "maps") == 0
    page = (tmp_path / "maps" / "index.html").read_text(encoding="utf-8")
    assert "<p class=verdict>Whether these maps mark findings was not tested" in page


def test_patients_are_the_unit_of_intervals():
    from workflows.heatmaps.report import localisation_intervals

    rng = np.random.default_rng(0)
    values = rng.random(8)
    rows = [
        {"path": f"{p}{v}", "patient": str(p), "method": "m"} | dict.fromkeys(METRICS, values[p])
        for p in range(8)
        for v in range(9)
    ]
    by_patient = localisation_intervals(rows)["m"]["iou"]
    by_radiograph = localisation_intervals([row | {"patient": ""} for row in rows])["m"]["iou"]
    assert by_patient.estimate == by_radiograph.estimate == pytest.approx(values.mean())
    assert by_patient.high - by_patient.low > 2 * (by_radiograph.high - by_radiograph.low)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"passes": 0}, "--passes 0"),
        ({"mask_ratio": 1.5}, "--mask-ratio 1.5"),
        ({"mask_ratio": 0.99}, "mask ratio 0.99"),
        ({"alpha": 2.0}, "--alpha"),
        ({"l1": True, "l2": True}, "--l1 and --l2"),
        ({"scale": "fixed"}, "--scale-max"),
        ({"scale_max": 1.0}, "--scale-max"),
        ({"scale": "image", "plot_norm": True}, "--plot-norm"),
        ({"device": "tpu"}, "--device"),
        ({"reference": Path("/nowhere")}, "/nowhere"),
        ({"truth": Path("/nowhere")}, "/nowhere"),
    ],
)
def test_wrong_values_are_one_sentence(model, images, tmp_path, flags, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        heatmap(model, images, tmp_path / "out", **flags)


def test_command_line_of_the_paper_works(model, images, tmp_path):
    command = [
        sys.executable,
        ROOT / "zero_shot_heatmap.py",
        "--model-path",
        model,
        "--in-dirs",
        images,
    ]
    command += ["--out", tmp_path / "out", "--passes", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "in" / "knee" / "a_hotspot.png").exists()


def test_both_spellings_of_the_seed_flags_parse(tmp_path):
    common = ["--model_path", "m", "--in_dirs", "a", "b", "--out", "o"]
    config = parse(
        Config,
        [
            *common,
            "--l2",
            "--plot-norm",
            "--imagenet-norm",
            "--alpha",
            "0.5",
            "--mask_ratio",
            "0.5",
        ],
    )
    assert (
        config.in_dirs == [Path("a"), Path("b")]
        and config.plot_norm
        and config.imagenet_norm
        and config.l2
    )
    assert not parse(Config, [*common, "--no-imagenet-norm"]).imagenet_norm
    assert parse(Config, [*common, "--l1"]).l1


def test_reading_ahead_is_bounded_and_in_order():
    """No list of maps: each radiograph is written before many more are read."""
    from workflows.heatmaps.study import ahead

    taken = []

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    results = ahead(lambda n: n * n, items(), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(taken) <= 3 + 2 * 2 + 1
    assert list(results) == [n * n for n in range(3, 50)]


def test_measuring_keeps_no_maps(model, images, tmp_path, monkeypatch):
    """Maps of radiographs that were written are gone, however many follow: two batches and the two of each thread."""
    import gc
    import weakref

    from workflows.heatmaps import study as heatmap_study

    alive, most, original = [], [], heatmap_study.write_maps

    def watched(study, source, pixels, image, maps, untrained):
        alive.append(weakref.ref(maps.maps))
        gc.collect()
        most.append(sum(ref() is not None for ref in alive))
        return original(study, source, pixels, image, maps, untrained)

    for number in range(26):
        picture(images / f"more{number}.png", (40, 40), number)
    gc.collect()
    gc.freeze()  # what is there already is not looked at again and again
    monkeypatch.setattr(heatmap_study, "write_maps", watched)
    try:
        heatmap(model, images, tmp_path / "out", batch_size=6)  # two radiographs together
    finally:
        gc.unfreeze()
    assert len(alive) == 30 and max(most) <= 2 * 2 + 2 * 2


def test_script_defines_no_unused_flags():
    """Each flag is read somewhere outside its definition."""
    sources = [ROOT / "zero_shot_heatmap.py", *(ROOT / "workflows" / "heatmaps").glob("*.py")]
    code = "\n".join(path.read_text() for path in sources)
    for name in zero_shot_heatmap.Config.__dataclass_fields__:
        assert f".{name}" in code, name
