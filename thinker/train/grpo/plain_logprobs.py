"""Log-probabilities the plain way: TRL's own forward, one row a completion, each with its media.

This is the oracle that the packed forward is compared with (`logprobs: plain` in a run's
configuration). TRL's code runs unchanged. It knows token rows only, so `VideoRows` takes the place
of the model that TRL calls, and adds the clips and positions of those rows before it calls the
model. Nothing is shared and nothing is kept: G rows of a video encode it G times, in every pass.
"""

from typing import Any

import torch

from thinker.policies.inputs import PolicyInputs, Prompt
from thinker.utils.tensors import to_device
from thinker.video import Clip


class VideoRows:
    """The model as TRL's own forward calls it, chunk by chunk, in the order of the rows.

    prompts: one a row, of all rows that will be asked for. num_completion: C, the padded length of
    the completions at the end of every row. every_part: whether each call has to pass all parts of
    the policy, whatever its rows show (`PolicyInputs.for_every_part`).
    """

    def __init__(
        self,
        model,
        core,
        inputs: PolicyInputs,
        prompts: list[Prompt],
        num_completion: int,
        *,
        every_part: bool = False,
    ):
        self.model, self.core, self.inputs, self.prompts = model, core, inputs, prompts
        self.num_completion, self.every_part = num_completion, every_part
        self._next = 0

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any):
        """As the model's forward with `labels` and `fused_lm_head`; rows (R, P + C)."""
        clips: list[Clip] = []
        media_rows = []
        for prompt in self.prompts[self._next : self._next + len(input_ids)]:
            media_rows.append(tuple(range(len(clips), len(clips) + len(prompt.clips))))
            clips += prompt.clips
        self._next += len(input_ids)
        if self.every_part:
            clips = self.inputs.for_every_part(clips)
        media = to_device(self.inputs.media_inputs(clips), input_ids.device)
        num_prompt = input_ids.shape[1] - self.num_completion
        prompt = self.core.model.prompt_positions(
            input_ids[:, :num_prompt], attention_mask[:, :num_prompt], media, media_rows
        )
        steps = torch.arange(self.num_completion, device=input_ids.device)
        tail = prompt.next.unsqueeze(1) + steps
        if prompt.ids.dim() == 3:
            tail = tail.expand(3, -1, -1)
        return self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=torch.cat([prompt.ids, tail], dim=-1),
            media_inputs=media,
            media_rows=media_rows,
            **kwargs,
        )
