"""The DINO objective against the definition, term by term, and its behaviour from step to step."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from fork_harness import exit_status, group
from torch import nn

from models.backbones.dino import dino_backbone, load_initial
from models.networks.batch_norm import synchronised
from models.networks.dino import (
    DINO,
    DINOHead,
    ProjectedBackbone,
    dino_loss,
    feature_sd,
    signs_of_collapse,
)
from training.schedules import constant, warmup_cosine


def double_loop(student, targets, temperature):
    """Equation 3 as it stands: one softmax for every pair of views."""
    terms = []
    for t, target in enumerate(targets):
        for s, logits in enumerate(student):
            if s != t:
                terms.append((-target * F.log_softmax(logits / temperature, dim=-1)).sum(-1).mean())
    return sum(terms) / len(terms)


@pytest.mark.parametrize("global_views, local_views", [(2, 0), (2, 1), (2, 6), (1, 3), (3, 2)])
def test_the_loss_and_its_gradient_equal_a_double_loop_over_views(global_views, local_views):
    rng = torch.Generator().manual_seed(global_views * 10 + local_views)
    student = torch.randn(global_views + local_views, 3, 50, generator=rng, dtype=torch.float64)
    targets = (
        torch.randn(global_views, 3, 50, generator=rng, dtype=torch.float64).mul(3).softmax(-1)
    )
    one, other = (student.clone().requires_grad_() for _ in range(2))
    expected, found = double_loop(one, targets, 0.1), dino_loss(other, targets, 0.1)
    expected.backward()
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-7)
    assert found.dtype == torch.float32  # whatever came in


def test_a_loss_without_pairs_is_refused():
    for seen, count in ((1, 1), (1, 2)):
        with pytest.raises(ValueError, match="no pair to compare"):
            dino_loss(torch.zeros(seen, 2, 4), torch.full((count, 2, 4), 0.25), 0.1)


def tiny(batch_norm=False, seed=0, **options):
    torch.manual_seed(seed)
    pair = []
    for _ in range(2):
        backbone = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 16))
        pair.append(
            ProjectedBackbone(
                backbone, DINOHead(16, 24, hidden=12, bottleneck=6, batch_norm=batch_norm)
            )
        )
    defaults = {"teacher_temperature": constant(0.04), "momentum": warmup_cosine(0.996, 1.0)}
    return DINO(*pair, **defaults | options).train()


def batch(size=4, seed=1, side=16):
    rng = torch.Generator().manual_seed(seed)
    return {
        "global": torch.randn(size, 2, 3, side, side, generator=rng),
        "local": torch.randn(size, 3, 3, side // 2, side // 2, generator=rng),
    }


def step(dino, passes, progress=0.5, lr=0.5):
    for part in passes:
        (dino(part, progress)["loss"] / len(passes)).backward()
    dino.before_step(progress)
    with torch.no_grad():
        for parameter in dino.student.parameters():
            if parameter.grad is not None:
                parameter -= lr * parameter.grad
                parameter.grad = None
    dino.after_step(progress)


def split(whole, parts=2):
    chunks = {name: views.chunk(parts) for name, views in whole.items()}
    return [{name: chunk[i] for name, chunk in chunks.items()} for i in range(parts)]


def test_the_teacher_has_no_gradient_and_follows():
    dino = tiny(momentum=constant(0.9))
    before = copy.deepcopy(dino.state_dict())
    step(dino, [batch()])
    after = dino.state_dict()
    assert not any(p.requires_grad for p in dino.teacher.parameters())
    moved = 0
    for key in (k.removeprefix("teacher.") for k in after if k.startswith("teacher.")):
        expected = 0.9 * before[f"teacher.{key}"] + 0.1 * after[f"student.{key}"]
        torch.testing.assert_close(after[f"teacher.{key}"], expected)
        moved += int(not torch.equal(after[f"student.{key}"], before[f"student.{key}"]))
    assert moved >= 6


def test_two_passes_equal_a_larger_batch():
    one, two = tiny(), tiny()
    step(one, [batch()])
    step(two, split(batch()))
    for key, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[key], value, rtol=1e-5, atol=1e-5)
    assert one.centre.abs().max() > 0


def test_a_step_that_was_skipped_leaves_no_trace_in_the_centre():
    plain, skipping = tiny(), tiny()
    skipping(batch(seed=7), 0.4)  # its loss was not finite: no after_step
    for dino in (plain, skipping):
        step(dino, [batch()])
    assert torch.equal(plain.centre, skipping.centre)


def test_prototypes_are_frozen_at_first():
    dino = tiny(freeze_last_layer=0.1)
    direction = dino.student.head.last_layer.parametrizations.weight.original1
    before = direction.clone()
    step(dino, [batch()], progress=0.09)
    assert torch.equal(direction, before)
    step(dino, [batch()], progress=0.1)
    assert not torch.equal(direction, before)


def test_each_gradient_is_clipped_by_itself():
    dino = tiny(clip_each_norm=0.01)
    dino(batch(), 0.5)["loss"].backward()
    before = [p.grad.clone() for p in dino.student.parameters() if p.grad is not None]
    dino.before_step(0.5)
    after = [p.grad for p in dino.student.parameters() if p.grad is not None]
    assert sum(g.norm() > 0.01 for g in before) >= 2
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(other, one * min(1.0, 0.01 / (one.norm().item() + 1e-6)))


def test_evaluation_changes_nothing():
    dino = tiny(batch_norm=True).eval()
    before = copy.deepcopy(dino.state_dict())
    losses = dino(batch(), 0.5)
    dino.after_step(1.0)  # momentum 1
    assert torch.equal(dino.centre, before["centre"]) and torch.isfinite(losses["loss"])
    assert all(torch.equal(value, before[key]) for key, value in dino.state_dict().items())


def test_views_of_one_size_are_one_batch():
    dino, sizes = tiny(), []
    dino.student.backbone.register_forward_pre_hook(
        lambda module, inputs: sizes.append(tuple(inputs[0].shape))
    )
    dino(batch(), 0.5)
    assert sizes == [(8, 3, 16, 16), (12, 3, 8, 8)]


def test_bfloat16_views_give_losses_in_float32():
    dino = tiny()
    with torch.autocast("cpu", torch.bfloat16):
        losses = dino(batch(), 0.5)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert losses["loss"].item() == pytest.approx(dino(batch(), 0.5)["loss"].item(), rel=0.02)


def test_signs_of_collapse():
    dino = tiny()
    record = {name: value.item() for name, value in dino(batch(16), 0.5).items()}
    assert signs_of_collapse(record, 24) == [] and signs_of_collapse({"loss": 1.0}, 24) == []
    with (
        torch.no_grad()
    ):  # the same features whatever comes in: after centring no prototype is preferred
        dino.teacher.backbone[2].weight.zero_()
        dino.centre.copy_(dino.teacher(list(batch(1)["global"].unbind(1)))[0].mean(0, keepdim=True))
    told = signs_of_collapse(
        {name: value.item() for name, value in dino(batch(16), 0.5).items()}, 24
    )
    assert len(told) == 2 and "prefers no prototype" in told[0] and "nearly the same" in told[1]
    told = signs_of_collapse({"teacher_entropy": 1e-4, "kl": 1e-5, "feature_sd": 0.5}, 24)
    assert len(told) == 1 and "one prototype for all" in told[0]


def test_the_spread_of_features():
    assert feature_sd(torch.ones(10, 4)).item() == 0
    assert feature_sd(
        torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    ).item() == pytest.approx(1, 0.02)


def batch_norms():
    torch.manual_seed(3)
    layers = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(5 * 36)
    return nn.Sequential(*layers).double()


def test_batch_norms_over_two_processes_equal_one():
    images = (
        torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 3
        + 10
    )

    def run(network, part, processes):
        (network(part).square() * torch.arange(180)).sum().div(len(images)).backward()
        grads = [p.grad for p in network.parameters()]
        if processes > 1:
            for grad in grads:
                torch.distributed.all_reduce(grad)
        return grads, dict(network.named_buffers())

    expected, buffers = run(batch_norms().train(), images, 1)

    def member() -> int:
        rank = torch.distributed.get_rank()
        network = synchronised(batch_norms(), torch.device("cpu")).train()
        grads, found = run(network, images.chunk(2)[rank], 2)
        for one, other in zip(expected, grads, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)
        assert found.keys() == buffers.keys()
        for key in buffers:
            torch.testing.assert_close(found[key], buffers[key], rtol=1e-9, atol=1e-9)
        return 0

    assert [exit_status(pid) for pid in group(2, member)] == [0, 0]


def test_a_backbone_that_does_not_exist_or_fit_is_refused():
    with pytest.raises(ValueError, match="resnet34.*choose resnet18, resnet50"):
        dino_backbone("resnet34")
    with pytest.raises(ValueError, match="not a multiple of the patch size 16"):
        dino_backbone("vit_tiny", size=100)


def test_initial_weights_come_from_any_backbone(tmp_path):
    from safetensors.torch import save_file

    import models.networks.vit

    source = dino_backbone("resnet18")
    assert torch.equal(
        source.layer4[1].bn2.weight, torch.ones(512)
    )  # as torchvision's, not as timm's
    save_file(source.state_dict(), tmp_path / "resnet.safetensors")
    target = dino_backbone("resnet18")
    assert "matched" in load_initial(target, tmp_path / "resnet.safetensors")
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in target.state_dict().items())
    transformer = dino_backbone("vit_mini", 16, 64)
    with pytest.raises(ValueError, match="do not fit the network of --arch, of width 192"):
        load_initial(transformer, tmp_path / "resnet.safetensors")
    larger = models.networks.vit.ViT((96, 96), 16, *models.networks.vit.SIZES["mini"])
    save_file(larger.state_dict(), tmp_path / "vit.safetensors")
    load_initial(transformer, tmp_path / "vit.safetensors")
    assert torch.equal(transformer.blocks[0].attn.qkv.weight, larger.blocks[0].attn.qkv.weight)
    assert transformer.pos_embed.shape == (1, 17, 192)
    images = torch.randn(1, 3, 64, 64)
    assert (
        torch.isfinite(transformer(images)).all()
        and math.prod(transformer(images[..., :32, :48]).shape) == 192
    )


def test_an_export_is_resampled_as_it_was_trained(tmp_path):
    from models.backbones.backbone import build_backbone
    from models.weights.export import save_backbone

    network = dino_backbone("vit_mini", 16, 64).eval()
    told = {"image_mean": [0, 0, 0], "image_std": [1, 1, 1], "resample": 3}
    save_backbone(network, "vit_mini", tmp_path, told, "# card\n")
    images = torch.randn(2, 3, 96, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = build_backbone(tmp_path, input_size=(96, 48))(images)
        torch.testing.assert_close(found, network(images), rtol=1e-4, atol=1e-5)
