"""QualityScorer: three modes, what it takes, what it does without memory, and bad input."""

import dataclasses
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import thinker
import thinker.video.decode
from tests.helpers.plain_factory import plain_checkpoint
from tests.helpers.policy_factory import (
    BACKBONES,
    SIZE,
    conversations,
    keeps_aspect,
    one_clip,
    random_clip,
    small_policy,
)
from tests.helpers.scripted_rollout import ScriptedTexts
from tests.helpers.video_factory import cut_file, frame_pattern, read_frame_id, write_video
from thinker.cli.score import describe
from thinker.policies import load_policy
from thinker.policies.encode import encode_prompts
from thinker.rollout.hf import hf_rollout
from thinker.score.levels import level_ids, level_probabilities
from thinker.score.prediction import (
    Prediction,
    central_range,
    empirical,
    mean,
    standard_deviation,
)
from thinker.score.scorer import QualityScorer
from thinker.tasks.level import LEVEL_PREFIX, LEVEL_QUESTION, LEVELS

SCORES = {"a": "<think>It is blur.</think><answer>2.50</answer>"}


def cpu_exhausted():
    torch.empty(2**60, dtype=torch.uint8)


@pytest.fixture(scope="module")
def policy():
    return small_policy("internvl3")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", num_frames=20, fps=10)
    write_video(folder / "b.mp4", num_frames=30, fps=10)
    Image.fromarray(frame_pattern(5, 64, 48)).save(folder / "c.jpg", quality=95)
    return folder


def scorer(policy, *texts, **settings):
    texts = list(texts) or [SCORES["a"]]
    max_rows = settings.pop("max_rows", None)
    return QualityScorer(policy, ScriptedTexts(policy, texts, max_rows), **settings)


# what goes in


def test_a_clip_that_was_read_otherwise_has_a_note_in_its_row(policy):
    """And only that one; a person sees it, too."""
    clip = random_clip(policy, 0)
    noted = dataclasses.replace(clip, note="read by pyav instead of decord: why")
    rows = scorer(policy, SCORES["a"], SCORES["a"]).score_clips([clip, noted])
    assert [row.note for row in rows] == [None, noted.note]
    assert [row.to_row()["note"] for row in rows] == [None, noted.note]
    assert ["instead of decord" in describe(row) for row in rows] == [False, True]


def test_what_users_import_is_imported_when_it_is_used():
    assert thinker.QualityScorer is QualityScorer
    assert thinker.Prediction is Prediction and thinker.load_policy is load_policy
    assert set(thinker.__all__) == {"Example", "Prediction", "QualityScorer", "load_policy"}
    with pytest.raises(AttributeError, match="Qualiti"):
        _ = thinker.QualitiScorer


def test_a_path_gives_the_answer_the_reasoning_and_where_they_come_from(policy, videos):
    prediction = scorer(policy, model_name="m").score(videos / "a.mp4")
    assert (prediction.score, prediction.status, prediction.mode) == (2.5, "ok", "reason")
    assert prediction.reasoning == "It is blur."
    # K = 2, N = 20: seg = 9.5, int(4.75 + round(0)) = 4, int(4.75 + round(9.5)) = 14
    assert prediction.frame_indices == (4, 14)
    assert prediction.model == "m" and prediction.version
    assert prediction.seconds > 0 and prediction.num_tokens > 0


def test_start_and_end_choose_the_frames(policy, videos):
    # frames 10..19 of the file: N = 10, seg = 4.5, indices 2 and int(2.25 + 4) = 6
    prediction = scorer(policy).score(videos / "b.mp4", start=1.0, end=2.0)
    assert prediction.frame_indices == (12, 16)
    assert scorer(policy).score(videos / "b.mp4", start=3.5).status == "empty_range"
    with pytest.raises(ValueError, match="end must lie after the start"):
        scorer(policy).score(videos / "b.mp4", start=2.0, end=1.0)


def test_a_list_gives_one_prediction_each_in_order_failures_too(policy, videos):
    paths = [videos / "b.mp4", videos / "no.mp4", videos / "c.jpg", videos / "a.mp4"]
    predictions = scorer(policy, batch_size=2).score(paths)
    assert [p.path for p in predictions] == paths
    assert [p.status for p in predictions] == ["ok", "missing", "ok", "ok"]
    assert predictions[1].score is None and "no such file" in predictions[1].error
    assert set(predictions[2].frame_indices) == {0}  # a picture


@pytest.mark.parametrize("form", ["array", "tensor"])
def test_frames_are_sampled_like_a_file_of_them(policy, form):
    array = np.stack([frame_pattern(i, 64, 48) for i in range(30)])
    frames = array if form == "array" else torch.from_numpy(array).permute(0, 3, 1, 2)
    clip = scorer(policy).read(frames, start=0.4, end=1.2)  # 25 fps: frames 10..29
    # N = 20: keyframes 4 and 14 of the range
    assert clip.keyframe_indices == (14, 24)
    assert [read_frame_id(frame) for frame in clip.keyframes_KCHW] == [14, 24]
    assert (clip.height, clip.width, clip.num_frames) == (48, 64, 30)
    assert len(clip.motion_MCHW) == SIZE.num_motion_frames
    assert scorer(policy).score(frames).status == "ok"


def test_frames_of_another_form_are_refused(policy):
    with pytest.raises(ValueError, match=r"uint8 RGB.*float32"):
        scorer(policy).score(np.zeros((3, 8, 8, 3), dtype=np.float32))


def test_unknown_settings_are_refused(policy, videos):
    with pytest.raises(ValueError, match="'fast', expected one of reason, sample, level"):
        scorer(policy, mode="fast")
    with pytest.raises(ValueError, match="'fast'"):
        scorer(policy).score(videos / "a.mp4", mode="fast")
    with pytest.raises(ValueError, match="backend is 'abacus', expected one of"):
        QualityScorer(policy, backend="abacus")


# modes


def test_an_invalid_answer_is_a_row_without_a_score(policy, videos):
    prediction = scorer(policy, "I like it").score(videos / "a.mp4")
    assert (prediction.score, prediction.status) == (None, "invalid_answer")
    assert prediction.completion == "I like it" and "no_answer" in prediction.error


def test_sample_mode_reports_mean_spread_and_range(policy, videos):
    texts = [f"<think>{x}</think><answer>{x}</answer>" for x in ("2", "3", "3", "4")]
    prediction = scorer(policy, *texts, mode="sample", num_samples=4).score(videos / "a.mp4")
    assert prediction.score == 3.0 and prediction.reasoning == "3"
    assert prediction.distribution == ((2.0, 0.25), (3.0, 0.5), (4.0, 0.25))
    assert prediction.spread == pytest.approx((2 / 3) ** 0.5)  # squares 1, 0, 0, 1 over K - 1
    assert prediction.answer_range == (2.0, 4.0)


def test_sample_mode_averages_valid_draws_only_and_needs_half_of_them(policy, videos):
    valid, invalid = SCORES["a"], "no"
    three = scorer(policy, valid, valid, invalid, mode="sample", num_samples=3)
    assert three.score(videos / "a.mp4").score == 2.5
    one = scorer(policy, valid, invalid, invalid, mode="sample", num_samples=3)
    prediction = one.score(videos / "a.mp4")
    assert (prediction.score, prediction.status) == (None, "invalid_answer")
    assert "1 of 3 rollouts are valid" in prediction.error


def test_figures_of_a_distribution_by_hand():
    distribution = empirical([3.0, 2.0, 3.0, 3.0])
    assert distribution == ((2.0, 0.25), (3.0, 0.75))
    assert mean(distribution) == 2.75
    assert standard_deviation(distribution) == pytest.approx(0.1875**0.5)
    assert central_range(((1, 0.04), (2, 0.06), (3, 0.86), (5, 0.04))) == (2, 3)
    assert central_range(empirical([float(i) for i in range(20)])) == (0.0, 18.0)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_level_mode_equals_a_forward_of_each_video_alone(backbone):
    """Against the plain forward: pixels in, whole sequence, all logits; two prompt lengths, and
    conversations with several media or none."""
    policy = small_policy(backbone)
    clips = [random_clip(policy, 1), random_clip(policy, 2)]
    if keeps_aspect(backbone):  # another aspect ratio: more tokens, so the batch is padded
        clips[1] = random_clip(policy, 2, height=40, width=80)
    asked = [*one_clip(clips, LEVEL_QUESTION), *conversations(policy)]
    requests = encode_prompts(policy, asked)
    got = level_probabilities(policy, requests, ["video"] * len(asked))
    prefix, firsts = level_ids(policy.tokenizer, LEVELS, LEVEL_PREFIX)
    for row, prompt in enumerate(asked):
        ids = [*policy.inputs.prompt_ids(prompt), *prefix]
        ids = torch.tensor([ids])
        mask = torch.ones_like(ids)
        media, shown = policy.inputs.media_inputs(prompt.clips), [tuple(range(len(prompt.clips)))]
        positions = policy.model.model.prompt_positions(ids, mask, media, shown).ids
        with torch.no_grad():
            logits = policy.model.eval()(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                media_inputs=media,
                media_rows=shown,
            ).logits
        expected = logits[0, -1, firsts].double().softmax(-1)
        torch.testing.assert_close(got[row], expected, atol=1e-5, rtol=0)
    assert (got[0] - got[1]).abs().max() > 1e-3  # the video matters


def test_level_mode_scores_without_generating(policy, videos):
    rollout = ScriptedTexts(policy, ["never"])
    fast = QualityScorer(policy, rollout, mode="level")
    prediction = fast.score(videos / "a.mp4")
    assert rollout.batches == []
    assert prediction.status == "ok" and prediction.reasoning is None
    scores, shares = zip(*prediction.distribution, strict=True)
    assert scores == (1.0, 2.0, 3.0, 4.0, 5.0) and sum(shares) == pytest.approx(1)
    # VQA²'s weights 0, .25, .5, .75, 1, mapped from 0..1 to 1..5
    weights = (0, 0.25, 0.5, 0.75, 1)
    unit = sum(w * p for w, p in zip(weights, shares, strict=True))
    assert prediction.score == pytest.approx(1 + 4 * unit)


def test_level_words_that_begin_alike_are_refused(policy):
    with pytest.raises(ValueError, match="five different"):
        level_ids(policy.tokenizer, ("good", "good"), LEVEL_PREFIX)


def test_reason_mode_is_the_same_in_a_batch_and_alone(policy):
    clips = [random_clip(policy, i) for i in range(3)]
    whole = QualityScorer(policy, max_new_tokens=8)
    alone = QualityScorer(policy, max_new_tokens=8, batch_size=1)
    texts = [p.completion for p in whole.score_clips(clips)]
    assert texts == [p.completion for p in alone.score_clips(clips)]
    assert len(set(texts)) > 1


def test_sample_mode_is_seeded(policy):
    clips = [random_clip(policy, 1)]

    def drawn(seed):
        settings = {"mode": "sample", "num_samples": 2, "max_new_tokens": 6, "seed": seed}
        return QualityScorer(policy, **settings).score_clips(clips)[0].completion

    assert drawn(1) == drawn(1) != drawn(2)


# memory


def test_batch_halves_when_memory_runs_out_and_says_so(policy, caplog):
    caplog.set_level(logging.WARNING, logger="thinker")
    short = scorer(policy, max_rows=2, batch_size=8)
    predictions = short.score_clips([random_clip(policy, i) for i in range(7)])
    assert [p.status for p in predictions] == ["ok"] * 7
    assert short.rollout.batches == [7, 3, 1, 1, 1, 1, 1, 1, 1]  # 7 → 3 → 1, then seven ones
    assert "out of memory with 7 questions at once; going on with 3" in caplog.text
    assert short.batch_size == 1


def test_a_cpu_without_memory_is_treated_alike(policy, monkeypatch):
    """torch's own error of an allocation that no machine can serve."""
    monkeypatch.setattr(ScriptedTexts, "exhaust", staticmethod(cpu_exhausted))
    short = scorer(policy, max_rows=1, batch_size=2)
    predictions = short.score_clips([random_clip(policy, i) for i in range(2)])
    assert [p.status for p in predictions] == ["ok"] * 2
    assert short.rollout.batches == [2, 1, 1]


def test_other_errors_of_torch_are_raised(policy):
    class Broken(ScriptedTexts):
        def generate(self, *_, **__):
            return torch.ones(2) @ torch.ones(3)

    with pytest.raises(RuntimeError, match="inconsistent"):
        QualityScorer(policy, Broken(policy, [])).score_clips([random_clip(policy, 1)])


def test_one_video_too_large_is_a_row(policy):
    predictions = scorer(policy, max_rows=0).score_clips([random_clip(policy, 1)])
    assert [(p.score, p.status) for p in predictions] == [(None, "out_of_memory")]
    assert predictions[0].mode == "reason"
    assert predictions[0].error == "tried to allocate 1 GiB"


# loading


def test_round_trip_from_a_folder(policy, videos, tmp_path):
    policy.save(tmp_path / "model")
    loaded = QualityScorer.from_pretrained(tmp_path / "model", mode="level")
    expected = QualityScorer(policy, mode="level").score(videos / "a.mp4")
    got = loaded.score(videos / "a.mp4")
    assert got.score == pytest.approx(expected.score, abs=1e-6)
    assert got.model == str(tmp_path / "model")


def test_a_plain_checkpoint_is_scored_without_a_drawn_motion_branch(videos, tmp_path, caplog):
    """Else two loads of one checkpoint would give two scores."""
    plain_checkpoint("qwen2_5_vl", tmp_path)
    loaded = QualityScorer.from_pretrained(tmp_path, mode="level")
    assert loaded.policy.new_parts == () and loaded.policy.model.model.motion is None
    assert "is a plain checkpoint" in caplog.text
    assert loaded.score(videos / "a.mp4").status == "ok"


def test_weights_that_are_no_numbers_make_a_row_without_a_score(videos):
    broken = small_policy("internvl3")
    with torch.no_grad():
        broken.model.lm_head.weight.fill_(torch.nan)
    for mode in ("level", "reason", "expected"):
        row = QualityScorer(broken, mode=mode).score(videos / "a.mp4")
        assert (row.score, row.status) == (None, "invalid_answer") and row.error


@pytest.mark.parametrize(
    "damage", ["no folder", "empty folder", "no weights", "cut weights", "no tokenizer"]
)
def test_unreadable_model_is_one_message(policy, tmp_path, damage):
    folder = tmp_path / "model"
    if damage != "no folder":
        policy.save(folder)
        weights = folder / "model.safetensors"
        if damage == "cut weights":
            weights.write_bytes(weights.read_bytes()[:1000])
        if damage == "no weights":
            weights.unlink()
        if damage == "no tokenizer":
            (folder / "tokenizer.json").unlink()
        if damage == "empty folder":
            shutil.rmtree(folder)
            folder.mkdir()
    with pytest.raises(ValueError, match=str(folder)):
        QualityScorer.from_pretrained(folder)


# the list of bad input


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    """name → file; the expected status is that of BAD_INPUT."""
    folder = tmp_path_factory.mktemp("bad")
    whole = write_video(folder / "whole.mp4", num_frames=20)
    (folder / "text.mp4").write_text("not a video at all, only words\n" * 20)
    (folder / "zero.mp4").touch()
    cut_file(whole, folder / "truncated.mp4", 0.6)
    write_video(folder / "one_frame.mp4", num_frames=1)
    write_video(folder / "portrait.mp4", width=48, height=80, rotation=90)
    write_video(folder / "odd.mp4", codec="ffv1", width=61, height=47, pix_fmt="bgr0")
    write_video(folder / "ten_bit.mp4", codec="hevc", pix_fmt="yuv420p10le")
    times = [0, 40, 80, 400, 440, 900, 940, 1500, 1540, 1580, 2400, 2440]
    write_video(folder / "vfr.mp4", times_ms=times)
    write_video(folder / "uhd.mp4", width=3840, height=2160, num_frames=3, gop=3)
    Image.fromarray(frame_pattern(5, 64, 48)).save(folder / "picture.jpg", quality=95)
    return folder


# Frame numbers: K = 2, seg = (N - 1) / 2, int(seg / 2) and int(seg / 2 + round(seg)).
BAD_INPUT = {
    "absent.mp4": ("missing", None),
    "text.mp4": ("not_a_video", None),
    "zero.mp4": ("empty", None),
    "truncated.mp4": ("truncated", None),
    "one_frame.mp4": ("ok", [0, 0]),
    "portrait.mp4": ("ok", [4, 14]),  # N = 20
    "odd.mp4": ("ok", [4, 14]),
    "ten_bit.mp4": ("ok", [4, 14]),
    "vfr.mp4": ("ok", [2, 8]),  # N = 12: seg 5.5, round half to even 6: int(2.75 + 6)
    "uhd.mp4": ("ok", [0, 1]),  # N = 3: seg 1, int(.5), int(1.5)
    "picture.jpg": ("ok", [5]),  # smaller than a tile
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_scored_on_the_right_frames_or_is_a_row(policy, bad_files, name):
    status, ids = BAD_INPUT[name]
    ours = scorer(policy)
    prediction = ours.score(bad_files / name)
    assert prediction.status == status
    if ids is None:
        assert prediction.score is None and str(bad_files / name) in prediction.error
        return
    assert prediction.score == 2.5
    clip = ours.read(bad_files / name)
    assert [read_frame_id(frame) for frame in clip.keyframes_KCHW] == ids  # upright, too


def _count_calls(monkeypatch, name):
    """Replace a generator or function of thinker.video.decode by itself, counting what it gives."""
    counts = []
    original = getattr(thinker.video.decode, name)

    def counted(*args, **kwargs):
        result = original(*args, **kwargs)
        if name == "_upright_rgb":
            counts.append(1)
            return result
        return (counts.append(1) or item for item in result)

    monkeypatch.setattr(thinker.video.decode, name, counted)
    return counts


def test_ten_seconds_of_1080p_decode_only_what_is_used(policy, tmp_path, monkeypatch):
    gop = 10
    path = write_video(
        tmp_path / "hd.mp4", width=1920, height=1080, num_frames=50, fps=5, gop=gop,
        options={"preset": "ultrafast", "bf": "0"},
    )  # fmt: skip
    decoded = _count_calls(monkeypatch, "_decode_stream")
    converted = _count_calls(monkeypatch, "_upright_rgb")
    prediction = scorer(policy).score(path)
    assert prediction.status == "ok"
    # Two windows of four consecutive frames, keyframes among them: 8 frames are used. The decoder
    # has to start at the seek point before each window (two, where a window crosses one).
    assert len(converted) == 8
    assert len(decoded) <= 2 * (gop + 4)


def test_an_hour_long_file_stays_in_memory_bounds(policy, tmp_path):
    """One frame a second for an hour; the index is what grows, and it is small."""
    path = write_video(tmp_path / "hour.mp4", num_frames=3600, fps=1, gop=60)
    short = write_video(tmp_path / "short.mp4", num_frames=60, fps=1, gop=60)

    def growth(file: Path) -> int:
        """Bytes by which the peak of resident memory exceeds what was there before."""
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak (proc(5))
        before = _status_bytes("VmRSS")
        assert scorer(policy).score(file).status == "ok"
        return _status_bytes("VmHWM") - before

    growth(short)  # imports, buffers of the decoder
    assert growth(path) < 8_000_000  # 3,600 index entries; the frames alone would be 44 MB


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def test_every_row_carries_the_mode_it_was_asked_in(policy, videos):
    ours = scorer(policy, SCORES["a"], SCORES["a"], mode="level", num_samples=2)
    paths = [videos / "a.mp4", videos / "gone.mp4"]
    for mode in ("reason", "sample", "level", None):
        assert {p.mode for p in ours.score(paths, mode=mode)} == {mode or "level"}


def test_level_mode_starts_no_back_end(policy, videos, monkeypatch):
    monkeypatch.setattr(
        "thinker.score.scorer.scoring_rollout", lambda *_, **__: pytest.fail("started")
    )
    assert QualityScorer(policy, mode="level").score(videos / "a.mp4").status == "ok"


def test_hf_back_end_is_the_default(policy):
    assert QualityScorer(policy).rollout.name == "hf" == hf_rollout(policy).name
