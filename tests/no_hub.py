"""Run by test_network.py: every reader and flag that takes the name of a network, given names that lead to a hub.

    python tests/no_hub.py FOLDER

prints a JSON object: case -> what came of it. Hugging Face's libraries are left online, as in a user's notebook. At the
end it asks the server of $HF_ENDPOINT for /all-done, and then timm for a network of a hub.
"""

import argparse
import json
import os
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from in_process import script
from PIL import Image

import scripts.app
import scripts.convert_checkpoint
import scripts.draw_attention
import scripts.extract_features
import scripts.predict_bone_age
import workflows.regions.web.service
import zero_shot_heatmap
from models.backbones.backbone import build_backbone
from models.backbones.dino import dino_backbone, load_initial
from models.backbones.finetuned import load_finetuned, save_finetuned
from models.backbones.published_bone_age import load_bone_age
from models.networks.bone_age import BoneAge
from models.networks.mae import MAEConfig, MaskedAutoencoder
from models.networks.region_guided import RegionGuided
from models.networks.supervised import Supervised
from models.weights.checkpoint import load_mae, save_mae
from models.weights.timm_weights import build_timm, create

NAMES = (
    "hf-hub:evil/model",
    "hf_hub:evil/model",
    "local-dir:evil",
    "https://127.0.0.1/evil",
    "evil/model",
    "resnet18.evil",
    "../resnet18",
    "HF-HUB:evil/model",
    "hf-hub:resnet18",
)
SIZE = (32, 32)
PREPROCESSOR = {"size": {"height": 32, "width": 32}}


def outcome(read: Callable) -> str:
    try:
        read()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "read"


def written(folder: Path, name: str) -> dict[str, Path]:
    """Folders whose config.json says `name`."""
    backbone = build_backbone("none:test_convnext", input_size=SIZE)
    models = {
        "supervised": Supervised(backbone, "binary", 1),
        "regions": RegionGuided(backbone),
        "bone_age": BoneAge(build_backbone("none:test_convnext", input_size=SIZE)),
    }
    folders = {kind: folder / kind for kind in (*models, "architecture", "mae")}
    for kind, model in models.items():
        save_finetuned(model, folders[kind], PREPROCESSOR, {}, "card")
        config = json.loads((folders[kind] / "config.json").read_text())
        config["backbone"]["timm"] = name
        (folders[kind] / "config.json").write_text(json.dumps(config))
    folders["architecture"].mkdir()
    torch.save(backbone.network.state_dict(), folders["architecture"] / "model.pth")
    (folders["architecture"] / "config.json").write_text(json.dumps({"architecture": name}))
    shape = MAEConfig(SIZE, 8, 48, 2, 3, decoder_dim=32, decoder_depth=1, decoder_heads=2)
    save_mae(MaskedAutoencoder(shape), folders["mae"], PREPROCESSOR, "card")
    told = json.loads((folders["mae"] / "config.json").read_text())
    told |= {
        "_name_or_path": name,
        "architectures": [name],
        "auto_map": {"AutoModel": name},
        "architecture": name,
    }
    (folders["mae"] / "config.json").write_text(json.dumps(told))
    return folders


def library(name: str, folders: dict[str, Path], weights: Path) -> dict[str, Callable]:
    aliases = folders["mae"].parent / "configs" / "backbones.yaml"
    aliases.parent.mkdir(exist_ok=True)
    entry = {"weights": str(weights), "get": "x", "licence": "x", "architecture": name}
    aliases.write_text(json.dumps({"mine": entry}))
    return {
        "create": lambda: create(name, None, 0.0),
        "build_timm": lambda: build_timm(name),
        "dino_backbone": lambda: dino_backbone(name),
        "load_initial": lambda: load_initial(dino_backbone("resnet18"), name),
        "build_backbone": lambda: build_backbone(name),
        "none": lambda: build_backbone(f"none:{name}"),
        "with a file": lambda: build_backbone(f"{name}@{weights}"),
        "alias": lambda: build_backbone("mine", aliases=aliases),
        "none of an alias": lambda: build_backbone("none:mine", aliases=aliases),
        "architecture": lambda: build_backbone(folders["architecture"]),
        "load_finetuned": lambda: load_finetuned(folders["supervised"]),
        "region-guided": lambda: load_finetuned(folders["regions"], "region-guided"),
        "load_bone_age": lambda: load_bone_age(folders["bone_age"]),
        "app": lambda: workflows.regions.web.service.Networks(
            scripts.app.Config([folders["regions"]], device="cpu")
        ),
    }


def flags(name: str, folders: dict[str, Path], out: Path) -> dict[str, Callable]:
    """Script runs; the last message, or what was printed."""
    pictures = out / "in"
    pictures.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((40, 44), 60).save(pictures / "a.png")
    common = ("--in-dirs", pictures, "--device", "cpu")

    def run(module, *words) -> Callable:
        def call() -> None:
            done = script(module, *words)
            raise SystemError(f"{done.returncode}: {done.stderr.strip()}")

        return call

    bone_age = ("--images", pictures, "--sex", "F", "--device", "cpu", "--output_dir", out / "b")
    return {
        "predict_bone_age": run(
            scripts.predict_bone_age, "--model_path", folders["bone_age"], *bone_age
        ),
        "extract_features": run(
            scripts.extract_features, "--model-path", name, "--out", out / "f.npz", *common
        ),
        "features of a folder": run(
            scripts.extract_features,
            "--model-path",
            folders["architecture"],
            "--out",
            out / "g.npz",
            *common,
        ),
        "draw_attention": run(
            scripts.draw_attention,
            "--model-path",
            folders["supervised"],
            "--out",
            out / "c",
            *common,
        ),
        "convert_checkpoint": run(
            scripts.convert_checkpoint, "--in", name, "--to", "timm", "--out", out / "d"
        ),
        "zero_shot_heatmap": run(
            zero_shot_heatmap, "--model-path", name, "--out", out / "e", *common
        ),
    }


def main(folder: Path) -> None:
    outcomes: dict[str, str] = {}
    weights = folder / "w.pth"
    torch.save({"model": {}, "args": argparse.Namespace(model=NAMES[0])}, weights)
    for number, name in enumerate(NAMES):
        folders = written(folder / str(number), name)
        cases = library(name, folders, weights)
        if number < 2:
            cases |= flags(name, folders, folder / "out" / str(number))
        outcomes |= {f"{name} {case}": outcome(read) for case, read in cases.items()}
        outcomes[f"{name} harmless keys"] = outcome(
            lambda folders=folders: load_mae(folders["mae"])
        )
    print(json.dumps(outcomes), flush=True)
    address = os.environ["HF_ENDPOINT"]
    outcome(lambda: urllib.request.urlopen(f"{address}/all-done"))
    outcome(lambda: timm.create_model("hf-hub:evil/control"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
