"""What the tiny policies start with."""

import pytest
import torch

from thinker.data.demo.scenes import Scene
from thinker.policies import BACKBONES, tiny_policy


def scene_frames(num: int, side: int) -> torch.Tensor:
    """Frames of demo scenes as a vision tower gets them, (num, 3, side, side)."""
    frames = [Scene((7, i), side).steady_frame(0) for i in range(num)]
    pixels = torch.stack([torch.from_numpy(frame) for frame in frames]).permute(0, 3, 1, 2) / 255
    return (pixels - 0.45) / 0.27


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_patch_filters_answer_equally_to_natural_pictures(backbone):
    """Strongest over weakest response: below 4; without the scaling more than 20."""
    tower = tiny_policy(backbone).model.parts()["vision_tower"]
    projection = next(
        m for m in tower.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d)
    )
    frames = scene_frames(40, 64)
    if isinstance(projection, torch.nn.Conv3d):
        frames = frames.unsqueeze(2).expand(-1, -1, projection.kernel_size[0], -1, -1)
    with torch.no_grad():
        responses = projection(frames).transpose(0, 1).flatten(1).std(dim=1)
        unscaled = responses / projection.weight.flatten(1).norm(dim=1)
    assert responses.max() / responses.min() < 4
    assert responses.min() > 0.3 and responses.max() < 3
    assert unscaled.max() / unscaled.min() > 20
