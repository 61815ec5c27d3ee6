"""One loop over a metric of pyiqa's and over a policy of ours, which must not tell them apart.

    python run_scripts/peers/compare_pyiqa.py POLICY FOLDER

Runs in the environment of pyiqa; FOLDER takes pictures. Prints what each side gives, and ends with
status 1 where ours has another form, or another score than its scorer gives of the same pictures.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyiqa
import torch
from PIL import Image

from thinker.peers.metric import create_metric

# Neither needs weights, which cannot be had without a network.
PEERS = ("piqe", "psnr")
ATTRIBUTES = ("metric_name", "metric_mode", "lower_better", "score_range", "as_loss", "device")


def use(metric: torch.nn.Module, pictures: torch.Tensor, paths: list[str]) -> dict[str, object]:
    """What code that calls metrics sees of one."""
    metric.eval()
    reference = pictures.flip(0) if metric.metric_mode == "FR" else None
    scores = metric(pictures, reference)
    alone = metric(pictures[:1], None if reference is None else reference[:1])
    of_file = metric(paths[0], None if reference is None else paths[-1])
    try:
        metric(pictures * 255, reference)
        refuses = False
    except (AssertionError, ValueError):
        refuses = True
    return {
        "type": isinstance(metric, torch.nn.Module),
        "attributes": [name for name in ATTRIBUTES if hasattr(metric, name)],
        "shape": tuple(scores.shape),
        "dtype": scores.dtype,
        "gradient": scores.requires_grad,
        "file": tuple(of_file.shape),
        "file as tensor": torch.equal(of_file, alone),
        "refuses 0..255": refuses,
        "lower_better": metric.lower_better,
    }


def main(policy: str, folder: str) -> int:
    names = ("pyiqa", "torch", "torchvision", "transformers", "numpy")
    print(", ".join(f"{name} {version(name)}" for name in names))
    draw = np.random.default_rng(0)
    paths = [str(Path(folder) / f"{number}.png") for number in range(3)]
    for path in paths:
        Image.fromarray(draw.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(path)
    arrays = [np.asarray(Image.open(path)) for path in paths]
    pictures = torch.from_numpy(np.stack(arrays)).movedim(-1, 1).contiguous().float() / 255

    metric = create_metric(policy, device="cpu", mode="level")
    seen = {name: use(pyiqa.create_metric(name, device="cpu"), pictures, paths) for name in PEERS}
    seen["thinker"] = use(metric, pictures, paths)
    for name, of in seen.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in of.items()))
    expected = torch.tensor([row.score for row in metric.scorer.score(paths)])
    is_scorers = torch.equal(metric(pictures), expected)
    print(
        f"{'equal  ' if is_scorers else 'DIFFERS'} scores of tensors and of PNG files: {expected}"
    )
    own = seen.pop("thinker")
    differing = [
        f"{key}: thinker {own[key]}, {name} {of[key]}"
        for name, of in seen.items()
        for key in own
        if key != "lower_better" and own[key] != of[key]
    ]
    print("\n".join(f"DIFFERS {line}" for line in differing) or "equal   forms")
    return 0 if is_scorers and not differing else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
