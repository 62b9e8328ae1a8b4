"""Weights that cannot be right are refused by name, whatever reads them: types, values, claims and contradictions."""

import argparse
import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.files import open_unchanged
from core.plain_values import check_plain
from data.views.preprocessing import Preprocessing
from models.backbones.backbone import build_backbone
from models.backbones.finetuned import load_finetuned, save_finetuned
from models.backbones.published_bone_age import load_bone_age
from models.networks.bone_age import BoneAge
from models.networks.mae import MAEConfig, MaskedAutoencoder, named_config
from models.networks.supervised import Supervised
from models.weights.checkpoint import load_encoder, load_mae, read_tensors, save_mae, write_pth
from models.weights.export import save_facebook
from training.run import read_state, write_state

SIZE = (32, 32)
PREPROCESSOR = Preprocessing(*SIZE).to_dict()
SHAPES = {
    "input_size": SIZE,
    "patch_size": 8,
    "dim": 48,
    "depth": 2,
    "heads": 3,
    "decoder_dim": 32,
    "decoder_depth": 1,
    "decoder_heads": 2,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder of each layout."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("good")
    save_mae(MaskedAutoencoder(MAEConfig(**SHAPES)), root / "mae", PREPROCESSOR, "card")
    finetuned = Supervised(build_backbone(str(root / "mae")), "binary", 1)
    save_finetuned(finetuned, root / "finetuned", PREPROCESSOR, {"classes": ["a", "b"]}, "card")
    convolutional = build_backbone("none:test_convnext", input_size=SIZE)
    save_finetuned(Supervised(convolutional, "binary", 1), root / "timm", PREPROCESSOR, {}, "card")
    save_finetuned(
        BoneAge(build_backbone("none:test_convnext", input_size=SIZE)),
        root / "bone_age",
        PREPROCESSOR,
        {},
        "card",
    )
    return {name: root / name for name in ("mae", "finetuned", "timm", "bone_age")}


READERS = {
    "load_mae": ("mae", load_mae),
    "load_encoder": ("mae", load_encoder),
    "build_backbone": ("mae", build_backbone),
    "load_finetuned": ("finetuned", load_finetuned),
    "timm": ("timm", load_finetuned),
    "load_bone_age": ("bone_age", load_bone_age),
}
CHANGES = {
    "int8": lambda t: torch.ones(t.shape, dtype=torch.int8),
    "uint8": lambda t: torch.ones(t.shape, dtype=torch.uint8),
    "int64": lambda t: torch.ones(t.shape, dtype=torch.int64),
    "bool": lambda t: torch.ones(t.shape, dtype=torch.bool),
    "complex64": lambda t: torch.ones(t.shape, dtype=torch.complex64),
    "float8_e4m3fn": lambda t: torch.ones(t.shape).to(torch.float8_e4m3fn),
    "NaN": lambda t: t.flatten().index_fill(0, torch.tensor(0), float("nan")).reshape(t.shape),
    "inf": lambda t: t.flatten().index_fill(0, torch.tensor(0), float("-inf")).reshape(t.shape),
    "1e300": lambda t: torch.full(t.shape, 1e300, dtype=torch.float64),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("reader", READERS)
def test_types_and_values(folders, reader, change, tmp_path):
    name, read = READERS[reader]
    folder = Path(shutil.copytree(folders[name], tmp_path / "w"))
    state = load_file(folder / "model.safetensors")
    key = next(
        k for k, v in state.items() if v.ndim >= 2 and "decoder" not in k and "position" not in k
    )
    try:
        save_file(state | {key: CHANGES[change](state[key])}, folder / "model.safetensors")
    except KeyError as error:
        pytest.skip(f"the installed safetensors cannot write {error}")
    reason = (
        "NaN, or values that are infinite in float32, in 1 of"
        if change in ("NaN", "inf", "1e300")
        else "wrong type"
    )
    with pytest.raises(ValueError, match=rf"{tmp_path}/w.*{reason}"):
        read(str(folder) if reader == "build_backbone" else folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_numbers_of_other_precisions_are_read(folders, dtype, tmp_path):
    folder = Path(shutil.copytree(folders["mae"], tmp_path / "w"))
    state = load_file(folder / "model.safetensors")
    save_file({key: value.to(dtype) for key, value in state.items()}, folder / "model.safetensors")
    assert load_mae(folder).model.cls_token.dtype == torch.float32


@pytest.mark.parametrize(
    "key, value, reason",
    [
        ("hidden_act", "relu", "hidden_act 'relu'; expected gelu"),
        ("qkv_bias", False, "qkv_bias False; expected True"),
        ("qkv_bias", 1, "qkv_bias 1"),
        ("patch_size", 0, "patch_size 0; the weights have 8"),
        ("patch_size", -16, "patch_size -16"),
        ("patch_size", 8.0, "patch_size 8.0"),
        ("num_hidden_layers", -5, "num_hidden_layers -5; the weights have 2"),
        ("num_hidden_layers", 10**9, "num_hidden_layers 1000000000"),
        ("num_hidden_layers", 10**400, "num_hidden_layers"),
        ("decoder_num_hidden_layers", 2, "decoder_num_hidden_layers 2; the weights have 1"),
        ("num_channels", 1, "num_channels 1; the weights have 3"),
        ("model_type", "bert", "model_type 'bert'; expected vit_mae or vit"),
        ("num_attention_heads", 2.5, "num_attention_heads 2.5; expected a whole number"),
        ("num_attention_heads", -3, "num_attention_heads -3"),
        ("num_attention_heads", True, "num_attention_heads True"),
        ("num_attention_heads", 5, "width 48 is not a multiple of 5 heads"),
        ("decoder_num_attention_heads", 0, "decoder_num_attention_heads 0"),
        ("hidden_size", 0, "hidden_size 0; the weights have 48"),
        ("hidden_size", 48.5, "hidden_size 48.5"),
        ("intermediate_size", 100, "intermediate_size 100; the weights have 192"),
        (
            "image_size",
            30_000,
            "image_size 30000; expected one or two numbers of pixels from 1 to 8192",
        ),
        ("image_size", 32.5, "image_size 32.5"),
        ("image_size", [32, 32, 32], "image_size .32, 32, 32."),
        ("layer_norm_eps", "small", "layer_norm_eps 'small'"),
        ("layer_norm_eps", float("nan"), "layer_norm_eps nan"),
        ("mask_ratio", 7, "mask_ratio 7"),
        ("norm_pix_loss", "no", "norm_pix_loss 'no'; expected true or false"),
    ],
)
def test_a_config_that_contradicts_the_tensors(folders, key, value, reason, tmp_path):
    folder = Path(shutil.copytree(folders["mae"], tmp_path / "w"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    for read in (load_mae, load_encoder):
        with pytest.raises(ValueError, match=rf"{folder}: .*{reason}"):
            read(folder)


@pytest.mark.parametrize(
    "key, value, reason",
    [
        ("image_std", [1e-46, 1, 1], "image_std must be three finite numbers above 0"),
        ("image_std", [1, 1], "image_std must be three"),
        ("image_mean", "abc", "image_mean must be three"),
        ("image_mean", [float("nan"), 0, 0], "image_mean must be three"),
        ("image_mean", [10**400, 0, 0], "image_mean must be three"),
        (
            "size",
            {"height": 30_000, "width": 32},
            "height must be a positive number of pixels, not 30000",
        ),
        (
            "size",
            {"height": 32.5, "width": 32},
            "height must be a positive number of pixels, not 32.5",
        ),
        ("do_normalize", "false", "'do_normalize' is 'false'; expected true or false"),
        ("resample", "bilinear", "'resample' is 'bilinear'"),
        ("rescale_factor", "x", "'rescale_factor' is 'x'"),
        ("radiograph", "minmax", "'radiograph' is 'minmax'"),
        ("radiograph", {"intensity": ["minmax"]}, "'radiograph.intensity' is"),
        ("radiograph", {"intensity_options": 3}, "'radiograph' is"),
    ],
)
@pytest.mark.parametrize("name", ["mae", "finetuned", "bone_age"])
def test_a_preprocessing_that_cannot_be(folders, name, key, value, reason, tmp_path):
    folder = Path(shutil.copytree(folders[name], tmp_path / "w"))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR | {key: value}))
    read = {"mae": load_mae, "finetuned": load_finetuned, "bone_age": load_bone_age}[name]
    with pytest.raises(ValueError, match=rf"{folder}: preprocessor_config.json: .*{reason}"):
        read(folder)


@pytest.mark.parametrize(
    "options", [{"low": "x", "high": 9}, {"low": True, "high": 9}, {"low": 0, "high": 1e999}]
)
def test_options_of_the_grey_values_are_numbers(options):
    with pytest.raises(ValueError, match="intensity_options"):
        Preprocessing(intensity="window", intensity_options=options)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda c: c["backbone"].update(pool=3), "pool '3'; choices cls, mean, own"),
        (lambda c: c["backbone"].update(pool=["cls"]), "pool"),
        (lambda c: c["backbone"]["vit"].update(pool="max"), "pool 'max' of the vit"),
        (lambda c: c["backbone"]["vit"].update(eps="x"), "eps 'x'; expected a number"),
        (lambda c: c["backbone"]["vit"].update(eps=-1), "eps '-1'"),
        (lambda c: c["backbone"]["vit"].update(heads=-3), "heads -3; expected 1 to 1024"),
        (lambda c: c["backbone"]["vit"].update(heads=5), "width 48 with 5 heads"),
        (lambda c: c["backbone"]["vit"].update(heads=3.0), "heads 3.0"),
        (lambda c: c["backbone"]["vit"].update(mlp_ratio="4"), "mlp_ratio"),
        (lambda c: c["backbone"]["vit"].update(device="meta"), "an unknown 'device'"),
        (lambda c: c["backbone"].update(input_size=[30_000, 30_000]), "an input of"),
        (lambda c: c["backbone"].update(input_size=[32.0, 32]), "an input of"),
        (lambda c: c["backbone"].update(timm="resnet18"), "both vit and timm"),
        (lambda c: c.update(about=[1, 2]), "about is .1, 2.; expected an object"),
        (lambda c: c.update(about="x"), "about is 'x'"),
        (lambda c: c.update(about={"classes": 3}), "about.classes is 3"),
        (lambda c: c["head"].update(outputs=True), "outputs True"),
        (lambda c: c["head"].update(kind=["binary"]), "a head .'binary'."),
    ],
)
def test_a_finetuned_folder_of_wrong_types(folders, change, reason, tmp_path):
    folder = Path(shutil.copytree(folders["finetuned"], tmp_path / "w"))
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"{folder}/config.json: .*{reason}"):
        load_finetuned(folder)


def test_tensors_that_share_their_storage_take_no_more_than_the_file(tmp_path):
    state = MaskedAutoencoder(MAEConfig(**SHAPES | {"depth": 24})).state_dict()
    one = torch.zeros(max(value.numel() for value in state.values()))
    shared = {key: one[: value.numel()].view(value.shape) for key, value in state.items()}
    for name in ("w.pth", "w.ckpt", "old.pth"):
        torch.save(
            {"model": shared}, tmp_path / name, _use_new_zipfile_serialization=name != "old.pth"
        )
        with pytest.raises(
            ValueError, match=rf"{name}: refused, because its .* tensors take .* and share"
        ):
            load_mae(tmp_path / name)
    torch.save(
        {"model": {"a": one, "b": one}}, tmp_path / "tied.pth"
    )  # stored once, as tied weights are
    assert len(read_tensors(tmp_path / "tied.pth")["model"]) == 2


def test_a_file_that_changes_while_it_is_read_is_refused(folders, tmp_path):
    path = tmp_path / "w.safetensors"
    shutil.copy(folders["mae"] / "model.safetensors", path)
    state = read_tensors(path)
    before = {key: value.clone() for key, value in state.items()}
    path.write_bytes(bytes(path.stat().st_size))  # in place: a memory map of the file would change
    assert all(torch.equal(state[key], before[key]) for key in before)
    with path.open("r+b") as file:
        file.truncate(10)  # and a truncated one would end the process
    assert all(torch.equal(state[key], before[key]) for key in before)
    with (
        pytest.raises(ValueError, match="w.safetensors: changed while it was read"),
        open_unchanged(path),
    ):
        path.write_bytes(b"something else")


STRANGERS = {
    "exception": Exception("x"),
    "slice": slice(1),
    "range": range(3),
    "type": int,
    "bytes": b"x",
    "device": torch.device("cpu"),
    "dtype": torch.float32,
    "storage": torch.zeros(2).untyped_storage(),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_only_tensors_and_plain_values_are_kept(name):
    stranger = STRANGERS[name]
    tensor = torch.zeros(2)
    tensor.note = stranger
    for content, place in (
        ({"args": argparse.Namespace(x=stranger)}, "args.x"),
        ({"a": [1, (2, stranger)]}, "a"),
        ({"a": {"b": [stranger]}}, "a.b"),
        ({"t": tensor}, "t.note"),
        (stranger, "its content"),
    ):
        with pytest.raises(
            ValueError,
            match=rf"w.pth: refused, because {place} is a .*; only tensors and plain values",
        ):
            check_plain(content, "w.pth")


def test_keys_are_held_to_the_list():
    with pytest.raises(ValueError, match="a key of a is a builtins.type"):
        check_plain({"a": {int: 3}}, "w.pth")


TENSORS = {
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    "sparse": lambda: torch.zeros(3, 3).to_sparse(),
    "rows": lambda: torch.zeros(3, 3).to_sparse_csr(),
    "quantised": lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.quint8),
    "without memory": lambda: torch.zeros(3, device="meta"),
    "expanded": lambda: torch.zeros(1).expand(1000, 1000),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("read", [load_mae, load_encoder, build_backbone])
def test_tensors_that_are_no_arrays_are_refused_in_one_sentence(folders, read, kind, tmp_path):
    save_facebook(load_mae(folders["mae"]).model, tmp_path, PREPROCESSOR, "card")
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    content["model"]["cls_token"] = TENSORS[kind]()
    torch.save(content, tmp_path / "w.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # newer versions of torch refuse to load nested tensors at all
        plain = "cls_token.* is no plain tensor that the file holds completely"
        with pytest.raises(
            ValueError, match=f"w.pth: ({plain}|refused, .* asks for .*_rebuild_nested_tensor)"
        ):
            read(tmp_path / "w.pth")


def test_nesting_costs_nothing():
    laughs, ring, deep = ["ha"], {}, []
    for _ in range(60):
        laughs = [laughs] * 10
    ring["self"] = ring
    for _ in range(100_000):
        deep = [deep]
    tensor = torch.zeros(1)
    assert check_plain(
        {"a": laughs, "b": ring, "c": deep, "d": {1: tensor}, "e": (tensor, {2.5, None, "x"})}, "w"
    ) == [tensor]


def test_states_of_runs_are_held_to_the_same_list(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: {"identity": {}, "x": Exception("x")})
    write_state({"identity": {}}, tmp_path / "step_1.pt")
    with pytest.raises(ValueError, match="step_1.pt: refused, because x is a builtins.Exception"):
        read_state(tmp_path / "step_1.pt")


def test_whatever_torch_accepts_read_tensors_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(
        torch, "load", lambda *_, **__: {"model": {}, "args": {"x": Exception("x")}}
    )
    (tmp_path / "w.pth").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"w.pth: refused, because args.x is a builtins.Exception"):
        read_tensors(tmp_path / "w.pth")


def test_medical_mae_with_a_narrow_decoder_has_sixteen_heads(tmp_path):
    torch.manual_seed(0)
    theirs = MaskedAutoencoder(
        named_config("mae_vit_small_patch16_dec128d2b", input_size=SIZE, decoder_heads=16)
    )
    write_pth({"model": theirs.state_dict()}, tmp_path / "w.pth")
    loaded = load_mae(tmp_path / "w.pth")
    assert (loaded.model.config.decoder_heads, loaded.model.config.decoder_depth) == (16, 2)
    assert (
        "16 decoder heads assumed" in loaded.report
        and "decoder_num_attention_heads" in loaded.report
    )
    images, noise = torch.randn(1, 3, *SIZE), torch.rand(1, 4)
    assert torch.equal(
        loaded.model.reconstruct(images, noise).patches,
        theirs.eval().reconstruct(images, noise).patches,
    )


@pytest.mark.parametrize("read", [load_mae, build_backbone, load_bone_age])
def test_names_of_tensors_are_shown_escaped(read, tmp_path):
    torch.save({"a\x1b[31m\u202e": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w.pth: .*a\\x1b\[31m\\u202e"):
        read(tmp_path / "w.pth")


def test_a_file_of_ours_knows_its_heads_with_and_without_its_folder(tmp_path):
    ours = MaskedAutoencoder(named_config("mae_vit_mini_patch16_dec128d1b", input_size=SIZE))
    save_facebook(ours, tmp_path, PREPROCESSOR, "card")
    (tmp_path / "moved.pth").write_bytes((tmp_path / "model.pth").read_bytes())
    for path in (tmp_path / "moved.pth", tmp_path / "model.pth"):
        assert load_mae(path).model.config == ours.config and "assumed" not in load_mae(path).report
    (tmp_path / "moved.pth").unlink()
    assert load_mae(tmp_path).model.config == ours.config


def test_a_network_tuned_from_a_folder_keeps_its_heads(folders):
    """As a backbone, too: its width belongs to no known size."""
    backbone = build_backbone(str(folders["finetuned"]))
    assert backbone.network.blocks[0].attn.num_heads == 3
