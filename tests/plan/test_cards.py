"""Which card holds which recipe, by hand for InternVL3-1B and against real tiny policies."""

import pytest

from tests.helpers.policy_factory import BACKBONES, small_policy
from thinker.cli.main import main
from thinker.config.run import LoraSettings
from thinker.plan.cards import CARDS, WHOLE, holds, recipes
from thinker.plan.rates import load_rates
from thinker.plan.step import Job
from thinker.policies.card import count_parameters
from thinker.policies.cost import (
    StepSize,
    cache_bytes,
    lora_parameters,
    meta_policy,
    video_tokens,
)
from thinker.policies.four_bit import packable, packed_bytes

SIZE = StepSize(num_keyframes=6)
NAME = "InternVL3-1B"


@pytest.fixture(scope="module")
def found():
    return recipes(Job(model=NAME, size=SIZE, gpus=1, sharding="ddp"), load_rates())


def test_full_training(found):
    """16 bytes a trained parameter (SlowFast is frozen), 2 a weight of the reference."""
    counts = count_parameters(meta_policy(NAME, 6))
    trained = counts["total"] - counts["slowfast"]
    full = found["GRPO, all but SlowFast, transformers"]
    states = full["weights"] + full["gradients"] + full["optimizer"]
    assert states == 16 * trained + 2 * counts["slowfast"] and "reference" not in full
    assert found["GRPO, all but SlowFast, KL, vLLM"]["reference"] == 2 * counts["total"]
    assert found[WHOLE]["weights"] == 2 * counts["total"]


def test_lora(found):
    """By hand for one layer of InternVL3-1B, r (in + out) of seven layers; what is kept of 24
    layers, 896 wide, and 8 · 896 + 3 · 4864 values while one is recomputed, with keys and values of
    8 rows; of the tower, where that is trained, of 24 layers 1024 wide."""
    model = meta_policy(NAME, 6)
    counts, tokens = count_parameters(model), video_tokens(model)
    d, kv, mlp = 896, 128, 4864
    layer = 64 * ((d + d) + 2 * (d + kv) + (d + d) + 3 * (d + mlp))
    own = 24 * layer + counts["vision_projector"] + counts["motion_projector"]
    assert lora_parameters(model, LoraSettings()) == own
    lora = found["GRPO, LoRA, transformers"]
    assert lora["weights"] == 2 * (counts["total"] + own)
    assert (lora["gradients"], lora["optimizer"]) == (2 * own, 12 * own)
    rows = tokens.prompt + 8 * 400
    language = 2 * rows * (24 * d + 8 * d + 3 * mlp) + 2 * 2 * 8 * (tokens.prompt + 400) * d
    assert lora["activations"] == language
    full = found["GRPO, all but SlowFast, transformers"]
    assert full["activations"] == language + 2 * 6 * 1024 * 24 * 1024 and tokens.patches == 1024
    # Keys and values of 24 layers, 2 heads of 64, bfloat16; one copy of the prompt a completion.
    assert cache_bytes(model, SIZE) == 2 * 2 * 24 * kv * 8 * (tokens.prompt + 400)


def test_four_bits(found):
    """A quarter of the linear layers and their scales, by hand: half a byte a weight, 1 + 4 / 256
    bytes a block of 64, and 1,092 bytes a layer."""
    d, kv, mlp = 896, 128, 4864
    weights = 24 * (2 * d * d + 2 * d * kv + 3 * d * mlp)
    saved = 2 * weights - (weights / 2 + weights / 64 * (1 + 4 / 256) + 24 * 7 * 1092)
    for kind in ("SFT, LoRA", "GRPO, LoRA"):
        name = kind + (", transformers" if kind.startswith("GRPO") else "")
        four = found[name.replace("LoRA", "LoRA on 4 bits")]
        assert found[name]["weights"] - four["weights"] == pytest.approx(saved, abs=24 * 7 * 4)
        assert four["layer out of 4 bits"] == 2 * d * mlp
    assert sum(packable(meta_policy(NAME, 6))) == weights
    with pytest.raises(ValueError, match="quantization is 'nf4', expected lora with it"):
        Job(model=NAME, size=SIZE, gpus=1, quantization="nf4")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_four_bits_of_odd_sizes(backbone):
    """By hand, where a layer does not fill its blocks: 7 in each layer, of 32 or 64 wide."""
    model = small_policy(backbone).model
    sizes = packable(model)
    assert len(sizes) == 7 * model.config.get_text_config().num_hidden_layers
    assert packed_bytes(65) == 33 + 2 + 4 + 1092
    assert sum(map(packed_bytes, sizes)) == sum(n // 2 + n // 64 + 4 + 1092 for n in sizes)


def test_cards(found, capsys):
    """Each needs less than the one before it in its way, and a card holds nine tenths."""
    needs = {name: sum(uses.values()) for name, uses in found.items()}
    assert needs["SFT, LoRA on 4 bits"] < needs["SFT, LoRA"] < needs["SFT, all but SlowFast"]
    assert needs["GRPO, LoRA, transformers"] < needs["GRPO, LoRA, vLLM"]
    assert holds(10, 9e9, load_rates()) and not holds(10, 9.001e9, load_rates())
    assert main(["estimate"]) == 0
    text = capsys.readouterr().out
    [line] = [row for row in text.splitlines() if row.startswith("  GRPO, LoRA on 4 bits, tran")][
        :1
    ]
    marks = line.split()[-len(CARDS) :]
    assert marks == ["-"] * 2 + ["yes"] * 7  # 8 and 12 GB do not hold 8B
    assert "no peak was measured on a GPU" in text and "training backward" in text
