"""Supervised training of a policy, by transformers' own Trainer, in packed rows (collator.py).

Examples come in the order of `thinker.data.mixture.batches`. Only the language model's branch
positions reach the head, and one call of the wrapped model holds all forwards of a batch, so that
DDP and DeepSpeed see one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from thinker.data.examples import Example
from thinker.data.mixture import Source, batches
from thinker.policies import Policy
from thinker.policies.shared_prompt import IGNORED_LABEL, enable_shared_prompt, pack_branches
from thinker.train.resume import Resumable, check_settings
from thinker.train.sft.collator import PackedCollator
from thinker.video import Clip
from thinker.video.medium import Medium


class SupervisedTrainer(Resumable, Trainer):
    """Trains what is not frozen on the answers of examples.

    model: the policy's own, or one with LoRA in it. rates: learning rates by part; None is that of
    `args` for all that is trained.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        model: Any,
        args: TrainingArguments,
        sources: Sequence[Source],
        read_clip: Callable[[Medium], Clip],
        rates: Mapping[str, float] | None = None,
        callbacks: list | None = None,
    ):
        check_settings(args)
        check_sft(args)
        enable_shared_prompt(policy.model)
        args.remove_unused_columns = False
        args.train_sampling_strategy = "sequential"  # the mixture has shuffled them
        taught = ordered_examples(sources, args)
        super().__init__(
            model=model,
            args=args,
            train_dataset=taught,
            data_collator=PackedCollator(
                policy, read_clip, every_part=args.world_size > 1, spare=taught
            ),
            processing_class=policy.processor,
            callbacks=callbacks,
        )
        # Ours does, also where the host's forward does not (Qwen2.5-VL).
        self.model_accepts_loss_kwargs = True
        self.begin(rates)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """transformers' own, of a model that runs several forwards."""
        call = partial(packed_loss, inputs["forwards"], num_items_in_batch)
        return super().compute_loss(
            model, {"in_chunks": call}, return_outputs, num_items_in_batch=num_items_in_batch
        )

    def check_other_world(self, before: Mapping[str, int]) -> None:
        rows = self.args.per_device_train_batch_size
        if before["rows"] != rows:
            raise ValueError(
                f"per_device_train_batch_size was {before['rows']} and is {rows}, by which a "
                "mixture is dealt out; change gradient_accumulation_steps instead"
            )

    def floating_point_ops(self, inputs):
        """Not counted: transformers' estimate knows neither media nor shared prefixes."""
        return 0


def check_sft(args: TrainingArguments) -> None:
    """Raises ValueError for settings that a supervised stage has no use for."""
    if args.label_smoothing_factor:
        raise ValueError("trainer.label_smoothing_factor is not supported in an sft stage")
    if args.eval_strategy != "no":
        raise ValueError(
            f"trainer.eval_strategy is {args.eval_strategy.value}, expected no in an sft stage: "
            "held-out figures are measured after it"
        )


def ordered_examples(sources: Sequence[Source], args: TrainingArguments) -> list[Example]:
    """The examples of a whole run in the order in which they are taught; sets `args.max_steps`
    where it follows from `num_train_epochs`."""
    a_step = args.gradient_accumulation_steps * args.world_size
    if args.max_steps <= 0:
        num_examples = args.num_train_epochs * sum(len(source.examples) for source in sources)
        args.max_steps = math.ceil(num_examples / (args.per_device_train_batch_size * a_step))
    drawn = batches(sources, args.per_device_train_batch_size, args.seed)
    return list(chain.from_iterable(islice(drawn, args.max_steps * a_step)))


def packed_loss(
    forwards: list[dict[str, Any]], num_items: torch.Tensor, forward: Callable[..., Any]
) -> dict[str, torch.Tensor]:
    """{"loss": the cross entropy of all taught tokens, divided by `num_items`}, over the forwards
    of `PackedCollator`; forward: that of the policy's model."""
    losses = []
    for given in forwards:
        given = dict(given)
        media = {name: given.pop(name) for name in ("media_inputs", "media_rows")}
        packed = pack_branches(**given)
        arguments = packed.inputs()
        labels = arguments.pop("shift_labels")
        logits = forward(**arguments, **media).logits
        precise = logits if logits.dtype == torch.float64 else logits.float()
        losses.append(
            torch.nn.functional.cross_entropy(
                precise.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
            )
            / num_items
        )
    return {"loss": losses[0] if len(losses) == 1 else torch.stack(losses).sum()}
