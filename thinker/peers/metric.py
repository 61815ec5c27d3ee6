"""A policy as a metric on tensors, called as those of pyiqa are: pictures or videos in, a tensor of
scores out.

    from thinker.peers.metric import create_metric

    metric = create_metric("runs/demo/final", device="cuda")
    scores_N = metric(pictures_N3HW)

The interface is that of pyiqa's `InferenceModel` (Chen and Mo, "IQA-PyTorch"), of which no code is
here. A picture is read as the scorer reads a PNG file of it, a video as the scorer reads frames, so
the scores are the scorer's own.

Suffixes: N pictures or videos, T frames, H height, W width.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from thinker.score.prediction import INVALID_ANSWER, OK, Prediction
from thinker.score.scorer import QualityScorer
from thinker.video import Clip, VideoError
from thinker.video.file import upright_pixels
from thinker.video.read import clip_from_frames
from thinker.video.sources.frames import clip_from_picture

logger = logging.getLogger(__name__)

EPSILON = 1e-6
"""By how much values may leave 0..1, as in pyiqa."""


def create_metric(
    policy: str | Path,
    as_loss: bool = False,
    device: str | torch.device | None = None,
    *,
    check_input_range: bool = True,
    **settings: Any,
) -> "QualityMetric":
    """The metric of a saved policy, called as `pyiqa.create_metric` is.

    policy: its folder, or its name on a hub. device: a GPU where there is one, if it is None.
    settings: of `QualityScorer`, such as `mode="level"`, which generates no text and is the fast
    one. Raises ValueError for a folder without a policy, and for `as_loss`.
    """
    if as_loss:
        raise ValueError(
            "as_loss is True: a policy reads 8-bit pictures and writes its answer token by token, "
            "so its score has no gradient; leave as_loss out"
        )
    where = None if device is None else str(device)
    scorer = QualityScorer.from_pretrained(policy, device=where, **settings)
    return QualityMetric(scorer, check_input_range=check_input_range)


class QualityMetric(torch.nn.Module):
    """A no-reference metric: 1 (very poor) to 5 (excellent), higher is better.

    It has the attributes that pyiqa's metrics have. `net` is the policy's model, so `.to(device)`
    moves it; it stays in evaluation mode, and its weights want no gradient.
    """

    metric_name = "thinker"
    metric_mode = "NR"
    lower_better = False
    score_range = "1, 5"
    as_loss = False

    def __init__(self, scorer: QualityScorer, *, check_input_range: bool = True) -> None:
        super().__init__()
        self.scorer = scorer
        self.check_input_range = check_input_range
        self.net = scorer.policy.model.requires_grad_(False)
        self.net.eval()

    @property
    def device(self) -> torch.device:
        """Where the policy is."""
        return self.scorer.policy.model.device

    def train(self, mode: bool = True) -> "QualityMetric":
        """Stays in evaluation mode, also where it is a part of a model that is trained."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, target: torch.Tensor | str | Path | Image.Image, ref: object = None
    ) -> torch.Tensor:
        """The scores, float32 (N,), on the device of the policy.

        target: RGB pictures, floats (N, 3, H, W) in 0..1 (with one channel they are grey), which
        are rounded to 8 bits; videos, floats (N, T, 3, H, W), which count as 25 fps; a path of one
        picture or video; or a picture of PIL's. ref: ignored, as by every metric of pyiqa without
        a reference.

        NaN where the policy's answer holds no valid score, with a warning; no number is made up.
        Raises ValueError for another shape, for values outside 0..1, and for what cannot be read.
        """
        if isinstance(target, torch.Tensor):
            frames = _checked(target, self.check_input_range)
            media = [_clip(self.scorer, one) for one in frames]
        elif isinstance(target, Image.Image):
            media = [_clip(self.scorer, _pixels(target))]
        elif isinstance(target, str | Path):
            media = [self.scorer.read(target)]
        else:
            raise ValueError(
                f"target is a {type(target).__name__}; expected a tensor (N, 3, H, W) or "
                "(N, T, 3, H, W), a path, or a picture of PIL's"
            )
        rows = self.scorer.score_clips(media)
        scores = [_score(row, number) for number, row in enumerate(rows)]
        return torch.tensor(scores, dtype=torch.float32, device=self.device)


def _checked(target: torch.Tensor, in_range: bool) -> torch.Tensor:
    """uint8 (N, 3, H, W) or (N, T, 3, H, W) of floats in 0..1, on the CPU."""
    channels = target.shape[-3] if target.ndim in (4, 5) else None
    if channels not in (1, 3) or not target.is_floating_point() or not target.numel():
        raise ValueError(
            "expected pictures, floats (N, 3, H, W), or videos, floats (N, T, 3, H, W), got "
            f"{target.dtype} of shape {tuple(target.shape)}"
            + ("; divide 8-bit values by 255" if target.dtype == torch.uint8 else "")
        )
    values = target.detach().float()
    low, high = values.min().item(), values.max().item()
    if in_range and not (low > -EPSILON and high < 1 + EPSILON):  # NaN is in no range
        raise ValueError(f"values are {low:.4f} to {high:.4f}, expected 0 to 1")
    levels = (values.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    return levels.expand(*levels.shape[:-3], 3, *levels.shape[-2:])


def _pixels(picture: Image.Image) -> torch.Tensor:
    """uint8 (3, H, W), turned upright as a picture file is."""
    return torch.from_numpy(upright_pixels(picture)).movedim(-1, 0)


def _clip(scorer: QualityScorer, one: torch.Tensor) -> Clip | Prediction:
    """The clip of one picture (3, H, W) or video (T, 3, H, W), or the row of what cannot be
    read."""
    try:
        if one.ndim == 4:
            return clip_from_frames(one, scorer.clip_spec)
        return clip_from_picture(one.movedim(0, -1).numpy(), scorer.clip_spec)
    except VideoError as error:
        return scorer.failed(error)


def _score(row: Prediction, number: int) -> float:
    if row.status == OK and row.score is not None:
        return row.score
    if row.status != INVALID_ANSWER:
        raise ValueError(f"{row.path} (number {number}) has no score: {row.status}: {row.error}")
    logger.warning("number %d has no valid score and counts as NaN: %s", number, row.error)
    return float("nan")
