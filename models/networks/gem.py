"""Generalised-mean pooling: between the mean (p = 1) and the maximum (p -> infinity) of each channel.

Radenovic, Tolias and Chum, Fine-tuning CNN image retrieval with no human annotation, TPAMI 2019,
https://arxiv.org/abs/1711.02512, equation 3. B radiographs, D channels, h x w or N places.
"""

import torch
from torch import Tensor, nn


class GeM(nn.Module):
    """A map [B, D, h, w] or tokens [B, N, D] -> [B, D] float32: (mean of x ** p) ** (1 / p), with p learnt.

    What is below `eps` counts as `eps`: a power of a negative number is none. The formula was made for maps after a
    ReLU; of those of a ConvNeXt or a transformer about half is negative, and says nothing here, forward and backward.
    BoneXage does the same, so that its weights need it.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6):
        super().__init__()
        self.p = nn.Parameter(torch.tensor([float(p)]))
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        if features.ndim not in (3, 4):
            raise ValueError(
                f"GeM needs a map [B, D, h, w] or tokens [B, N, D], not {list(features.shape)}"
            )
        places = (2, 3) if features.ndim == 4 else 1
        with torch.autocast(features.device.type, enabled=False):  # a sum of cubes needs its digits
            return features.float().clamp(min=self.eps).pow(self.p).mean(places).pow(1 / self.p)
