"""Short texts that stand for a policy: policies of equal digest are equal."""

import hashlib
import json
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from thinker.policies.backbone import PolicyConfig
from thinker.policies.policy import Policy
from thinker.policies.shards import read_headers
from thinker.utils.json_file import read_json_object


def model_digest(folder: str, policy: Policy | None) -> str:
    """Digest of all bytes of a saved policy's files, or of the weights in memory where there is no
    folder.

    It takes about a second per GB. Names and dates would be cheaper, but two checkpoints of one
    training run differ in nothing but their weights.
    """
    digest = hashlib.blake2b(digest_size=16)
    if folder and Path(folder).is_dir():
        for path in sorted(Path(folder).iterdir()):
            if path.suffix in (".safetensors", ".json", ".jinja", ".txt"):
                digest.update(path.name.encode())
                with open(path, "rb") as file:
                    digest.update(hashlib.file_digest(file, "blake2b").digest())
        return digest.hexdigest()
    if policy is None:
        raise ValueError(f"{folder} is not a folder; give the one that holds the saved policy")
    for name, tensor in sorted(policy.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def content_digest(folder: str) -> str | None:
    """Digest of what a saved policy answers by: its tensors, its chat template, and what
    `PolicyConfig` adds to config.json. None where there is no folder of a model.

    Unlike `model_digest` it is the same where the policy was loaded and saved again, in however
    many shards: that rewrites files of the tokenizer and the dtype in config.json.
    """
    root = Path(folder)
    if not folder or not (root / "config.json").is_file():
        return None
    values = read_json_object(root / "config.json")
    own = {field.name: values.get(field.name) for field in fields(PolicyConfig)}
    parts = {"config.json": json.dumps(own, sort_keys=True).encode()}
    parts |= {path.name: path.read_bytes() for path in root.glob("*.jinja")}
    for path in read_headers(root):
        with safe_open(path, framework="pt") as file:
            parts |= {key: _tensor_digest(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    digest = hashlib.blake2b(digest_size=16)
    for name, part in sorted(parts.items()):
        digest.update(json.dumps([name, len(part)]).encode())
        digest.update(part)
    return digest.hexdigest()


def _tensor_digest(tensor: Tensor) -> bytes:
    """Of type, shape and bytes."""
    digest = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()
