"""LLaVA-OneVision's stills and videos are those of transformers' own processor and model."""

import dataclasses

import pytest
import torch
from PIL import Image

from tests.helpers.policy_factory import SIZE, random_clip, small_policy
from thinker.policies import Policy, Prompt
from thinker.policies.inputs import ClipConfig
from thinker.policies.square.llava_onevision import LlavaOnevisionInputs, still_of
from thinker.prompts import ask
from thinker.video import read_clip


def policy_with(**clip) -> Policy:
    """25 patches a tile, as the odd 27 x 27 of the real tower."""
    size = dataclasses.replace(SIZE, patch_px=8)
    policy = small_policy("llava_onevision", size=size)
    policy.inputs.clip_config = dataclasses.replace(policy.inputs.clip_config, **clip)
    policy.model.eval()
    return policy


def picture(tmp_path, width: int, height: int):
    path = tmp_path / f"{width}x{height}.png"
    noise = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.byte().numpy()).save(path)
    return path


@pytest.mark.parametrize(("width", "height"), [(150, 70), (37, 61), (300, 50), (240, 239)])
def test_a_still_is_that_of_transformers(tmp_path, width, height):
    """Pixels, number of tokens, and embeddings of a still alone: a wide one, one of a single tile,
    one that leaves half of its tiles empty, and one that is shrunk."""
    policy = policy_with(max_patches=36)
    path = picture(tmp_path, width, height)
    clip = read_clip(path, policy.inputs.clip_spec)
    output = policy.processor(text=["<image>"], images=[Image.open(path)], return_tensors="pt")
    media = policy.inputs.media_inputs([clip])
    ours = media["pixel_values"].roll(1, 0)  # theirs begin with the whole picture
    torch.testing.assert_close(ours, output["pixel_values"][0], atol=1e-6, rtol=0)
    asked = Prompt(clips=(clip,), turns=ask("What is it?"))
    count = policy.inputs.prompt_ids(asked).count(policy.model.config.image_token_id)
    assert count == len(output["input_ids"][0]) <= policy.inputs.max_image_tokens()
    with torch.no_grad():
        [embeds] = policy.model.model.encode_media(**media)
        theirs = policy.model.model.get_image_features(
            output["pixel_values"], output["image_sizes"], return_dict=True
        ).pooler_output
    assert embeds.shape == theirs[0].shape
    assert (embeds - theirs[0]).abs().max() < 1e-5 * theirs[0].abs().max()


def test_the_whole_picture_can_be_left_out(tmp_path):
    """As the released VQA² does: the same tokens without those of the whole, which come first."""
    whole, parts = policy_with(max_patches=36), policy_with(max_patches=36, tiling="anyres_tiles")
    path = picture(tmp_path, 150, 70)
    embeds = []
    for policy in (whole, parts):
        clip = read_clip(path, policy.inputs.clip_spec)
        with torch.no_grad():
            [one] = policy.model.model.encode_media(**policy.inputs.media_inputs([clip]))
        assert len(one) == sum(policy.inputs.slot_tokens(clip))
        embeds.append(one)
    torch.testing.assert_close(embeds[0][25:], embeds[1], rtol=0, atol=1e-5 * embeds[1].abs().max())


def test_which_patches_show_the_picture():
    """350 x 700 fills two tiles of 27; 700 x 100 fills 4 of 27 · 6 columns, 23 / 27 of them; a
    square of 6 x 6 tiles is shrunk to 9: ⌊162 / 2⌋ rows."""
    full = still_of(350, 700, 1, 2, side=27, most=9, has_base=True)
    assert (full.height, full.width, full.num_tokens) == (27, 54, 27 * 55)
    narrow = still_of(700, 100, 6, 1, side=27, most=9, has_base=True)
    assert (narrow.height, narrow.width, narrow.left) == (162, 23, 2)
    assert narrow.num_tokens == 162 * 24
    large = still_of(999, 999, 6, 6, side=27, most=9, has_base=False)
    assert (large.kept_height, large.kept_width) == (81, 81)


def test_a_video_ends_with_a_newline():
    """Its frames pooled from 5 x 5 to 3 x 3, the newline behind the last one, then its motion."""
    policy = policy_with()
    clip = random_clip(policy, 0)
    assert policy.inputs.slot_tokens(clip) == (9, 10)
    model, media = policy.model.model, policy.inputs.media_inputs([clip])
    with torch.no_grad():
        [embeds] = model.encode_media(**media)
        frames = model.get_video_features(media["pixel_values"][None]).pooler_output[0]
    visual = torch.cat([embeds[:9], embeds[11:20]])  # two motion tokens stand between them
    theirs = frames.flatten(0, -2)[:18]  # behind them some releases put the newline
    torch.testing.assert_close(visual, theirs)
    assert torch.equal(embeds[20], model.image_newline)


def test_what_the_tower_cannot_take():
    policy = policy_with()
    config = policy.model.config
    for changes, message in (
        ({"keyframe_px": 48}, "clip.keyframe_px is 48, expected the 40 px"),
        ({"tiling": "aspect"}, "clip.tiling is 'aspect', expected one of anyres, anyres_tiles"),
    ):
        config.clip_config = ClipConfig(**(config.clip_config | changes)).to_dict()
        with pytest.raises(ValueError, match=message):
            LlavaOnevisionInputs(policy.processor, config)
        config.clip_config |= {"keyframe_px": 40}
