"""Data set, shared pixels, backbone, head, layer decay and features together: they learn what there is to learn."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from core.task import Task
from data.datasets.dataset import RadiographDataset
from data.datasets.kept_radiographs import KeptRadiographs
from data.datasets.loader import ordered_batches, step_batches
from data.views.augmentation import CropFlip
from data.views.preprocessing import Preprocessing
from evaluation.statistics.probes import linear_probe
from models.backbones.backbone import build_backbone
from models.backbones.features import cached_features
from models.networks.supervised import Supervised, balanced_weights
from training.fit import Fit, fit
from training.optim import adamw, parameter_groups
from training.sampling import Plan
from training.schedules import constant, warmup_cosine

CPU = torch.device("cpu")


class Spots(RadiographDataset):
    task = Task("binary")


@pytest.fixture
def records(tmp_path):
    """Noise, with a bright spot where the target is 1; each tenth target is unknown."""
    rng, rows = np.random.default_rng(0), []
    for i in range(72):
        pixels, target = rng.integers(0, 120, (40, 40), dtype=np.uint8), float(i % 3 == 0)
        if target:
            y, x = rng.integers(4, 24, 2)
            pixels[y : y + 12, x : x + 12] += 120
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append(
            {
                "image": str(tmp_path / f"{i}.png"),
                "target": np.nan if i % 10 == 9 else target,
                "truth": target,
            }
        )
    return pd.DataFrame(rows)


def test_finetuning_and_a_linear_probe(records, tmp_path):
    torch.manual_seed(0)
    backbone = build_backbone("none:resnet10t", input_size=(32, 32))
    preprocessing = Preprocessing(32, 32)
    kept = KeptRadiographs(records["image"], preprocessing, 0.1).fill()
    train, test = records.iloc[:48], records.iloc[48:]
    model = Supervised(
        backbone,
        "binary",
        1,
        preprocessing.normalise,
        class_weights=balanced_weights(train["target"], 2),
    )
    dataset = Spots(train, preprocessing, CropFlip(32, 32, scale=(1, 1)), keep=kept)
    plan = Plan(len(dataset), 16, epochs=5)
    outcome = fit(
        model,
        Fit(
            plan=plan,
            optimizer=adamw(parameter_groups(model, 0.75)),
            seed=0,
            progress_bar=False,
            precision="fp32",
            schedules={"lr": warmup_cosine(2e-3, warmup=0.1), "weight_decay": constant(0.01)},
            device=CPU,
            batches=step_batches(dataset, plan, seed=0, rank=0, num_workers=0),
        ),
    )
    assert outcome == "finished"
    held_out = Spots(test, preprocessing, keep=kept)
    batches = ordered_batches(held_out, range(len(test)), batch_size=10)
    predicted = torch.cat([model.eval().predict(batch["image"]) for batch in batches]).numpy()
    assert roc_auc_score(test["truth"], predicted) > 0.95

    every = Spots(records, preprocessing, keep=kept)

    def pixels(rows):
        return (batch["image"] for batch in ordered_batches(every, rows, batch_size=16))

    found = cached_features(
        backbone,
        records["image"],
        pixels,
        folder=tmp_path / "features",
        device=CPU,
        preprocessing=preprocessing.to_dict(),
        normalise=preprocessing.normalise,
    )
    assert found.values.shape == (72, 512) and found.computed == 72
    known = np.flatnonzero(train["target"].notna())
    scores = linear_probe(
        "binary", found.values[known], train["target"].to_numpy()[known], found.values[48:]
    )
    assert roc_auc_score(test["truth"], scores) > 0.95
