"""The fixed panel of a pretraining run: what a masked autoencoder makes of radiographs it is not trained on.

Shapes: B radiographs, h x w network pixels, N patches.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluation.figures import masked_tile, panel, save_figure
from evaluation.reconstruction import hidden_pixels, linear_interpolation, patch_means

TILE = 192  # pixels, about; smaller network inputs are shown enlarged


@dataclasses.dataclass
class HeldOut:
    """A fixed set of radiographs with fixed masks, so that epochs and runs can be compared.

    `images`: [B, 1, h, w] as the loader makes them; `noise`: [B, N]; `normalise` and `denormalise`: to and from what
    the network sees ([B, 3, h, w]).
    """

    images: Tensor
    noise: Tensor
    normalise: Callable[[Tensor], Tensor]
    denormalise: Callable[[Tensor], Tensor]
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
        found: dict[str, list[float]] = {"linear interpolation": [], "patch means": []}
        order = self.noise.argsort(dim=1, stable=True)
        for visible in torch.unique(order[:, : mae.config.visible].sort(dim=1).values, dim=0):  # masks are shared
            rows = (order[:, : mae.config.visible].sort(dim=1).values == visible).all(dim=1)
            flags = np.ones(mae.config.patches, bool)
            flags[visible.numpy()] = False
            hidden = hidden_pixels(flags, mae.grid, mae.patch_size)
            grey = self._grey(self.normalise(self.images[rows])) / np.float32(255)
            filled = {
                "linear interpolation": linear_interpolation(grey, hidden),
                "patch means": patch_means(grey, flags, mae.grid, mae.patch_size),
            }
            target = self.normalise(self.images[rows])
            for name, values in filled.items():
                guess = self.normalise(torch.from_numpy(np.float32(values))[:, None].clamp(0, 1))
                found[name] += (guess - target)[..., torch.from_numpy(hidden)].square().mean((1, 2)).tolist()
        return {name: float(np.mean(values)) for name, values in found.items()}

    @torch.no_grad()
    def draw(self, mae, device: torch.device, path: Path, caption: str = "") -> None:
        """Original, visible patches, prediction at hidden patches, raw prediction of all patches.

        With a target normalised per patch the prediction is brought back with each patch's own mean and SD; the panel
        says so, because those come from the original.
        """
        mae.eval()
        images = self.normalise(self.images[: self.shown].to(device))
        result = mae.reconstruct(images, self.noise[: self.shown].to(device))
        predicted = result.patches
        header = "all predicted"
        if mae.norm_pix_loss:
            variance, mean = torch.var_mean(mae.patchify(images), dim=-1, keepdim=True)
            predicted = predicted * (variance + 1e-6).sqrt() + mean
            header = "x true SD + mean"
        original = self._grey(images)
        full = self._grey(mae.unpatchify(predicted))
        hidden = hidden_pixels(result.hidden.cpu().numpy(), mae.grid, mae.patch_size)
        zoom = max(1, round(TILE / max(original.shape[1:])))  # whole pixels: nothing is smoothed
        original, full, hidden = (x.repeat(zoom, axis=1).repeat(zoom, axis=2) for x in (original, full, hidden))
        rows = [[o, masked_tile(o, m), np.where(m, f, o), f] for o, f, m in zip(original, full, hidden)]
        path.parent.mkdir(parents=True, exist_ok=True)
        headers = ("original", "visible", "hidden filled in", header)
        save_figure(panel(rows, headers, caption=caption), path)

    def _grey(self, images: Tensor) -> np.ndarray:
        """Normalised [B, 3, h, w] -> uint8 [B, h, w]."""
        grey = self.denormalise(images.float()).mean(dim=1).clamp(0, 1)
        return (grey * 255).round().byte().cpu().numpy()
