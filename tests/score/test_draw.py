import numpy as np
import pytest
from PIL import Image

from rewards.boxes import PICTURE_DISTORTIONS
from thinker.score import draw
from thinker.score.draw import PALETTE, colour_of, draw_boxes
from thinker.score.prediction import FoundBox


def found(name="noise", box=(250.0, 250.0, 750.0, 750.0), severity="severe", confidence=0.9):
    return FoundBox(name=name, severity=severity, box=box, confidence=confidence)


def test_the_frame_lies_on_the_box_in_the_colour_of_its_class():
    """A box from 250 to 750 thousandths of 800 pixels is 200 to 600: a black line at 200, then 3
    pixels of colour, then a white line; the middle stays."""
    drawn = np.asarray(draw_boxes(Image.new("RGB", (800, 800), (90, 90, 90)), [found()]))
    row = [tuple(map(int, pixel)) for pixel in drawn[400]]
    colour = colour_of("noise")
    assert row[198:206] == [(90,) * 3] * 2 + [(0,) * 3] + [colour] * 3 + [(255,) * 3] + [(90,) * 3]
    assert row[599] == (0, 0, 0) and row[600] == (90, 90, 90)
    assert colour in {tuple(map(int, pixel)) for pixel in drawn[190, 200:400]}  # the label above


def test_small_pictures_grow_by_a_whole_factor_and_large_ones_stay():
    tiny = Image.fromarray(np.arange(64 * 48 * 3, dtype=np.uint8).reshape(48, 64, 3))
    grown = draw_boxes(tiny, [])
    assert grown.size == (512, 384)
    assert np.array_equal(np.asarray(grown)[::8, ::8], np.asarray(tiny))
    assert draw_boxes(Image.new("L", (1200, 700)), [found()]).size == (1200, 700)
    assert draw_boxes(Image.new("RGBA", (900, 20)), [found()]).mode == "RGB"


def test_the_picture_that_is_given_stays_as_it_is():
    picture = Image.new("RGB", (600, 600))
    draw_boxes(picture, [found()])
    assert picture.getbbox() is None


@pytest.mark.parametrize("size", [(64, 64), (1500, 900), (90, 700), (900, 30), (1, 1)])
@pytest.mark.parametrize("name", ["noise", "edge aliasing effect", "ü" * 500, "a\nb", None])
def test_labels_stay_within_the_picture_beside_each_other(size, name, monkeypatch):
    places = []
    place_of = draw._free_place

    def noted(size, *args):
        places.append((size, place_of(size, *args)))
        return places[-1][1]

    monkeypatch.setattr(draw, "_free_place", noted)
    corners = [(0, 0, 300, 300), (700, 0, 1000, 300), (0, 700, 300, 1000), (700, 700, 1000, 1000)]
    draw_boxes(Image.new("RGB", size), [found(name, box) for box in corners])
    for (width, height), (left, top, right, bottom) in places:
        assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_labels_at_one_place_do_not_hide_each_other(monkeypatch):
    places = []
    place_of = draw._free_place
    monkeypatch.setattr(
        draw, "_free_place", lambda *args: places.append(place_of(*args)) or places[-1]
    )
    draw_boxes(
        Image.new("RGB", (800, 800)), [found(), found("underexposure"), found("motion blur")]
    )
    hidden = [draw._shared(a, b) for n, a in enumerate(places) for b in places[:n]]
    assert hidden == [0, 0, 0]


def test_every_class_has_a_colour_of_its_own_and_keeps_it():
    assert len({colour_of(name) for name in PICTURE_DISTORTIONS}) == len(PICTURE_DISTORTIONS)
    assert colour_of("banding") == colour_of("banding") in PALETTE
    assert colour_of(None) not in PALETTE
