"""Weights come out of their wrappers, and of two sets the one that is asked for is read and named."""

import pytest
import torch

from models.backbones.names import source_hash
from models.weights.checkpoint_sets import take_weights

STATE = {"patch_embed.weight": torch.ones(2), "blocks.0.bias": torch.ones(1)}
AVERAGE = {key: value / 2 for key, value in STATE.items()}


def prefixed(prefix: str, state=None) -> dict:
    return {prefix + key: value for key, value in (STATE if state is None else state).items()}


def same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[key], expected[key]) for key in expected
    )


WRAPPED = {
    "plain": STATE,
    "model": {"model": STATE, "epoch": 3},
    "state_dict": {"state_dict": STATE},
    "network": {"network": STATE},
    "nested": {"checkpoint": {"model": STATE}, "model": {"state_dict": STATE}},
    "DDP": {"model": prefixed("module.")},
    "compile": {"model": prefixed("_orig_mod.")},
    "DDP of compile": {"model": prefixed("module._orig_mod.")},
    "compile of DDP": {"model": prefixed("_orig_mod.module.")},
    "compiled blocks": {
        "patch_embed.weight": STATE["patch_embed.weight"],
        "blocks.0._orig_mod.bias": torch.ones(1),
    },
    "FSDP": prefixed("_fsdp_wrapped_module."),
    "checkpointed": {
        key.replace("0.", "0._checkpoint_wrapped_module."): value for key, value in STATE.items()
    },
    "Lightning": {"state_dict": prefixed("model."), "callbacks": {}},
    "Lightning of compile": {"state_dict": prefixed("model._orig_mod.")},
    "Lightning with a loss": {"state_dict": prefixed("model.") | {"loss.weight": torch.ones(3)}},
    "net": {"state_dict": prefixed("net.")},
    "AveragedModel": prefixed("module.") | {"n_averaged": torch.tensor(7)},
    "teacher": {"teacher": prefixed("module.backbone.") | {"head.weight": torch.ones(1)}},
}
TWO = {
    "timm": {"state_dict": STATE, "state_dict_ema": AVERAGE},
    "DeiT": {"model": STATE, "model_ema": AVERAGE},
    "a module": {"model": prefixed("module."), "ema": {"module": AVERAGE, "decay": 0.99}},
    "AveragedModel": {
        "model": STATE,
        "model_ema": prefixed("module.", AVERAGE) | {"n_averaged": torch.tensor(2)},
    },
    "DINO": {"student": prefixed("module.backbone."), "teacher": prefixed("backbone.", AVERAGE)},
    "Lightning prefixes": {
        "state_dict": prefixed("model.") | prefixed("ema_model.module.", AVERAGE)
    },
    "Lightning callback": {
        "current_model_state": prefixed("model."),
        "state_dict": prefixed("model.", AVERAGE),
    },
    "ema-pytorch": prefixed("online_model.")
    | prefixed("ema_model.", AVERAGE)
    | {"step": torch.tensor(1)},
    "DINOv2": {"model": prefixed("student.backbone.") | prefixed("teacher.backbone.", AVERAGE)},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_come_off(name):
    found, notes = take_weights(WRAPPED[name])
    assert same(found, STATE)
    left_out = (
        "left out 1 tensors outside model (loss.weight)",
        "left out 1 tensors outside module.backbone (head.weight)",
    )
    assert all(any(told in note for told in left_out) for note in notes)


@pytest.mark.parametrize("name", TWO)
def test_of_two_sets_the_average_is_read_unless_the_raw_one_is_asked_for(name):
    for weights, expected, other in (("ema", AVERAGE, "raw"), ("raw", STATE, "ema")):
        found, notes = take_weights(TWO[name], weights)
        assert same(found, expected), (weights, found)
        assert len(notes) == 1 and f"--weights {other} takes the others" in notes[0]


def test_what_cannot_be_chosen_is_said():
    with pytest.raises(
        ValueError, match="holds averaged weights only .teacher.; read it with --weights ema"
    ):
        take_weights({"teacher": STATE}, "raw")
    with pytest.raises(ValueError, match="weights 'best': choose ema, raw"):
        take_weights(STATE, "best")
    with pytest.raises(ValueError, match="two tensors are called 'blocks.0.bias'"):
        take_weights(STATE | {"blocks._orig_mod.0.bias": torch.ones(1)})
    assert take_weights({"model": STATE}, "raw") == (STATE, [])  # one set: nothing to choose
    assert take_weights({"model": STATE, "ema": 0.999, "model_ema": None})[0] == STATE
    assert take_weights({"epoch": 3}) == ({}, [])


def test_the_query_encoder_of_moco_is_named():
    found, notes = take_weights(
        {"state_dict": prefixed("encoder_q.") | prefixed("encoder_k.", AVERAGE)}
    )
    assert same(found, STATE) and "encoder_q" in notes[0]


@pytest.mark.parametrize(
    "content, name",
    [
        ({"ema": {"shadow_params": [*AVERAGE.values()]}}, "ema.shadow_params"),
        ({"swa_model": AVERAGE}, "swa_model"),
        ({"model_averaged": AVERAGE}, "model_averaged"),
        (
            {"callbacks": {"EMACallback": {"ema_state_dict": AVERAGE}}},
            "callbacks.EMACallback.ema_state_dict",
        ),
        ({"callbacks": {"EMA": {"ema_weights": [*AVERAGE.values()]}}}, "callbacks.EMA.ema_weights"),
    ],
)
def test_averages_that_are_not_read_are_named(content, name):
    state, notes = take_weights({"state_dict": STATE} | content)
    assert same(state, STATE) and notes == [f"averaged weights in {name} are not read"]


def test_a_second_network_of_the_same_names_is_named():
    state, notes = take_weights(prefixed("model.") | prefixed("backbone.", AVERAGE))
    assert same(state, AVERAGE) and notes == [
        "took the tensors of backbone, not those of the same names (model.patch_embed.weight, model.blocks.0.bias)"
    ]


def test_optimizers_and_ema_settings_are_no_second_set():
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}}
    assert not take_weights(
        {"model": STATE, "optimizer": optimizer, "ema_decay": torch.tensor(0.9)}
    )[1]
    assert len(take_weights({"model": STATE, "ema": {"decay": 0.9, "shadow": AVERAGE}})[1]) == 1


def test_results_of_the_two_sets_are_kept_apart_wherever_the_file_lies(tmp_path):
    """`source_hash` decides whether finished folds, features and predictions belong to the same weights."""
    places = [tmp_path / "a" / "w.pth", tmp_path / "b" / "w.pth"]
    for place in places:
        place.parent.mkdir()
        torch.save(
            {"model": {"x": torch.zeros(1)}, "model_ema": {"x": torch.ones(1)}}, tmp_path / "w.pth"
        )
        place.write_bytes((tmp_path / "w.pth").read_bytes())
    averaged, raw = (
        {source_hash(str(place), weights) for place in places} for weights in ("ema", "raw")
    )
    assert len(averaged) == len(raw) == 1 and averaged.isdisjoint(raw)
    assert source_hash("none:resnet18", "ema") == source_hash("none:resnet18")
