"""ViDA's test release (MIPI challenge, ICCV 2025) → sets that the one evaluation takes.

In: a folder with the files of the release, each of which is asked where it is there:
`benchmark.json` (detection, description and score of each picture), `reg-p_ques.json` (regions),
`mcq.json` (choices) and `ref-g.json` (sentences that describe a region; in our generated release
only); and the truth where somebody has it (`truth.py`). Out: a `LoadedSet` a part, with references
where they are known. Prompts are those of the roles of `thinker.data.builders.vida`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase as LETTERS
from typing import Any

from thinker.data.bad_lines import Loaded, settle
from thinker.data.builders import vida
from thinker.data.builders.draft import Style
from thinker.data.builders.facts import Facts
from thinker.data.builders.metadata import picture_place, size_of
from thinker.data.datasets import RecordSet
from thinker.data.examples import Example
from thinker.data.paths import MediaRules, media_rules
from thinker.data.read import RecordRules, scan_records
from thinker.data.records import BadValueError, file_name, mapping, member, prose, show, text
from thinker.eval.bench.vida.marks import without_marks
from thinker.eval.bench.vida.truth import METADATA_FILE, REGION_TRUTH_FILE, Truth, id_of, read_truth
from thinker.eval.sets import ANSWER_SCALE, LoadedSet
from thinker.policies import Policy
from thinker.prompts import ask

PROMPTS = ("official", "own")
CHOICE_WISH = "Answer with a single option's letter (A, B, C, ...) from the given choices directly."
"""ViDA's, behind the options."""
LEVEL_PREFIX = "The quality of the image is"
"""What the answer to the score question is forced to begin with in mode "level"."""
PICTURES_FILE, CHOICES_FILE = "benchmark.json", "mcq.json"
REGIONS_FILE, SENTENCES_FILE = "reg-p_ques.json", "ref-g.json"

Raw = dict[str, Any]
"""A record as the file gives it."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is asked of the records of one file."""

    file: str
    """Its name."""
    task: str
    """A key of `thinker.tasks.TASKS`."""
    fields: Callable[[Raw, Truth, Style], Raw]
    """Makes a record of `thinker.data.conversations` of one; raises BadValueError."""


@dataclass(frozen=True, kw_only=True)
class VidaData:
    """What was read of a release."""

    prompt: str
    """One of `PROMPTS`."""
    sets: dict[str, LoadedSet]
    """By the name of the part."""
    raws: dict[str, dict[str, Raw]]
    """By part, then by the id of the example: the record as the file gives it."""
    truth: Truth
    """What is known of it."""
    num_bad: int
    """Records that were left out."""


def load_vida(
    folder: Path,
    image_root: Path,
    *,
    prompt: str = "official",
    only_scores: bool = False,
    skip_bad_lines: bool = False,
) -> VidaData:
    """Every part whose file is in the folder.

    prompt: "official" asks in the published form; "own" as the short form of `thinker records`
    teaches: without the marks of boxes, choices without a wish for a letter. only_scores: leave out
    what mode "level" cannot answer. Raises BadLinesError with the bad records of all files, truth
    included, and ValueError where there is nothing to ask.
    """
    if prompt not in PROMPTS:
        raise ValueError(f"prompt is {prompt!r}, expected one of {', '.join(PROMPTS)} for vida")
    if not folder.is_dir():
        raise ValueError(f"--data {folder} is no folder; vida takes the one of its test release")
    parts = {
        name: part
        for name, part in PARTS.items()
        if (folder / part.file).is_file() and (part.task == "level" or not only_scores)
    }
    if not parts:
        files = [PICTURES_FILE] if only_scores else [*dict.fromkeys(p.file for p in PARTS.values())]
        raise ValueError(f"{folder} holds nothing to ask; expected one of {', '.join(files)}")
    truth, media = read_truth(folder), media_rules(image_root, None, require_files=False)
    style = Style(is_published=prompt == "official")
    raws: dict[str, dict[str, Raw]] = {}
    read: dict[str, Loaded] = {}
    for name, part in parts.items():
        read[name], raws[name] = _read(folder, name, part, media, truth, style)
    examples = [example for one in read.values() for example in one.examples]
    bad = [*truth.bad_lines, *(bad for one in read.values() for bad in one.bad_lines)]
    bad = list(dict.fromkeys(bad))  # three parts read the file of pictures
    settle([Loaded(examples, bad)], skip_bad_lines)
    sets = {
        name: _set(name, parts[name], folder, image_root, one)
        for name, one in read.items()
        if one.examples
    }
    return VidaData(prompt=prompt, sets=sets, raws=raws, truth=truth, num_bad=len(bad))


def _read(
    folder: Path, name: str, part: Part, media: MediaRules, truth: Truth, style: Style
) -> tuple[Loaded, dict[str, Raw]]:
    key = _key(name)
    raws: dict[str, Raw] = {}

    def translate(value: object) -> Raw:
        raw = mapping(value, "the record")
        raws.setdefault(f"{key}/{id_of(raw)}", raw)
        return {"id": id_of(raw), "image": _image(raw), "task": part.task} | part.fields(
            raw, truth, style
        )

    rules = RecordRules(media=media, dataset=key, scale=ANSWER_SCALE)
    loaded = scan_records(folder / part.file, rules, translate)
    if part.task == "choice" and style.is_published:
        loaded = Loaded([_officially_asked(e) for e in loaded.examples], loaded.bad_lines)
    return loaded, raws


def _set(name: str, part: Part, folder: Path, image_root: Path, read: Loaded) -> LoadedSet:
    source = RecordSet(
        name=f"ViDA {name}",
        key=_key(name),
        records=(folder / part.file,),
        media_root=image_root,
        mos_scale=ANSWER_SCALE if part.task == "level" else None,
    )
    return LoadedSet(
        key=source.key,
        name=source.name,
        task=part.task,
        source=source,
        examples=read.examples,
        bad_lines=read.bad_lines,
    )


def _key(part: str) -> str:
    return f"vida_{part}"


def _image(raw: Raw) -> str:
    return file_name(member(raw, "image"), "image")


def use_level_prefix(policy: Policy) -> None:
    """Make a policy's levels follow ViDA's sentence from now on, as the score question has it."""
    inputs = policy.inputs
    inputs.levels = dataclasses.replace(inputs.levels, image_prefix=LEVEL_PREFIX)


# pictures


def _of_picture(role: Callable, raw: Raw, truth: Truth, style: Style) -> tuple[Raw, bool]:
    """What a role asks of a picture, and whether its answer is known."""
    size_of(raw)
    image, known = _image(raw), None
    if truth.pictures is not None:
        known = truth.pictures.get(image)
        if known is None:
            raise BadValueError(f"{METADATA_FILE} says nothing of picture {show(image)}")
    # Without the truth there is a question all the same: that of any picture.
    facts = Facts(
        path=image,
        kind="image",
        level=known.level if known else "fair",
        places=known.places if known else (),
    )
    (draft,) = role([facts], style)
    asked = draft.asked[0]
    fields = {"question": asked.text, "answer": asked.answer, **draft.fields}
    return fields, known is not None


def _detection(raw: Raw, truth: Truth, style: Style) -> Raw:
    fields, is_known = _of_picture(vida.dist_detect, raw, truth, style)
    return fields if is_known else fields | {"answer": None}


def _description(raw: Raw, truth: Truth, style: Style) -> Raw:
    fields, is_known = _of_picture(vida.assess, raw, truth, style)
    return fields if is_known else fields | {"answer": None}


def _score(raw: Raw, truth: Truth, style: Style) -> Raw:
    """The answer is the MOS, which a level stands for."""
    fields, _ = _of_picture(vida.score, raw, truth, style)
    known = (truth.pictures or {}).get(_image(raw))
    return fields | {"answer": None if known is None else known.mos}


# regions and sentences


def _region(raw: Raw, truth: Truth, style: Style) -> Raw:
    fields = _question(raw, style)
    if truth.regions is None:
        return fields
    known = truth.regions.get(id_of(raw))
    if known is None or known.image != _image(raw):
        raise BadValueError(f"{REGION_TRUTH_FILE} says nothing of region {id_of(raw)} of its image")
    places = [one.place for one in known.boxes]
    return fields | {"answer": vida.boxes_text(places, style, one_line=True) or vida.NO_REGION}


def _referring(raw: Raw, truth: Truth, style: Style) -> Raw:
    return _question(raw, style) | {"answer": vida.box_text(referred_box(raw), style)}


def referred_box(raw: Raw) -> tuple[float, float, float, float]:
    """The box of a sentence, in thousandths of the sides."""
    return picture_place({"distortion": "any", **raw}, *size_of(raw)).box


def _question(raw: Raw, style: Style) -> Raw:
    size_of(raw)
    question = prose(member(raw, "question"), "question")
    if not style.is_published:
        question = without_marks(question)
    return {"question": question, "system_prompt": vida.EXPERT}


# choices


def _choice(raw: Raw, truth: Truth, style: Style) -> Raw:
    fields = {key: raw.get(key) for key in ("concern", "correct_ans")}
    question, candidates = prose(member(raw, "question"), "question"), member(raw, "candidates")
    if not isinstance(candidates, list) or len(candidates) < 2:
        raise BadValueError(f"candidates is {show(candidates)}, expected a list of at least two")
    if len(candidates) > len(LETTERS):
        raise BadValueError(f"there are {len(candidates)} candidates, expected at most 26: A to Z")
    options = [text(one, "a candidate") for one in candidates]
    if style.is_published:
        return fields | {"question": question, "candidates": options}
    lines = "\n".join([question, *_lines(options)])
    return fields | {"question": lines, "system_prompt": vida.EXPERT}


def _officially_asked(example: Example) -> Example:
    """In ViDA's words: the model's own system prompt, the options, and the wish for a letter."""
    question = example.turns[-1].text.split("\n")[: -len(example.options) - 1]
    words = "\n".join([*question, *_lines(example.options), CHOICE_WISH])
    return dataclasses.replace(example, turns=ask(words))


def _lines(options: Sequence[str]) -> list[str]:
    return [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]


PARTS: Mapping[str, Part] = {
    "detection": Part(file=PICTURES_FILE, task="boxes", fields=_detection),
    "region": Part(file=REGIONS_FILE, task="boxes", fields=_region),
    "referring": Part(file=SENTENCES_FILE, task="boxes", fields=_referring),
    "choice": Part(file=CHOICES_FILE, task="choice", fields=_choice),
    "description": Part(file=PICTURES_FILE, task="describe", fields=_description),
    "score": Part(file=PICTURES_FILE, task="level", fields=_score),
}
"""In the order of the tables."""
