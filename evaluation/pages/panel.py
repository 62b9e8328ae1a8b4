"""Pictures of a pretraining run: what a masked autoencoder makes of radiographs it is not trained on; views of DINO.

Shapes: B radiographs, h x w network pixels, N patches.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evaluation.maps.reconstruction import hidden_pixels, without_learning
from evaluation.pages.pictures import levels, masked_tile, panel, save_figure

TILE = 192  # pixels, about; smaller network inputs are shown enlarged
EARLY_STEPS = 2_000  # after fewer, reconstructions are a blur: see what configs/small_set.yaml says of its trial
EARLY_SHARE = 0.1  # of the steps of a long run, whose learning rate is still rising


@dataclasses.dataclass
class FixedSet:
    """A fixed set of radiographs with fixed masks, so that epochs and runs can be compared.


    `images`: [B, 1, h, w] as the loader makes them; `noise`: [B, N]; `normalise` and `denormalise`: to and from what
    the network sees ([B, 3, h, w]); `mean_image`: [h, w] in [0, 1], the average training radiograph.
    """

    images: Tensor
    noise: Tensor
    normalise: Callable[[Tensor], Tensor]
    denormalise: Callable[[Tensor], Tensor]
    mean_image: np.ndarray | None = None
    shown: int = 6

    @torch.no_grad()
    def loss(self, mae, device: torch.device, batch_size: int = 32) -> float:
        """The training loss on the set, in float32."""
        mae.eval()
        total = 0.0
        for begin in range(0, len(self.images), batch_size):
            part = slice(begin, begin + batch_size)
            images = self.normalise(self.images[part].to(device))
            total += float(mae.loss(images, self.noise[part].to(device))) * len(images)
        return total / len(self.images)

    def reference_losses(self, mae) -> dict[str, float]:
        """The same loss of what needs no learning, so that a curve says whether anything was learnt.

        Empty for a target normalised per patch, which interpolation cannot be compared with.
        """
        if mae.norm_pix_loss:
            return {}
        found: dict[str, list[float]] = {}
        seen = self.noise.argsort(dim=1, stable=True)[:, : mae.config.visible].sort(dim=1).values
        for visible in torch.unique(seen, dim=0):  # radiographs share masks
            rows = (seen == visible).all(dim=1)
            flags = np.ones(mae.config.patches, bool)
            flags[visible.numpy()] = False
            hidden = torch.from_numpy(hidden_pixels(flags, mae.grid, mae.patch_size))
            target = self.normalise(self.images[rows])
            grey = self._grey(target) / np.float32(255)
            for name, values in without_learning(
                grey, flags, mae.grid, mae.patch_size, self.mean_image
            ).items():
                guess = self.normalise(torch.tensor(np.float32(values))[:, None].clamp(0, 1))
                found.setdefault(name, []).extend(
                    (guess - target)[..., hidden].square().mean((1, 2)).tolist()
                )
        return {name: float(np.mean(values)) for name, values in found.items()}

    @torch.no_grad()
    def draw(self, mae, device: torch.device, path: Path, caption: str = "") -> None:
        """Original, visible patches, prediction at hidden patches, prediction of all patches.

        A network that predicts patch-normalised values knows neither brightness nor contrast of a patch. Its prediction
        is shown twice: with each patch's own mean and SD, which come from the original, and raw (grey is 0, black and
        white -2.5 and 2.5 of the patch's SD). The headers say which is which.
        """
        mae.eval()
        images = self.normalise(self.images[: self.shown].to(device))
        result = mae.reconstruct(images, self.noise[: self.shown].to(device))
        hidden = hidden_pixels(result.hidden.cpu().numpy(), mae.grid, mae.patch_size)
        full = self._grey(mae.unpatchify(mae.restore(result.patches, mae.patchify(images))))
        columns = {"original": self._grey(images), "hidden filled in": None, "all predicted": full}
        if mae.norm_pix_loss:
            raw = (
                mae.unpatchify(result.patches).mean(dim=1).cpu().numpy()
            )  # [B, h, w] in SD of the patch
            columns = {
                "original": columns["original"],
                "hidden, true mean + SD": None,
                "all, true mean + SD": full,
                "raw (patch SD)": levels(raw, 2.5, -2.5),
            }
        zoom = max(1, round(TILE / max(full.shape[1:])))  # whole pixels: nothing is smoothed
        original, *predicted = (
            x.repeat(zoom, 1).repeat(zoom, 2) for x in columns.values() if x is not None
        )
        hidden = hidden.repeat(zoom, axis=1).repeat(zoom, axis=2)
        rows = [
            [o, masked_tile(o, m), np.where(m, views[0], o), *views]
            for o, m, *views in zip(original, hidden, *predicted)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        headers = list(columns)
        save_figure(panel(rows, [headers[0], "visible", *headers[1:]], caption=caption), path)

    def _grey(self, images: Tensor) -> np.ndarray:
        """Normalised [B, 3, h, w] -> uint8 [B, h, w]."""
        grey = self.denormalise(images.float()).mean(dim=1).clamp(0, 1)
        return (grey * 255).round().byte().cpu().numpy()


def outlook(step: int, last_step: int, loss: float, references: dict[str, float]) -> str:
    """What to think of the panel of this step, in a few words; "" if nothing needs to be said.

    `loss`: on the fixed set, and `references` there (may be empty). A masked autoencoder first learns the mean picture,
    then its brightness and outlines, and passes what needs no learning long before its pictures are sharp.
    """
    early = step < max(EARLY_STEPS, EARLY_SHARE * last_step)
    if step >= last_step and early and (not references or loss < min(references.values())):
        return "a blur is normal after so few steps"
    if not references:
        return "a mean picture is normal this early" if early else ""
    if loss < min(references.values()):
        return "better than all that needs no learning" + (
            "; a blur is normal this early" if early else ""
        )
    if step >= last_step:
        return "the run ends with little more than a mean picture; it needs more --epochs"
    if early:
        return "a mean picture is normal this early"
    return "a mean picture this late asks for another --lr if the loss is flat, for patience if it falls"


def draw_views(rows: list[list[np.ndarray]], columns: list[str], path: Path, tile: int) -> None:
    """One row of views [h, w] in [0, 1] for each radiograph, each drawn `tile` pixels wide under its column's name."""
    fitted = [
        [
            Image.fromarray(np.uint8(view * 255 + 0.5)).resize(
                (tile, tile), Image.Resampling.NEAREST
            )
            for view in row
        ]
        for row in rows
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(panel([[np.asarray(view) for view in row] for row in fitted], columns), path)
