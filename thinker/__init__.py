"""Video quality assessment that explains itself: motion-aware policies trained by GRPO.

What users import: `from thinker import Example, Prediction, QualityScorer, load_policy`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thinker.data.examples import Example
    from thinker.policies import load_policy
    from thinker.score.prediction import Prediction
    from thinker.score.scorer import QualityScorer

__all__ = ["Example", "Prediction", "QualityScorer", "load_policy"]

_HOMES = {
    "Example": "thinker.data.examples",
    "Prediction": "thinker.score.prediction",
    "QualityScorer": "thinker.score.scorer",
    "load_policy": "thinker.policies",
}


def __getattr__(name: str) -> object:
    """Imports an exported name when it is first used, so that `import thinker` needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'thinker' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
