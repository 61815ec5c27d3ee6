"""A policy as a metric on tensors: the scorer's own scores, in the form of pyiqa's metrics."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.policy_factory import BACKBONES, small_policy
from tests.helpers.scripted_rollout import ScriptedTexts
from tests.helpers.video_factory import frame_pattern
from thinker.peers.metric import QualityMetric, create_metric
from thinker.score.scorer import QualityScorer

SIZES = {"wide": (48, 64), "tall": (90, 40)}


@pytest.fixture(scope="module", params=BACKBONES)
def metric(request):
    return QualityMetric(QualityScorer(small_policy(request.param), mode="level"))


@pytest.fixture(scope="module")
def one_metric():
    return QualityMetric(QualityScorer(small_policy("internvl3"), mode="level"))


def noise(seed, height, width):
    """uint8 (height, width, 3); every one of the 256 levels occurs."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_floats(pictures):
    """What a user has: float32 (N, 3, H, W) in 0..1."""
    return torch.from_numpy(np.stack(pictures)).movedim(-1, 1).float() / 255


@pytest.mark.parametrize("shape", SIZES)
def test_pictures_have_the_scores_of_their_png_files(metric, tmp_path, shape):
    pictures = [noise(seed, *SIZES[shape]) for seed in range(3)]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    expected = torch.tensor([row.score for row in metric.scorer.score(paths)])
    assert len(set(expected.tolist())) == 3  # they differ, so none takes another's place
    given = metric(as_floats(pictures))
    assert given.dtype == torch.float32 and given.shape == (3,)
    assert torch.equal(given, expected)
    alone = torch.tensor([metric.scorer.score(paths[0]).score])
    assert torch.equal(metric(as_floats(pictures[:1])), alone)
    assert torch.equal(metric(paths[0]), alone) and torch.equal(metric(str(paths[0])), alone)
    assert torch.equal(metric(Image.open(paths[0])), alone)


def test_videos_have_the_scores_of_their_frames(metric):
    videos = [np.stack([frame_pattern(i + n, 64, 48) for i in range(12)]) for n in (0, 9)]
    expected = torch.tensor([metric.scorer.score(frames).score for frames in videos])
    given = torch.stack([as_floats(list(frames)) for frames in videos])
    assert given.shape == (2, 12, 3, 48, 64)
    assert torch.allclose(metric(given), expected, atol=1e-6)  # batches of two and of one
    assert torch.equal(metric(given[:1]), expected[:1])


def test_a_grey_picture_is_one_of_three_equal_channels(one_metric):
    grey = as_floats([noise(0, 48, 64)])[:, :1]
    assert torch.equal(one_metric(grey), one_metric(grey.expand(-1, 3, -1, -1)))


def test_a_picture_of_pils_is_turned_as_its_file_is(one_metric, tmp_path):
    turned = Image.fromarray(noise(0, 48, 64))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        assert torch.equal(one_metric(opened), one_metric(tmp_path / "a.png"))


def test_the_attributes_are_those_of_pyiqas_metrics(one_metric):
    assert (one_metric.metric_mode, one_metric.lower_better) == ("NR", False)
    assert (one_metric.metric_name, one_metric.score_range) == ("thinker", "1, 5")
    assert one_metric.device == torch.device("cpu")
    pictures = as_floats([noise(0, 48, 64)]).requires_grad_()
    scores = one_metric(pictures, pictures)  # a reference is ignored
    assert not scores.requires_grad and 1 <= scores.item() <= 5
    part = torch.nn.ModuleList([one_metric]).train()
    assert not any(module.training for module in part[0].modules())
    assert not any(parameter.requires_grad for parameter in one_metric.parameters())


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(3, 48, 64), r"got torch.float32 of shape \(3, 48, 64\)"),
        (torch.zeros(1, 2, 48, 64), "expected pictures, floats"),
        (torch.zeros(0, 3, 48, 64), "expected pictures, floats"),
        (torch.zeros(1, 3, 48, 64, dtype=torch.uint8), "divide 8-bit values by 255"),
        (torch.full((1, 3, 48, 64), 255.0), "values are 255.0000 to 255.0000, expected 0 to 1"),
        (torch.full((1, 3, 48, 64), float("nan")), "expected 0 to 1"),
        (np.zeros((48, 64, 3)), "target is a ndarray"),
        ("gone.png", "gone.png .* missing"),
    ],
)
def test_what_is_no_picture_is_an_error(one_metric, target, message):
    with pytest.raises(ValueError, match=message):
        one_metric(target)


def test_values_beyond_the_range_are_cut_where_the_check_is_off(one_metric):
    unchecked = QualityMetric(one_metric.scorer, check_input_range=False)
    within = as_floats([noise(0, 48, 64)])
    beyond = torch.where(within == 1, 1.5, torch.where(within == 0, -0.5, within))
    assert torch.equal(unchecked(beyond), one_metric(within))


def test_an_answer_without_a_score_is_nan_and_told(caplog):
    policy = small_policy("internvl3")
    texts = ScriptedTexts(policy, ["I cannot say."])
    metric = QualityMetric(QualityScorer(policy, texts))
    with caplog.at_level(logging.WARNING):
        assert metric(as_floats([noise(0, 48, 64)])).isnan().all()
    assert "number 0 has no valid score and counts as NaN: no_answer" in caplog.text


def test_a_metric_is_made_of_a_saved_policy(tmp_path):
    policy = small_policy("internvl3")
    policy.save(tmp_path)
    made = create_metric(tmp_path, device="cpu", mode="level")
    pictures = as_floats([noise(0, 48, 64)])
    assert torch.equal(made(pictures), QualityMetric(QualityScorer(policy, mode="level"))(pictures))
    with pytest.raises(ValueError, match="its score has no gradient"):
        create_metric(tmp_path, as_loss=True)
    with pytest.raises(ValueError, match="no policy can be loaded"):
        create_metric(tmp_path / "gone")
