"""Paired tests: against slow forms, against textbooks where these apply, and how often they err."""

import math

import numpy as np
import pytest
import scipy.stats

from prunella.report.statistics import Outcome, holm, paired, resampled, tail
from prunella.report.summands import Summands, summands


def mean_of(values: np.ndarray) -> Summands:
    return Summands(values[:, None], lambda sums: sums[..., 0] / len(values))


def weights(rows: int, draws: int, seed: int = 0) -> np.ndarray:
    """How often each row comes, as a fraction, ``(draws, rows)``."""
    places = np.random.default_rng(seed).integers(rows, size=(draws, rows))
    return np.stack([np.bincount(place, minlength=rows) for place in places]) / rows


def outcome(values: np.ndarray, drawn: np.ndarray | None = None, seed: int = 0) -> Outcome:
    """The test of differences by row and seed, ``(rows, seeds)``."""
    drawn = weights(len(values), 4_000) if drawn is None else drawn
    return paired(values.mean(axis=0).tolist(), (drawn @ values).T, len(values), seed)


def test_metrics_are_those_of_the_drawn_rows() -> None:
    draw = np.random.default_rng(5)
    records = [
        {"label": int(draw.integers(2)), "logits": draw.normal(size=2).tolist()} for _ in range(37)
    ]
    grades = [{"label": float(draw.normal()), "logits": [float(draw.normal())]} for _ in range(37)]
    runs = [summands("mcc", records), summands("pearson", grades), summands("accuracy", records)]
    known = [run for run in runs if run is not None]
    places = np.random.default_rng(3).integers(37, size=(50, 37), dtype=np.int32)
    slow = [[run.metric(run.rows[drawn].sum(axis=0)) for run in known] for drawn in places]
    np.testing.assert_allclose(resampled(known, 50, seed=3).T, slow, atol=1e-5)


def test_draws_in_blocks_are_as_many_and_all_different(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunella.report.statistics._BLOCK", 700)
    values = np.random.default_rng(0).normal(size=100)
    drawn = resampled([mean_of(values)], 45)[0]
    assert len(np.unique(drawn)) == 45
    assert abs(drawn.mean() - values.mean()) < 4 * values.std() / 10


def test_one_seed_is_the_paired_t_test_over_rows() -> None:
    values = np.random.default_rng(2).normal(0.13, 1, size=(400, 1))
    found = outcome(values)
    textbook = scipy.stats.ttest_1samp(values[:, 0], 0)
    interval = textbook.confidence_interval()
    assert found.p == pytest.approx(textbook.pvalue, rel=0.2)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.01)
    assert found.by_seeds == 0


@pytest.mark.parametrize("n", [3, 5])
def test_where_only_seeds_matter_it_is_the_t_test_over_seeds(n: int) -> None:
    seeds = np.random.default_rng(n).normal(1, 0.5, size=n)
    values = np.tile(seeds, (300, 1)) + 1e-3 * np.random.default_rng(0).normal(size=(300, n))
    found = outcome(values)
    textbook = scipy.stats.ttest_1samp(values.mean(axis=0), 0)
    interval = textbook.confidence_interval()
    assert found.p == pytest.approx(textbook.pvalue, rel=0.15)
    assert found.low == pytest.approx(interval.low, rel=0.1)
    assert found.high == pytest.approx(interval.high, rel=0.1)
    assert found.by_seeds > 0.99


def test_three_seeds_of_one_sign_are_not_enough() -> None:
    values = np.tile([0.01, 0.03, 0.02], (500, 1))
    assert outcome(values).p > 0.05


def test_seeds_that_agree_as_rows_let_expect_leave_the_test_to_rows() -> None:
    draw = np.random.default_rng(0)
    shared, own = draw.normal(size=(500, 1)), draw.normal(size=(500, 3))
    values = shared + own - (shared + own).mean(axis=0) + 0.3  # every seed the same mean
    found = outcome(values)
    error = math.sqrt((1 + 1 / 3) / 500)
    assert found.by_seeds == 0
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Rows alone; rows and seeds; seeds far above rows. Measured more finely: docs/reports.md."""
    draw = np.random.default_rng(11)
    rows, repeats = 120, 300
    drawn = weights(rows, 600).astype(np.float32)
    for seeds, sd, least in ((1, 0.0, 0.92), (3, 0.0, 0.92), (3, 1.0, 0.89), (5, 10.0, 0.90)):
        held = 0
        for repeat in range(repeats):
            values = (
                0.7 * draw.normal(size=(rows, 1))
                + draw.normal(size=(rows, seeds))
                + sd / math.sqrt(rows) * draw.normal(size=seeds)
            )
            found = outcome(values, drawn, repeat)
            held += found.low <= 0 <= found.high
        assert least <= held / repeats <= 0.99, (seeds, sd)


def test_methods_change_places() -> None:
    draw = np.random.default_rng(4)
    values = draw.normal(0.05, 1, size=(200, 3)) + np.array([0, 0.3, 0.5])
    one, other = outcome(values), outcome(-values)
    assert one.difference == -other.difference
    assert one.p == pytest.approx(other.p, rel=0.25)
    assert one.low == pytest.approx(-other.high, abs=0.05)


def test_identical_predictions_show_no_difference() -> None:
    found = paired([0.0, 0.0], np.zeros((2, 100)), informative=0)
    assert found == Outcome(0.0, 0.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize(("informative", "least"), [(1, 1.0), (2, 0.5), (5, 1 / 16)])
def test_few_rows_that_differ_show_little(informative: int, least: float) -> None:
    values = np.zeros((100, 1))
    values[:informative] = 1
    drawn = weights(100, 500) @ values
    assert paired([informative / 100], drawn.T, informative).p >= least


def test_a_difference_that_every_row_has_is_certain() -> None:
    found = paired([0.2], np.full((1, 1_000), 0.2), informative=100)
    assert (found.low, found.high) == (0.2, 0.2)
    assert found.p < 1e-3


def test_p_goes_below_what_draws_can_count() -> None:
    values = np.random.default_rng(0).normal(0.5, 1, size=(400, 1))
    assert outcome(values).p < 1e-12


@pytest.mark.parametrize("freedom", [1.0, 1.7, 4.0, 30.0, 500.0, 9_999.0, 20_000.0, math.inf])
@pytest.mark.parametrize("t", [0.0, 0.5, 2.0, 7.0])
def test_the_tail_is_students(t: float, freedom: float) -> None:
    right = scipy.stats.t.sf(t, freedom) if freedom < math.inf else scipy.stats.norm.sf(t)
    assert tail(t, freedom) == pytest.approx(right, rel=2e-3)


def test_holm_is_its_definition() -> None:
    """The smallest of m is held against 5 % / m, the next against 5 % / (m - 1), and so on."""
    draw = np.random.default_rng(0)
    for _ in range(50):
        p_values = (draw.uniform(size=8) ** 4).tolist()
        shown = set()
        for rank, place in enumerate(np.argsort(p_values)):
            if p_values[place] >= 0.05 / (8 - rank):
                break
            shown.add(int(place))
        adjusted = holm(p_values)
        assert {place for place, p in enumerate(adjusted) if p < 0.05} == shown
        assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    assert holm([]) == []
