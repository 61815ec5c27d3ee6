"""Ranking against numbers worked out by hand and against a literal loop over all pairs."""

import math
import random
import time
from statistics import NormalDist, fmean, variance

import numpy as np
import pytest

from rewards.ranking import RankingReward, normal_cdf

Row = tuple[str, str, float]  # written answer, sample_id, target


def wrap(written: str) -> str:
    return f"<think>a</think><answer>{written}</answer>"


def score(rows: list[Row]) -> list[float | None]:
    reward = RankingReward()
    return reward(
        [wrap(row[0]) for row in rows], [row[1] for row in rows], [row[2] for row in rows]
    )


def reference(rows: list[Row]) -> list[float]:
    """The published formulas as loops over rollouts and videos, in float64; valid answers only."""
    preds: dict[str, list[float]] = {}
    target = {video: y for _, video, y in rows}
    for written, video, _ in rows:
        preds.setdefault(video, []).append(float(written))
    rewards = []
    for written, video, _ in rows:
        values = []
        for other in preds:
            if other == video:
                continue
            spread = math.sqrt(variance(preds[video]) + variance(preds[other]) + 1e-6)
            p = NormalDist().cdf((float(written) - fmean(preds[other])) / spread)
            y, z = target[video], target[other]
            g = 1.0 if y > z else 0.0 if y < z else 0.5
            values.append(math.sqrt(p * g + 1e-6) + math.sqrt((1 - p) * (1 - g) + 1e-6))
        rewards.append(sum(values) / len(values))
    return rewards


def random_rows(seed: int, num_videos: int, num_rollouts: int) -> list[Row]:
    rng = random.Random(seed)
    rows = []
    for video in range(num_videos):
        target = rng.choice([2.0, 3.0, rng.uniform(0.5, 5)])  # some are equal
        centre, width = rng.uniform(1.5, 4.5), rng.choice([0.0, 0.02, 0.5])
        for _ in range(num_rollouts):
            tenths = round(10 * min(max(rng.gauss(centre, width), 1.0), 4.8))
            rows.append((f"{tenths / 10:.1f}{rng.randint(1, 9)}", f"v{video}", target))
    rng.shuffle(rows)
    return rows


def test_docstring_example() -> None:
    # a: mean 3.5, var 0.5; b: mean 2, var 0; spread sqrt(0.500001) = 0.707107
    # a1: x = (4 - 2) / 0.707107 =  2.82843, Φ = 0.997661, sqrt(0.997662) + 0.001 = 0.999830
    # a2: x = (3 - 2) / 0.707107 =  1.41421, Φ = 0.921350, sqrt(0.921351) + 0.001 = 0.960870
    # b:  x = (2 - 3.5) / 0.707107 = -2.12132, Φ = 0.016947, sqrt(0.983054) + 0.001 = 0.992491
    rows = [("4.00", "a", 4.0), ("3.00", "a", 4.0), ("2.00", "b", 2.0), ("2.00", "b", 2.0)]
    rewards = score(rows)
    assert rewards == pytest.approx([0.999830, 0.960870, 0.992491, 0.992491], abs=1e-6)
    assert [round(r, 4) for r in rewards if r is not None] == [0.9998, 0.9609, 0.9925, 0.9925]


def test_wrong_order_earns_the_floor() -> None:
    # unanimous and wrong: x = ±1 / 0.001, p = 0 or 1, r = 2 sqrt(1e-6) = 0.002
    # unanimous and right: sqrt(1 + 1e-6) + 0.001 = 1.0010005
    wrong = [("2.00", "a", 4.0), ("2.00", "a", 4.0), ("3.00", "b", 2.0), ("3.00", "b", 2.0)]
    right = [("3.00", "a", 4.0), ("3.00", "a", 4.0), ("2.00", "b", 2.0), ("2.00", "b", 2.0)]
    assert score(wrong) == pytest.approx([0.002] * 4, abs=1e-12)
    assert score(right) == pytest.approx([1.0010004999] * 4, abs=1e-9)


def test_equal_targets_want_equal_answers() -> None:
    # p = 0.5, g = 0.5: 2 sqrt(0.25 + 1e-6) = 1.000002; p = 1: sqrt(0.500001) + 0.001 = 0.708107
    same = [("3.00", "a", 3.0), ("3.00", "b", 3.0)]
    apart = [("4.00", "a", 3.0), ("2.00", "b", 3.0)]
    assert score(same) == pytest.approx([1.000002] * 2, abs=1e-9)
    assert score(apart) == pytest.approx([0.708107] * 2, abs=1e-6)


def test_mean_over_the_opponents() -> None:
    # single rollouts, variance 0: a > b > c by target, answers 3, 4, 2.
    # a: wrong with b (0.002), right with c (1.0010005): mean 0.50150025; b: the same
    # c: right twice
    rows = [("3.00", "a", 4.0), ("4.00", "b", 3.0), ("2.00", "c", 2.0)]
    assert score(rows) == pytest.approx([0.50150025, 0.50150025, 1.0010005], abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_reference(seed: int) -> None:
    rows = random_rows(seed, num_videos=2 + seed % 7, num_rollouts=2 + seed % 4)
    assert score(rows) == pytest.approx(reference(rows), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_rows_and_videos_does_not_matter(seed: int) -> None:
    rows = random_rows(seed, num_videos=6, num_rollouts=4)
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    rewards = score(rows)
    assert score([rows[i] for i in order]) == [rewards[i] for i in order]  # bit for bit


def test_invalid_rollouts_are_none_and_leave_no_trace() -> None:
    valid = [("4.00", "a", 4.0), ("3.00", "a", 4.0), ("2.00", "b", 2.0), ("2.50", "b", 2.0)]
    bad = [("good", "a", 4.0), ("9.00", "b", 2.0), ("NaN", "c", 3.0)]
    assert score([*bad, *valid]) == [None, None, None, *score(valid)]


def test_one_valid_rollout_has_variance_zero() -> None:
    # a: var 0; b: mean 2.5, var 0.5; x = (3 - 2.5) / sqrt(0.500001) = 0.707106, Φ = 0.760250
    rows = [("3.00", "a", 4.0), ("?", "a", 4.0), ("3.00", "b", 2.0), ("2.00", "b", 2.0)]
    assert score(rows)[:2] == [pytest.approx(math.sqrt(0.760251) + 0.001, abs=1e-6), None]


def test_nothing_to_compare_with() -> None:
    assert score([]) == []
    assert score([("3.00", "a", 3.0)] * 4) == [None] * 4
    assert score([("3.00", "a", 3.0), ("bad", "b", 2.0)]) == [None, None]
    assert score([("bad", "a", 3.0), ("bad", "b", 2.0)]) == [None, None]


def test_a_video_drawn_twice_is_one_group() -> None:
    """Not its own opponent: four rollouts of "a" around those of "b" are one video of four."""
    rows = [("3.10", "a", 4.0), ("2.90", "a", 4.0), ("2.00", "b", 2.0), ("2.20", "b", 2.0)]
    again = [*rows, ("3.40", "a", 4.0), ("2.60", "a", 4.0)]
    assert score(again) == pytest.approx(reference(again), abs=1e-6)


def test_rewards_are_finite_and_in_range() -> None:
    rng = random.Random(3)
    for _ in range(200):
        rows: list[Row] = []
        for video in range(rng.randint(1, 5)):
            target = rng.choice([0.0, 3.0, -1.7e308, 1.7e308, 5e-324])
            for _ in range(rng.randint(1, 4)):
                written = rng.choice(["1.00", "5.00", "3.33", "1e9", "", "9"])
                rows.append((written, f"{video}", target))
        for reward in score(rows):
            assert reward is None or 0.002 - 1e-9 <= reward <= 1.0010005 + 1e-9


def test_normal_cdf() -> None:
    x = np.concatenate([np.linspace(-40, 40, 200_001), [-1e300, -0.0, 1e300]])
    exact = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    assert np.abs(normal_cdf(x) - exact).max() < 1e-15
    # Tails keep their relative precision: Φ(-10) = 7.61985e-24 (tables), where 1 + erf is 0.
    assert normal_cdf(np.array([-10.0]))[0] == pytest.approx(7.619853024160527e-24, rel=1e-13)
    assert normal_cdf(np.array([[-1e4, 0.0], [1e4, 1.0]])).shape == (2, 2)
    assert normal_cdf(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


def test_2048_rollouts_of_256_videos_take_well_under_a_second() -> None:
    rows = random_rows(0, num_videos=256, num_rollouts=8)

    def seconds() -> float:
        start = time.process_time()
        score(rows)
        return time.process_time() - start

    assert min(seconds() for _ in range(3)) < 1.0
