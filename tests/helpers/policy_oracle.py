"""What Qwen2-VL, Qwen3-VL and InternVL3.5 compute, re-derived on bare weights in float64, one
picture at a time.

Written from the published descriptions (arXiv 2409.12191, 2511.21631, 2508.18265; DeepStack,
2406.04334) and the names of the published weights, without any of transformers' modules. Weights
are looked up by names without their outer prefix: `blocks.0…` of the tower, `layers.0…` of the
language model.

Shapes: L tokens, N patches, d head width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What weights do not tell."""

    vision_heads: int
    heads: int
    kv_heads: int
    sections: tuple[int, int, int]
    """Of M-RoPE: frequencies of time, height and width."""
    theta: float = 1e6
    eps: float = 1e-6
    deepstack: tuple[int, ...] = ()
    """Layers of the tower whose features are added behind the first layers of the language
    model."""
    is_interleaved: bool = False
    """Whether the sections of M-RoPE lie so in a head."""
    is_third: bool = False
    """Whether tower and language model are Qwen3-VL's, or the language model a Qwen3."""


def under(weights: Weights, prefix: str) -> Weights:
    """The weights with a prefix, in float64, without it."""
    return {k.removeprefix(prefix): w.double() for k, w in weights.items() if k.startswith(prefix)}


def linear(w: Weights, name: str, x):
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


def layer_norm(w: Weights, name: str, x, eps=1e-6):
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def rms_norm(weight, x, eps):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def turn(x, angles):
    """Rotate the pairs (x_i, x_{i + d/2}) by the angles (…, d/2)."""
    one, other = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([one * cos - other * sin, other * cos + one * sin], dim=-1)


def attend(q, k, v, mask=None):
    """(heads, L, d) each."""
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ v


def places(rows: int, columns: int):
    """(row, column) of each patch, in the order of the tower: the four of a token together."""
    return [
        (2 * r + i, 2 * c + j)
        for r in range(rows // 2)
        for c in range(columns // 2)
        for i in (0, 1)
        for j in (0, 1)
    ]


def learned_positions(table, rows: int, columns: int):
    """Qwen3-VL: the square table of positions stretched over the grid, corners on corners."""
    side = round(len(table) ** 0.5)
    grid = table.T.view(1, -1, side, side)
    grid = F.interpolate(grid, size=(rows, columns), mode="bilinear", align_corners=True)[0]
    return torch.stack([grid[:, r, c] for r, c in places(rows, columns)])


def visual_tokens(w: Weights, sizes: Sizes, patches_N, rows: int, columns: int):
    """One picture → (tokens, width) of the last layer, and of each level of DeepStack."""
    x = linear({**w, "patch.weight": w["patch_embed.proj.weight"].flatten(1)}, "patch", patches_N)
    x = x + w.get("patch_embed.proj.bias", 0)
    if sizes.is_third:
        x = x + learned_positions(w["pos_embed.weight"], rows, columns)
    head = x.shape[-1] // sizes.vision_heads
    frequencies = 1e4 ** (-torch.arange(0, head // 2, 2, dtype=torch.float64) / (head // 2))
    where = torch.tensor(places(rows, columns), dtype=torch.float64)
    angles = torch.cat([where[:, :1] * frequencies, where[:, 1:] * frequencies], dim=-1)
    deeper = []
    for i in range(sum(name.endswith("attn.qkv.weight") for name in w)):
        block = f"blocks.{i}"
        qkv = linear(w, f"{block}.attn.qkv", layer_norm(w, f"{block}.norm1", x))
        q, k, v = qkv.view(len(x), 3, sizes.vision_heads, head).permute(1, 2, 0, 3)
        seen = attend(turn(q, angles), turn(k, angles), v).transpose(0, 1).flatten(1)
        x = x + linear(w, f"{block}.attn.proj", seen)
        hidden = layer_norm(w, f"{block}.norm2", x)
        if sizes.is_third:
            hidden = F.gelu(linear(w, f"{block}.mlp.linear_fc1", hidden), approximate="tanh")
            x = x + linear(w, f"{block}.mlp.linear_fc2", hidden)
        else:
            hidden = linear(w, f"{block}.mlp.fc1", hidden)
            x = x + linear(w, f"{block}.mlp.fc2", hidden * torch.sigmoid(1.702 * hidden))
        if i in sizes.deepstack:
            level = f"deepstack_merger_list.{sizes.deepstack.index(i)}"
            merged = layer_norm(w, f"{level}.norm", x.view(len(x) // 4, -1))
            merged = F.gelu(linear(w, f"{level}.linear_fc1", merged))
            deeper.append(linear(w, f"{level}.linear_fc2", merged))
    norm, first, second = (
        ("merger.norm", "merger.linear_fc1", "merger.linear_fc2")
        if sizes.is_third
        else ("merger.ln_q", "merger.mlp.0", "merger.mlp.2")
    )
    merged = F.gelu(linear(w, first, layer_norm(w, norm, x).view(len(x) // 4, -1)))
    return linear(w, second, merged), deeper


def positions_of(ids: list[int], image_token: int, grids: list[tuple[int, int]]):
    """(3, L): text counts on in all three; a picture of r x c tokens begins where it stands, and
    what follows it is one further than the larger of its sides."""
    found, now, left = [], 0, list(grids)
    at = 0
    while at < len(ids):
        if ids[at] != image_token:
            found.append((now, now, now))
            now, at = now + 1, at + 1
            continue
        rows, columns = left.pop(0)
        found += [(now, now + r, now + c) for r in range(rows) for c in range(columns)]
        now, at = now + max(rows, columns), at + rows * columns
    return torch.tensor(found, dtype=torch.float64).T


def text_angles(sizes: Sizes, positions_3L, head: int):
    """(L, d/2): which of the three positions turns a frequency. Qwen2-VL has them in blocks,
    Qwen3-VL in turns of time, height, width, and time again where the others have run out."""
    time, height, width = sizes.sections
    axes = [0] * time + [1] * height + [2] * width
    if sizes.is_interleaved:
        axes = [i % 3 if i % 3 and i < 3 * sizes.sections[i % 3] else 0 for i in range(head // 2)]
    frequencies = sizes.theta ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
    return positions_3L[axes].T * frequencies


@torch.no_grad()
def qwen_logits(
    visual: Weights,
    language: Weights,
    lm_head: torch.Tensor,
    sizes: Sizes,
    ids: list[int],
    image_token: int,
    pictures: list[tuple[torch.Tensor, int, int]],
) -> torch.Tensor:
    """(L, vocabulary) of one row. pictures: (patches, rows, columns of patches) each, in order."""
    encoded = [visual_tokens(visual, sizes, p.double(), r, c) for p, r, c in pictures]
    x, mask = embedded(language, ids, image_token, [first for first, _ in encoded])
    grids = [(rows // 2, columns // 2) for _, rows, columns in pictures]
    positions = positions_of(ids, image_token, grids)
    deeper = [torch.cat(level) for level in zip(*(levels for _, levels in encoded), strict=True)]
    return language_logits(language, lm_head, sizes, x, positions, mask, deeper)


@torch.no_grad()
def internvl_logits(
    visual: Weights,
    projector: Weights,
    language: Weights,
    lm_head: torch.Tensor,
    sizes: Sizes,
    ids: list[int],
    image_token: int,
    frames_N3HW: torch.Tensor,
) -> torch.Tensor:
    """(L, vocabulary) of one row that shows normalised frames, in order."""
    features = [internvl_tokens(visual, projector, sizes, f) for f in frames_N3HW.double()]
    x, mask = embedded(language, ids, image_token, features)
    positions = torch.arange(len(ids), dtype=torch.float64).expand(3, -1)
    return language_logits(language, lm_head, sizes, x, positions, mask, [])


def internvl_tokens(w: Weights, projector: Weights, sizes: Sizes, frame_3HW):
    """InternViT and the merging of 2 x 2 patches, corner by corner."""
    kernel = w["embeddings.patch_embeddings.projection.weight"]
    patch = kernel.shape[-1]
    patches = frame_3HW.unfold(1, patch, patch).unfold(2, patch, patch)
    x = torch.einsum("crsyx,dcyx->rsd", patches, kernel).flatten(0, 1)
    x = x + w["embeddings.patch_embeddings.projection.bias"]
    x = torch.cat([w["embeddings.cls_token"][0], x]) + w["embeddings.position_embeddings"][0]
    for i in range(sum(name.endswith("lambda_1") for name in w)):
        layer = f"encoder.layer.{i}"
        h = layer_norm(w, f"{layer}.layernorm_before", x)
        q, k, v = (
            linear(w, f"{layer}.attention.{name}_proj", h)
            .view(len(x), sizes.vision_heads, -1)
            .transpose(0, 1)
            for name in "qkv"
        )
        seen = attend(q, k, v).transpose(0, 1).flatten(1)
        seen = linear(w, f"{layer}.attention.projection_layer", seen)
        x = x + seen * w[f"{layer}.lambda_1"]
        h = F.gelu(linear(w, f"{layer}.mlp.fc1", layer_norm(w, f"{layer}.layernorm_after", x)))
        x = x + linear(w, f"{layer}.mlp.fc2", h) * w[f"{layer}.lambda_2"]
    side = round((len(x) - 1) ** 0.5)
    grid = x[1:].view(side, side, -1)
    corners = [grid[row::2, column::2] for row in (0, 1) for column in (0, 1)]
    merged = torch.cat(corners, -1).flatten(0, 1)
    h = F.gelu(linear(projector, "linear_1", layer_norm(projector, "layer_norm", merged, 1e-5)))
    return linear(projector, "linear_2", h)


def embedded(language: Weights, ids: list[int], image_token: int, features: list[torch.Tensor]):
    """(L, width) with the features at the placeholders, and where these are (L,)."""
    x = language["embed_tokens.weight"][ids]
    mask = torch.tensor(ids) == image_token
    x[mask] = torch.cat(features)
    return x, mask


def language_logits(w: Weights, lm_head, sizes: Sizes, x, positions_3L, mask, deeper):
    """A Qwen2 or Qwen3; deeper: what is added at the places of the mask behind each of the first
    layers."""
    length = len(x)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    head = w["layers.0.self_attn.q_proj.weight"].shape[0] // sizes.heads
    angles = text_angles(sizes, positions_3L, head)
    for i in range(sum(name.endswith("self_attn.q_proj.weight") for name in w)):
        layer = f"layers.{i}"
        h = rms_norm(w[f"{layer}.input_layernorm.weight"], x, sizes.eps)
        q, k, v = (
            linear(w, f"{layer}.self_attn.{name}_proj", h).view(length, -1, head) for name in "qkv"
        )
        if sizes.is_third:
            q = rms_norm(w[f"{layer}.self_attn.q_norm.weight"], q, sizes.eps)
            k = rms_norm(w[f"{layer}.self_attn.k_norm.weight"], k, sizes.eps)
        q, k = (turn(one.transpose(0, 1), angles) for one in (q, k))
        k, v = (
            one.repeat_interleave(sizes.heads // sizes.kv_heads, dim=0)
            for one in (k, v.transpose(0, 1))
        )
        seen = attend(q, k, v, causal).transpose(0, 1).flatten(1)
        x = x + linear(w, f"{layer}.self_attn.o_proj", seen)
        h = rms_norm(w[f"{layer}.post_attention_layernorm.weight"], x, sizes.eps)
        gate = F.silu(linear(w, f"{layer}.mlp.gate_proj", h))
        x = x + linear(w, f"{layer}.mlp.down_proj", gate * linear(w, f"{layer}.mlp.up_proj", h))
        if i < len(deeper):
            x[mask] += deeper[i]
    return rms_norm(w["norm.weight"], x, sizes.eps) @ lm_head.double().T
