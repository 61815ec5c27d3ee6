"""Tasks: what questions mean. A new one is a file here, a parser in `rewards/`, a line in `TASKS`
and a test."""

from thinker.tasks.base import Task
from thinker.tasks.boxes import BoxesTask
from thinker.tasks.choice import ChoiceTask
from thinker.tasks.describe import DescribeTask
from thinker.tasks.distortion import DistortionTask
from thinker.tasks.level import LevelTask
from thinker.tasks.open import OpenTask
from thinker.tasks.score import ScoreTask

__all__ = ["TASKS", "Task"]

TASKS: dict[str, Task] = {
    "score": ScoreTask(),
    "level": LevelTask(),
    "choice": ChoiceTask(),
    "distortion": DistortionTask(),
    "boxes": BoxesTask(),
    "describe": DescribeTask(),
    "open": OpenTask(),
}
"""By name: what a record's `task` can say."""
