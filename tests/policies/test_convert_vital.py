"""`thinker convert`: VITAL's released layout → a policy with the same numbers."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2TokenizerFast

from tests.helpers.converted import check_logits, state_of
from tests.helpers.released_factory import (
    PATCH,
    SLOWFAST,
    SYSTEM,
    vital_logits,
    write_released,
    write_shards,
)
from tests.helpers.video_factory import read_frame_id, write_video
from thinker.cli.main import main
from thinker.policies import Policy, Prompt, load_policy
from thinker.policies.convert import convert_released, vital
from thinker.policies.convert.internvl_names import POSITION_EMBEDDING, our_names
from thinker.policies.encode import encode_prompts
from thinker.policies.motion import MotionConfig, MotionEncoder
from thinker.prompts import ask
from thinker.score.levels import level_probabilities
from thinker.video import Clip, VideoError, medium, read_clip

RELEASED_PX, PX = vital.PX, 224
"""Half the released side: a quarter of the time, and the position embedding is resampled."""
TOKENS = (PX // PATCH // 2) ** 2


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as context:
        yield context


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "VITAL"
    write_released(folder, channels=SLOWFAST.fast_channels)
    return folder


@pytest.fixture(scope="module")
def policy(released, patch) -> Policy:
    target = released.parent / "out"
    patch.setattr(vital, "PX", PX)
    assert main(["convert", "--from", str(released), "--to", str(target)]) == 0
    loaded = load_policy(target)
    loaded.model.eval()
    return loaded


def clip_of(frames_T3HW: torch.Tensor, flags) -> Clip:
    """All motion frames, some of which are keyframes."""
    keyframes = frames_T3HW[torch.tensor(flags)]
    return Clip(
        path=Path("noise.mp4"),
        keyframes_KCHW=keyframes,
        motion_MCHW=frames_T3HW,
        keyframe_seconds=torch.zeros(len(keyframes), dtype=torch.float64),
        motion_seconds=torch.zeros(len(frames_T3HW), dtype=torch.float64),
        keyframe_indices=(0,) * len(keyframes),
        motion_indices=(0,) * len(frames_T3HW),
        num_frames=64,
        fps=30.0,
        height=PX,
        width=PX,
    )


def query(num_motion: int, num_keyframes: int, *, per_frame: bool, question: str = "") -> str:
    """The chat prompt, put together as the published programs do: a line of `<image>` for each
    keyframe, or in the scoring programs for each motion frame, and one for the motion; then the
    marks are replaced one by one, as long as there is something to put there."""
    lines = [f"Frame-{i + 1}: <image>" for i in range(num_motion if per_frame else num_keyframes)]
    text = "\n".join([*lines, "Motion Feature: <image>"]) + "\n" + question
    for count in [TOKENS] * num_keyframes + [num_motion]:
        text = text.replace("<image>", "<img>" + "<IMG_CONTEXT>" * count + "</img>", 1)
    return (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


FLAGS = (True, False, True, False)


@pytest.fixture(scope="module")
def clip() -> Clip:
    draw = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (4, 3, PX, PX), dtype=torch.uint8, generator=draw)
    return clip_of(noise, FLAGS)


def test_converted_policy_computes_what_the_released_code_does(released, policy, clip):
    assert policy.new_parts == ()
    asked = Prompt(clips=(clip,), turns=ask("Is it sharp?"))
    text = query(4, 2, per_frame=False, question="Is it sharp?")
    ids = torch.tensor([Qwen2TokenizerFast.from_pretrained(released)(text)["input_ids"]])
    assert policy.inputs.prompt_ids(asked) == ids[0].tolist()
    config = json.loads((released / "config.json").read_text())
    expected = vital_logits(state_of(released), config, ids, clip.motion_MCHW, FLAGS)
    media = policy.inputs.media_inputs([clip])
    check_logits(policy, ids, media, expected)


def test_features_are_viewed_and_not_transposed():
    """Channel by channel, frame by frame, cut into rows: by hand on a network of few channels."""
    config = MotionConfig(
        mode="frames_viewed", slowfast=SLOWFAST, hidden_size=8, num_motion_frames=8, motion_px=32
    )
    transposed = dataclasses.replace(config, mode="frames")
    viewed, plain = MotionEncoder(config).double(), MotionEncoder(transposed).double()
    plain.slowfast.load_state_dict(viewed.slowfast.state_dict())
    frames = torch.randn(2, 8, 3, 32, 32, dtype=torch.float64)
    by_frame = plain.features(frames)
    assert by_frame.shape == (2, 8, SLOWFAST.fast_channels)
    for one, rows in zip(viewed.features(frames), by_frame, strict=True):
        values = [rows[t, c] for c in range(rows.shape[1]) for t in range(8)]
        expected = torch.stack(values).view(8, -1)
        assert (one - expected).abs().max() < 1e-12 < (one - rows).abs().max()


def test_every_key_is_renamed_or_of_the_slow_pathway(released, policy):
    theirs, ours = state_of(released), state_of(released.parent / "out")
    used: set[str] = set()
    for key, tensor in theirs.items():
        names = [name for name in our_names(key) if name in ours]
        if not names:
            assert "multipathway_blocks.0" in key or "multipathway_fusion" in key, key
            continue
        used |= set(names)
        joined = torch.cat([ours[n] for n in names]) if len(names) > 1 else ours[names[0]]
        if key == POSITION_EMBEDDING:  # 8 x 8 patches and the class token; here 4 x 4
            assert (tensor.shape[1], joined.shape[1]) == (65, 17)
            continue
        assert torch.equal(joined, tensor) and joined.dtype == tensor.dtype, key
    assert used == set(ours)
    loaded = policy.model.state_dict()
    assert set(loaded) == used and all(torch.equal(loaded[name], ours[name]) for name in used)
    index = json.loads((released.parent / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == used


@pytest.mark.parametrize(
    ("setting", "stride", "per_frame", "prefix"),
    [
        ("scoring", 1, True, "The overall quality of this video is"),
        ("scoring_less", 4, True, "The quality of this video is"),
        ("questions", 1, False, "The overall quality of this video is"),
    ],
)
def test_settings_follow_the_published_programs(
    released, tmp_path, clip, setting, stride, per_frame, prefix
):
    convert_released(released, tmp_path / "out", setting=setting)
    policy = load_policy(tmp_path / "out")
    spec, levels = policy.inputs.clip_spec, policy.inputs.levels
    assert (spec.sampler, spec.motion_stride, spec.reader) == ("rounded_seconds", stride, "decord")
    assert (levels.question("video"), levels.prefix("video")) == ("", prefix)
    assert levels.scores == pytest.approx((1.0, 2.0, 3.0, 4.0, 5.0))
    asked = Prompt(clips=(clip,), turns=ask(levels.question("video")))
    text = query(4, 2, per_frame=per_frame)
    assert text.count("<image>") == (2 if per_frame else 0)
    ids = Qwen2TokenizerFast.from_pretrained(released)(text)["input_ids"]
    assert policy.inputs.prompt_ids(asked) == ids


def test_scoring_by_level_words_asks_nothing(policy, clip):
    """The five words' probabilities behind the forced prefix, from a plain forward."""
    levels = policy.inputs.levels
    asked = Prompt(clips=(clip,), turns=ask(levels.question("video")))
    got = level_probabilities(policy, encode_prompts(policy, [asked]), ["video"])
    prefix = policy.tokenizer(levels.prefix("video"))["input_ids"]
    words = [policy.tokenizer(f" {word}")["input_ids"][0] for word in levels.words]
    ids = torch.tensor([policy.inputs.prompt_ids(asked) + prefix])
    with torch.no_grad():
        logits = policy.model(input_ids=ids, media_inputs=policy.inputs.media_inputs([clip])).logits
    expected = logits[0, -1, words].double().softmax(-1)
    assert (got[0] - expected).abs().max() < 1e-5


def test_what_is_read_of_a_video(policy, tmp_path):
    """70 frames at 25 a second: 8 motion frames, of the first 64 every eighth; of the keyframes 0
    and 25 only the first is one of them. At 24 a second 0 and 24 both are."""
    for rate, keyframes in ((25, (0,)), (24, (0, 24))):
        path = write_video(tmp_path / f"{rate}.mp4", num_frames=70, fps=rate)
        clip = read_clip(path, policy.inputs.clip_spec)
        assert clip.motion_indices == tuple(range(0, 64, 8))
        assert clip.keyframe_indices == keyframes
        assert [read_frame_id(frame) for frame in clip.motion_MCHW] == list(clip.motion_indices)
        assert clip.keyframes_KCHW.shape[1:] == (3, PX, PX)
        assert torch.equal(clip.keyframes_KCHW[0], clip.motion_MCHW[0])
    with pytest.raises(VideoError, match="31 frames are read, this policy needs 32") as error:
        read_clip(dataclasses.replace(medium(path), end_seconds=30.5 / 24), policy.inputs.clip_spec)
    assert error.value.reason == "too_short"
    spec = dataclasses.replace(policy.inputs.clip_spec, num_motion_frames=4)
    with pytest.raises(VideoError, match="8 motion frames, this policy reads at most 4"):
        read_clip(path, spec)


def test_what_is_read_of_an_image(policy, tmp_path):
    """320 x 240 is 1.53 tiles: two, side by side, and the thumbnail; the question stands behind
    them without a word. A small picture is one tile, doubled."""
    noise = torch.randint(0, 256, (240, 320, 3), generator=torch.Generator().manual_seed(3))
    Image.fromarray(noise.byte().numpy()).save(tmp_path / "a.png")
    Image.fromarray(noise[:80, :80].byte().numpy()).save(tmp_path / "b.png")
    large, small = (
        read_clip(tmp_path / name, policy.inputs.clip_spec) for name in ("a.png", "b.png")
    )
    picture = Image.open(tmp_path / "a.png")
    wide = torch.from_numpy(np.asarray(picture.resize((2 * PX, PX))).transpose(2, 0, 1).copy())
    thumbnail = torch.from_numpy(np.asarray(picture.resize((PX, PX))).transpose(2, 0, 1).copy())
    expected = torch.stack([wide[..., :PX], wide[..., PX:], thumbnail])
    assert torch.equal(large.keyframes_KCHW, expected)
    assert len(small.keyframes_KCHW) == 2
    assert torch.equal(small.keyframes_KCHW[0], small.keyframes_KCHW[1])
    media = policy.inputs.media_inputs([large, small])
    assert media["slots"] == [3, 2] and media["moving"] == []
    assert policy.inputs.max_image_tokens() == 13 * TOKENS
    asked = Prompt(clips=(small,), turns=ask("Is it sharp?"))
    text = f"<img>{'<IMG_CONTEXT>' * 2 * TOKENS}</img>\nIs it sharp?<|im_end|>"
    assert text in policy.tokenizer.decode(policy.inputs.prompt_ids(asked))


def test_prompts_are_at_most_as_long_as_said(policy, clip):
    spec = policy.inputs.clip_spec
    assert (spec.num_keyframes, spec.num_motion_frames) == (60, 512)
    most = policy.inputs.max_prompt_tokens()
    placeholder = policy.model.config.image_token_id
    assert policy.inputs.longest_prompt_ids().count(placeholder) == 60 * TOKENS + 512
    assert len(policy.inputs.prompt_ids(Prompt(clips=(clip,)))) < most


# What is told apart and refused


def test_the_two_layouts_are_told_apart(released, tmp_path):
    with pytest.raises(ValueError, match="that of the layout vital, not vqathinker"):
        convert_released(released, tmp_path / "out", layout="vqathinker")
    write_released(tmp_path / "VQAThinker")
    with pytest.raises(ValueError, match="that of the layout vqathinker, not vital"):
        convert_released(tmp_path / "VQAThinker", tmp_path / "out", layout="vital")
    with pytest.raises(ValueError, match="setting is '6x448', expected one of training, scoring"):
        convert_released(released, tmp_path / "out", setting="6x448")
    assert not (tmp_path / "out").exists()


def test_linear_probe_and_lone_encoder_are_refused(released, tmp_path):
    source = Path(shutil.copytree(released, tmp_path / "source"))
    for path in source.glob("model*"):
        path.unlink()
    vision = {k: t for k, t in state_of(released).items() if not k.startswith("language_model")}
    write_shards(source, vision, 1)
    with pytest.raises(ValueError, match="a vision encoder alone is no policy"):
        convert_released(source, tmp_path / "out")
    write_shards(source, vision | {"quality.0.weight": torch.zeros(2, 3)}, 1)
    with pytest.raises(ValueError, match="is VITAL's linear probe"):
        convert_released(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_model_type(released, tmp_path):
    source = Path(shutil.copytree(released, tmp_path / "source"))
    config = json.loads((source / "config.json").read_text()) | {"model_type": "llava"}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="has model_type 'llava', expected"):
        convert_released(source, tmp_path / "out")


def test_settings_are_frozen_facts():
    """As read in the published code: stride, text, beginning of the answer; our limits."""
    assert {name: dataclasses.astuple(setting) for name, setting in vital.SETTINGS.items()} == {
        "training": (8, 512, "vital", "The overall quality of this video is"),
        "scoring": (1, 1200, "vital_scoring", "The overall quality of this video is"),
        "scoring_less": (4, 300, "vital_scoring", "The quality of this video is"),
        "questions": (1, 1200, "vital", "The overall quality of this video is"),
    }


def test_the_released_side(released, tmp_path, patch):
    with pytest.MonkeyPatch.context() as context:
        context.setattr(vital, "PX", RELEASED_PX)
        convert_released(released, tmp_path / "out")
    inputs = load_policy(tmp_path / "out").inputs
    assert RELEASED_PX == 448 == inputs.clip_spec.keyframe_px == inputs.clip_spec.motion_px
