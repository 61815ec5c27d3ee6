"""`thinker convert`: the released Qwen2-VL-ViDA → a policy with the same numbers, its way of
scoring, and ViDA's benchmark on it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.helpers.converted import logits_of, state_of
from tests.helpers.policy_factory import random_still
from tests.helpers.policy_oracle import Sizes, qwen_logits, under
from tests.helpers.released_factory import write_shards
from tests.helpers.released_vida import (
    HEADS,
    KV_HEADS,
    SECTIONS,
    VISION_HEADS,
    write_vida,
)
from tests.helpers.vida_release import make_release
from thinker.cli.main import main
from thinker.policies import MotionConfig, Prompt, load_policy
from thinker.policies.convert import convert_released
from thinker.policies.convert.vida import SETTINGS
from thinker.policies.inputs import ClipConfig
from thinker.prompts import ask
from thinker.score.scorer import QualityScorer

SIZES = Sizes(
    vision_heads=VISION_HEADS,
    heads=HEADS,
    kv_heads=KV_HEADS,
    sections=tuple(SECTIONS),
)


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "ViDA"
    write_vida(folder)
    return folder


@pytest.fixture(scope="module")
def converted(released) -> Path:
    command = ["convert", "--from", str(released), "--to", str(released.parent / "out")]
    assert main(command) == 0
    return released.parent / "out"


@pytest.mark.parametrize("way", ["converted", "as it is"])
def test_logits_are_those_of_a_re_derivation(released, converted, way):
    """Two pictures of different size. Without conversion the checkpoint loads as it is, too."""
    if way == "converted":
        policy = load_policy(converted)
    else:
        policy = load_policy(released, motion=MotionConfig(mode="none"))
    assert policy.new_parts == ()
    clips = (
        random_still(policy, 0, height=56, width=84),
        random_still(policy, 1, height=56, width=28),
    )
    got, ids, media = logits_of(policy, Prompt(clips=clips, turns=ask("What is it?")))
    state = state_of(released)
    language = under(state, "model.")
    grids = media["image_grid_thw"].tolist()
    patches = media["pixel_values"].split([h * w for _, h, w in grids])
    expected = qwen_logits(
        under(state, "visual."),
        language,
        state["lm_head.weight"],
        SIZES,
        ids,
        policy.model.config.image_token_id,
        [(own, h, w) for own, (_, h, w) in zip(patches, grids, strict=True)],
    )
    allowed = [i for i in range(got.shape[-1]) if i not in policy.model.placeholder_ids()]
    scale = expected.abs().max()
    assert scale > 1
    assert (got - expected)[:, allowed].abs().max() < 1e-5 * scale


def test_every_tensor_arrives_unchanged_a_shard_at_a_time(released, converted):
    theirs, ours = state_of(released), state_of(converted)
    assert len(list(converted.glob("*.safetensors"))) == 3
    inner = {"visual": "model.visual", "model": "model.language_model", "lm_head": "lm_head"}
    for key, tensor in theirs.items():
        first, _, rest = key.partition(".")
        assert torch.equal(ours[f"{inner[first]}.{rest}"], tensor), key
    assert len(ours) == len(theirs)
    loaded = load_policy(converted).model.state_dict()
    assert set(loaded) == set(ours)


def test_a_policy_that_asks_as_vida_does(released, converted, tmp_path):
    """A picture is nothing but its placeholders; 4 to 4096 tokens, or 16384; ends and processor are
    the checkpoint's."""
    policy = load_policy(converted)
    clip = random_still(policy, 0, height=56, width=84)
    ids = policy.inputs.prompt_ids(Prompt(clips=(clip,), turns=ask("<image>\nWhy?")))
    slot = f"<|vision_start|>{'<|image_pad|>' * 6}<|vision_end|>"
    text = f"<|im_start|>user\n{slot}Why?<|im_end|>\n<|im_start|>assistant\n"
    assert ids == policy.tokenizer(text)["input_ids"]
    own = policy.inputs.clip_config
    assert (own.image_min_pixels, own.image_max_pixels) == (4 * 28**2, 4096 * 28**2)
    convert_released(released, tmp_path / "training", None, "training")
    clip_config = json.loads((tmp_path / "training/config.json").read_text())["clip_config"]
    assert ClipConfig.from_dict(clip_config).image_max_pixels == SETTINGS["training"] * 28**2
    assert policy.model.generation_config.top_k == 1
    assert policy.inputs.levels.image_question == "Assess the quality of this image."
    assert policy.model.model.motion is None
    assert "setting inference" in (converted / "README.md").read_text()


def test_the_level_of_a_picture_is_read_behind_vidas_sentence(released, converted, tmp_path):
    """Probabilities of the first tokens of " bad" to " excellent" after the forced prefix, by the
    re-derivation; the score is their mean, 1 to 5."""
    policy = load_policy(converted)
    clip = random_still(policy, 0, height=56, width=84)
    [row] = QualityScorer(policy, mode="level").score_clips([clip])
    question = Prompt(clips=(clip,), turns=ask("Assess the quality of this image."))
    ids = policy.inputs.prompt_ids(question)
    prefix = policy.tokenizer("The quality of the image is")["input_ids"]
    words = ["bad", "poor", "fair", "good", "excellent"]
    firsts = [
        policy.tokenizer(f"The quality of the image is {word}")["input_ids"][len(prefix)]
        for word in words
    ]
    state, media = state_of(released), policy.inputs.media_inputs([clip])
    _, height, width = media["image_grid_thw"][0].tolist()
    table = qwen_logits(
        under(state, "visual."),
        under(state, "model."),
        state["lm_head.weight"],
        SIZES,
        ids + prefix,
        policy.model.config.image_token_id,
        [(media["pixel_values"], height, width)],
    )
    shares = table[-1, firsts].softmax(-1)
    expected = (shares * torch.arange(1.0, 6.0)).sum().item()
    assert row.score == pytest.approx(expected, abs=1e-4)
    assert max(shares) - min(shares) > 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.popitem(), "missing: "),
        (lambda w: w.update({"visual.extra": torch.zeros(2)}), "unknown: visual.extra"),
    ],
)
def test_every_key_is_accounted_for(released, tmp_path, change, message):
    source = Path(shutil.copytree(released, tmp_path / "source"))
    weights = state_of(source)
    change(weights)
    for path in source.glob("model*"):
        path.unlink()
    write_shards(source, weights, 1)
    with pytest.raises(ValueError, match=message):
        convert_released(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_merged_vida(released, tmp_path):
    source = Path(shutil.copytree(released, tmp_path / "source"))
    (source / "adapter_config.json").write_text("{}")
    with pytest.raises(
        ValueError, match="holds adapters; convert what the published script merges"
    ):
        convert_released(source, tmp_path / "out")
    config = json.loads((source / "config.json").read_text()) | {"model_type": "qwen2_5_vl"}
    (source / "adapter_config.json").unlink()
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="model_type 'qwen2_5_vl', expected 'qwen2_vl'"):
        convert_released(source, tmp_path / "out", "vida")


def test_the_benchmark_runs_on_it(converted, tmp_path):
    release = make_release(tmp_path / "set", num_eval=1)
    command = [
        "bench", "vida", "--data", str(release), "--image-root", str(tmp_path / "set/pictures"),
        "--model", str(converted), "--output-dir", str(tmp_path / "out"), "--max-new-tokens", "2",
        "--num-workers", "0",
    ]  # fmt: skip
    assert main(command) == 0
    assert (tmp_path / "out" / "submission.zip").exists()
