import math
import random

import pytest

from rewards.regression import RegressionConfig, RegressionReward


def score(written: str, target: float, **config: float) -> float | None:
    (reward,) = RegressionReward(RegressionConfig(**config))(
        [f"<answer>{written}</answer>"], ["a"], [target]
    )
    return reward


def test_docstring_example() -> None:
    reward = RegressionReward(RegressionConfig())
    completions = ["<answer>3.60</answer>", "<answer>3.6</answer>", "3.60"]
    rewards = reward(completions, ["a"] * 3, [3.5] * 3)
    # exp(-0.01 / 0.5) = exp(-0.02) = 0.98020; 0.8 * 0.98020 = 0.78416
    assert [r if r is None else round(r, 4) for r in rewards] == [0.9802, 0.7842, None]


@pytest.mark.parametrize(
    ("distance", "expected"),
    # exp(-2 d²): -0.02, -0.125, -0.5, -2
    [(0.0, 1.0), (0.1, 0.980199), (0.25, 0.882497), (0.5, 0.606531), (1.0, 0.135335)],
)
def test_the_bell(distance: float, expected: float) -> None:
    assert score("3.00", 3 + distance) == pytest.approx(expected, abs=1e-6)
    assert score("3.00", 3 - distance) == pytest.approx(expected, abs=1e-6)


def test_sigma() -> None:
    # exp(-1² / (2 · 2²)) = exp(-0.125)
    assert score("3.00", 4, sigma=2.0) == pytest.approx(math.exp(-0.125), abs=1e-12)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("3", 0.8), ("3.0", 0.8), ("3.00", 1.0), ("3.000", 1.0), ("03", 0.8), (" 3.00 ", 1.0)],
)
def test_the_written_decimals_count(written: str, expected: float) -> None:
    assert score(written, 3.0) == expected


def test_short_factor() -> None:
    assert score("3", 3.0, short_factor=0.25) == 0.25
    assert score("3", 3.0, short_factor=1) == 1.0
    assert score("3.00", 3.0, short_factor=0.25) == 1.0


def test_invalid_is_none_and_far_is_zero() -> None:
    assert score("good", 3.0) is None
    assert score("5.01", 3.0) is None
    assert score("5.00", -1.7e308) == 0.0
    assert score("5.00", 1.0, sigma=1e-300) == 0.0


def test_equals_the_reference_where_the_reference_is_right() -> None:
    """float64 re-implementation of the published code, on answers its decimals check gets right."""
    rng = random.Random(1)
    for _ in range(2000):
        pred = rng.randint(10, 49) / 10 + rng.randint(1, 9) / 100
        written, gt = f"{pred:.2f}", rng.uniform(0.5, 5)
        diff = abs(float(written) - gt)
        expected = math.exp(-(diff**2) / (2 * 0.5**2))
        if len(str(float(written)).split(".")[-1].rstrip("0")) < 2:
            expected *= 0.8
        assert score(written, gt) == pytest.approx(expected, abs=1e-6)
    # and where it is not: it sees 3.5, not the written "3.50"
    assert score("3.50", 3.5) == 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sigma", 0),
        ("sigma", -1.0),
        ("sigma", math.inf),
        ("sigma", math.nan),
        ("sigma", "0.5"),
        ("sigma", None),
        ("sigma", True),
        ("short_factor", -0.1),
        ("short_factor", 1.1),
    ],
)
def test_bad_config(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"regression\.{field}: got .*; expected a finite number"):
        RegressionConfig(**{field: value})  # type: ignore[arg-type]
