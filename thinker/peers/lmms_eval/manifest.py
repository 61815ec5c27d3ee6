"""What lmms-eval is told of our model: the entry point of pyproject.toml."""

from typing import Any

MODEL = "thinker.peers.lmms_eval.model.ThinkerModel"
"""The class that `--model thinker` stands for."""


def manifest() -> Any:
    """A `ModelManifest` of lmms-eval, which calls this when it lists its models."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="thinker", chat_class_path=MODEL)
