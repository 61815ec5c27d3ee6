"""Loading and saving policies: plain checkpoints keep every weight, round trips are bit-equal, bad
checkpoints are named."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BertConfig,
    PreTrainedModel,
)

from tests.helpers.plain_factory import CLIP, MOTION, plain_checkpoint
from tests.helpers.policy_factory import (
    ALL_BACKBONES,
    BACKBONES,
    SIZE,
    keeps_aspect,
    one_clip,
    random_clip,
    small_policy,
)
from thinker import policies
from thinker.policies import (
    ClipConfig,
    MotionConfig,
    Policy,
    Prompt,
    load_policy,
    outline_policy,
    tiny_policy,
)
from thinker.policies.card import count_parameters
from thinker.policies.encode import encode_prompts
from thinker.policies.inputs import STILL_BOUNDS
from thinker.video import medium, read_clip


def loaded(backbone: str, folder: Path, **changes) -> Policy:
    return load_policy(folder, motion=MOTION, clip=CLIP[backbone], **changes)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("backbone", ALL_BACKBONES)
def test_a_plain_checkpoint_keeps_every_weight(backbone, tied, tmp_path):
    plain = plain_checkpoint(backbone, tmp_path, tied=tied, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    policy = loaded(backbone, tmp_path)
    ours, theirs = policy.model.state_dict(), plain.state_dict()
    new = {name for name in ours if name.startswith("model.motion.")}
    assert set(ours) - new == set(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    assert set(policy.new_parts) == new
    assert {name.split(".")[2] for name in new} == {
        "slowfast", "projector", "position_embedding", "standardise",
    }  # fmt: skip
    # New means initialised, not left over from memory.
    assert all(torch.isfinite(ours[name]).all() for name in new if "num_batches" not in name)
    variances = [ours[name] for name in new if name.endswith("running_var")]
    assert variances and all((variance == 1).all() for variance in variances)
    embedding = policy.model.get_input_embeddings().weight
    assert (policy.model.lm_head.weight is embedding) == tied
    assert policy.model.generation_config.temperature == 0.7


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_plain_checkpoint_needs_no_settings(backbone, tmp_path):
    """`MODEL=… run_grpo_lsvq.sh` gives none; InternVL's default of 6 keyframes does not divide the
    128 dense frames of `MotionConfig`'s default, so every keyframe gets a window of its 16."""
    plain_checkpoint(backbone, tmp_path)
    changes = {}
    if backbone == "llava_onevision":  # SigLIP takes one size, and this tower's is not the default
        with pytest.raises(ValueError, match="384, expected the 40 px that the vision tower"):
            load_policy(tmp_path)
        changes = {"keyframe_px": 40}
    motion = load_policy(tmp_path, clip=changes).inputs.motion_config
    clip = policies.BACKBONES[backbone].default_clip
    assert motion.num_keyframes == clip.num_keyframes
    assert motion.num_motion_frames == 16 * clip.num_keyframes


@pytest.mark.parametrize("backbone", ALL_BACKBONES)
def test_a_plain_checkpoint_without_motion_computes_what_transformers_does(backbone, tmp_path):
    """Same logits for the same video: transformers' own class is fed by its own arguments."""
    plain = plain_checkpoint(backbone, tmp_path).eval()
    policy = load_policy(tmp_path, motion=MotionConfig(mode="none"), clip=CLIP[backbone])
    policy.model.eval()
    assert policy.new_parts == ()
    clip = random_clip(policy, 0)
    ids = torch.tensor([policy.inputs.prompt_ids(Prompt(clips=(clip,)))])
    media = policy.inputs.media_inputs([clip])
    ours_media = dict(media)
    for name in policy.inputs.layout([clip]).keys() - {"image_grid_thw"}:
        media.pop(name)
    mask = torch.ones_like(ids)
    if keeps_aspect(backbone):  # stock classes need to be told which tokens are images
        media["mm_token_type_ids"] = (ids == policy.model.config.image_token_id).int()
    positions = policy.model.model.prompt_positions(ids, mask, ours_media)
    stock_ids = ids
    if backbone == "llava_onevision":  # a video, whose tokens are others
        config = policy.model.config
        media = {"pixel_values_videos": media["pixel_values"][None]}
        stock_ids = ids.masked_fill(ids == config.image_token_id, config.video_token_id)
    with torch.no_grad():
        expected = plain(input_ids=stock_ids, attention_mask=mask, **media).logits
        got = policy.model(
            input_ids=ids, attention_mask=mask, position_ids=positions.ids, media_inputs=ours_media
        ).logits
    for placeholder in policy.model.placeholder_ids():  # ruled out by our head, on purpose
        got[..., placeholder] = expected[..., placeholder]
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("backbone", ALL_BACKBONES)
def test_round_trip_is_bit_equal(backbone, tied, tmp_path):
    plain_checkpoint(backbone, tmp_path / "plain", tied=tied)
    policy = loaded(backbone, tmp_path / "plain")
    policy.save(tmp_path / "saved")
    policy.model.save_pretrained(tmp_path / "sharded", max_shard_size="60KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    expected = policy.model.state_dict()
    for folder in ("saved", "sharded"):
        again = AutoModelForImageTextToText.from_pretrained(tmp_path / folder)
        assert type(again) is type(policy.model)
        got = again.state_dict()
        assert set(got) == set(expected)
        assert all(torch.equal(got[name], expected[name]) for name in got), folder
        assert (again.lm_head.weight is again.get_input_embeddings().weight) == tied
        assert again.generation_config.temperature == 0.7
    processor = AutoProcessor.from_pretrained(tmp_path / "saved")
    assert type(processor) is type(policy.processor)
    assert processor.tokenizer.get_vocab() == policy.tokenizer.get_vocab()
    reloaded = load_policy(tmp_path / "saved")
    assert reloaded.new_parts == ()
    assert reloaded.inputs.clip_spec == policy.inputs.clip_spec
    prompts = one_clip([random_clip(policy, 0)])
    before, after = (encode_prompts(p, prompts)[0] for p in (policy, reloaded))
    assert before.token_ids == after.token_ids
    assert torch.equal(before.embeds, after.embeds)


def test_model_card_is_filled(tmp_path):
    policy = small_policy("internvl3")
    policy.save(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name:")
    assert "{" not in card
    for text in (
        "policy on internvl",
        "2 keyframes over the whole video, stretched to 40 x 40 px",
        "8 dense frames of 32 x 32 px",
        "2 tokens a keyframe",
        f"| total | {sum(p.numel() for p in policy.model.parameters()):,} |",
        "thinker score --model",
    ):
        assert text in card, text


@pytest.mark.parametrize("backbone", BACKBONES)
def test_parameters_are_counted_once(backbone, tmp_path):
    plain_checkpoint(backbone, tmp_path, tied=True)
    model = loaded(backbone, tmp_path).model
    counts = count_parameters(model)
    assert counts["lm_head"] == 0
    assert counts.pop("total") == sum(counts.values())


def test_push_to_hub_is_the_stock_method():
    policy = small_policy("internvl3")
    assert type(policy.model).push_to_hub is PreTrainedModel.push_to_hub


def test_frames_of_another_size_than_the_tower_was_trained_for(tmp_path):
    """60 px with patches of 10 px: 6 x 6 patches, 3 x 3 tokens."""
    plain_checkpoint("internvl3", tmp_path)
    policy = load_policy(tmp_path, motion=MOTION, clip={"num_keyframes": 2, "keyframe_px": 60})
    clip = random_clip(policy, 0, height=60, width=60)
    encoded = encode_prompts(policy, one_clip([clip]))[0]
    assert policy.inputs.slot_tokens(clip) == (9, 9)
    assert len(encoded.embeds) == 2 * (9 + 2)


# Bad checkpoints


def edit_config(folder: Path, change) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_another_architecture(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no policy for model_type 'bert'; a checkpoint must be"):
        load_policy(tmp_path)


def test_no_checkpoint_at_all(tmp_path):
    with pytest.raises(ValueError, match="no configuration of a model in"):
        load_policy(tmp_path / "nowhere")


def test_a_configuration_that_is_none_or_half_a_policys_is_refused(tmp_path):
    plain_checkpoint("qwen2_vl", tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"motion_config": {"mode": "none"}}))
    with pytest.raises(ValueError, match="plain checkpoint by its model_type 'qwen2_vl', but its"):
        load_policy(tmp_path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"config.json holds \[\], expected a JSON object"):
        load_policy(tmp_path)


@pytest.mark.parametrize("load", [load_policy, outline_policy])
def test_a_folder_without_a_configuration_or_with_an_adapter(load, tmp_path):
    small_policy("internvl3").save(tmp_path / "policy")
    for folder in (tmp_path, tmp_path / "policy"):
        (tmp_path / "policy" / "config.json").unlink(missing_ok=True)
        with pytest.raises(ValueError, match=r"no configuration of .*no config\.json"):
            load(folder)
    (tmp_path / "policy" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"policy holds an adapter .*merge it first"):
        load(tmp_path / "policy")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_truncated_shard(backbone, tmp_path):
    plain_checkpoint(backbone, tmp_path, max_shard_size="60KB")
    path = sorted(tmp_path.glob("*.safetensors"))[-1]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=f"{path.name} is no complete safetensors file"):
        loaded(backbone, tmp_path)


def test_pickle(tmp_path):
    plain = plain_checkpoint("internvl3", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(plain.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin'\] may run code when read"):
        loaded("internvl3", tmp_path)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_wrong_hidden_size(backbone, tmp_path):
    plain_checkpoint(backbone, tmp_path)

    def widen(values):
        values["text_config"]["hidden_size"] = 64

    edit_config(tmp_path, widen)
    message = r"another shape.*lm_head.weight.*, 32\].*, 64\]"
    if backbone in ("qwen2_vl", "qwen2_5_vl"):  # whose heads have the width that is left for them
        message = r"mrope_section is .* which fills heads of 16, but those .* have 32"
    with pytest.raises(ValueError, match=message):
        loaded(backbone, tmp_path)


def test_wrong_motion_width(tmp_path):
    policy = small_policy("internvl3")
    policy.save(tmp_path)
    edit_config(tmp_path, lambda values: values["motion_config"].update(hidden_size=48))
    with pytest.raises(ValueError, match="hidden_size is 48, expected the language model's width"):
        load_policy(tmp_path)


def test_missing_and_unknown_weights(tmp_path):
    plain_checkpoint("internvl3", tmp_path)
    edit_config(tmp_path, lambda values: values["vision_config"].update(num_hidden_layers=3))
    with pytest.raises(ValueError, match=r"missing .*vision_tower.encoder.layer.2"):
        loaded("internvl3", tmp_path)
    edit_config(tmp_path, lambda values: values["vision_config"].update(num_hidden_layers=1))
    with pytest.raises(ValueError, match=r"unexpected .*vision_tower.encoder.layer.1"):
        loaded("internvl3", tmp_path)


def test_settings_of_a_saved_policy_are_its_own(tmp_path):
    small_policy("internvl3").save(tmp_path)
    with pytest.raises(ValueError, match="only when starting from a plain checkpoint"):
        load_policy(tmp_path, clip=CLIP["internvl3"])


BOUNDS = {
    False: ({"max_patches": 2}, {"image_max_pixels": 900}, "bounds stills by min_patches"),
    True: (
        {"image_min_pixels": 400, "image_max_pixels": 1600},
        {"max_patches": 2},
        "bounds stills by image_min_p",
    ),
}
"""By `keeps_aspect`: bounds that take effect, bounds that do not, and what is said of these."""


@pytest.mark.parametrize("start", ["plain", "saved", "tiny"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_bounds_of_stills_take_effect_or_are_refused(backbone, start, tmp_path):
    """A still of 40 x 120 is 3 tiles and a thumbnail, or 12 merged patches of 20 px, and less where
    the bound is lower."""
    bounds, idle, reason = BOUNDS[keeps_aspect(backbone)]
    own = {} if start == "tiny" else {"motion": MOTION, "clip": CLIP[backbone]}
    if start == "plain":
        plain_checkpoint(backbone, tmp_path)
    elif start == "saved":
        small_policy(backbone).save(tmp_path)
        own = {}

    def policy(clip):
        if start == "tiny":
            return tiny_policy(backbone, size=SIZE, clip=clip)
        given = own | {"clip": own.get("clip", {}) | clip}
        return load_policy(tmp_path, **given)

    path = tmp_path / "wide.png"
    Image.new("RGB", (120, 40)).save(path)

    def num_tokens(policy):
        return sum(policy.inputs.slot_tokens(read_clip(medium(path), policy.inputs.clip_spec)))

    free, bounded = policy({}), policy(bounds)
    assert num_tokens(bounded) < num_tokens(free)
    bounded.save(tmp_path / "again")  # they are saved with the policy
    assert num_tokens(load_policy(tmp_path / "again")) == num_tokens(bounded)
    with pytest.raises(ValueError, match=f"has no effect: this policy {reason}"):
        policy(idle)
    low, high = STILL_BOUNDS[free.inputs.resize]
    with pytest.raises(ValueError, match="expected 1 or more, the second at least the first"):
        policy({low: 3000, high: 2000})


def test_bounds_of_stills_that_are_read_as_videos(tmp_path):
    policy = small_policy("internvl3")
    policy.model.config.clip_config |= {"stills": "video"}
    policy.save(tmp_path)
    with pytest.raises(ValueError, match="max_patches has no effect: this policy reads stills as"):
        load_policy(tmp_path, clip={"max_patches": 2})


def test_a_plain_checkpoint_keeps_what_is_not_changed_of_its_clip(tmp_path):
    plain_checkpoint("qwen2_5_vl", tmp_path)
    spec = load_policy(tmp_path, clip={"deinterlace": "bwdif"}).inputs.clip_spec
    assert (spec.deinterlace, spec.stills, spec.max_pixels) == ("bwdif", "image", 360 * 420)


def test_unknown_prompt_layout():
    with pytest.raises(ValueError, match=r"layout is 'tight', expected one of lines, inline"):
        ClipConfig(layout="tight")
