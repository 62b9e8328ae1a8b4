"""Error maps: the published numbers, an explicit loop, and masks that cover evenly."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.fill import fill_input, fill_tensor, mismatch
from PIL import Image

from evaluation.maps.error_maps import (
    RunningHistogram,
    complementary_passes,
    describe,
    error_maps,
    mask_generator,
    patch_means,
    visible_patches,
)
from models.networks.mae import MAEConfig, MaskedAutoencoder, visible_count
from models.weights.checkpoint import load_strictly
from models.weights.families import to_ours

GOLDEN = Path(__file__).parents[2] / "golden"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    config = MAEConfig(
        input_size=(48, 64),
        patch_size=8,
        dim=32,
        depth=2,
        heads=2,
        decoder_dim=32,
        decoder_depth=1,
        decoder_heads=2,
    )
    return MaskedAutoencoder(dataclasses.replace(config, **changes)).eval()


def pictures(count, size=(48, 64), seed=0):
    """Smooth random grey pictures in [0, 1], normalised: [B, 3, h, w]."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((count, 1, 6, 8), dtype=np.float32)
    grey = torch.nn.functional.interpolate(torch.from_numpy(coarse), size, mode="bilinear")
    return (grey - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def masks(count, passes, grid=(6, 8), ratio=0.75, kind="random", seed=0):
    visible = visible_count(grid[0] * grid[1], ratio)
    rows = (
        visible_patches(passes, grid, visible, mask_generator(seed, str(i)), kind)
        for i in range(count)
    )
    return np.stack(list(rows))


# ---- the published numbers


@pytest.fixture(scope="module")
def golden():
    """The reference's model and picture, with its masks (one forward pass per mask; the first is thrown away)."""
    meta, npz = (
        json.loads((GOLDEN / "g2_error_map.json").read_text()),
        np.load(GOLDEN / "g2_error_map.npz"),
    )
    sizes = meta["config"]["ViTMAEConfig"]
    model = MaskedAutoencoder(
        MAEConfig(
            dim=sizes["hidden_size"],
            depth=sizes["num_hidden_layers"],
            heads=sizes["num_attention_heads"],
            decoder_dim=sizes["decoder_hidden_size"],
            decoder_depth=sizes["decoder_num_hidden_layers"],
            decoder_heads=sizes["decoder_num_attention_heads"],
            layer_norm_eps=1e-12,
        )
    )
    keys = {k: s for k, s in meta["keys"].items() if k not in meta["computed_keys"]}
    state = to_ours({k: torch.from_numpy(fill_tensor(k, s, meta["salt"])) for k, s in keys.items()})
    # a network that transformers builds afresh has sine-cosine positions in the encoder and zeros in the decoder
    computed = {
        "pos_embed": model.pos_embed.data,
        "decoder_pos_embed": torch.zeros_like(model.decoder_pos_embed),
    }
    load_strictly(model, computed | state, "golden")
    rgb = fill_input(**meta["inputs"]["rgb8"]).transpose(1, 2, 0)
    narrow = Image.fromarray(rgb).resize(
        (224, 300), Image.Resampling.BILINEAR
    )  # columns first, as Pillow up to 12 did
    small = np.asarray(narrow.resize((224, 224), Image.Resampling.BILINEAR), np.float32) / 255
    pixels = torch.from_numpy((small - np.float32(MEAN)) / np.float32(STD)).permute(2, 0, 1)[None]
    noise = fill_input(**meta["inputs"]["noise"])[1:, 0]  # [4, 196]
    visible = np.argsort(noise, axis=1, kind="stable")[None, :, :49]
    return meta, npz, model.eval(), pixels, visible


@pytest.mark.parametrize(
    ("name", "error", "passes"), [("l2", "l2", 4), ("l1", "l1", 4), ("one_pass", "l2", 1)]
)
def test_golden_error_map(golden, name, error, passes):
    meta, npz, model, pixels, visible = golden
    assert mismatch(meta, npz, "pixel_values", pixels.numpy()) <= 1
    result = error_maps(
        model, pixels, visible[:, :passes], mean=MEAN, std=STD, error=error, batch_size=3
    )
    if f"{name}/err_map" in meta["outputs"]:
        assert mismatch(meta, npz, f"{name}/err_map", result.maps[0]) <= 1
    assert (
        mismatch(meta, npz, f"{name}/err_map_patch_mean", patch_means(result.maps[0], (14, 14)))
        <= 1
    )
    expected = meta["expected"]
    assert result.maps[0].mean(dtype=np.float64) == pytest.approx(
        expected[f"{name}/mean_error"], rel=1e-5
    )
    assert (result.maps[0] == 0).sum() == expected[f"{name}/zero_pixels"]
    if name == "one_pass":  # ours leaves the quarter that was never hidden out of the mean
        facts = describe(result.maps[0], result.hits[0])
        assert facts["coverage"] == 0.75
        assert facts["mean_error"] == pytest.approx(
            expected["one_pass/mean_error"] / 0.75, rel=1e-5
        )


# ---- the definition


@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize("error", ["l2", "l1"])
def test_maps_equal_a_loop_over_passes_and_pixels(norm_pix, error):
    model, images = tiny(norm_pix_loss=norm_pix), pictures(2)
    visible = masks(2, 3)
    result = error_maps(model, images, visible, mean=MEAN, std=STD, error=error)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    for b in range(2):
        total, hits = np.zeros((48, 64)), np.zeros((48, 64))
        for p in range(3):
            noise = torch.ones(1, 48)
            noise[0, visible[b, p]] = 0
            with torch.no_grad():
                patches = model.reconstruct(images[b : b + 1], noise).patches
                if norm_pix:
                    own = model.patchify(images[b : b + 1])
                    patches = patches * (own.var(-1, keepdim=True) + 1e-6).sqrt() + own.mean(
                        -1, keepdim=True
                    )
                predicted = (model.unpatchify(patches)[0] * std + mean).clamp(0, 1)
            difference = (predicted - (images[b] * std + mean).clamp(0, 1)).numpy()
            hidden = np.kron(noise.numpy().reshape(6, 8), np.ones((8, 8)))
            total += hidden * (np.square(difference) if error == "l2" else np.abs(difference)).mean(
                0
            )
            hits += hidden
        expected = np.divide(total, hits, out=np.zeros_like(total), where=hits > 0)
        np.testing.assert_allclose(result.maps[b], expected, atol=1e-6)
        assert (result.hits[b] == hits[::8, ::8]).all()


def test_batch_size_and_company_do_not_matter():
    model, images, visible = tiny(), pictures(3), masks(3, 5)
    whole = error_maps(model, images, visible, mean=MEAN, std=STD, batch_size=64)
    for size in (1, 2, 7):
        parts = error_maps(model, images, visible, mean=MEAN, std=STD, batch_size=size, shown=2)
        np.testing.assert_allclose(parts.maps, whole.maps, atol=1e-6)
        assert parts.shown.shape == (3, 2, 48, 64) and parts.shown_hidden.shape == (3, 2, 6, 8)
    alone = error_maps(model, images[1:2], visible[1:2], mean=MEAN, std=STD)
    np.testing.assert_allclose(alone.maps[0], whole.maps[1], atol=1e-6)


def test_shown_passes_keep_the_visible_pixels():
    model, images, visible = tiny(), pictures(1), masks(1, 3)
    result = error_maps(model, images, visible, mean=MEAN, std=STD, shown=2)
    original = (
        (images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1))
        .mean(1)
        .numpy()[0]
    )
    for p in range(2):
        hidden = np.kron(result.shown_hidden[0, p], np.ones((8, 8), bool))
        assert hidden.mean() == 0.75
        np.testing.assert_allclose(result.shown[0, p][~hidden], original[~hidden], atol=1e-5)
        assert np.abs(result.shown[0, p] - original)[hidden].mean() > 1e-3


def test_normalised_patch_targets_do_not_explode_on_constant_patches():
    model = tiny(norm_pix_loss=True)
    flat = torch.zeros(1, 3, 48, 64)
    result = error_maps(model, flat, masks(1, 4), mean=MEAN, std=STD)
    assert np.isfinite(result.maps).all() and result.maps.max() < 1e-5


def test_never_hidden_is_zero_and_does_not_count():
    model, images = tiny(), pictures(1)
    result = error_maps(model, images, masks(1, 1, ratio=0.25), mean=MEAN, std=STD)
    covered = np.kron(result.hits[0] > 0, np.ones((8, 8), bool))
    assert (result.maps[0][~covered] == 0).all()
    facts = describe(result.maps[0], result.hits[0])
    assert facts["coverage"] == pytest.approx(0.25) == covered.mean()
    assert facts["mean_error"] == pytest.approx(result.maps[0][covered].mean(), rel=1e-5)
    assert facts["mean_error"] < facts["p99_error"] <= facts["max_error"]


def test_squared_and_absolute_errors_differ():
    model, images, visible = tiny(), pictures(1), masks(1, 2)
    squared = error_maps(model, images, visible, mean=MEAN, std=STD).maps
    absolute = error_maps(model, images, visible, mean=MEAN, std=STD, error="l1").maps
    assert (absolute**2 <= squared + 1e-6).all() and absolute.mean() > squared.mean()
    with pytest.raises(ValueError, match="l2, l1"):
        error_maps(model, images, visible, mean=MEAN, std=STD, error="l3")


# ---- masks


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("kind", ["random", "complementary"])
def test_masks_show_exactly_the_visible_part(ratio, kind):
    visible = visible_patches(
        7, (14, 14), visible_count(196, ratio), np.random.default_rng(0), kind
    )
    assert visible.shape == (7, int(196 * (1 - ratio))) and visible.dtype == np.int64
    assert all(len(set(row)) == len(row) for row in visible.tolist())
    assert visible.min() >= 0 and visible.max() < 196


def hidden_counts(visible, patches):
    return len(visible) - np.bincount(visible.ravel(), minlength=patches)


@pytest.mark.parametrize(("ratio", "cycle"), [(0.75, 4), (0.5, 2), (0.25, 4)])
def test_complementary_masks_hide_every_patch_equally_often(ratio, cycle):
    assert complementary_passes(1, 196, visible_count(196, ratio)) == cycle
    passes = complementary_passes(cycle + 1, 196, visible_count(196, ratio))
    assert passes == 2 * cycle
    visible = visible_patches(
        passes, (14, 14), visible_count(196, ratio), np.random.default_rng(1), "complementary"
    )
    assert set(hidden_counts(visible, 196)) == {round(passes * ratio)}
    assert sorted(map(tuple, visible[:cycle])) != sorted(
        map(tuple, visible[cycle:])
    )  # a new order in each cycle


@pytest.mark.parametrize(("ratio", "passes"), [(0.9, 10), (0.6, 7), (0.8, 25)])
def test_complementary_counts_differ_by_at_most_one_otherwise(ratio, passes):
    assert complementary_passes(passes, 196, visible_count(196, ratio)) == passes
    visible = visible_patches(
        passes, (14, 14), visible_count(196, ratio), np.random.default_rng(1), "complementary"
    )
    counts = hidden_counts(visible, 196)
    assert counts.max() - counts.min() <= 1 and counts.min() >= 1


@pytest.mark.parametrize(
    ("grid", "ratio", "side"), [((14, 14), 0.75, 2), ((6, 8), 0.75, 2), ((12, 9), 0.9, 3)]
)
def test_complementary_masks_are_spread_over_the_radiograph(grid, ratio, side):
    """While each square has patches left, a pass shows at most one of each; where they divide the grid, exactly one."""
    patches = grid[0] * grid[1]
    visible = visible_patches(
        4, grid, visible_count(patches, ratio), np.random.default_rng(5), "complementary"
    )
    rows, columns = np.divmod(visible, grid[1])
    squares = rows // side * 100 + columns // side
    shown = [np.unique(row, return_counts=True)[1] for row in squares]
    assert all(counts.max() == 1 for counts in shown[: patches // visible.shape[1]])
    if ratio == 0.75:
        assert all(len(counts) == patches // 4 for counts in shown)
    again = visible_patches(4, grid, visible.shape[1], np.random.default_rng(6), "complementary")
    assert (np.sort(again) != np.sort(visible)).any()


def test_random_masks_are_those_of_the_smallest_noise():
    noise = np.random.default_rng(3).random((2, 48))
    visible = visible_patches(2, (6, 8), 12, np.random.default_rng(3))
    order = torch.from_numpy(noise).argsort(dim=1, stable=True)[:, :12]
    assert (visible == order.numpy()).all()


def test_masks_depend_on_seed_and_name_only():
    first = visible_patches(3, (6, 8), 12, mask_generator(0, "a/b.png"))
    assert (first == visible_patches(3, (6, 8), 12, mask_generator(0, "a/b.png"))).all()
    assert (first != visible_patches(3, (6, 8), 12, mask_generator(1, "a/b.png"))).any()
    assert (first != visible_patches(3, (6, 8), 12, mask_generator(0, "a/c.png"))).any()
    mask_generator(0, "undecodable\udcff.png")


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 0.999, float("nan")])
def test_impossible_mask_ratios_are_refused(ratio):
    with pytest.raises(ValueError, match="mask ratio"):
        visible_count(196, ratio)


def test_wrong_mask_arguments_are_refused():
    with pytest.raises(ValueError, match="random, complementary"):
        visible_patches(1, (6, 8), 24, np.random.default_rng(0), "half")
    with pytest.raises(ValueError, match="0 passes"):
        visible_patches(0, (6, 8), 24, np.random.default_rng(0))


# ---- summaries over many radiographs


def test_histogram_quantiles_in_any_order():
    values = np.random.default_rng(0).gamma(2.0, 0.01, 50_000).clip(max=1)
    forwards, backwards = RunningHistogram(), RunningHistogram()
    for part in np.split(values, 10):
        forwards.add(part.reshape(50, 100))
    backwards.add(values[::-1])
    for q in (0.1, 0.5, 0.995):
        assert forwards.quantile(q) == backwards.quantile(q)
        assert 0 <= forwards.quantile(q) / np.quantile(values, q) - 1 < 0.01
    assert RunningHistogram().quantile(0.5) == pytest.approx(1e-8)
    forwards.add(np.array([np.nan, np.inf, -1.0, 5.0]))
    assert forwards.counts.sum() == 50_002
