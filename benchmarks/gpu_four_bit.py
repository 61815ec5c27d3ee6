"""LoRA on a language model of 4 bits (nf4) against one of bfloat16: time and memory of a step.

    python benchmarks/gpu_four_bit.py --output benchmarks/gpu_four_bit.json

The policy's shapes with random weights are saved and loaded, once as they are and once with the
language model's linear layers in nf4, as a stage with `lora.quantization: nf4` has them. LoRA of
the package's default settings is put on the language model. A row holds the seconds of loading,
forward with backward, and an AdamW step on the adapters, peak bytes of loading and of training,
whether the loss is finite, and how far the log-probabilities of the two are apart. Packed rows of
one prompt with G completions, gradient checkpointing. Where bitsandbytes is missing its row says
so.
"""

import argparse
import gc
import math
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gpu_common import (
    Record,
    arguments,
    begin_peak,
    median_seconds,
    model_names,
    peak_bytes,
    policy_of,
    wait,
    weight_bytes,
)
from gpu_step import Group, logprobs_shared, make_group, prepare
from peft import LoraConfig, get_peft_model

from thinker.config.run import LoraSettings
from thinker.policies import load_policy
from thinker.policies.four_bit import packed_layers

TYPES = ("bfloat16", "nf4")


def load(kind: str, folder: Path, args: argparse.Namespace):
    """The policy's model, its language model in 4 bits for "nf4"."""
    policy = load_policy(
        folder,
        dtype=torch.bfloat16,
        quantization="nf4" if kind == "nf4" else None,
        device=args.device,
    )
    return policy.model.to(args.device)


def with_lora(model):
    """Adapters on the language model, all else frozen."""
    settings = LoraSettings()
    names = "|".join(settings.target_modules)
    # peft puts its layers into the model that it is given
    get_peft_model(
        model,
        LoraConfig(
            r=settings.r,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=rf".*language_model.*\.({names})",
        ),
    )
    prepare(model)
    model.enable_input_require_grads()  # or checkpointing has nothing to carry back
    return model.train()


def measure(kind: str, folder: Path, group: Group, args: argparse.Namespace):
    """A row and the log-probabilities of the untrained policy (G, C)."""
    begin_peak(args.device)
    began = time.perf_counter()
    model = load(kind, folder, args)
    wait(args.device)
    row: dict[str, Any] = {"load_seconds": time.perf_counter() - began}
    row |= {"load_peak_bytes": peak_bytes(args.device), "weight_bytes": weight_bytes(model)}
    packed = packed_layers(model)
    row["four_bit_layers"] = len(packed)
    row["only_language_model"] = all("language_model" in name for name in packed)
    model = with_lora(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    row["trained_parameters"] = sum(parameter.numel() for parameter in trained)
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    with torch.no_grad():
        logps = logprobs_shared(model, group).float()
    losses = []

    def step() -> None:
        loss = -logprobs_shared(model, group).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())

    begin_peak(args.device)
    row["step_seconds"] = median_seconds(step, args.device, args.repeats)
    row["step_peak_bytes"] = peak_bytes(args.device)
    row["losses"] = [float(loss) for loss in losses]
    row["finite"] = all(map(math.isfinite, row["losses"]))
    return row, logps


def measure_model(name: str, args: argparse.Namespace, record: Record) -> None:
    """A row for each type of one policy."""
    group = make_group(args.prompts, args.groups, args.completion, args.device)
    logps: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as place:
        policy = policy_of(name, args.device)
        policy.save(place)
        del policy
        for kind in TYPES:
            row: dict[str, Any] = {"model": name, "weights": kind, "prompt": args.prompts}
            if kind == "nf4" and find_spec("bitsandbytes") is None:
                record.add(**row, skipped="bitsandbytes is not installed")
                continue
            gc.collect()
            try:
                figures, logps[kind] = measure(kind, Path(place), group, args)
            except torch.OutOfMemoryError:
                figures = {"failed": "out of memory"}
            if len(logps) == len(TYPES):
                difference = (logps["nf4"] - logps["bfloat16"]).abs()
                figures["mean_logp_difference"] = float(difference.mean())
            record.add(**row, group=args.groups, completion=args.completion, **figures)


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    # The larger one last: it is 16 GB on the disk.
    models = ["InternVL3-2B", "InternVL3-8B"]
    parser.add_argument("--models", nargs="+", default=models, choices=model_names())
    parser.add_argument("--prompts", type=int, default=1700)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--completion", type=int, default=400)
    args = parser.parse_args(argv)
    record = Record(args.output, args.device)
    for name in args.models:
        measure_model(name, args, record)


if __name__ == "__main__":
    main()
