"""The best epoch is kept as it was, not as the weights are later."""

import math

import pytest
import torch

from training.best_epoch import BestEpoch


def offered(folder, scores, larger=True, first=0):
    network = torch.nn.Linear(1, 1, bias=False)
    best = BestEpoch(folder, larger)
    for epoch, score in enumerate(scores, first):
        torch.nn.init.constant_(network.weight, epoch)
        best.offer(epoch, score, network.state_dict())
        assert best.weights()["weight"].item() == best.epoch  # kept or not
        best.keep()
    return best


@pytest.mark.parametrize(
    "scores, larger, epoch",
    [
        ([0.5, 0.8, 0.7], True, 1),
        ([0.5, 0.8, 0.8], True, 1),
        ([5.0, 3.0, 4.0], False, 1),
        ([math.nan, 0.1, math.nan], True, 1),
        ([math.nan, math.nan], True, 1),
        ([0.0, math.nan], False, 0),
        ([-1.0, -0.5], True, 1),
    ],
)
def test_the_best_epoch_is_kept_with_its_own_weights(tmp_path, scores, larger, epoch):
    best = offered(tmp_path, scores, larger)
    assert best.epoch == epoch and best.weights()["weight"].item() == epoch
    again = BestEpoch(tmp_path, larger)
    assert again.epoch == epoch and again.weights()["weight"].item() == epoch
    assert again.score == scores[epoch] or math.isnan(scores[epoch])


def test_continuing_before_the_best_epoch_ends_like_an_uninterrupted_run(tmp_path):
    scores = [0.1, 0.9, 0.3, 0.9, 0.95, 0.2]
    for killed_after in range(1, 7):
        for resumed_at in range(killed_after + 1):
            folder = tmp_path / f"{killed_after}_{resumed_at}"
            folder.mkdir()
            offered(folder, scores[:killed_after])
            best = offered(folder, scores[resumed_at:], first=resumed_at)
            assert best.epoch == 4 and best.weights()["weight"].item() == 4


def test_what_was_not_kept_is_lost_with_the_state_of_its_step(tmp_path):
    best = offered(tmp_path, [0.5])
    best.offer(1, 0.9, {"weight": torch.ones(1, 1)})
    best.offer(2, 0.8, {"weight": torch.full((1, 1), 2.0)})
    assert best.epoch == 1 and BestEpoch(tmp_path, True).epoch == 0
    best.keep()
    assert BestEpoch(tmp_path, True).weights()["weight"].item() == 1


def test_before_the_first_epoch_and_after_damage(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"best.pt: no epoch has been validated yet"):
        BestEpoch(tmp_path, True).weights()
    offered(tmp_path, [0.5])
    path = tmp_path / "best.pt"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"best.pt: its content does not match its sha256"):
        BestEpoch(tmp_path, True)
