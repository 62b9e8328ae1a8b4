"""Where does a network look? Attention of a Vision Transformer's heads, or Grad-CAM, over the radiographs.

    python scripts/draw_attention.py --model-path runs/dino/model --in-dirs /data/radiographs --out runs/attention
    python scripts/draw_attention.py --model-path runs/fracatlas/ckpts/dax/fold0 --in-dirs A --out B --kind gradcam

Takes every backbone that the benchmark takes, and the folders of networks that it has fine-tuned. attention: what the
class token attends to in the last block. gradcam: which places of the last map speak for a number that the network
gives: the answer of a fine-tuned network (--label chooses the class), else the similarity to another radiograph
(--like) or, without any, the length of the radiograph's own features. OUT/index.html shows all; NAME_attention.npy or
NAME_gradcam.npy is the map, float32, at the radiograph's own height and width, NaN where the network saw nothing.
Such a map shows what moves a number, not where a finding is. Exit status: 0 all radiographs were read, 3 some were not
(failed.csv), 2 a wrong flag or file.
"""

import sys, pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from dataclasses import dataclass
from pathlib import Path
from core.flags import flag, run, weights_flag


@dataclass
class Config:
    """Attention maps or Grad-CAM of radiographs, from any network that can be read."""

    model_path: str = flag(
        help="backbone (alias, checkpoint folder or file, timm name), or a fine-tuned folder"
    )
    in_dirs: list[Path] = flag(
        help="folders of radiographs, files, or .txt/.csv lists of files", alias="data_path"
    )
    out: Path = flag(help="output folder")
    kind: str = flag(
        "auto",
        "auto: attention of a transformer, Grad-CAM of a convolutional network",
        choices=("auto", "attention", "gradcam"),
    )
    label: str | None = flag(
        None, "Grad-CAM of a fine-tuned network: for this class; default: the one it predicts"
    )
    like: Path | None = flag(None, "Grad-CAM of a backbone: for the likeness to this radiograph")
    input_size: list[int] = flag(
        [], "side of a backbone's input, or height and width, pixels; default its own"
    )
    colours: str = flag("ember", "colour table of the maps", choices=("ember", "hot", "grey"))
    alpha: float = flag(0.55, "opacity of the overlay at the top of the scale, 0 to 1")
    recursive: bool = flag(True, "also radiographs in subfolders")
    overwrite: bool = flag(False, "replace what OUT holds")
    batch_size: int = flag(16, "radiographs that go through the network together")
    device: str = flag("auto", "auto, cpu, cuda or cuda:N")
    weights: str = weights_flag()


def main(config: Config) -> int:
    """Look, draw, report; 3 if a radiograph could not be read, else 0."""
    from workflows.heatmaps.attention import draw_attention

    return draw_attention(config)


if __name__ == "__main__":
    run(main, Config)
