"""One short text that stands for the weights of a policy: policies of equal digest are equal."""

import hashlib
from pathlib import Path

from thinker.policies.policy import Policy


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
