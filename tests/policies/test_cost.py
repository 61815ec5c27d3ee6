"""`thinker estimate`: counts against published totals, FLOPs against PyTorch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers.policy_factory import BACKBONES, keeps_aspect, random_clip, small_policy
from thinker.cli.main import main
from thinker.policies.card import count_parameters
from thinker.policies.cost import (
    StepSize,
    VideoTokens,
    head_dim,
    language_flops,
    linear_flops,
    meta_policy,
    motion_flops,
    public_configs,
    step_flops,
    video_tokens,
    vision_flops,
)
from thinker.policies.shared_prompt.last_layer import skipped_parts


@pytest.mark.parametrize("name", ["InternVL3-1B", "InternVL3-2B", "InternVL3-8B"])
def test_internvl3_totals_equal_the_published_ones(name):
    """938.19 M, 2.09 B and 7.94 B, as their pages print them."""
    total = plain_total(meta_policy(name, 12))
    published = public_configs()[name]["published"]
    digits = {"InternVL3-1B": 1e4}.get(name, 1e7)  # of the last printed digit
    assert round(total / digits) == round(published / digits)


INTERNVL3_5 = [f"InternVL3.5-{size}" for size in ("1B", "2B", "4B", "8B")]
QWEN = [name for name in public_configs() if name.startswith("Qwen")]


@pytest.mark.parametrize("name", INTERNVL3_5)
def test_internvl3_5_totals_equal_the_published_ones(name):
    """1.06, 2.3, 4.7 and 8.5 B, as their pages print them."""
    total = plain_total(meta_policy(name, 12))
    digits = {"InternVL3.5-1B": 1e7}.get(name, 1e8)  # of the last printed digit
    assert round(total / digits) == round(public_configs()[name]["published"] / digits)


@pytest.mark.parametrize("name", QWEN)
def test_qwen_totals_equal_the_published_ones_exactly(name):
    assert plain_total(meta_policy(name, 12)) == public_configs()[name]["published"]


def plain_total(model) -> int:
    """Without the motion branch, which the public backbones do not have."""
    return sum(p.numel() for n, p in model.named_parameters() if not n.startswith("model.motion."))


def test_parts_of_internvl3_8b():
    """By hand: InternViT-300M; mlp1 = LayerNorm 2·4096 + (4096 + 1)·3584 + (3584 + 1)·3584; a head
    of 151674 · 3584; SlowFast's fast pathway 514,152; motion projector (256 + 1)·3584 + (3584 +
    1)·3584, 2000 positions of 512 and 2·512 to standardise."""
    counts = count_parameters(meta_policy("InternVL3-8B", 12))
    assert counts["vision_tower"] == 304_012_288
    assert counts["vision_projector"] == 27_540_480
    assert counts["lm_head"] == 543_599_616
    assert counts["slowfast"] == 514_152
    assert counts["motion_projector"] == 513 * 3584 + 3585 * 3584 + 2000 * 512 + 2 * 512
    assert counts["total"] == sum(n for part, n in counts.items() if part != "total")


def test_tokens():
    """InternVL: 12 frames of (448 / 28)² = 256, or (560 / 28)² = 400; 4 motion tokens each. Qwen:
    1080p within 360 · 420 pixels is 280 x 504, so 10 · 18 merged patches, for 6 pairs."""
    assert video_tokens(meta_policy("InternVL3-1B", 12)).visual == 12 * 256
    assert video_tokens(meta_policy("InternVL3-1B", 12, 560)).visual == 12 * 400
    tokens = video_tokens(meta_policy("Qwen2.5-VL-3B", 12))
    assert (tokens.slots, tokens.patches, tokens.visual) == (6, 720, 6 * 180)
    assert tokens.motion == 48
    assert tokens.prompt == 6 * 180 + 48 + tokens.text


@pytest.mark.parametrize("backbone", BACKBONES)
def test_flops_equal_pytorchs_count(backbone):
    """Vision, motion and language model of a tiny policy, run for real under FlopCounterMode, which
    counts attention over all pairs."""
    policy = small_policy(backbone)
    model, inputs = policy.model.eval(), policy.inputs
    model.set_attn_implementation("eager")  # the counter does not know the CPU's fused attention
    clip = random_clip(policy, 0)
    media = inputs.media_inputs([clip])
    [slots], motion_frames = media.pop("slots"), media.pop("motion_frames")
    assert media.pop("moving") == [0]
    visual = sum(inputs.slot_tokens(clip))
    patches = 4 * inputs.slot_tokens(clip)[0]  # the last slot of LLaVA-OneVision has a newline
    tokens = VideoTokens(slots=slots, patches=patches, visual=visual, motion=0, text=0)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            model.model.encode_slots(**media)
        assert counter.get_total_flops() == vision_flops(model.model, tokens)
        with FlopCounterMode(display=False) as counter:
            model.model.encode_motion(model.model.motion_features(motion_frames), [slots])
        got = motion_flops(model.model.motion.config)
        assert counter.get_total_flops() == got
        model = small_policy(backbone).model.eval()
        model.set_attn_implementation("eager")
        ids = torch.randint(10, 200, (1, 17))
        with FlopCounterMode(display=False) as counter:
            model(input_ids=ids)
        # The counter also sees the table of rotary angles where it is a matrix product, as up to
        # transformers 5.18: 17 positions by half a head's width, for M-RoPE on three axes.
        counts = counter.get_flop_counts().items()
        table = sum(sum(ops.values()) for name, ops in counts if name.endswith("rotary_emb"))
        axes = 3 if keeps_aspect(backbone) else 1
        assert table in (0, 17 * head_dim(model.config.get_text_config()) * axes)
        assert counter.get_total_flops() == language_flops(model, 17, 17 * 17, 17) + table


def test_stages_of_a_step():
    """Worked in tokens: P + G·C for the rollout, P - 1 + G·C for each logprobs forward (the last
    prompt token heads every completion); a backward is two."""
    model, size = meta_policy("InternVL3-1B", 6), StepSize(num_keyframes=6, num_generations=4)
    flops = list(step_flops(model, size).values())
    encode, rollout, perturbed, reference, forward, backward, again = flops
    tokens = video_tokens(model)
    assert encode == vision_flops(model.model, tokens) + motion_flops(model.model.motion.config)
    p, g, c = tokens.prompt, 4, 400
    pairs = sum(range(1, p + 1)) + g * sum(p + j for j in range(1, c + 1))
    assert rollout == language_flops(model, p + g * c, pairs, g * c)
    assert perturbed == encode + rollout
    spared = sum(map(linear_flops, skipped_parts(model.model.language_model))) * (p - 1)
    text = model.config.text_config
    attention = 4 * text.hidden_size * sum(range(1, p))
    packed_pairs = sum(range(1, p)) + g * sum(p - 1 + j for j in range(1, c + 1))
    packed = language_flops(model, p - 1 + g * c, packed_pairs, g * c)
    assert reference == forward == again == encode + packed - spared - attention
    assert backward == 2 * forward
    twice = step_flops(model, StepSize(num_keyframes=6, num_generations=4, num_videos=2))
    assert list(twice.values()) == [2 * value for value in flops]


def test_command(capsys):
    command = ["estimate", "--model", "InternVL3-8B", "--frames", "12", "--generations", "8"]
    assert main(command) == 0
    text = capsys.readouterr().out
    for part in ("vision_tower", "prompt", "training backward", "LoRA"):
        assert part in text
    assert main(["estimate", "--model", "InternVL3-80B"]) == 2
    assert "no public configuration 'InternVL3-80B'; known: InternVL3-1B" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "px", "message"),
    [
        ("InternVL3-1B", 450, "px is 450, expected a positive multiple of 28"),
        ("Qwen2.5-VL-3B", 448, "keeps the aspect ratio"),
    ],
)
def test_bad_sizes(name, px, message):
    with pytest.raises(ValueError, match=message):
        meta_policy(name, 12, px)
    with pytest.raises(ValueError, match="num_generations is 0, expected at least 1"):
        StepSize(num_generations=0)
