"""Figures of an evaluation: agreement with MOS, its intervals, two models compared, tables."""

from thinker.eval.metrics.agreement import (
    Logistic,
    MetricResult,
    ScoreReport,
    evaluate_scores,
    fit_logistic,
    krcc,
    plcc,
    plcc_mapped,
    rmse_mapped,
    srcc,
)
from thinker.eval.metrics.figures import (
    FIGURES,
    AnswerReport,
    Judged,
    Resampling,
    evaluate_answers,
)
from thinker.eval.metrics.paired import (
    PairedDifference,
    PairedReport,
    paired_accuracy,
    paired_bootstrap,
)
from thinker.eval.metrics.tables import Average, Summary, format_answers, format_table, summarise

__all__ = [
    "FIGURES",
    "AnswerReport",
    "Average",
    "Judged",
    "Logistic",
    "MetricResult",
    "PairedDifference",
    "PairedReport",
    "Resampling",
    "ScoreReport",
    "Summary",
    "evaluate_answers",
    "evaluate_scores",
    "fit_logistic",
    "format_answers",
    "format_table",
    "krcc",
    "paired_accuracy",
    "paired_bootstrap",
    "plcc",
    "plcc_mapped",
    "rmse_mapped",
    "srcc",
    "summarise",
]
