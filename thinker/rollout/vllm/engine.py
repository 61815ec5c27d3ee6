"""What an engine gets and gives, and the same in vLLM's own forms.

A request is the trainer's token ids, one *embedding item* a run of placeholders, and the fields of
vLLM's SamplingParams. It goes past vLLM's processors, so nothing is tokenized or expanded a second
time. `colocate.py` and `pool.py` hold the two engines.
"""

import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch

from thinker.policies.encode import EncodedPrompt
from thinker.rollout.base import Completion, RolloutError, RolloutStartError

ENGINE_ARCHITECTURES = {
    "Qwen3VLForConditionalGeneration": "TowerlessQwen3VLForConditionalGeneration"
}
"""What an engine's folder names in place of the plain architecture, where vLLM's own model needs
its tower (deepstack.py)."""
SUPPORTED_VLLM = "0.31."
"""Engine inputs and weight reload are not stable between minor releases."""


@dataclass(frozen=True, kw_only=True)
class MediaItem:
    """One run of placeholders in a prompt."""

    offset: int
    """Place of its first token."""
    embeds: torch.Tensor
    """(length, E), what stands at its placeholders."""
    grid: torch.Tensor | None
    """(t, h, w) that its M-RoPE positions follow from; None for plain positions."""


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """One prompt and what is to be done with it."""

    token_ids: list[int]
    """Placeholders expanded."""
    items: list[MediaItem]
    """In the order of the prompt."""
    params: dict[str, Any]
    """Fields of vLLM's SamplingParams."""


@dataclass(frozen=True, kw_only=True)
class EngineResult:
    """What came back."""

    prompt_token_ids: list[int]
    """The prompt as the engine saw it."""
    completions: list[Completion]
    """As many as were asked for."""


class Engine(Protocol):
    """Where completions are computed."""

    max_model_len: int
    """Tokens that a prompt and its completion may have together."""

    def run(self, requests: Sequence[EngineRequest]) -> list[EngineResult]:
        """Answer all requests, in order; raises RolloutError when the engine fails or is late."""
        ...

    def push(self, weights: Iterable[tuple[str, torch.Tensor]]) -> int:
        """Replace the engine's weights and drop everything it cached under the old ones. Returns
        the bytes that this process has sent to others for it."""
        ...

    def probe(self, request: EngineRequest) -> dict[str, EngineResult]:
        """The request as each part that generates on its own answers it, by the part's name; an
        engine of one piece has no name."""
        ...

    def refuse(self, name: str, error: RolloutError) -> None:
        """Use that part no more until a later push; the error is raised where no part is left."""
        ...

    def restart(self) -> None:
        """A fresh engine after a failure, with its first weights; RolloutError where the failed one
        cannot be ended or no new one started."""
        ...

    def close(self) -> None:
        """Give everything back, also after a failure, also twice; RolloutError where the engine
        is stuck in a call and cannot be ended."""
        ...


def media_items(request: EncodedPrompt, placeholder_id: int) -> list[MediaItem]:
    """Split a prompt's embeddings by its runs of placeholders.

    Example: ids `[7, 9, 9, 7, 9]` with placeholder 9 hold items of 2 and 1 rows at offsets 1 and 4.
    """
    offsets, lengths, position = [], [], 0
    for is_media, run in groupby(request.token_ids, lambda token: token == placeholder_id):
        length = len(list(run))
        if is_media:
            offsets.append(position)
            lengths.append(length)
        position += length
    parts = request.embeds.detach().cpu().split(lengths) if lengths else ()
    grids = [None] * len(parts) if request.item_grids is None else request.item_grids.cpu()
    return [
        MediaItem(offset=offset, embeds=part.contiguous(), grid=grid)
        for offset, part, grid in zip(offsets, parts, grids, strict=True)
    ]


# vLLM's forms


def check_installed() -> None:
    """RolloutStartError unless the vLLM that this file was written against can be imported."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it warns of a dozen defaults
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        import vllm
    except Exception as error:  # whatever a broken installation raises
        raise RolloutStartError(
            f"vLLM cannot be imported ({type(error).__name__}: {first_line(error)})"
        ) from error
    if not vllm.__version__.startswith(SUPPORTED_VLLM):
        raise RolloutStartError(
            f"vLLM {vllm.__version__} is installed, expected {SUPPORTED_VLLM}*; run setup.sh"
        )


def register_models() -> None:
    """Tell vLLM of the models that an engine's folder may name beside vLLM's own; calling it again
    does no harm. A server calls it as a plugin (`vllm.general_plugins` in pyproject.toml)."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(
        ENGINE_ARCHITECTURES["Qwen3VLForConditionalGeneration"],
        "thinker.rollout.vllm.deepstack:TowerlessQwen3VL",
    )


def item_fields(item: MediaItem):
    """The item in vLLM's form: a batch of its kind is built from these fields."""
    from vllm.multimodal.inputs import (
        MultiModalBatchedField,
        MultiModalFieldElem,
        MultiModalFlatField,
        MultiModalKwargsItem,
        MultiModalSharedField,
    )

    length = len(item.embeds)
    if item.grid is not None:  # Qwen-VL: rows of all items concatenated, a grid each
        fields = {
            "image_embeds": (item.embeds, MultiModalFlatField(slices=[slice(0, length)])),
            "image_grid_thw": (item.grid, MultiModalBatchedField(keep_on_cpu=True)),
        }
    else:
        # InternVL stacks the items of a batch and rejects unequal lengths (the pooled motion token
        # is an item of one row); items whose shared fields differ are never put into one batch.
        fields = {
            "image_embeds": (item.embeds, MultiModalBatchedField()),
            "item_length": (torch.tensor(length), MultiModalSharedField(batch_size=1)),
        }
    return MultiModalKwargsItem(
        {key: MultiModalFieldElem(data=data, field=field) for key, (data, field) in fields.items()}
    )


def item_names(items: Sequence[MediaItem]) -> list[str]:
    """Cache keys of items: never used twice, so that no cache can answer with old embeddings."""
    return [uuid.uuid4().hex for _ in items]


def encode_item(item: MediaItem) -> str:
    """The item as text, for a server."""
    from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import encode_mm_kwargs_item

    return encode_mm_kwargs_item(item_fields(item))


def engine_input(request: EngineRequest):
    """The request in the engine's own input form."""
    from vllm.inputs.engine import mm_input, tokens_input
    from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange

    if not request.items:
        return tokens_input(request.token_ids)
    ranges = [PlaceholderRange(offset=i.offset, length=len(i.embeds)) for i in request.items]
    return mm_input(
        request.token_ids,
        MultiModalKwargsItems({"image": [item_fields(item) for item in request.items]}),
        {"image": item_names(request.items)},
        {"image": ranges},
    )


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
