"""Patches as energies of their frequencies: what a small tower needs to see of coding artefacts,
blur and noise, and what a few thousand clips do not teach it (docs/film.md).

N pictures, P patches of a picture, U x V frequencies of a window, C width of the tower.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import InternVLVisionConfig

from thinker.policies.tiny import cosines

WINDOW_PX, STRIDE_PX = 8, 4
"""Windows overlap by half, so that they are not all in step with the blocks of a codec."""

NUM_FREQUENCIES = WINDOW_PX**2 - 1
"""All but the mean."""

FLOOR = 3e-3
"""Added to a magnitude before its logarithm is taken; a level of 255 is about .017."""


class EnergyPatches(nn.Module):
    """In place of InternVL's patch embedding: pixel_values (N, 3, H, W), normalised → (N, P, C).

    The luma of each patch is seen through overlapping windows. Their cosines c have, over a patch,
    a level log mean |c| and a shape log(rms c / mean |c|), by which moments estimate the exponent
    of a generalised Gaussian (Sharifi and Leon-Garcia 1995; BRISQUE's features, too, are such
    levels and shapes): .23 for a Gaussian, .35 for a Laplacian. A level is taken against the
    amplitude that natural pictures have at its frequency (`cosines`). Both are brought to about
    unit spread. Nothing of it is trained.

    Raises ValueError where C is less than 2 · 63, or a patch has no whole number of strides.
    """

    filters: torch.Tensor
    log_relief: torch.Tensor

    def __init__(self, config: InternVLVisionConfig):
        super().__init__()
        if config.hidden_size < 2 * NUM_FREQUENCIES:
            raise ValueError(
                f"the tower's width is {config.hidden_size}, expected {2 * NUM_FREQUENCIES} or "
                "more: a level and a shape for each frequency"
            )
        if any(side % STRIDE_PX for side in config.patch_size):
            raise ValueError(
                f"a patch has sides {list(config.patch_size)}, expected multiples of {STRIDE_PX}"
            )
        self.width = config.hidden_size
        self.strides = [side // STRIDE_PX for side in config.patch_size]
        cosines_UX, relief_UV = cosines(WINDOW_PX)
        filters = torch.einsum("uy,vx->uvyx", cosines_UX, cosines_UX).flatten(0, 1)
        self.register_buffer("filters", filters[1:, None])
        self.register_buffer("log_relief", relief_UV.flatten()[1:, None, None].log())

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        luma = pixel_values.to(self.filters.dtype).mean(1, keepdim=True)
        c = self._inside(F.conv2d(luma, self.filters, stride=STRIDE_PX))
        level = (c.abs().mean((3, 5)) + FLOOR).log()
        shape = (c.square().mean((3, 5)) + FLOOR**2).log() / 2 - level
        features = torch.cat([(level + self.log_relief + 0.8) / 1.3, 4 * (shape - 0.3)], dim=1)
        features = features.flatten(2).transpose(1, 2)
        return F.pad(features, (0, self.width - features.shape[-1]))

    def _inside(self, responses: torch.Tensor) -> torch.Tensor:
        """The windows that lie in one patch, (N, 63, rows, windows, columns, windows)."""
        outside = WINDOW_PX // STRIDE_PX - 1  # the last ones of a patch reach into the next
        rows, columns = self.strides
        grouped = F.pad(responses, (0, outside, 0, outside))
        grouped = grouped.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
        return grouped[:, :, :, : rows - outside, :, : columns - outside]
