"""Video quality assessment that explains itself: motion-aware policies trained by GRPO."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thinker.scorer import Prediction, QualityScorer

__all__ = ["Prediction", "QualityScorer"]


def __getattr__(name: str) -> Any:
    """`from thinker import QualityScorer`, without importing torch for the rest of the package."""
    if name in __all__:
        from thinker import scorer

        return getattr(scorer, name)
    raise AttributeError(f"module 'thinker' has no attribute {name!r}")
