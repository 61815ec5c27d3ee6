"""Video quality assessment that explains itself: motion-aware policies trained by GRPO."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thinker.score.prediction import Prediction
    from thinker.score.scorer import QualityScorer

__all__ = ["Prediction", "QualityScorer"]


def __getattr__(name: str) -> object:
    """`from thinker import QualityScorer`, without importing torch for the rest of the package."""
    if name == "QualityScorer":
        from thinker.score.scorer import QualityScorer

        return QualityScorer
    if name == "Prediction":
        from thinker.score.prediction import Prediction

        return Prediction
    raise AttributeError(f"module 'thinker' has no attribute {name!r}")
