"""Training in float64, for comparisons of one process with several.

In float32, batch norms over a few values amplify the rounding of sums over processes from step to step, until the
rounding hides what is compared.
"""

import torch

from training import fit


def train_in_float64(patch) -> None:
    """Let every training that starts after this call compute in float64.

    `patch`: an object with `setattr(target, name, value)`, such as `pytest.MonkeyPatch`.
    """

    def begin(self, objective, settings, begin_as_written=fit._Loop.__init__):
        begin_as_written(self, objective.double(), settings)

    patch.setattr(torch.Tensor, "float", torch.Tensor.double)
    patch.setattr(fit._Loop, "__init__", begin)
