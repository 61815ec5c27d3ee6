"""Flash kernels for the attention of packed rows, against the attention that the package has.

    python benchmarks/gpu_attention.py --output benchmarks/gpu_attention.json
    python benchmarks/gpu_attention.py --device cpu --heads 4 2 16 --prompts 60 --completion 8

On a GPU `shared_prompt_attention` gives the completions' part a boolean mask, which flash kernels
do not take. The same part is causal attention whose queries are the last rows of their keys, prompt
and own: PyTorch's `causal_lower_right`, which dispatches to flash. Here both parts of the mask are
called so. Output and gradients of both ways are first compared with the package's function on
float32 copies: the relative error ‖x - y‖ / ‖y‖ of each may be 1e-2 in bfloat16 (1e-5 on a CPU, in
float32), or the row says that they are not equal and holds no times. Heads as the 7-8B shapes have
them: 28 of queries, 4 of keys, width 128. Unpadded prompts only. The product is not changed by
this.
"""

import argparse
from types import SimpleNamespace
from typing import Any

import torch
from gpu_common import Record, arguments, begin_peak, median_seconds, peak_bytes
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from thinker.policies.shared_prompt import SharedPromptMask
from thinker.policies.shared_prompt.attention import shared_prompt_attention

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # query, key, value (1, heads, L, d)


def present(inputs: Inputs, mask: SharedPromptMask) -> torch.Tensor:
    """The package's function: (1, L, heads, d)."""
    query, key, value = inputs
    module = SimpleNamespace(num_key_value_groups=query.shape[1] // key.shape[1])
    return shared_prompt_attention(module, query, key, value, mask)[0]


def flash(inputs: Inputs, mask: SharedPromptMask) -> torch.Tensor:
    """The same by causal attention and by causal attention aligned at the lower right."""
    query, key, value = inputs
    repeats = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    num_prompt, group = mask.prompt_BP.shape[1], mask.num_completions
    sizes = [num_prompt, query.shape[2] - num_prompt]
    (prompt_q, own_q), (prompt_k, own_k), (prompt_v, own_v) = (
        x.split(sizes, dim=2) for x in (query, key, value)
    )

    def rows(own: torch.Tensor) -> torch.Tensor:  # (1, heads, G·C, d) → (G, heads, C, d)
        return own.unflatten(2, (group, -1)).squeeze(0).transpose(0, 1)

    def behind(prompt: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        return torch.cat([prompt.expand(group, -1, -1, -1), rows(own)], dim=2)

    keys, values = behind(prompt_k, own_k), behind(prompt_v, own_v)
    bias = causal_lower_right(mask.completion_length, keys.shape[2])
    # On a GPU another kernel than flash is an error, not a slower measurement.
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION if query.is_cuda else SDPBackend.MATH):
        own = scaled_dot_product_attention(rows(own_q).contiguous(), keys, values, attn_mask=bias)
        prompt = scaled_dot_product_attention(prompt_q, prompt_k, prompt_v, is_causal=True)
    return torch.cat([prompt.transpose(1, 2), own.transpose(1, 2).flatten(0, 1)[None]], dim=1)


WAYS = {"present": present, "flash": flash}


def outcome(way: str, inputs: Inputs, mask: SharedPromptMask, weight: torch.Tensor):
    """Output and the gradients of query, key and value, of the sum of output times weight."""
    leaves = tuple(x.detach().requires_grad_() for x in inputs)
    output = WAYS[way](leaves, mask)
    gradients = torch.autograd.grad((output.float() * weight).sum(), leaves)
    names = ("output", "query", "key", "value")
    return dict(zip(names, (output.detach(), *gradients), strict=True))


def errors(way: str, inputs: Inputs, mask: SharedPromptMask) -> dict[str, float]:
    """Relative error of output and gradients, against the package's function in float32."""
    draw = torch.Generator().manual_seed(1)
    query = inputs[0]
    weight = torch.randn(query.transpose(1, 2).shape, generator=draw).to(query.device)
    exact = outcome("present", tuple(x.float() for x in inputs), mask, weight)
    given = outcome(way, inputs, mask, weight)
    return {
        name: float((given[name].float() - exact[name]).norm() / exact[name].norm())
        for name in exact
    }


def measure(way: str, inputs: Inputs, mask: SharedPromptMask, args) -> dict[str, Any]:
    """Milliseconds of forward alone, of forward and backward, and peak bytes of the latter."""

    def forward() -> None:
        with torch.no_grad():
            WAYS[way](inputs, mask)

    leaves = tuple(x.detach().requires_grad_() for x in inputs)

    def both() -> None:
        torch.autograd.grad(WAYS[way](leaves, mask).sum(), leaves)

    alone = median_seconds(forward, args.device, args.repeats)
    begin_peak(args.device)
    trained = median_seconds(both, args.device, args.repeats)
    peak = peak_bytes(args.device)
    return {"forward_ms": 1e3 * alone, "forward_backward_ms": 1e3 * trained, "peak_bytes": peak}


def checked(way: str, inputs: Inputs, mask: SharedPromptMask, tolerance: float, args):
    """Errors, and where they are within the tolerance what `measure` gives."""
    found = errors(way, inputs, mask)
    equal = all(error <= tolerance for error in found.values())  # False for NaN
    figures: dict[str, Any] = {"relative_error": found, "equal": equal}
    return figures | (measure(way, inputs, mask, args) if equal else {})


def make_inputs(num_prompt: int, group: int, args) -> tuple[Inputs, SharedPromptMask]:
    """Normal draws, and the mask of an unpadded prompt."""
    queries, keys, width = args.heads
    length = num_prompt + group * args.completion
    draw = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if args.device.type == "cuda" else torch.float32
    query, key, value = (
        torch.randn(1, heads, length, width, generator=draw).to(args.device, dtype)
        for heads in (queries, keys, keys)
    )
    prompt = torch.ones(1, num_prompt, dtype=torch.bool, device=args.device)
    mask = SharedPromptMask(
        prompt_BP=prompt, num_completions=group, completion_length=args.completion
    )
    return (query, key, value), mask


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--heads", nargs=3, type=int, default=[28, 4, 128], metavar="N")
    parser.add_argument("--prompts", nargs="+", type=int, default=[1700, 5000])
    parser.add_argument("--groups", nargs="+", type=int, default=[4, 8])
    parser.add_argument("--completion", type=int, default=400)
    args: argparse.Namespace = parser.parse_args(argv)
    tolerance = 1e-2 if args.device.type == "cuda" else 1e-5
    record = Record(args.output, args.device, tolerance=tolerance, heads=args.heads)
    for num_prompt in args.prompts:
        for group in args.groups:
            inputs, mask = make_inputs(num_prompt, group, args)
            for way in WAYS:
                row = {"prompt": num_prompt, "group": group, "completion": args.completion}
                try:
                    figures = checked(way, inputs, mask, tolerance, args)
                except RuntimeError as error:  # no such kernel, or no memory
                    figures = {"failed": str(error).splitlines()[0]}
                record.add(**row, way=way, **figures)


if __name__ == "__main__":
    main()
