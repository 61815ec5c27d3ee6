"""lmms-eval (LMMs-Lab): a policy as one of its models, our sets as its tasks.

- `manifest.py`: what the entry point `lmms_eval.models` of pyproject.toml names
- `model.py`: the model `thinker`; the only module that imports lmms-eval, which loads it
- `answers.py`: the questions of a task, and figures of the texts that a model answered them by
- `tasks/`: the YAMLs of the tasks, the folder for `--include_path`
"""

from pathlib import Path

TASKS_FOLDER = Path(__file__).parent / "tasks"
"""What `--include_path` is given."""
