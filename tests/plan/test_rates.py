"""Stated rates, and a user's own over them."""

from dataclasses import fields

import pytest

from thinker.plan.rates import Gpu, load_rates


def test_every_shipped_number_has_a_source():
    rates = load_rates()
    assert set(rates.gpus) == {"H100-SXM", "H200-SXM", "A100-80GB", "L40S"}
    assert len(rates.sources) == 4 * len(fields(Gpu)) + 6 + 8
    assert all(len(source) > 10 for source in rates.sources.values())
    assert all(
        "assumption" in source
        for name, source in rates.sources.items()
        if "dollars" in name or name.startswith("reached.")
    )


def test_own_rates_lie_over_the_shipped_ones(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(
        "reached: {train: 0.55}\n"
        "host: {file_bytes: {value: 2.0e+6, source: measured}}\n"
        "gpus:\n"
        "  B200:\n"
        "    {peak_flops: 2.25e+15, hbm_bytes_per_second: 8.0e+12, memory_bytes: 180.0e+9,\n"
        "     link_bytes_per_second: 900.0e+9, network_bytes_per_second: 50.0e+9,\n"
        "     dollars_per_hour: 5}\n"
    )
    rates = load_rates(own)
    assert rates.reached.train == 0.55 and rates.reached.encode == 0.4
    assert rates.sources["reached.train"] == f"given in {own}"
    assert rates.host.file_bytes == 2e6 and rates.sources["host.file_bytes"] == "measured"
    assert rates.gpu("B200").peak_flops == 2.25e15 and "H100-SXM" in rates.gpus


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reached: {trian: 0.5}", "reached.trian is not known; expected gpus.KIND"),
        ("reached: {train: 1.5}", "reached.train is 1.5, expected a share of at most 1"),
        ("reached: {train: 0}", "reached.train is 0, expected a number above 0"),
        ("reached: {train: fast}", "reached.train is 'fast', expected a number above 0"),
        ("gpus: {B200: {peak_flops: 1.0e+15}}", "gpus.B200 lacks dollars_per_hour, hbm_bytes"),
        ("gpus: {B200: {speed: 1}}", "gpus.B200.speed is not known"),
        ("gpus: {dollars_per_hour: 2.2}", "gpus.dollars_per_hour is not known; expected gpus.KIND"),
        ("gpus: {H100-SXM: {memory_bytes: 80}}", "memory_bytes is 80, expected bytes"),
        ("gpus: {H100-SXM: {peak_flops: .inf}}", "peak_flops is inf, expected a number above 0"),
        ("gpus: {H100-SXM: {peak_flops: 1e15}}", r"is '1e15', .* write 1.0e\+15"),
        ("reached: 0.5", "reached is not known; expected gpus.KIND"),
    ],
)
def test_bad_rates_are_named(tmp_path, text, message):
    own = tmp_path / "own.yaml"
    own.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_rates(own)


def test_unknown_gpus_are_named():
    with pytest.raises(ValueError, match="no rates of a GPU 'H1000'; known: H100-SXM, H200-SXM"):
        load_rates().gpu("H1000")
