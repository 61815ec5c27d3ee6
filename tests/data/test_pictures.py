"""The generated pictures: their labels, their pixels, and the questions that are made of them."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from thinker.cli.main import main
from thinker.data.demo.pictures import (
    SPATIAL,
    PictureConfig,
    generate_picture_set,
    plan_pictures,
)
from thinker.data.paths import media_rules
from thinker.data.read import RecordRules, scan_records

SMALL = PictureConfig(num_train=24, num_eval=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    generate_picture_set(folder, SMALL)
    return folder


def test_distortions_are_dealt_out_evenly_and_no_scene_is_on_both_sides():
    plans = plan_pictures(PictureConfig(num_train=120, num_eval=40))
    counts = Counter(plan.distortion for plan in plans if plan.split == "train")
    assert counts == {name: 19 for name in SPATIAL} | {"none": 6}
    assert len({plan.scene_seed for plan in plans}) == 160
    assert plan_pictures(PictureConfig(num_train=120, num_eval=40)) == plans


def test_a_distortion_changes_the_picture_by_its_severity(folder):
    """Noise and blur move the energy of fine detail up and down, exposure the mean."""
    truth = json.loads((folder / "distortions.json").read_text())
    for path, known in truth.items():
        picture = np.asarray(Image.open(folder / "pictures" / path).convert("L"), dtype=float)
        detail = np.abs(np.diff(picture, axis=1)).mean()
        known["detail"], known["mean"] = detail, picture.mean()
    of = {name: [k for k in truth.values() if k["distortion"] == name] for name in SPATIAL}
    assert min(k["mean"] for k in of["overexposure"]) > max(k["mean"] for k in of["underexposure"])
    strongest = {name: max(found, key=lambda k: k["severity"]) for name, found in of.items()}
    assert strongest["noise"]["detail"] > 4 * strongest["blur"]["detail"]


def test_what_is_there_stays_and_another_set_is_refused(folder):
    before = {path: path.stat().st_mtime_ns for path in (folder / "pictures").iterdir()}
    next(iter(before)).unlink()
    kept = dict(list(before.items())[1:])
    generate_picture_set(folder, SMALL)
    after = {path: path.stat().st_mtime_ns for path in (folder / "pictures").iterdir()}
    assert after.keys() == before.keys() and all(after[path] == when for path, when in kept.items())
    with pytest.raises(ValueError, match="holds another set of pictures"):
        generate_picture_set(folder, PictureConfig(num_train=24, num_eval=8, seed=1))


def test_thinker_records_asks_about_them(folder, tmp_path):
    output = tmp_path / "q.jsonl"
    known, pictures = str(folder / "distortions.json"), str(folder / "pictures")
    command = ["records", "distortion", "--severity", "--split", "eval", "--form", "short"]
    command += ["--distortions", known, "--media-root", pictures, "--output", str(output)]
    assert main(command) == 0
    media = media_rules(folder / "pictures", None, require_files=True)
    rules = RecordRules(media=media, dataset="q")
    examples = scan_records(output, rules).examples
    assert len(examples) == 8
    assert {one.media[0].kind for one in examples} == {"image"}


def test_too_few_pictures_are_refused():
    with pytest.raises(ValueError, match="num_eval is 3, expected at least 7"):
        PictureConfig(num_eval=3)
