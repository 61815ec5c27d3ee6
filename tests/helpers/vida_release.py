"""A generated release in ViDA's form, and finished evaluations of it with given answers."""

import json
from pathlib import Path

from thinker.data.demo.local import LocalConfig, generate_local_set
from thinker.eval.bench.vida.load import VidaData, load_vida
from thinker.eval.summary import write_results
from thinker.score.prediction import Prediction, judged
from thinker.score.question import question_of
from thinker.tasks.level import level_word


def make_release(root: Path, num_eval: int = 8) -> Path:
    """The local set in `root`; returns the folder of its release."""
    generate_local_set(root, LocalConfig(num_train=1, num_eval=num_eval, size_px=48))
    return root / "bench"


def load(release: Path, **settings) -> VidaData:
    return load_vida(release, release.parent / "pictures", **settings)


def right_answer(part: str, example, raw) -> str:
    """What a policy that knows everything says, in the published form."""
    if part == "choice":
        return "ABCD"[raw["candidates"].index(raw["correct_ans"])] + "."
    if part == "score":
        return f"The quality of the image is {level_word(example.mos)}."
    return example.reference


def prediction(example, text: str | None) -> Prediction:
    """What a completion makes; None: the picture could not be read."""
    path = example.media[0].path
    if text is None:
        return Prediction(path=path, score=None, status="missing", task=example.task)
    blank = Prediction(path=path, score=None, status="invalid_answer", task=example.task)
    return judged(blank, text, 3, question_of(example, ()).reference)


def write_answers(folder: Path, data: VidaData, answer=right_answer) -> None:
    """A finished evaluation in which `answer(part, example, raw)` is said."""
    folder.mkdir(exist_ok=True)
    sets = []
    for part, one in data.sets.items():
        said = [(e, answer(part, e, data.raws[part][e.id])) for e in one.examples]
        sets.append((one, [{"id": e.id, **prediction(e, text).to_row()} for e, text in said]))
    write_results(folder, sets, {"mode": "reason", "model": "m", "version": "0"})


def edit(path: Path, change) -> None:
    """Change the content of a JSON file."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
