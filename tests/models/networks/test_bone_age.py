"""Bone-age network: the published numbers, layouts and losses; what it does with sex."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.fill import fill_input, fill_tensor, mismatch

from models.backbones.backbone import Backbone, build_backbone
from models.backbones.finetuned import load_finetuned, save_finetuned
from models.backbones.published_bone_age import (
    load_bone_age,
    published_preprocessor,
    save_published,
)
from models.networks.bone_age import BoneAge, hybrid_loss, l1_l2_loss, laplace_loss, sex_code
from models.networks.gem import GeM
from models.weights.checkpoint import read_tensors
from training.schedules import warmup_cosine

GOLDEN = Path(__file__).parents[2] / "golden"


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text()), np.load(GOLDEN / f"{name}.npz")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """BoneXage's file with filled weights, as two GPUs would have written it."""
    meta, _ = golden("g8_boneage_convnext_tiny")
    state = {
        f"module.{k}": torch.from_numpy(fill_tensor(k, s, meta["salt"]))
        for k, s in meta["keys"].items()
    }
    path = tmp_path_factory.mktemp("published") / "best_model.pth"
    torch.save(
        {
            "epoch": 7,
            "model_state_dict": state,
            "optimizer_state_dict": {"state": {}, "param_groups": []},
            "val_mae": 6.5,
            "val_r2": np.float64(0.9),
        },
        path,
    )
    return path


@pytest.mark.parametrize("side", [256, pytest.param(512, marks=pytest.mark.slow)])
def test_the_published_file_loads_and_answers_as_published(published, side):
    meta, npz = golden("g8_boneage_convnext_tiny")
    loaded = load_bone_age(published)
    assert (
        loaded.about["val_r2"] == 0.9 and loaded.about["epoch"] == 7 and not loaded.model.training
    )
    assert (
        loaded.preprocessor["image_mean"] == [0.5] * 3
        and loaded.preprocessor["size"]["height"] == 512
    )
    model = loaded.model
    images = (torch.from_numpy(fill_input(**meta["inputs"][f"images01_{side}"])) - 0.5) / 0.5
    with torch.no_grad():
        there = model.last_map(images)
        features = model.pool(there)
        assert mismatch(meta, npz, f"{side}/backbone", there.numpy()) <= 1
        for word, sex in (("M", 1.0), ("F", 0.0)):
            known = torch.full((len(images),), sex)
            fused = torch.cat([features, model.sex_encoder(known[:, None])], dim=1)
            assert mismatch(meta, npz, f"{side}_{word}/head_input", fused.numpy()) <= 1
            assert mismatch(meta, npz, f"{side}_{word}/head_output", model.head(fused).numpy()) <= 1
            months = model.months(features, known).months
            assert months.shape == (len(images),)  # also of a batch of one
            stored = meta["outputs"][f"{side}_{word}/age_months"]["shape"]
            assert (
                mismatch(meta, npz, f"{side}_{word}/age_months", months.numpy().reshape(stored))
                <= 1
            )


@pytest.mark.slow
def test_a_training_step_has_the_published_loss_and_gradients(published):
    meta, npz = golden("g8_boneage_convnext_tiny")
    model = load_bone_age(published).model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    images = (torch.from_numpy(fill_input(**meta["inputs"]["train_images01"])) - 0.5) / 0.5
    target = torch.from_numpy(fill_input(**meta["inputs"]["train_target"])).abs()
    sex = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    result = model({"image": images, "target": target, "extra": sex})
    assert result["loss"].item() == pytest.approx(meta["expected"]["train/hybrid_loss"], rel=1e-5)
    result["loss"].backward()
    norm = torch.nn.utils.clip_grad_norm_(
        model.parameters(), 1.0
    )  # the published gradients are clipped ones
    assert mismatch(meta, npz, "train/grad_norm_total", norm.double().numpy()[None]) <= 1
    network = model.backbone.network
    ours = {
        "pool.p": model.pool.p.grad,
        "sex_encoder.fc.0.weight": model.sex_encoder.fc[0].weight.grad,
        "head.2.bias": model.head[2].bias.grad,
        "head.8.weight": model.head[8].weight.grad,
        "features.0.0.bias": network.stem[0].bias.grad,
        "features.7.2.layer_scale": network.stages[3].blocks[2].gamma.grad[:, None, None],
    }
    for name, gradient in ours.items():
        assert mismatch(meta, npz, f"train/grad/{name}", gradient.numpy()) <= 1


def test_gem_losses_and_schedule_are_the_published_ones():
    meta, npz = golden("g8_boneage_parts")
    maps = torch.from_numpy(fill_input(**meta["inputs"]["gem_x"]))
    for p in ("1", "3", "4.7"):
        pool, x = GeM(float(p)), maps.clone().requires_grad_()
        pooled = pool(x)
        pooled.sum().backward()
        assert mismatch(meta, npz, f"gem/p{p}", pooled.detach().numpy()) <= 1
        assert mismatch(meta, npz, f"gem/p{p}/grad_x", x.grad.numpy()) <= 1
        assert pool.p.grad.item() == pytest.approx(meta["expected"][f"gem/p{p}/grad_p"], rel=1e-4)
        torch.testing.assert_close(pool(maps.flatten(2).transpose(1, 2)), pooled)
    months = torch.from_numpy(fill_input(**meta["inputs"]["pred"]))
    target = torch.from_numpy(fill_input(**meta["inputs"]["target"])).abs()
    cases = {
        "hybrid_0.7_0.3": lambda x: hybrid_loss(x, target),
        "hybrid_0.5_2": lambda x: hybrid_loss(x, target, 0.5, 2),
        "l1l2_0.5": lambda x: l1_l2_loss(x, target),
        "l1l2_0.2": lambda x: l1_l2_loss(x, target, 0.2),
    }
    for name, loss in cases.items():
        x = months.clone().requires_grad_()
        value = loss(x)
        value.backward()
        assert value.item() == pytest.approx(meta["expected"][f"loss/{name}"], rel=1e-5)
        assert mismatch(meta, npz, f"loss_grad/{name}", x.grad.numpy()) <= 1
    newborn = torch.cat([torch.zeros(1), target[1:]])
    assert hybrid_loss(months, newborn) < 1e3  # the published one: 2e8
    schedule = warmup_cosine(5e-4, 5e-6)
    rates = np.array([schedule(epoch / 200) for epoch in range(200)])
    assert mismatch(meta, npz, "lr_per_epoch", rates) <= 1


def small(loss="hybrid", name="none:resnet10t", side=64):
    torch.manual_seed(0)
    return BoneAge(build_backbone(name, input_size=(side, side)), loss=loss).eval()


@pytest.mark.parametrize("loss", ["hybrid", "laplace"])
def test_unknown_sex_is_the_mean_of_both_and_widens_the_spread(loss):
    model = small(loss)
    with torch.no_grad():
        model.head[-1].weight *= 50  # so that the sexes differ
    features = model.features(torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    male, female = (model.months(features, torch.full((3,), sex)) for sex in (1.0, 0.0))
    mixed = model.months(features, torch.tensor([1.0, torch.nan, 0.0]))
    apart = (male.months - female.months)[1].item()
    assert abs(apart) > 0.1
    expected = torch.stack(
        [male.months[0], (male.months[1] + female.months[1]) / 2, female.months[2]]
    )
    torch.testing.assert_close(mixed.months, expected)
    if loss == "hybrid":
        assert mixed.sd is None and male.sd is None
    else:
        # the SD of a mixture, by its definition
        second = ((male.sd**2 + male.months**2 + female.sd**2 + female.months**2) / 2)[1]
        assert mixed.sd[1].item() == pytest.approx(
            (second - expected[1] ** 2).sqrt().item(), rel=1e-3
        )
        torch.testing.assert_close(mixed.sd[[0, 2]], torch.stack([male.sd[0], female.sd[2]]))
    with pytest.raises(ValueError, match=r"sex .*expected 1 \(male\)"):
        model.months(features, torch.tensor([1.0, 2.0, 0.0]))


def test_laplace_loss_is_its_negative_log_density():
    from torch.distributions import Laplace

    months, target = torch.tensor([50.0, 120.0, 3.0]), torch.tensor([60.0, 119.0, 3.0])
    scale = torch.tensor([2.0, 10.0, 0.5])
    expected = -Laplace(months, scale).log_prob(target).mean()
    torch.testing.assert_close(laplace_loss(months, target, scale), expected)
    assert Laplace(months, scale).stddev[1].item() == pytest.approx(10 * 2**0.5)


def test_an_unknown_bone_age_does_not_count():
    model = small().train()
    batch = {
        "image": torch.randn(4, 3, 64, 64),
        "target": torch.tensor([12.0, torch.nan, 100.0, 200.0]),
        "extra": torch.tensor([[1.0], [0.0], [1.0], [0.0]]),
    }
    torch.manual_seed(3)
    result = model(batch)
    batch["target"] = torch.tensor([12.0, 1e4, 100.0, 200.0])
    torch.manual_seed(3)
    months, _ = model.answers(model.features(batch["image"]), batch["extra"][:, 0])
    known = [0, 2, 3]
    torch.testing.assert_close(result["loss"], hybrid_loss(months[known], batch["target"][known]))
    batch["target"] = torch.full((4,), torch.nan)
    nothing = model(batch)["loss"]
    nothing.backward()  # gradients of all parameters are there, which other processes wait for
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "name",
    [
        "none:convnext_atto",
        "none:mae_vit_mini_patch16",
        *(
            pytest.param(f"none:{name}", marks=pytest.mark.slow)
            for name in ("resnet50", "convnext_base", "tf_efficientnetv2_m", "vit_tiny_patch16_224")
        ),
    ],
)
def test_every_backbone_trains_all_its_parameters_and_comes_back_from_its_folder(name, tmp_path):
    model = small("laplace", name).train()
    batch = {
        "image": torch.randn(2, 3, 64, 64),
        "target": torch.tensor([12.0, 200.0]),
        "extra": torch.tensor([[1.0], [0.0]]),
    }
    model(batch)["loss"].backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []  # several processes would wait for them
    model.eval()
    save_finetuned(model, tmp_path / "model", published_preprocessor(), {"note": 1}, "card")
    loaded = load_bone_age(tmp_path / "model")
    assert loaded.about == {"note": 1} and loaded.model.loss == "laplace"
    images, sex = batch["image"], torch.tensor([1.0, 0.0])
    with torch.no_grad():
        for ours, theirs in zip(
            model.months(model.features(images), sex),
            loaded.model.months(loaded.model.features(images), sex),
        ):
            torch.testing.assert_close(ours, theirs)
        there = model.last_map(images)
        assert there.shape[:2] == (2, model.backbone.network.num_features)
        torch.testing.assert_close(model.pool(there), model.features(images))


def test_what_is_no_bone_age_network_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth: no such bone-age network"):
        load_bone_age(tmp_path / "nowhere.pth")
    shapes = golden("g8_boneage_convnext_tiny")[0]["keys"]
    state = {f"module.{key}": torch.zeros(1).expand(shape or [1]) for key, shape in shapes.items()}
    for name, change, told in (
        ("lacks.pth", lambda s: s.pop("module.head.8.bias"), "1 missing"),
        ("more.pth", lambda s: s.update({"module.head.9.bias": torch.zeros(1)}), "1 unexpected"),
        ("other.pth", lambda s: s.update({"module.pool.p": torch.zeros(2)}), "wrong shape"),
        ("none.pth", lambda s: s.pop("module.pool.p"), "no bone-age network"),
    ):
        changed = dict(state)
        change(changed)
        torch.save({"model_state_dict": changed}, tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name}.*{told}"):
            load_bone_age(tmp_path / name)
    torch.save({"model_state_dict": state, "evil": Path}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match=r"code.pth: refused"):
        load_bone_age(tmp_path / "code.pth")
    with pytest.raises(ValueError, match="its head is 'bone-age'; expected 'binary'"):
        save_finetuned(small(), tmp_path / "folder", published_preprocessor(), {}, "card")
        load_finetuned(tmp_path / "folder", "binary")


@pytest.mark.slow
def test_our_training_writes_the_published_layout_where_it_has_a_place(published, tmp_path):
    loaded = load_bone_age(published)
    told = published_preprocessor() | {"image_mean": [0.4] * 3}
    assert save_published(
        loaded.model, tmp_path / "again.pth", told, {"backbone": "x"}, {"epoch": 3, "val_mae": 5.0}
    )
    content = torch.load(tmp_path / "again.pth", weights_only=True)
    original = read_tensors(published)["model_state_dict"]
    assert {f"module.{key}" for key in content["model_state_dict"]} == set(original)
    for key, value in content["model_state_dict"].items():
        assert torch.equal(value, original[f"module.{key}"])
    again = load_bone_age(tmp_path / "again.pth")
    assert again.preprocessor == told and again.about == {
        "backbone": "x",
        "epoch": 3,
        "val_mae": 5.0,
    }
    assert not save_published(small(), tmp_path / "no.pth", told, {}, {})
    convnext = BoneAge(Backbone(loaded.model.backbone.network, None, (64, 64)), loss="laplace")
    assert (
        not save_published(convnext, tmp_path / "no.pth", told, {}, {})
        and not (tmp_path / "no.pth").exists()
    )


def test_words_for_the_sex_are_a_closed_list():
    for word in ("M", "m", " male ", "True", True, 1, "1", 1.0, np.True_, np.int64(1)):
        assert sex_code(word) == 1.0
    for word in ("F", "female", "false", "False", False, 0, "0", 0.0, np.False_):
        assert sex_code(word) == 0.0
    for word in (None, "", "nan", float("nan"), "unknown", "U", "O"):
        assert np.isnan(sex_code(word))
    for word in ("2", "boy?", "x", "truefalse", "-1", 0.5):
        with pytest.raises(ValueError, match="expected male or female"):
            sex_code(word)


@pytest.mark.slow
def test_torchvisions_convnext_is_a_backbone(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.convnext_tiny(num_classes=7).eval()
    torch.save(theirs.state_dict(), tmp_path / "convnext_tiny-983f1562.pth")
    backbone = build_backbone(tmp_path / "convnext_tiny-983f1562.pth", input_size=(64, 64))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            backbone.tokens(images)["patch"],
            theirs.features(images).flatten(2).transpose(1, 2),
            rtol=1e-4,
            atol=1e-4,
        )
        pooled = theirs.classifier[:2](theirs.avgpool(theirs.features(images)))
        torch.testing.assert_close(backbone(images), pooled, rtol=1e-4, atol=1e-4)


def test_settled_norms_see_what_they_were_measured_on_without_dropout():
    """Afterwards each norm's input has mean 0 and variance 1 over these radiographs, whatever it had recorded."""
    model = small("laplace").train()
    generator = torch.Generator().manual_seed(2)
    features, sex = (
        3 + 2 * torch.randn(40, 512, generator=generator),
        (torch.arange(40) % 2).float(),
    )
    for _ in range(3):
        model.answers(features, sex)  # running statistics with dropout
    model.settle(features, sex)
    assert not model.training
    seen = []
    for norm in (model.sex_encoder.fc[1], model.head[0], model.head[4]):
        norm.register_forward_hook(lambda norm, given, made: seen.append((norm, made)))
    model.months(features, sex)
    assert len(seen) == 3
    for norm, made in seen:
        plain = (made - norm.bias) / norm.weight
        torch.testing.assert_close(plain.mean(0), torch.zeros_like(plain[0]), atol=1e-4, rtol=0)
        assert (plain.var(0) <= 1.001).all() and plain.var(0).median() > 0.98
    with pytest.raises(ValueError, match="at least two"):
        model.settle(features[:1], sex[:1])
