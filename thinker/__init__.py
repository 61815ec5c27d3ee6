"""Thinker: video quality assessment that reasons, trained by GRPO."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thinker.prediction import Prediction
    from thinker.scorer import QualityScorer

__all__ = ["Prediction", "QualityScorer"]


def __getattr__(name: str) -> object:
    """`from thinker import QualityScorer`, without loading torch for `import thinker` alone."""
    if name == "QualityScorer":
        from thinker.scorer import QualityScorer

        return QualityScorer
    if name == "Prediction":
        from thinker.prediction import Prediction

        return Prediction
    raise AttributeError(f"module 'thinker' has no attribute {name!r}")
