"""Real label columns (thinned) with invented predictions, and the bootstrap by its definition."""

import json

import numpy as np
from scipy import stats

from tests.helpers.places import FIXTURES
from thinker.eval import metrics

FIGURES = ("srcc", "krcc", "plcc", "plcc_mapped", "rmse_mapped")


def load(name, noise, seed=0):
    """Real labels, answers on 1..5 with two decimals (so with ties), and contents, interleaved."""
    columns = json.loads((FIXTURES / "metrics" / f"{name}.json").read_text())
    order = np.random.default_rng(99).permutation(len(columns["mos"]))
    mos = np.array(columns["mos"])[order]
    noisy = mos + np.random.default_rng(seed).normal(0, noise, mos.size)
    content = [columns["content"][i] for i in order]
    return np.round(1 + np.clip(noisy, 0, 100) / 25, 2), mos, content


def drawn_rows(clusters, num_resamples, seed):
    """The resamples as lists of row numbers: the definition, without weights or chunks."""
    contents = list(dict.fromkeys(clusters))
    members = [[i for i, c in enumerate(clusters) if c == content] for content in contents]
    draws = np.random.default_rng(seed).integers(0, len(contents), (num_resamples, len(contents)))
    return [np.concatenate([members[unit] for unit in row]) for row in draws]


def brute_force(figure, x, y, mapped, rows):
    if np.ptp(x[rows]) == 0 or np.ptp(y[rows]) == 0:
        return np.nan
    if figure == "rmse_mapped":
        return np.sqrt(np.mean((mapped[rows] - y[rows]) ** 2))
    function = {"srcc": stats.spearmanr, "krcc": stats.kendalltau}.get(figure, stats.pearsonr)
    return function((mapped if figure == "plcc_mapped" else x)[rows], y[rows]).statistic


def value_of(result):
    assert result.value is not None, result.reason
    return result.value


def fitted_to(x, y):
    mapping = metrics.fit_logistic(x, y)
    assert isinstance(mapping, metrics.Logistic), mapping
    return mapping
