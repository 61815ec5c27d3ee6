"""`thinker convert`: VQA²'s released layout → a policy on LLaVA-OneVision with the same numbers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import Qwen2TokenizerFast

from tests.helpers.converted import check_logits, state_of
from tests.helpers.released_factory import write_shards
from tests.helpers.video_factory import write_video
from tests.helpers.vqa2_factory import (
    MAX_POSITIONS,
    POOLED,
    PX,
    vqa2_logits,
    write_vqa2,
)
from thinker.cli.main import main
from thinker.policies import Policy, Prompt, load_policy
from thinker.policies.convert import convert_released, vqa2
from thinker.policies.convert.writing import rename
from thinker.prompts import ask
from thinker.score.levels import level_ids
from thinker.video import Clip, VideoError, read_clip

K, T = 2, 4
RELEASED_PX = vqa2.PX


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "VQA-UGC-Scorer"
    write_vqa2(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def smaller_frames():
    with pytest.MonkeyPatch.context() as context:
        context.setattr(vqa2, "PX", PX)
        yield


@pytest.fixture(scope="module")
def policy(released) -> Policy:
    target = released.parent / "out"
    assert main(["convert", "--from", str(released), "--to", str(target)]) == 0
    loaded = load_policy(target)
    loaded.model.eval()
    return loaded


@pytest.fixture
def source(released, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(released, tmp_path / "source"))


@pytest.fixture(scope="module")
def clip() -> Clip:
    draw = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (T, 3, PX, PX), dtype=torch.uint8, generator=draw)
    return Clip(
        path=Path("noise.mp4"),
        keyframes_KCHW=frames[:: T // K],
        motion_MCHW=frames,
        keyframe_seconds=torch.zeros(K, dtype=torch.float64),
        motion_seconds=torch.zeros(T, dtype=torch.float64),
        keyframe_indices=tuple(range(0, T, T // K)),
        motion_indices=tuple(range(T)),
        num_frames=T,
        fps=2.0,
        height=PX,
        width=PX,
    )


TEXTS = {
    "paper": "The key frames of this video are:\n<image>. And the motion feature of the video is\n"
    "<image>. How would you rate the quality of this video?",
    "scoring": "<image><image>",
    "app": f"You will receive {K} distinct frames that have been by uniformly sampling 1 frame per "
    "second from the video, arranged in the same temporal order as they appear in the video. In "
    f"addition, you will also obtain motion features extracted from all {T} frames of the the "
    "video.\nThe video frames:<image>\nThe video motion features:<image>\nIs it sharp?",
    "q_bench": f"You will receive {K} distinct frames that have been uniformly sampled in each "
    "second from a video sequence, arranged in the same temporal order as they appear in the "
    f"video. In addition, you will also obtain motion features extracted from all {T} frames of "
    "the the video.  Please analyze these images and answer the questions based on your "
    "observations.\n"
    "The video frames:<image>\nThe video motion features:<image>\n.Is it sharp?",
}
"""The user's turn as the published programs put it together; `<image>` marks the two places."""
QUESTIONS = {
    "paper": "How would you rate the quality of this video?",
    "scoring": "",
    "app": "Is it sharp?",
    "q_bench": "Is it sharp?",
}


def pieces_of(released: Path, setting: str, prefix: str = "") -> list[list[int]]:
    """Ids of the text before, between and behind the places, each tokenized by itself, as their
    `preprocess_qwen` and `tokenizer_image_token` do."""
    tokenizer = Qwen2TokenizerFast.from_pretrained(released)

    def ids(text):
        return tokenizer(text)["input_ids"]

    before, between, behind = TEXTS[setting].split("<image>")
    system = ids("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n")
    end = ids("<|im_end|>\n<|im_start|>assistant\n") + (ids(prefix) if prefix else [])
    return [system + ids(before), ids(between), ids(behind) + end]


def placed(policy: Policy, pieces: list[list[int]], *, twice: bool) -> list[int]:
    """The ids with as many placeholders at each place as the released code puts embeddings."""
    image = policy.model.config.image_token_id
    first = K * POOLED**2 + 1 + (T if twice else 0)
    return pieces[0] + [image] * first + pieces[1] + [image] * T + pieces[2]


def test_converted_policy_computes_what_the_released_code_does(released, policy, clip):
    assert policy.new_parts == ()
    pieces = pieces_of(released, "paper")
    ids = torch.tensor([placed(policy, pieces, twice=False)])
    asked = Prompt(clips=(clip,), turns=ask(QUESTIONS["paper"]))
    assert policy.inputs.prompt_ids(asked) == ids[0].tolist()
    config = json.loads((released / "config.json").read_text())
    frames = (clip.keyframes_KCHW, clip.motion_MCHW)
    expected = vqa2_logits(state_of(released), config, pieces, *frames)
    media = policy.inputs.media_inputs([clip])
    check_logits(policy, ids, media, expected)


def test_the_code_for_questions_shows_motion_twice(released, policy, tmp_path, clip):
    """At the first place behind the keyframes and their newline, and once more at its own."""
    convert_released(released, tmp_path / "out", setting="app")
    app = load_policy(tmp_path / "out")
    asked = Prompt(clips=(clip,), turns=ask(QUESTIONS["app"]))
    expected = placed(app, pieces_of(released, "app"), twice=True)
    assert app.inputs.prompt_ids(asked) == expected
    media = policy.inputs.media_inputs([clip])
    with torch.no_grad():
        [once], [twice] = (one.model.model.encode_media(**media) for one in (policy, app))
    assert torch.equal(twice, torch.cat([once, once[-T:]]))
    assert expected.count(app.model.config.image_token_id) == len(twice)


@pytest.mark.parametrize(
    ("setting", "twice", "prefix", "scores"),
    [
        ("scoring", False, "", (0.2, 0.4, 0.6, 0.8, 1.0)),
        ("q_bench", True, "The quality of the video is", (0.0, 0.25, 0.5, 0.75, 1.0)),
    ],
)
def test_settings_follow_the_published_programs(
    released, tmp_path, clip, setting, twice, prefix, scores
):
    convert_released(released, tmp_path / "out", setting=setting)
    policy = load_policy(tmp_path / "out")
    levels = policy.inputs.levels
    assert levels.words == ("low", "poor", "fair", "good", "high") and levels.weights == scores
    assert levels.prefix("video") == prefix
    assert levels.prefix("image") == "The overall quality of the image is"
    asked = Prompt(clips=(clip,), turns=ask(QUESTIONS[setting]))
    assert policy.inputs.prompt_ids(asked) == placed(
        policy, pieces_of(released, setting), twice=twice
    )
    # Without a prefix, too, the words are read behind a blank.
    own = level_ids(policy.tokenizer, levels.words, prefix, blank_first=levels.blank_first)[1]
    text = prefix or "is"
    begin = len(policy.tokenizer(text)["input_ids"])
    assert own == [policy.tokenizer(f"{text} {w}")["input_ids"][begin] for w in levels.words]


def test_every_key_is_renamed_or_of_the_slow_pathway(released, policy):
    theirs, ours = state_of(released), state_of(released.parent / "out")
    used = set()
    for key, tensor in theirs.items():
        name = rename(key, vqa2.RENAMES)
        if name not in ours:
            assert "multipathway_blocks.0" in key or "multipathway_fusion" in key, key
            continue
        assert torch.equal(ours[name], tensor) and ours[name].dtype == tensor.dtype, key
        used.add(name)
    assert used == set(ours)
    loaded = policy.model.state_dict()
    assert set(loaded) == used and all(torch.equal(loaded[name], ours[name]) for name in used)
    card = (released.parent / "out" / "README.md").read_text()
    assert "VQA², setting paper" in card and "At most 60 keyframes, one for each second" in card


def test_what_is_read_of_a_video(policy, tmp_path):
    """26 frames at 9.5 a second, half to even 10: keyframes 0, 10, 20, motion frames 0 to 23; one
    size for both. More frames than positions are refused."""
    path = write_video(tmp_path / "a.mp4", num_frames=26, fps=9.5)
    clip = read_clip(path, policy.inputs.clip_spec)
    assert clip.keyframe_indices == (0, 10, 20)
    assert clip.motion_indices == tuple(range(24))
    assert torch.equal(clip.keyframes_KCHW[1], clip.motion_MCHW[10])
    long = write_video(tmp_path / "b.mp4", num_frames=MAX_POSITIONS + 4, fps=25)
    with pytest.raises(VideoError, match=f"{MAX_POSITIONS + 4} motion frames, this policy reads"):
        read_clip(long, policy.inputs.clip_spec)
    short = write_video(tmp_path / "c.mp4", num_frames=3, fps=25)
    with pytest.raises(VideoError, match="3 frames are read, this policy needs 4"):
        read_clip(short, policy.inputs.clip_spec)


def test_parts_that_nothing_uses_have_no_gradient(policy, clip):
    """`post_layernorm` lies behind the layer that is read; the newline belongs to the projector."""
    model = policy.model
    model.requires_grad_(True)
    model.freeze(["language_model", "slowfast"])
    ids = torch.tensor([policy.inputs.prompt_ids(Prompt(clips=(clip,)))])
    model(input_ids=ids, media_inputs=policy.inputs.media_inputs([clip])).logits.sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert not model.model.vision_tower.post_layernorm.weight.requires_grad
    assert model.model.image_newline.grad.any()
    model.freeze(["vision_projector"])
    assert not model.model.image_newline.requires_grad
    model.zero_grad()


def edit_shard(source: Path, change) -> None:
    """Rewrite the weights after `change(state)`, in one file."""
    state = state_of(source)
    change(state)
    for path in source.glob("model*"):
        path.unlink()
    write_shards(source, state, 1)


def fails(source: Path, match: str) -> str:
    target = source.parent / "out"
    with pytest.raises(ValueError, match=match) as error:
        convert_released(source, target)
    assert not target.exists()
    return str(error.value)


def test_unknown_and_missing_keys_are_listed(source):
    def change(state):
        del state["model.mm_projector.2.bias"]
        state["model.vision_resampler.weight"] = torch.zeros(1)

    edit_shard(source, change)
    message = fails(source, "does not hold the weights")
    assert message.splitlines()[1:] == [
        "missing: model.mm_projector.2.bias",
        "unknown: model.vision_resampler.weight",
    ]


def test_a_checkpoint_without_motion_is_named(source):
    edit_shard(source, lambda state: [state.pop(k) for k in list(state) if "slowfast" in k])
    fails(source, "no model.slowfast.position_embedding.weight among the weights")


def test_another_configuration_is_named(source):
    config = json.loads((source / "config.json").read_text())
    config |= {"mm_newline_position": "grid", "image_aspect_ratio": "pad"}
    (source / "config.json").write_text(json.dumps(config))
    message = fails(source, "is not of the released layout of VQA²")
    assert "mm_newline_position is 'grid', expected 'one_token'" in message
    assert "image_aspect_ratio is 'pad', expected 'anyres_max_9'" in message


def test_load_policy_sends_the_released_layout_here(released):
    with pytest.raises(ValueError, match=r"'llava_qwen'.*`thinker convert`"):
        load_policy(released)


def test_settings_are_frozen_facts():
    """As read in the published code: text, question, motion tokens twice."""
    assert {
        name: (setting.layout, setting.levels.video_question, setting.twice)
        for name, setting in vqa2.SETTINGS.items()
    } == {
        "paper": ("vqa2", QUESTIONS["paper"], False),
        "scoring": ("vqa2_bare", "", False),
        "app": ("vqa2_app", QUESTIONS["paper"], True),
        "q_bench": ("vqa2_q_bench", QUESTIONS["paper"], True),
    }
    assert vqa2.PAPER_LEVELS.weights == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert RELEASED_PX == 384
