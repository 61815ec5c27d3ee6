"""A small random checkpoint in the layout of the released VQAThinker, and what its code computes.

The names are written out here from the published modeling files (InternVL's `modeling_intern_vit`,
VQAThinker's `modeling_internvl_chat`), independently of `policies/convert/vqathinker`; the forward
is a re-derivation on the bare state dict, one image at a time.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.helpers.motion_oracle import oracle, randomise
from thinker import prompts
from thinker.policies.motion import SlowFast, SlowFastConfig

WIDTH, LAYERS, HEADS, MLP = 16, 2, 2, 24  # of the vision tower
TEXT_WIDTH = 32
PATCH, TRAINED_PX = 56, 448  # 8 x 8 patches; 560 px make 10 x 10
SLOWFAST = SlowFastConfig(depths=(1, 2, 1, 1), slow_width=4, beta_inv=2)
SYSTEM = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"  # noqa: E501
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")


def vision_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.class_embedding": (1, 1, WIDTH),
        "embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        "embeddings.patch_embedding.bias": (WIDTH,),
        "embeddings.position_embedding": (1, (TRAINED_PX // PATCH) ** 2 + 1, WIDTH),
    }
    for i in range(LAYERS):
        layer = f"encoder.layers.{i}"
        shapes |= {f"{layer}.{name}": (WIDTH,) for name in ("ls1", "ls2")}
        shapes |= {
            f"{layer}.norm{n}.{kind}": (WIDTH,) for n in (1, 2) for kind in ("weight", "bias")
        }
        for name, rows, columns in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", MLP, WIDTH),
            ("mlp.fc2", WIDTH, MLP),
        ):
            shapes |= {f"{layer}.{name}.weight": (rows, columns), f"{layer}.{name}.bias": (rows,)}
    return {f"vision_model.{name}": shape for name, shape in shapes.items()}


def mlp_shapes(name: str, columns: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.0.weight": (columns,),
        f"{name}.0.bias": (columns,),
        f"{name}.1.weight": (TEXT_WIDTH, columns),
        f"{name}.1.bias": (TEXT_WIDTH,),
        f"{name}.3.weight": (TEXT_WIDTH, TEXT_WIDTH),
        f"{name}.3.bias": (TEXT_WIDTH,),
    }


def text_config(vocab_size: int, mlp: int = 48) -> dict:
    return {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": vocab_size,
        "hidden_size": TEXT_WIDTH, "intermediate_size": mlp, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
        "attention_dropout": 0.0, "use_sliding_window": False, "sliding_window": None,
        "max_window_layers": 70, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip


def released_config(vocab_size: int, **text) -> dict:
    return {
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoModel": "modeling_internvl_chat.InternVLChatModel"},
        "model_type": "internvl_chat", "downsample_ratio": 0.5, "force_image_size": TRAINED_PX,
        "select_layer": -1, "ps_version": "v2", "template": "internvl2_5",
        "torch_dtype": "float32", "llm_config": text_config(vocab_size, **text),
        "vision_config": {
            "architectures": ["InternVisionModel"], "model_type": "intern_vit_6b",
            "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
            "intermediate_size": MLP, "image_size": TRAINED_PX, "patch_size": PATCH,
            "num_channels": 3, "qkv_bias": True, "qk_normalization": False, "hidden_act": "gelu",
            "norm_type": "layer_norm", "layer_norm_eps": 1e-6, "attention_dropout": 0.0,
            "dropout": 0.0, "drop_path_rate": 0.1, "initializer_factor": 0.1,
        },
    }  # fmt: skip


def released_state(config: dict, channels: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under the released names, none of them near the identity; `channels` enter the
    motion projector."""
    draw = torch.Generator().manual_seed(seed)
    shapes = vision_shapes() | mlp_shapes("mlp1", 4 * WIDTH) | mlp_shapes("motion_mlp", channels)
    language = Qwen2ForCausalLM(qwen2(config)).state_dict()
    shapes |= {f"language_model.{name}": tuple(t.shape) for name, t in language.items()}
    state = {}
    for name, shape in shapes.items():
        spread = 0.3 if len(shape) == 1 else 1.5 / shape[-1] ** 0.5
        state[name] = torch.randn(shape, generator=draw) * spread + (len(shape) == 1)
    state["vision_model.embeddings.patch_embedding.weight"] *= 0.1
    slowfast = SlowFast(SLOWFAST)
    randomise(slowfast)
    motion = {
        "slowfast_model.feature_extraction." + name.removeprefix("blocks."): tensor.clone()
        for name, tensor in slowfast.state_dict().items()
    }
    return state | motion


def qwen2(config: dict) -> Qwen2Config:
    text = {k: v for k, v in config["llm_config"].items() if k not in ("architectures",)}
    return Qwen2Config(**{k: v for k, v in text.items() if k != "model_type"})


def write_tokenizer(folder: Path, special: tuple[str, ...] = SPECIAL) -> int:
    """vocab.json, merges.txt and the added tokens behind them, as InternVL3 ships them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [
        prompts.SCORING,
        SYSTEM,
        "Motion Feature: Frame1:",
        *["is high good fair poor low"] * 3,
    ]
    tokenizer.train_from_iterator(texts * 3, trainer)
    tokenizer.model.save(str(folder))
    size = tokenizer.get_vocab_size()
    ids = {token: size + i for i, token in enumerate(special)}
    added = {
        str(i): {"content": token, "special": True, "normalized": False, "lstrip": False,
                 "rstrip": False, "single_word": False}
        for token, i in ids.items()
    }  # fmt: skip
    settings = {
        "tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added,
        "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "padding_side": "right",
        "additional_special_tokens": list(special),
        "chat_template": "{{ messages[0]['content'] }}",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    return size + len(special)


BOTH_PATHWAYS = SLOWFAST.slow_channels + SLOWFAST.fast_channels


def write_released(
    folder: Path, *, num_shards: int = 3, channels: int = BOTH_PATHWAYS, **text
) -> dict[str, torch.Tensor]:
    """The whole folder, of VITAL with the channels of the fast pathway; returns its weights."""
    folder.mkdir(parents=True)
    config = released_config(write_tokenizer(folder), **text)
    (folder / "config.json").write_text(json.dumps(config))
    state = released_state(config, channels)
    write_shards(folder, state, num_shards)
    return state


def write_shards(folder: Path, state: dict[str, torch.Tensor], num_shards: int) -> None:
    if num_shards == 1:
        save_file(state, folder / "model.safetensors")
        return
    names = sorted(state, key=lambda name: -state[name].numel())
    weight_map = {}
    for i in range(num_shards):
        name = f"model-{i + 1:05d}-of-{num_shards:05d}.safetensors"
        mine = names[i::num_shards]
        save_file({key: state[key] for key in mine}, folder / name)
        weight_map |= dict.fromkeys(mine, name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


# What the released code computes


def official_query(setting: str, num_frames: int, tokens: int) -> str:
    """The chat prompt, put together as the two published programs do: `<image>` marks in the text,
    replaced one by one."""
    if setting == "6x448":
        text = "Now you will receive a video:\n"
        text += "".join(f"Frame{i + 1}:<image>\n" for i in range(num_frames))
        text += "Motion Feature:<image>\n" + prompts.QUESTION + " " + prompts.OUTPUT_FORMAT
    else:
        text = "Now you will receive a video:"
        text += "".join(f"Frame{i + 1}: <image>" for i in range(num_frames))
        text += "Motion Feature: <image>" + prompts.QUESTION + prompts.OUTPUT_FORMAT
    query = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n"
    query += "<|im_start|>assistant\n"
    for count in [tokens] * num_frames + [1]:
        query = query.replace("<image>", "<img>" + "<IMG_CONTEXT>" * count + "</img>", 1)
    return query


def linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(state, name, x, eps):
    mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / (var + eps).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def perceptron(state, name, x):
    """mlp1 and motion_mlp: LayerNorm, Linear, GELU, Linear."""
    hidden = linear(state, f"{name}.1", norm(state, f"{name}.0", x, 1e-5))
    return linear(state, f"{name}.3", F.gelu(hidden))


def vision_features(state, image_3HW):
    """InternViT and pixel shuffle "v2" on one normalised frame → (tokens, text width)."""
    prefix = "vision_model.embeddings"
    kernel = state[f"{prefix}.patch_embedding.weight"]
    side = image_3HW.shape[-1] // PATCH
    patches = image_3HW.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH)  # 3, row, column, y, x
    x = torch.einsum("crsyx,dcyx->rsd", patches, kernel) + state[f"{prefix}.patch_embedding.bias"]
    positions = state[f"{prefix}.position_embedding"][0]
    grid = positions[1:].T.view(1, WIDTH, TRAINED_PX // PATCH, -1)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)[0]
    first = state[f"{prefix}.class_embedding"][0] + positions[:1]
    x = torch.cat([first, (x + grid.permute(1, 2, 0)).reshape(-1, WIDTH)])
    for i in range(LAYERS):
        layer = f"vision_model.encoder.layers.{i}"
        qkv = linear(state, f"{layer}.attn.qkv", norm(state, f"{layer}.norm1", x, 1e-6))
        q, k, v = qkv.view(len(x), 3, HEADS, -1).permute(1, 2, 0, 3)
        weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
        heads = (weights @ v).transpose(0, 1).reshape(len(x), WIDTH)
        x = x + linear(state, f"{layer}.attn.proj", heads) * state[f"{layer}.ls1"]
        hidden = F.gelu(linear(state, f"{layer}.mlp.fc1", norm(state, f"{layer}.norm2", x, 1e-6)))
        x = x + linear(state, f"{layer}.mlp.fc2", hidden) * state[f"{layer}.ls2"]
    grid = x[1:].view(side, side, WIDTH)
    corners = [grid[row::2, column::2] for row in (0, 1) for column in (0, 1)]
    return perceptron(state, "mlp1", torch.cat(corners, -1).reshape(-1, 4 * WIDTH))


def motion_feature(state, frames_K3HW, divisor, repeats):
    """slowfast_model and motion_mlp: (K, 3, px, px) normalised → (1, text width)."""
    public = {
        name.replace("slowfast_model.feature_extraction.", "blocks."): tensor
        for name, tensor in state.items()
    }
    fast = frames_K3HW.transpose(0, 1)[None]
    num_frames = len(frames_K3HW)
    picked = torch.linspace(0, num_frames - 1, num_frames // divisor).long()
    outputs = oracle(public, fast[:, :, picked], fast, SLOWFAST.depths)
    pooled = [
        F.avg_pool3d(x.repeat_interleave(repeats, dim=2), (window, 7, 7), stride=1).mean((2, 3, 4))
        for x, window in zip(outputs, (8, 32), strict=True)
    ]
    return perceptron(state, "motion_mlp", torch.cat(pooled, 1))


def viewed_features(state, frames_T3HW):
    """VITAL's slowfast_model and motion_mlp: (T, 3, px, px) normalised → (T, text width). Their
    (1, C, T, 1, 1) array is viewed as T rows of C."""
    public = {
        name.replace("slowfast_model.feature_extraction.", "blocks."): tensor
        for name, tensor in state.items()
    }
    fast = frames_T3HW.transpose(0, 1)[None]
    num_frames = len(frames_T3HW)
    picked = torch.linspace(0, num_frames - 1, num_frames // 4).long()
    features_1CTHW = oracle(public, fast[:, :, picked], fast, SLOWFAST.depths)[1]
    flat = features_1CTHW.mean((3, 4)).flatten()  # channel by channel
    return perceptron(state, "motion_mlp", flat.reshape(num_frames, -1))


@torch.no_grad()
def vital_logits(state, config, ids, frames_T3HW, flags):
    """Logits (1, L, vocabulary) in float64; all motion frames as uint8, `flags` marks which of them
    are keyframes, too. The placeholders are filled in order: keyframes, then motion frames."""
    state = {n: t.double() if t.is_floating_point() else t for n, t in state.items()}
    frames = normalised(frames_T3HW, torch.float64)
    parts = [vision_features(state, frame) for frame in frames[torch.tensor(flags)]]
    return language_logits(state, config, ids, torch.cat([*parts, viewed_features(state, frames)]))


def normalised(frames_T3HW, dtype=torch.float32):
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=dtype).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=dtype).view(3, 1, 1)
    return (frames_T3HW.to(dtype) / 255 - mean) / std


@torch.no_grad()
def official_logits(state, config, ids, frames_K3HW, divisor, repeats):
    """Logits (1, L, vocabulary); frames as uint8. The last `<IMG_CONTEXT>` is the motion token."""
    frames = normalised(frames_K3HW)
    visual = torch.cat([vision_features(state, frame) for frame in frames])
    motion = motion_feature(state, frames, divisor, repeats)
    return language_logits(state, config, ids, torch.cat([visual, motion]))


def language_logits(state, config, ids, media):
    """Logits of the language model, `media` in the places of `<IMG_CONTEXT>`."""
    language = Qwen2ForCausalLM(qwen2(config)).eval()
    prefix = "language_model."
    language.load_state_dict(
        {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    )
    language.to(media.dtype)
    embeds = language.get_input_embeddings()(ids)
    token = config["llm_config"]["vocab_size"] - 1  # the last of SPECIAL
    embeds[0, ids[0] == token] = media
    return language(inputs_embeds=embeds).logits
