"""A small random checkpoint in the layout of the released VQA², and what its code computes.

The names are written out here from the published modeling files (`llava_arch`, the SigLIP encoder,
`slowfast/builder`), independently of `policies/convert/vqa2`; the forward is a re-derivation on the
bare state dict in float64, one picture at a time.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.helpers.motion_oracle import oracle, randomise
from tests.helpers.released_factory import linear, norm, write_shards, write_tokenizer
from thinker.policies.motion import SlowFast, SlowFastConfig

WIDTH, LAYERS, HEADS, MLP = 32, 2, 16, 24  # of the vision tower
TEXT_WIDTH, MAX_POSITIONS = 32, 40
PX, PATCH = 192, 38  # half the released side, which takes a quarter of the time
SIDE, POOLED = 5, 3  # 192 = 5 · 38 + 2, as 384 = 27 · 14 + 6; half of 5 and of 27, rounded up
SLOWFAST = SlowFastConfig(depths=(1, 2, 1, 1), slow_width=4, beta_inv=2)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
TOWER = "model.vision_tower.vision_tower.vision_model"


def released_config(vocab_size: int) -> dict:
    return {
        "architectures": ["LlavaQwenForCausalLM"], "model_type": "llava_qwen",
        "vocab_size": vocab_size, "hidden_size": TEXT_WIDTH, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "hidden_act": "silu", "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
        "rope_theta": 1e6, "rope_scaling": {"factor": 2.0, "type": "linear"},
        "attention_dropout": 0.0, "use_sliding_window": False, "sliding_window": None,
        "max_window_layers": 28, "tie_word_embeddings": False, "torch_dtype": "float32",
        "mm_hidden_size": WIDTH, "mm_patch_merge_type": "spatial_unpad",
        "mm_newline_position": "one_token", "mm_spatial_pool_mode": "bilinear",
        "image_aspect_ratio": "anyres_max_9",
    }  # fmt: skip


def vision_shapes(patch: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.patch_embedding.weight": (WIDTH, 3, patch, patch),
        "embeddings.patch_embedding.bias": (WIDTH,),
        "embeddings.position_embedding.weight": (SIDE**2, WIDTH),
        "post_layernorm.weight": (WIDTH,),
        "post_layernorm.bias": (WIDTH,),
    }
    for i in range(LAYERS):
        layer = f"encoder.layers.{i}"
        shapes |= {
            f"{layer}.layer_norm{n}.{kind}": (WIDTH,) for n in (1, 2) for kind in ("weight", "bias")
        }
        linears = {f"self_attn.{part}_proj": (WIDTH, WIDTH) for part in ("q", "k", "v", "out")}
        linears |= {"mlp.fc1": (MLP, WIDTH), "mlp.fc2": (WIDTH, MLP)}
        for name, shape in linears.items():
            shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
    return {f"{TOWER}.{name}": shape for name, shape in shapes.items()}


def released_state(config: dict, patch: int, max_positions: int) -> dict[str, torch.Tensor]:
    """Random weights under the released names, none of them near the identity."""
    draw = torch.Generator().manual_seed(0)
    channels = SLOWFAST.fast_channels
    shapes = vision_shapes(patch) | {
        "model.image_newline": (TEXT_WIDTH,),
        "model.slowfast.position_embedding.weight": (max_positions, channels),
    }
    for name, columns in (("mm_projector", WIDTH), ("slowfast_projector", channels)):
        for place, width in ((0, columns), (2, TEXT_WIDTH)):
            shapes[f"model.{name}.{place}.weight"] = (TEXT_WIDTH, width)
            shapes[f"model.{name}.{place}.bias"] = (TEXT_WIDTH,)
    language = Qwen2ForCausalLM(qwen2(config)).state_dict()
    shapes |= {name: tuple(tensor.shape) for name, tensor in language.items()}
    state = {}
    for name, shape in shapes.items():
        spread = 0.3 if len(shape) == 1 else 1.5 / shape[-1] ** 0.5
        state[name] = torch.randn(shape, generator=draw) * spread + (len(shape) == 1)
    state[f"{TOWER}.embeddings.patch_embedding.weight"] *= 0.1
    slowfast = SlowFast(SLOWFAST)
    randomise(slowfast)
    return state | {
        "model.slowfast.feature_extraction." + name.removeprefix("blocks."): tensor.clone()
        for name, tensor in slowfast.state_dict().items()
    }


def qwen2(config: dict) -> Qwen2Config:
    """Their class sets rope_scaling to null."""
    names = Qwen2Config().to_dict().keys() | {"rope_theta"}
    own = {k: v for k, v in config.items() if k in names - {"architectures", "model_type"}}
    return Qwen2Config(**own)


def write_vqa2(
    folder: Path, *, num_shards: int = 3, patch: int = PATCH, max_positions: int = MAX_POSITIONS
) -> dict[str, torch.Tensor]:
    """The whole folder; returns its weights. The embedding has rows that no token has."""
    folder.mkdir(parents=True)
    config = released_config(write_tokenizer(folder, SPECIAL) + 8)
    (folder / "config.json").write_text(json.dumps(config))
    state = released_state(config, patch, max_positions)
    write_shards(folder, state, num_shards)
    return state


# What the released code computes


def vision_features(state, image_3HW):
    """SigLIP without its last normalisation, and the projector: (patches, text width)."""
    kernel = state[f"{TOWER}.embeddings.patch_embedding.weight"]
    patches = image_3HW.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH)  # 3, row, column, y, x
    x = torch.einsum("crsyx,dcyx->rsd", patches, kernel).reshape(-1, WIDTH)
    x = x + state[f"{TOWER}.embeddings.patch_embedding.bias"]
    x = x + state[f"{TOWER}.embeddings.position_embedding.weight"]
    for i in range(LAYERS):
        layer = f"{TOWER}.encoder.layers.{i}"
        normed = norm(state, f"{layer}.layer_norm1", x, 1e-6)
        q, k, v = (
            linear(state, f"{layer}.self_attn.{part}_proj", normed)
            .view(len(x), HEADS, -1)
            .transpose(0, 1)
            for part in "qkv"
        )
        weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
        heads = (weights @ v).transpose(0, 1).reshape(len(x), WIDTH)
        x = x + linear(state, f"{layer}.self_attn.out_proj", heads)
        hidden = linear(state, f"{layer}.mlp.fc1", norm(state, f"{layer}.layer_norm2", x, 1e-6))
        x = x + linear(state, f"{layer}.mlp.fc2", F.gelu(hidden, approximate="tanh"))
    return perceptron(state, "model.mm_projector", x)


def perceptron(state, name, x):
    """mm_projector and slowfast_projector: Linear, GELU, Linear."""
    return linear(state, f"{name}.2", F.gelu(linear(state, f"{name}.0", x)))


def pooled(tokens):
    """(25, D) → (9, D), bilinear, corners not aligned: place i lies at (i + ½) · 5 / 3 - ½."""
    weights = torch.zeros(POOLED, SIDE, dtype=tokens.dtype)
    for i in range(POOLED):
        place = (i + 0.5) * SIDE / POOLED - 0.5
        low = int(place)
        weights[i, low] += 1 - (place - low)
        weights[i, min(low + 1, SIDE - 1)] += place - low
    grid = tokens.view(SIDE, SIDE, -1)
    return torch.einsum("ir,js,rsd->ijd", weights, weights, grid).reshape(POOLED**2, -1)


def motion_features(state, frames_T3HW):
    """slowfast and its projector: (T, text width)."""
    prefix = "model.slowfast.feature_extraction."
    public = {n.replace(prefix, "blocks."): t for n, t in state.items() if n.startswith(prefix)}
    fast = frames_T3HW.transpose(0, 1)[None]
    first_quarter = fast[:, :, : len(frames_T3HW) // 4]
    features = oracle(public, first_quarter, fast, SLOWFAST.depths)[1].mean((3, 4))[0].T
    positions = state["model.slowfast.position_embedding.weight"][: len(features)]
    return perceptron(state, "model.slowfast_projector", features + positions)


def normalised(frames_THWC_uint8):
    return (frames_THWC_uint8.double() / 255 - 0.5) / 0.5


@torch.no_grad()
def vqa2_logits(state, config, pieces, keyframes_K3HW, motion_T3HW, *, twice=False):
    """Logits (1, L, vocabulary) in float64 of a prompt with two places: `pieces` are the ids of the
    text before, between and behind them. Frames as uint8."""
    state = {n: t.double() if t.is_floating_point() else t for n, t in state.items()}
    frames = [pooled(vision_features(state, frame)) for frame in normalised(keyframes_K3HW)]
    visual = torch.cat([*frames, state["model.image_newline"][None]])
    motion = motion_features(state, normalised(motion_T3HW))
    first = torch.cat([visual, motion]) if twice else visual
    return language_logits(state, config, pieces, [first, motion])


def language_logits(state, config, pieces, blocks):
    language = Qwen2ForCausalLM(qwen2(config)).double().eval()
    language.load_state_dict({name: state[name] for name in language.state_dict()})
    texts = [language.get_input_embeddings()(torch.tensor(ids)) for ids in pieces]
    rows = [texts[0]]
    for block, text in zip(blocks, texts[1:], strict=True):
        rows += [block, text]
    return language(inputs_embeds=torch.cat(rows)[None]).logits
