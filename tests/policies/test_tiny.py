"""What the tiny policies start with."""

from dataclasses import replace

import pytest
import torch

from tests.helpers.policy_factory import SIZE, random_clip
from thinker.data.demo.scenes import Scene
from thinker.policies import BACKBONES, load_policy, tiny_policy


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


ENERGIES = replace(
    SIZE, frame_px=64, patch_px=32, patches_merged=1, vision_width=128, patch_energies=True
)


def energies(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Levels and shapes (N, P, 63) of pictures (N, 3, 64, 64), as logarithms."""
    patches = tiny_policy("internvl3", size=ENERGIES).model.model.vision_tower.embeddings
    given = patches.patch_embeddings(pixels)
    assert given.shape == (len(pixels), 4, 128)
    assert (given[..., 126:] == 0).all()
    relief = patches.patch_embeddings.log_relief.flatten()
    return 1.3 * given[..., :63] - 0.8 - relief, given[..., 63:126] / 4 + 0.3


def test_energies_are_levels_and_shapes_of_each_frequency():
    """Of white noise of a luma of spread s: level log(.798 s), shape .226 at all frequencies; four
    times the noise, log 4 more, and the shape stays. Of a wave: its own frequency alone."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.4 * torch.randn(100, 1, 64, 64, generator=generator).expand(-1, 3, -1, -1)
    (level, shape), (louder, same) = energies(noise), energies(4 * noise)
    means = level.mean((0, 1)), shape.mean((0, 1))
    torch.testing.assert_close(means[0], torch.full((63,), -1.14), atol=0.04, rtol=0)
    torch.testing.assert_close(means[1], torch.full((63,), 0.226), atol=0.03, rtol=0)
    torch.testing.assert_close((louder - level).mean(), torch.tensor(4.0).log(), atol=0.03, rtol=0)
    torch.testing.assert_close(same.mean((0, 1)), means[1], atol=0.02, rtol=0)
    wave = torch.cos(torch.pi * 4 * (torch.arange(64) + 0.5) / 8).expand(1, 3, 64, 64)
    assert energies(wave)[0].mean((0, 1)).argmax() == 4 - 1  # the mean of a window is left out


def test_a_policy_of_energies_is_saved_and_trained_without_them(tmp_path):
    policy = tiny_policy("internvl3", size=ENERGIES)
    policy.save(tmp_path)
    media = policy.inputs.media_inputs([random_clip(policy, 0, height=64, width=64)])
    (given,) = policy.model.model.encode_media(**media)
    (loaded,) = load_policy(tmp_path).model.model.encode_media(**media)
    assert torch.equal(given, loaded)
    given.sum().backward()
    trained = {name for name, weight in policy.model.named_parameters() if weight.grad is not None}
    assert any("vision_tower" in name for name in trained)
    assert not any("patch_embeddings" in name for name, _ in policy.model.named_parameters())


@pytest.mark.parametrize(
    ("backbone", "change", "says"),
    [
        ("internvl3", {"vision_width": 64}, "width is 64, expected 126 or more"),
        ("internvl3", {"patch_px": 10, "frame_px": 40}, r"sides \[10, 10\], expected multiples"),
        ("qwen2_5_vl", {}, "not for that of qwen2_5_vl"),
    ],
)
def test_a_tower_without_room_for_energies_is_refused(backbone, change, says):
    with pytest.raises(ValueError, match=says):
        tiny_policy(backbone, size=replace(ENERGIES, **change))
