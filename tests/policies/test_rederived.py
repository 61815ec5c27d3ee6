"""Qwen2-VL, Qwen3-VL and InternVL3.5 against a re-derivation on bare weights, and what DeepStack
does."""

import pytest
import torch

from tests.helpers.converted import logits_of
from tests.helpers.plain_factory import CLIP, plain_checkpoint
from tests.helpers.policy_factory import one_clip, random_clip, random_still, small_policy
from tests.helpers.policy_oracle import Sizes, internvl_logits, qwen_logits, under
from thinker.policies import MotionConfig, Prompt, load_policy
from thinker.policies.encode import encode_prompts
from thinker.prompts import ask


def sizes_of(config) -> Sizes:
    text, vision = config.text_config, config.vision_config
    return Sizes(
        vision_heads=vision.num_heads,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        sections=tuple(text.rope_parameters["mrope_section"]),
        deepstack=tuple(getattr(vision, "deepstack_visual_indexes", ())),
        eps=text.rms_norm_eps,
        is_interleaved=config.model_type == "qwen3_vl",
        is_third=config.model_type == "qwen3_vl",
    )


def pictures_of(media):
    grids = media["image_grid_thw"].tolist()
    patches = media["pixel_values"].split([h * w for _, h, w in grids])
    return [(own, h, w) for own, (_, h, w) in zip(patches, grids, strict=True)]


def re_derived(plain, ids, media):
    state, config = plain.state_dict(), plain.config
    language, head = under(state, "model.language_model."), state["lm_head.weight"]
    if config.model_type == "internvl":
        text = config.text_config
        head_dim = text.head_dim
        sizes = Sizes(
            vision_heads=config.vision_config.num_attention_heads,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            sections=(head_dim // 2, 0, 0),
            theta=text.rope_parameters["rope_theta"],
            eps=text.rms_norm_eps,
            is_third=True,
        )
        visual = under(state, "model.vision_tower.")
        projector = under(state, "model.multi_modal_projector.")
        token, frames = config.image_token_id, media["pixel_values"]
        return internvl_logits(visual, projector, language, head, sizes, ids, token, frames)
    visual, pictures = under(state, "model.visual."), pictures_of(media)
    token = config.image_token_id
    return qwen_logits(visual, language, head, sizes_of(config), ids, token, pictures)


@pytest.mark.parametrize("backbone", ["qwen2_vl", "qwen3_vl", "internvl3_5"])
def test_logits_are_those_of_a_re_derivation(backbone, tmp_path):
    """A video and a still of another size, in float32 against float64."""
    plain = plain_checkpoint(backbone, tmp_path)
    policy = load_policy(tmp_path, motion=MotionConfig(mode="none"), clip=CLIP[backbone])
    clips = [random_clip(policy, 0, height=40, width=20), random_still(policy, 1)]
    prompt = Prompt(clips=tuple(clips), turns=ask("<video>\nWhat is it?\n<image>"))
    got, ids, media = logits_of(policy, prompt)
    expected = re_derived(plain, ids, media)
    allowed = [i for i in range(got.shape[-1]) if i not in policy.model.placeholder_ids()]
    scale = expected.abs().max()
    assert (got - expected)[:, allowed].abs().max() < 1e-5 * scale


def test_motion_tokens_have_no_deeper_features_and_visual_ones_all():
    policy = small_policy("qwen3_vl")
    width = policy.model.config.text_config.hidden_size
    [encoded] = encode_prompts(policy, one_clip([random_clip(policy, 0)]))
    assert encoded.embeds.shape[1] == policy.model.model.embed_width == 3 * width
    visual, motion = encoded.embeds.split([4, len(encoded.embeds) - 4])
    assert (visual != 0).all() and (motion[:, :width] != 0).all()
    assert (motion[:, width:] == 0).all()


def test_every_level_is_seen_at_its_own_layer():
    """Left out, or exchanged, they move the log-probabilities that follow the prompt."""
    policy = small_policy("qwen3_vl")
    policy.model.eval()
    width = policy.model.config.text_config.hidden_size
    [encoded] = encode_prompts(policy, one_clip([random_clip(policy, 0)]))
    first, one, other = encoded.embeds.split(width, dim=-1)

    @torch.no_grad()
    def logps(*levels):
        return (
            policy.model(
                input_ids=torch.tensor([encoded.token_ids]),
                position_ids=encoded.positions.unsqueeze(1),
                media_embeds=[torch.cat([first, *levels], dim=-1)],
            )
            .logits[0, -1]
            .log_softmax(-1)
        )

    right = logps(one, other)
    for wrong in (logps(0 * one, other), logps(one, 0 * other), logps(other, one)):
        assert (wrong - right).abs().max() > 0.01
