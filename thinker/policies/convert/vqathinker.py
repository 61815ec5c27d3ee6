"""The released VQAThinker checkpoint (InternVL's remote-code layout) → a Thinker policy.

In: a folder with `config.json` of model_type "internvl_chat", safetensors (one file or shards) and
the tokenizer's files. Out: a folder that `load_policy` reads, in motion mode "pooled": weights
under transformers' names, configuration, processor, generation config and model card. No remote
code and no pickle is run.

The headers of all shards are read, and every key is accounted for, before anything is written. Then
one source shard at a time becomes one output shard. The target appears by one rename, when all of
it is written.

Two tensors are more than renamed. The fused `attn.qkv` is cut into q, k and v. The position
embedding is resampled where the frames are larger than those it was trained for, by the rule of
InternVL's code (bicubic in float32, the class token's row untouched), once instead of in every
forward.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, Qwen2Config, Qwen2TokenizerFast
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

from thinker.policies.card import model_card
from thinker.policies.convert.vqathinker_names import (
    POSITION_EMBEDDING,
    TEXT_KEYS,
    VISION_KEYS,
    our_names,
    their_name,
)
from thinker.policies.inputs import ClipConfig
from thinker.policies.internvl3 import (
    IMAGE_TOKENS,
    ThinkerInternVLConfig,
    ThinkerInternVLForConditionalGeneration,
)
from thinker.policies.motion import IMAGENET_MEAN_STD, MotionConfig, SlowFastConfig
from thinker.policies.shards import Headers, read_headers
from thinker.utils.atomic import atomic_folder


@dataclass(frozen=True, kw_only=True)
class ReleasedSetting:
    """How one of the two published programs runs the weights."""

    num_keyframes: int
    """Frames over the whole video."""

    px: int
    """Side of the square that frames are stretched to."""

    slow_divisor: int
    """See `MotionConfig.slow_divisor`."""

    pool_repeats: int
    """See `MotionConfig.pool_repeats`."""

    layout: str
    """See `ClipConfig.layout`."""


SETTINGS = {
    # inference code, which the published results are from
    "12x560": ReleasedSetting(
        num_keyframes=12, px=560, slow_divisor=4, pool_repeats=4, layout="inline"
    ),
    # training code
    "6x448": ReleasedSetting(
        num_keyframes=6, px=448, slow_divisor=3, pool_repeats=6, layout="lines"
    ),
}

# By the name in config.json. Their code opens every prompt with it, whatever the tokenizer says.
SYSTEM_MESSAGES = {
    "internvl2_5": "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位"
    "联合开发的多模态大语言模型。",
}
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nSYSTEM<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# What the released code fixes, as (keys in config.json, the value we reproduce).
REQUIRED = (
    (("model_type",), "internvl_chat"),
    (("select_layer",), -1),
    (("ps_version",), "v2"),
    (("downsample_ratio",), 0.5),
    (("llm_config", "architectures"), ["Qwen2ForCausalLM"]),
    (("vision_config", "num_channels"), 3),
)


def convert_checkpoint(source: str | Path, target: str | Path, setting: str = "12x560") -> int:
    """Convert the folder `source` into the new folder `target`; returns the tensors written.

    setting: a key of `SETTINGS`. Raises ValueError for whatever `source` lacks or has too much of;
    `target` then does not exist.
    """
    source, target = Path(source), Path(target)
    if setting not in SETTINGS:
        raise ValueError(f"setting is {setting!r}, expected one of {', '.join(SETTINGS)}")
    if target.exists():
        raise ValueError(f"{target} exists; give a folder that does not")
    released = read_released_config(source)
    headers = read_headers(source)
    tokenizer = read_tokenizer(source, released)
    config = policy_config(released, headers, SETTINGS[setting], tokenizer)
    with torch.device("meta"):
        model = ThinkerInternVLForConditionalGeneration(config)
    check_keys(headers, expected_shapes(model, released))
    processor = released_processor(tokenizer, config, released["template"])
    with atomic_folder(target) as folder:
        count = write_shards(headers, folder, grid_side(config.vision_config))
        config.architectures = [type(model).__name__]
        config.save_pretrained(folder)
        processor.save_pretrained(folder)
        GenerationConfig(
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
        ).save_pretrained(folder)
        card = model_card(model, note=f"Converted from the released layout, setting {setting}.")
        (folder / "README.md").write_text(card, encoding="utf-8")
    return count


# Reading the source


def read_released_config(source: Path) -> dict[str, Any]:
    """What config.json holds; a ValueError names every setting that we do not reproduce."""
    path = source / "config.json"
    if not path.is_file():
        raise ValueError(f"{source} holds no config.json; expected the folder of a checkpoint")
    released = json.loads(path.read_text(encoding="utf-8"))
    problems = []
    for keys, expected in REQUIRED:
        value: Any = released
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value != expected:
            problems.append(f"{'.'.join(keys)} is {value!r}, expected {expected!r}")
    if released.get("template") not in SYSTEM_MESSAGES:
        known = ", ".join(SYSTEM_MESSAGES)
        problems.append(f"template is {released.get('template')!r}, expected one of {known}")
    for section, names in (("llm_config", ("hidden_size",)), ("vision_config", ("image_size",))):
        for name in (*names, "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            if name not in (released.get(section) or {}):
                problems.append(f"{section}.{name} is missing")
    if problems:
        raise ValueError(
            f"{path} is not of the released VQAThinker layout:\n" + "\n".join(problems)
        )
    return released


def read_tokenizer(source: Path, released: dict[str, Any]) -> Qwen2TokenizerFast:
    """The checkpoint's tokenizer, with the names that transformers' InternVL processor asks for."""
    try:
        tokenizer = Qwen2TokenizerFast.from_pretrained(
            source, extra_special_tokens=IMAGE_TOKENS, padding_side="left"
        )
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{source} holds no Qwen2 tokenizer: {error}") from None
    size = released["llm_config"]["vocab_size"]
    for token in ("<img>", "</img>", "<IMG_CONTEXT>", "<|im_start|>", "<|im_end|>"):
        number = tokenizer.convert_tokens_to_ids(token)
        if number is None or number >= size or len(tokenizer.encode(token)) != 1:
            raise ValueError(
                f"the tokenizer in {source} does not know {token}, or gives it an id of {size} or "
                "more, which the embedding does not have"
            )
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


# Configuration and processor


def policy_config(
    released: dict[str, Any],
    headers: Headers,
    setting: ReleasedSetting,
    tokenizer: Qwen2TokenizerFast,
) -> ThinkerInternVLConfig:
    """Our configuration of a released checkpoint; SlowFast's sizes are read off its weights."""
    text, vision = released["llm_config"], released["vision_config"]
    patch = vision["patch_size"]
    if setting.px % (2 * patch):
        raise ValueError(
            f"patch_size is {patch}, expected frames of {setting.px} px to be a multiple of twice "
            "that: pixel shuffle merges 2 x 2 patches"
        )
    motion = MotionConfig(
        mode="pooled",
        hidden_size=text["hidden_size"],
        num_keyframes=setting.num_keyframes,
        slowfast=slowfast_config(
            {key: s for shard in headers.values() for key, s in shard.items()}
        ),
        slow_divisor=setting.slow_divisor,
        pool_repeats=setting.pool_repeats,
    )
    clip = ClipConfig(
        num_keyframes=setting.num_keyframes,
        keyframe_px=setting.px,
        layout=setting.layout,
        resampler="pil",
        reader="decord",
        stills="video",
    )
    return ThinkerInternVLConfig(
        vision_config={
            ours: vision[theirs] for theirs, ours in VISION_KEYS.items() if theirs in vision
        }
        | {"image_size": setting.px},
        text_config=Qwen2Config(
            **{key: text[key] for key in TEXT_KEYS if key in text},
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,  # their configuration class sets so, whatever the file says
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=(setting.px // patch // 2) ** 2,
        tie_word_embeddings=False,
        motion_config=motion.to_dict(),
        clip_config=clip.to_dict(),
        dtype=released.get("torch_dtype", "float32"),
    )


def slowfast_config(shapes: dict[str, tuple[int, ...]]) -> SlowFastConfig:
    """Depths and widths of the SlowFast among these weights."""
    blocks = "slowfast_model.feature_extraction."
    stems = [shapes.get(f"{blocks}0.multipathway_blocks.{p}.conv.weight") for p in (0, 1)]
    if None in stems:
        raise ValueError(
            f"no {blocks}* among the weights: a plain InternVL checkpoint has no motion branch; "
            "start from its '-hf' version instead, with `load_policy`"
        )

    def depth(stage: int) -> int:
        prefix = f"{blocks}{stage}.multipathway_blocks.0.res_blocks."
        return len({key[len(prefix) :].split(".")[0] for key in shapes if key.startswith(prefix)})

    slow, fast = (shape[0] for shape in stems if shape)
    return SlowFastConfig(
        depths=(depth(1), depth(2), depth(3), depth(4)), slow_width=slow, beta_inv=slow // fast
    )


def grid_side(vision_config) -> int:
    """Patches along one side of a frame."""
    return vision_config.image_size[0] // vision_config.patch_size[0]


def released_processor(
    tokenizer: Qwen2TokenizerFast, config: ThinkerInternVLConfig, template: str
) -> InternVLProcessor:
    """transformers' InternVL processor at the setting's size, with one tile a frame and ImageNet's
    normalisation."""
    mean, std = (list(values) for values in IMAGENET_MEAN_STD)
    assert config.clip_config is not None
    px = config.clip_config["keyframe_px"]
    pixels = {"size": {"height": px, "width": px}, "image_mean": mean, "image_std": std}
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(crop_to_patches=False, **pixels),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(**pixels),
        image_seq_length=config.image_seq_length,
        chat_template=CHAT_TEMPLATE.replace("SYSTEM", SYSTEM_MESSAGES[template]),
    )


# What must be there


def expected_shapes(model, released: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Their names of everything that the policy needs, with the shapes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in model.state_dict().items():
        key, shape = their_name(name), tuple(tensor.shape)
        fused = ".attn.qkv." in key
        shapes[key] = (3 * shape[0], *shape[1:]) if fused else shape
    vision = released["vision_config"]
    num_patches = (vision["image_size"] // vision["patch_size"]) ** 2
    shapes[POSITION_EMBEDDING] = (1, num_patches + 1, vision["hidden_size"])
    return shapes


def check_keys(headers: Headers, expected: dict[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless the source holds exactly the expected tensors, in their shapes."""
    given = {key: shape for shard in headers.values() for key, shape in shard.items()}
    problems = [f"missing: {key}" for key in sorted(set(expected) - set(given))]
    problems += [f"unknown: {key}" for key in sorted(set(given) - set(expected))]
    problems += [
        f"shape of {key}: {given[key]}, expected {expected[key]} by config.json"
        for key in sorted(set(given) & set(expected))
        if given[key] != expected[key]
    ]
    if problems:
        folder = next(iter(headers)).parent
        raise ValueError(
            f"{folder} does not hold the weights of its config.json:\n" + "\n".join(problems)
        )


# Writing


def write_shards(headers: Headers, folder: Path, grid: int) -> int:
    """Write one output shard a source shard, and the index; returns the number of tensors."""
    paths, total_size = list(headers), 0
    weight_map: dict[str, str] = {}
    for i, path in enumerate(paths, start=1):
        tensors = _converted_shard(path, grid)
        many = len(paths) > 1
        name = f"model-{i:05d}-of-{len(paths):05d}.safetensors" if many else "model.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        total_size += sum(tensor.nbytes for tensor in tensors.values())
        del tensors  # before the next shard is read: one shard is the peak
    if len(paths) > 1:
        index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        text = json.dumps(index, indent=2, sort_keys=True)
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    return len(weight_map)


def _converted_shard(path: Path, grid: int) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = {}
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118
            names, tensor = our_names(key), file.get_tensor(key)
            if key == POSITION_EMBEDDING:
                tensor = resize_position_embedding(tensor, grid)
            if len(names) == 1:
                converted[names[0]] = tensor
            else:  # copies: safetensors does not write tensors that share memory
                parts = tensor.chunk(len(names))
                converted |= {n: part.clone() for n, part in zip(names, parts, strict=True)}
    return converted


def resize_position_embedding(embedding: Tensor, grid: int) -> Tensor:
    """(1, 1 + s·s, D) → (1, 1 + grid·grid, D): bicubic over the patches, corners not aligned, in
    float32; row 0 (the class token) stays."""
    side = round((embedding.shape[1] - 1) ** 0.5)
    if side == grid:
        return embedding
    patches = embedding[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    patches = torch.nn.functional.interpolate(
        patches, size=(grid, grid), mode="bicubic", align_corners=False
    )
    rows = patches.flatten(2).transpose(1, 2).to(embedding.dtype)
    return torch.cat([embedding[:, :1], rows], dim=1)
