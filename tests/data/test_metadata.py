"""ViDA-UGC's metadata: what is refused, and that answers with boxes say what the metadata say."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import ExifTags, Image

from rewards.boxes import read_boxes
from tests.helpers.builder_sets import LABELS, PICTURES, plan, write_media
from thinker.data.bad_lines import BadLinesError
from thinker.data.builders.build import build_records
from thinker.data.builders.facts import LevelRule
from thinker.data.builders.sources import Sources, read_facts
from thinker.data.paths import media_rules

GOOD = {"image": "d.png", "mos": 3, "width": 40, "height": 30, "distortions": []}
NOISE = {"distortion": "Noise", "coordinates": [0, 0, 10, 15]}


def facts_of(path, entries):
    path.write_text(json.dumps(entries))
    media = media_rules(path.parent, None, require_files=False)
    return read_facts(Sources(metadata=path), media, LevelRule(range=(1.0, 5.0)))


def test_what_is_known_of_a_picture() -> None:
    media = media_rules(LABELS, None, require_files=False)
    first, second = read_facts(PICTURES, media, LevelRule(range=(1.0, 5.0)))
    assert first.places is not None and second.places == ()
    assert [place.box for place in first.places] == [
        (0.0, 0.0, 250.0, 500.0), (500.0, 500.0, 1000.0, 1000.0), (600.0, 0.0, 1000.0, 300.0)
    ]  # fmt: skip
    assert (first.distortion, first.severity, first.level) == ("noise", "severe", "good")
    assert (second.distortion, second.severity, second.level) == ("none", None, "excellent")


def test_boxes_stated_in_another_size_are_refused(tmp_path) -> None:
    root = write_media(tmp_path)
    stored = np.zeros((30, 40, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # shown upright it is 30 wide and 40 high
    Image.fromarray(stored).save(root / "turned.jpg", exif=exif)
    metadata = tmp_path / "metadata.json"

    def build(is_published: bool, **changes) -> int:
        entry = GOOD | {"image": "turned.jpg", "distortions": [NOISE]} | changes
        metadata.write_text(json.dumps([entry]))
        wanted = plan("dist-detect", root, is_published=is_published)
        wanted = replace(wanted, sources=Sources(metadata=metadata))
        return len(build_records(wanted).records)

    for is_published in (False, True):
        assert build(is_published, width=30, height=40) == 1
        with pytest.raises(ValueError, match=r"1 pictures.*turned.jpg has 30 x 40.* say 40 x 30"):
            build(is_published, width=40, height=30)


@pytest.mark.parametrize("is_published", [True, False])
def test_answers_with_boxes_are_read_back(is_published: bool, tmp_path) -> None:
    root = write_media(tmp_path)
    media = media_rules(LABELS, None, require_files=False)
    places = read_facts(PICTURES, media, LevelRule(range=(1.0, 5.0)))[0].places or ()
    known = {(place.name, place.severity, place.box) for place in places}

    def answers(kind: str) -> list[str]:
        records = build_records(plan(kind, root, is_published=is_published)).records
        return [record["conversations"][1]["value"] for record in records]

    found = [read_boxes(said).boxes for said in answers("dist-detect")]
    assert {(one.name, one.severity, one.box) for one in found[0]} == known and found[1] == ()
    regions = [read_boxes(said).boxes for said in answers("reg-perception")]
    assert [len(boxes) for boxes in regions] == [1, 1, 1, 0, 0]
    assert {(one.name, one.severity, one.box) for boxes in regions for one in boxes} == known
    one_place = [read_boxes(said) for said in answers("ref-grounding")]
    assert all(reference.names == () and len(reference.boxes) == 1 for reference in one_place)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "path"),
        ({"mos": "good"}, "mos"),
        ({"width": 0}, "expected pixels"),
        ({"distortions": None}, "expected a list"),
        ({"distortions": [{"distortion": "Noise"}]}, "missing field 'coordinates'"),
        ({"distortions": [NOISE | {"coordinates": [0, 0, 41, 10]}]}, "within 40 x 30 pixels"),
        ({"distortions": [NOISE | {"coordinates": [10, 0, 0, 10]}]}, "within 40 x 30 pixels"),
        ({"distortions": [NOISE | {"coordinates": [0, 0, "a", 1]}]}, r"expected \[left, top"),
        ({"distortions": [NOISE | {"severity": "huge"}]}, "expected one of minor, moderate"),
        ({"distortions": [NOISE | {"significance_score": "x"}]}, "expected a number"),
    ],
)
def test_bad_entries_are_told_by_their_number(changes, message, tmp_path) -> None:
    with pytest.raises(BadLinesError, match=rf"meta\.json:2: .*{message}"):
        facts_of(tmp_path / "meta.json", [GOOD, GOOD | {"image": "e.png"} | changes])


def test_a_file_that_is_no_list(tmp_path) -> None:
    with pytest.raises(BadLinesError, match="expected a list of pictures"):
        facts_of(tmp_path / "meta.json", GOOD)
    media = media_rules(tmp_path, None, require_files=False)
    with pytest.raises(ValueError, match=r"cannot read .*gone"):
        read_facts(Sources(metadata=tmp_path / "gone"), media, LevelRule(range=None))
