"""The fixed panel and the training curves: the pictures show what the numbers say."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from data.views.preprocessing import Preprocessing
from evaluation.pages import panel as module
from evaluation.pages.panel import FixedSet, outlook
from evaluation.pages.training_curves import draw_curves, read_metrics
from models.networks.mae import MAEConfig, MaskedAutoencoder

P, GRID = 16, (2, 3)
N = GRID[0] * GRID[1]


class Oracle(torch.nn.Module):
    """Predicts every patch exactly (`shift` 0), in the form of the loss it was 'trained' with."""

    restore = MaskedAutoencoder.restore

    def __init__(self, norm_pix_loss=False, shift=0.0):
        super().__init__()
        self.norm_pix_loss, self.shift, self.grid, self.patch_size = norm_pix_loss, shift, GRID, P
        self.seen = []

    def patchify(self, images):
        x = images.reshape(len(images), 3, GRID[0], P, GRID[1], P)
        return x.permute(0, 2, 4, 3, 5, 1).reshape(len(images), N, P * P * 3)

    def unpatchify(self, patches):
        x = patches.reshape(len(patches), *GRID, P, P, 3)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), 3, GRID[0] * P, GRID[1] * P)

    def reconstruct(self, images, noise):
        patches = self.patchify(images)
        if self.norm_pix_loss:
            variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
            patches = (patches - mean) / (variance + 1e-6).sqrt()
        result = type("Result", (), {})()
        result.patches, result.hidden = patches + self.shift, (noise > 0.5).float()
        return result

    def loss(self, images, noise):
        assert not self.training
        self.seen.append(len(images))
        return images.mean()


@pytest.fixture
def held_out():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (7, 1, GRID[0] * P, GRID[1] * P), dtype=torch.uint8, generator=generator
    )

    def normalise(batch):
        return (batch.float() / 255).expand(-1, 3, -1, -1) * 4 - 2

    return FixedSet(
        images, torch.rand(7, N, generator=generator), normalise, lambda batch: (batch + 2) / 4
    )


def test_the_loss_is_the_mean_over_radiographs_whatever_the_batch(held_out):
    oracle = Oracle()
    expected = float(held_out.normalise(held_out.images).mean())
    for size, seen in ((32, [7]), (3, [3, 3, 1])):
        oracle.seen.clear()
        assert held_out.loss(oracle, torch.device("cpu"), size) == pytest.approx(expected, abs=1e-6)
        assert oracle.seen == seen


def drawn(held_out, oracle, tmp_path, monkeypatch):
    told = {}
    plain = module.panel

    def spy(rows, headers, caption):
        told.update(rows=rows, headers=headers, caption=caption)
        return plain(rows, headers, caption=caption)

    monkeypatch.setattr(module, "panel", spy)
    path = tmp_path / "panels" / "epoch_00001.png"
    held_out.draw(oracle, torch.device("cpu"), path, "a caption")
    with Image.open(path) as picture:
        picture.load()
        assert (
            picture.width > 4 * 170 and picture.height > held_out.shown * 100
        )  # tiles of 48 pixels are enlarged
    zoom = told["rows"][0][0].shape[0] // (GRID[0] * P)
    assert zoom == 4
    told["rows"] = [[tile[::zoom, ::zoom] for tile in row] for row in told["rows"]]
    return told


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_a_perfect_prediction_looks_like_the_original(
    held_out, tmp_path, monkeypatch, norm_pix_loss
):
    told = drawn(held_out, Oracle(norm_pix_loss), tmp_path, monkeypatch)
    assert len(told["rows"]) == 6 and told["caption"] == "a caption"
    assert all(len(row) == len(told["headers"]) == 4 + norm_pix_loss for row in told["rows"])
    for header in told["headers"][2:4]:
        assert (
            "true mean + SD" in header
        ) == norm_pix_loss  # borrowed from the original, and said so
    for (original, visible, filled, full, *raw), image in zip(
        told["rows"], held_out.images[:, 0].numpy()
    ):
        for shown in (
            raw
        ):  # what the network says by itself: every patch has mean 0 (grey) and SD 1 (51 of 255)
            patches = shown.reshape(GRID[0], P, GRID[1], P).astype(float)
            assert (
                np.abs(patches.mean((1, 3)) - 127.5).max() < 2
                and np.abs(patches.std((1, 3)) - 51).max() < 2
            )
        assert np.array_equal(original, image)
        for shown in (filled, full):
            assert np.abs(shown.astype(int) - original).max() <= 1
        assert visible.shape == (*original.shape, 3)


def test_only_hidden_patches_are_filled_in(held_out, tmp_path, monkeypatch):
    told = drawn(held_out, Oracle(shift=0.4), tmp_path, monkeypatch)
    for (original, visible, filled, full), noise in zip(told["rows"], held_out.noise):
        hidden = (noise > 0.5).numpy().reshape(GRID).repeat(P, 0).repeat(P, 1)
        assert np.array_equal(filled[~hidden], original[~hidden])
        assert np.array_equal(filled[hidden], full[hidden])
        bright = original < 200
        assert (full[bright].astype(int) - original[bright] > 20).all()  # 0.4 / 4 of 255
        assert np.array_equal(visible[~hidden], original[~hidden][:, None].repeat(3, 1))
        assert len(np.unique(visible[hidden], axis=0)) <= 1


def lines(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_curves_are_drawn_from_whatever_is_logged(tmp_path):
    training = [
        {"step": s, "epoch": s / 4, "loss": 10.0 / s, "lr": 1e-3, "grad_norm": 1.0}
        for s in range(1, 9)
    ]
    validation = [{"step": 4, "epoch": 1.0, "val_loss": 2.0}]
    skipped = [{"step": 3, "skipped": "not finite", "samples": ["a.png"]}]
    sizes = {}
    for name, records in {
        "all": training + validation + skipped,
        "held out only": validation,
        "training only": training[:1],
    }.items():
        draw_curves(lines(tmp_path / "m.jsonl", records), tmp_path / "curves.png", title="run")
        with Image.open(tmp_path / "curves.png") as picture:
            picture.load()
            sizes[name] = picture.size
            assert np.asarray(picture.convert("L")).min() < 100
        (tmp_path / "curves.png").unlink()
    assert sizes["all"][0] == pytest.approx(3 * sizes["held out only"][0], abs=3)
    assert len(read_metrics(lines(tmp_path / "m.jsonl", training + validation + skipped))) == 9


def test_no_line_crosses_the_legend_of_the_curves(tmp_path, monkeypatch):
    """It lies outside all axes, at any height of the curves."""
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    records = [
        {"step": s, "epoch": s, "loss": 1.0, "lr": s % 5, "kl": 1.0, "val_kl": 2.0, "val_loss": 1.2}
        for s in range(60)
    ]
    references = {
        "linear interpolation": 0.3,
        "mean image": 0.6,
        "mean of the visible patches": 0.8,
    }
    draw_curves(
        lines(tmp_path / "m.jsonl", records),
        tmp_path / "c.png",
        references=references,
        others={"kl": "KL"},
    )
    (figure,) = figures
    assert all(axis.get_legend() is None for axis in figure.axes)
    (legend,) = figure.legends
    labels = ["training", "held out", *(f"{name}, held out" for name in references)]
    assert [text.get_text() for text in legend.get_texts()] == labels
    place = legend.get_window_extent()
    assert place.x0 >= 0 and place.x1 <= figure.bbox.x1
    assert not any(place.overlaps(axis.get_tightbbox()) for axis in figure.axes)


def test_what_to_think_of_a_panel():
    """A mean picture is told by its loss where something is held out, and by the number of steps elsewhere."""
    level = {"linear interpolation": 0.7, "mean image": 1.5}
    early, better = "a mean picture is normal this early", "better than all that needs no learning"
    assert outlook(450, 5_000, 0.8, level) == outlook(450, 5_000, 0.8, {}) == early
    assert outlook(450, 5_000, 0.69, level) == f"{better}; a blur is normal this early"
    assert outlook(4_000, 5_000, 0.69, level) == outlook(5_000, 5_000, 0.69, level) == better
    assert (
        outlook(450, 5_000, 0.69, {"linear interpolation": 2.0, "mean image": 0.68}) == early
    )  # noise
    assert outlook(30_000, 400_000, 0.8, level) == early  # the learning rate still rises
    assert outlook(3_000, 5_000, 0.8, level).startswith(
        "a mean picture this late asks for another --lr"
    )
    assert (
        outlook(450, 450, 0.8, level)
        == "the run ends with little more than a mean picture; it needs more --epochs"
    )
    ended = "a blur is normal after so few steps"
    assert outlook(450, 450, 0.69, level) == outlook(450, 450, 0.8, {}) == ended
    assert outlook(3_000, 5_000, 0.8, {}) == outlook(5_000, 5_000, 0.8, {}) == ""


def test_nothing_logged_nothing_drawn(tmp_path):
    draw_curves(lines(tmp_path / "m.jsonl", []), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_reference_losses_equal_a_loop_over_radiographs():
    from evaluation.maps.reconstruction import hidden_pixels, linear_interpolation

    torch.manual_seed(0)
    mae = MaskedAutoencoder(
        MAEConfig(
            input_size=(32, 32),
            patch_size=8,
            dim=24,
            depth=1,
            heads=2,
            decoder_dim=16,
            decoder_depth=1,
            decoder_heads=2,
        )
    )
    images, noise = (
        torch.randint(0, 256, (5, 1, 32, 32), dtype=torch.uint8),
        torch.rand(3, 16)[[0, 1, 0, 2, 1]],
    )
    preprocessing = Preprocessing(32, 32)
    mean_image = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    held_out = FixedSet(
        images, noise, preprocessing.normalise, preprocessing.denormalise, mean_image
    )
    expected, average = [], []
    for image, row in zip(images, noise):
        flags = np.ones(16, bool)
        flags[row.argsort()[:4].numpy()] = False
        hidden = hidden_pixels(flags, (4, 4), 8)
        filled = linear_interpolation(image.numpy() / np.float32(255), hidden)
        for guess, errors in ((filled, expected), (mean_image[None], average)):
            error = preprocessing.normalise(
                torch.from_numpy(guess)[None]
            ) - preprocessing.normalise(image[None])
            errors.append(float(error[0][:, torch.from_numpy(hidden)].square().mean()))
    found = held_out.reference_losses(mae)
    assert found["linear interpolation"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert found["mean image"] == pytest.approx(np.mean(average), rel=1e-4)
    assert set(found) == {"linear interpolation", "patch means, bilinear", "mean image"}
    mae.norm_pix_loss = True
    assert held_out.reference_losses(mae) == {}
