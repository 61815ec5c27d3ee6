"""Generated pictures with local distortions: what is said of them is what they show."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from rewards.boxes import PICTURE_DISTORTIONS, box_iou
from thinker.cli.main import main
from thinker.data.demo.local import (
    EFFECTS,
    STRENGTH,
    LocalConfig,
    generate_local_set,
    harm_of,
    mos_of,
    render,
)
from thinker.data.demo.scenes import Scene
from thinker.tasks.boxes import position_of

SMALL = LocalConfig(num_train=40, num_eval=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    generate_local_set(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def entries(folder):
    return json.loads((folder / "metadata.json").read_text())


def test_pixels_differ_within_the_boxes_only(folder, entries):
    """From the pristine scene, which `render` draws of an entry without distortions."""
    for number, entry in enumerate(entries):
        shown = np.asarray(Image.open(folder / "pictures" / entry["image"]), dtype=int)
        clean = render(entry | {"distortions": []}, (SMALL.seed, 13, number)).astype(int)
        changed = np.abs(shown - clean).max(axis=2) > 0
        for one in entry["distortions"]:
            left, top, right, bottom = one["coordinates"]
            assert changed[top:bottom, left:right].mean() > 0.2, one
            changed[top:bottom, left:right] = False
        assert not changed.any()


def test_every_type_grows_with_its_severity():
    clean = Scene((1, 2, 3), 128).steady_frame(0)
    for name, effect in EFFECTS.items():
        errors = [
            np.abs(effect(clean, strength, np.random.default_rng(0)).astype(int) - clean).mean()
            for strength in STRENGTH.values()
        ]
        assert 0.3 < errors[0] < errors[1] < errors[2], (name, errors)
    assert {name.lower() for name in EFFECTS} == set(PICTURE_DISTORTIONS)


def test_labels_follow_the_rule(entries):
    """.9 · 1 · (.4 + .6 · √.25) = .63; two of .3: 5 - 4 · (1 - .49) = 2.96."""
    assert harm_of("severe", 0.25) == pytest.approx(0.63)
    assert (mos_of([]), mos_of([0.3, 0.3])) == (5, pytest.approx(2.96))
    assert position_of((0, 0, 30, 30), (128, 128)) == "upper left"
    assert position_of((50, 50, 70, 70), (128, 128)) == "centre"
    for entry in entries:
        found = entry["distortions"]
        mos = mos_of([one["significance_score"] for one in found])
        assert entry["mos"] == pytest.approx(mos, abs=0.006)
        boxes = [tuple(one["coordinates"]) for one in found]
        for box in boxes:
            assert 0 <= box[0] < box[2] <= 64 and 0 <= box[1] < box[3] <= 64
        assert all(box_iou(a, b) == 0 for a in boxes for b in boxes if a is not b)
        assert len({one["distortion"] for one in found}) == len(found)
    counts = Counter(len(entry["distortions"]) for entry in entries)
    assert set(counts) == {0, 1, 2}


def test_the_command_writes_the_same_set_again_and_refuses_another(folder, tmp_path, capsys):
    generate_local_set(folder, SMALL)
    with pytest.raises(ValueError, match="holds another set of pictures"):
        generate_local_set(folder, LocalConfig(num_train=40, num_eval=8, seed=1))
    assert main(["demo-data", "--local", "--small", "--output", str(tmp_path / "l")]) == 0
    assert "60 training and 16 held-out pictures" in capsys.readouterr().out
    with pytest.raises(ValueError, match="size_px is 47"):
        LocalConfig(size_px=47)
