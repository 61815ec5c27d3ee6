"""Policies whose numbers are compared with forwards that were written independently."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from thinker.policies import Policy, Prompt


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    shards = sorted(folder.glob("*.safetensors"))
    return {key: tensor for shard in shards for key, tensor in load_file(shard).items()}


@torch.no_grad()
def logits_of(policy: Policy, prompt: Prompt) -> tuple[torch.Tensor, list[int], dict[str, Any]]:
    """Logits (P, V) of a prompt, its ids, and its media as the model takes them."""
    policy.model.eval()
    ids, media = policy.inputs.prompt_ids(prompt), policy.inputs.media_inputs(prompt.clips)
    row = torch.tensor([ids])
    mask, rows = torch.ones_like(row), [tuple(range(len(prompt.clips)))]
    positions = policy.model.model.prompt_positions(row, mask, media, rows)
    output = policy.model(
        input_ids=row,
        attention_mask=mask,
        position_ids=positions.ids,
        media_inputs=media,
        media_rows=rows,
    )
    return output.logits[0], ids, media


def check_logits(
    policy: Policy, ids: torch.Tensor, media: dict[str, Any], expected: torch.Tensor
) -> None:
    """Logits of a video are the expected ones within 1e-5 of their scale, and both kinds of
    embedding matter a hundred times as much, and so does the order of the motion frames."""

    @torch.no_grad()
    def logits(media):
        got = policy.model(input_ids=ids, media_inputs=media).logits.double()
        for placeholder in policy.model.placeholder_ids():  # ruled out by our head, on purpose
            got[..., placeholder] = expected[..., placeholder]
        return got

    scale = expected.abs().max()
    assert scale > 1
    assert (logits(media) - expected).abs().max() < 1e-5 * scale
    for name, changed in (
        ("pixel_values", media["pixel_values"].flip(0)),
        ("motion_frames", [frames.flip(1) for frames in media["motion_frames"]]),
    ):
        assert (logits(media | {name: changed}) - expected).abs().max() > 1e-3 * scale, name
