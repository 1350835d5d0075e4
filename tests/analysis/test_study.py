import csv
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.study import (
    TRAINING_FLAW,
    Study,
    StudyRun,
    accuracy_lost,
    chance_corrected,
    corruption_accuracy,
    corruption_errors,
    family_difference,
    grouped,
    matched_difference,
    mean_corruption_error,
    measures,
    read_rows,
    relative_robustness,
    robust_accuracy,
    trends,
    write_rows,
)
from analysis.study_figures import Curve, robustness_by_corruption, spectra_over_depth, study_plots, write_figures
from analysis.study_report import write_study_report
from supernet import InputError
from training.corruption_names import CORRUPTIONS, EXTRA, SEVERITIES


def cells(accuracy, drop=0.0):
    """All cells, extra ones at 0; ``drop`` is lost from one severity to the next."""
    known = {f"{name}_{severity}": accuracy - drop * (severity - 3) for name in CORRUPTIONS for severity in SEVERITIES}
    return known | {f"{name}_{severity}": 0.0 for name in EXTRA for severity in SEVERITIES}


def run(key="a", family="vgg", images=1000, seed=0, depth=10, clean=0.8, robust=0.6, own=None, flaws=()):
    known = cells(robust) if own is None else own
    return StudyRun(key, f"text of {key}", family, images, seed, depth, 1000, None, clean, known, flaws)


def made_up(networks=40, seed=0):
    """Two families on one curve of the clean accuracy, but for 0.03 that ResNets are higher; deeper VGGs are worse."""
    random = np.random.default_rng(seed)
    runs = []
    for family, level, gain in (("vgg", 0.5, 0.0), ("resnet", 0.6, 0.03)):
        for number in range(networks):
            depth = int(random.integers(5, 60))
            clean = level - (0.002 * depth if family == "vgg" else 0) + 0.05 * random.random()
            robust = 0.1 + 0.6 * clean + gain + 0.001 * random.normal()
            runs.append(run(f"{number}", family, depth=depth, clean=clean, robust=robust))
    return Study(tuple(runs), "made up")


def test_means_are_over_the_15_and_their_severities():
    one = run(own=cells(0.5, 0.1))
    assert len(CORRUPTIONS) == 15
    assert corruption_accuracy(one, "fog") == pytest.approx(0.5)
    assert corruption_accuracy(one, "fog", (5,)) == pytest.approx(0.3)
    assert robust_accuracy(one) == pytest.approx(0.5)
    assert robust_accuracy(one, severities=(1,)) == pytest.approx(0.7)
    assert relative_robustness(one) == pytest.approx(0.5 / 0.8)
    assert relative_robustness(one, "fog", severities=(5,)) == pytest.approx(0.3 / 0.8)
    assert accuracy_lost(one) == pytest.approx(0.3)


def test_published_means_stand_for_severities():
    one = run(own=dict.fromkeys(CORRUPTIONS, 0.5))
    assert robust_accuracy(one) == pytest.approx(0.5)
    with pytest.raises(InputError, match="only the mean over severities"):
        corruption_accuracy(one, "fog", (1,))
    study = Study((one,), "")
    assert study.severities == SEVERITIES
    assert not study.by_severity
    assert Study((run(),), "").by_severity


def test_a_network_that_guesses_loses_nothing_but_has_nothing():
    guess = run(clean=0.1, robust=0.1)
    assert relative_robustness(guess) == 1
    assert chance_corrected(guess, 0.1) is None
    assert chance_corrected(run(clean=0.9, robust=0.5), 0.1) == pytest.approx(0.5)
    assert chance_corrected(run(clean=0.9, robust=0.1), 0.1) == pytest.approx(0)


def test_corruption_errors_are_of_the_baseline():
    one, baseline = run(clean=0.8, robust=0.6), run(clean=0.6, robust=0.2)
    assert mean_corruption_error(baseline, baseline) == pytest.approx(1)
    assert mean_corruption_error(one, baseline) == pytest.approx(0.4 / 0.8)
    assert mean_corruption_error(one, baseline, relative=True) == pytest.approx(0.2 / 0.4)
    group = [run(robust=0.2), run(robust=0.6)]
    assert corruption_errors(one, group)["fog"] == pytest.approx(0.4 / 0.6)
    with pytest.raises(InputError, match="nothing to divide by"):
        mean_corruption_error(one, run(clean=0.1, robust=0.1), relative=True)
    with pytest.raises(InputError, match="at least one"):
        mean_corruption_error(one, [])


def test_errors_of_each_corruption_weigh_alike():
    own = dict.fromkeys(CORRUPTIONS, 0.5) | {"fog": 0.9}
    base = dict.fromkeys(CORRUPTIONS, 0.5) | {"fog": 0.8}
    assert mean_corruption_error(run(own=own), run(own=base)) == pytest.approx((14 + 0.5) / 15)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"fgo": 0.5}, "Did you mean 'fog'"),
        ({"fog_6": 0.5}, "does not exist"),
        ({"fog": 1.2}, "expected an accuracy from 0 to 1"),
        ({"fog": math.nan}, "expected an accuracy from 0 to 1"),
        ({"fog": 0.5, "fog_1": 0.5}, "as a mean and by severity"),
    ],
)
def test_a_wrong_cell_is_refused(own, message):
    with pytest.raises(InputError, match=message):
        run(own=own)


def test_what_was_not_measured_is_named():
    with pytest.raises(InputError, match="gaussian_noise was not measured"):
        robust_accuracy(run(own={"fog_1": 0.5}))
    with pytest.raises(InputError, match="Did you mean 'fog'"):
        corruption_accuracy(run(), "fogg")
    study = Study((run(own={"fog_1": 0.5, "fog_3": 0.3}),), "")
    assert (study.corruptions, study.severities) == (("fog",), (1, 3))
    assert measures(study)["robust"](study.runs[0]) == pytest.approx(0.4)
    with pytest.raises(InputError, match="no corruption was measured"):
        measures(Study((run(own={}),), ""))


def test_a_run_twice_is_refused():
    with pytest.raises(InputError, match="given twice"):
        Study((run(), run()), "")
    assert len(Study((run(), run(seed=1), run(family="resnet")), "").runs) == 3


def test_groups_average_seeds_before_networks():
    runs = [run("a", seed=0, clean=0.2), run("a", seed=1, clean=0.4), run("b", clean=0.5), run("c", images=5, clean=1)]
    group, single = sorted(grouped(Study(tuple(runs), ""), value="clean"), key=lambda one: -one.group[1])
    assert (group.group, group.count) == (("vgg", 1000), 2)
    assert group.mean == pytest.approx(0.4)
    assert group.standard_deviation == pytest.approx(0.2 / math.sqrt(2))
    half = 12.706204736 * 0.1  # Student's t of one degree of freedom, times the standard error
    assert (group.low, group.high) == pytest.approx((0.4 - half, 0.4 + half))
    assert (single.count, single.mean, single.low) == (1, 1, None)
    with pytest.raises(InputError, match="no field of a run"):
        grouped(Study((run(),), ""), by=("famly",))
    with pytest.raises(InputError, match="does not exist"):
        grouped(Study((run(),), ""), value="robustness")


def test_a_clean_accuracy_on_training_images_is_in_no_measure():
    study = Study((run("a", flaws=(TRAINING_FLAW,)), run("b")), "")
    assert [group.count for group in grouped(study, value="relative")] == [1]
    assert [group.count for group in grouped(study, value="clean")] == [1]
    assert [group.count for group in grouped(study, value="robust")] == [2]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from([0.1, 0.2, 0.3, 0.4])), min_size=5, max_size=20),
)
def test_trends_are_rank_correlations(rows):
    runs = tuple(run(str(number), depth=depth, clean=clean) for number, (depth, clean) in enumerate(rows))
    (trend,) = trends(Study(runs, ""), resamples=20)
    depth, clean = np.array(rows).T
    if np.ptp(depth) and np.ptp(clean):
        assert trend.spearman == pytest.approx(stats.spearmanr(depth, clean).statistic)
        assert trend.kendall == pytest.approx(stats.kendalltau(depth, clean).statistic)
    else:
        assert (trend.spearman, trend.kendall) == (0, 0)
    assert 0 < trend.p_value <= 1
    assert -1 <= trend.spearman_ci95[0] <= trend.spearman_ci95[1] <= 1


def test_trends_find_what_was_put_in():
    study = made_up()
    found = {trend.family: trend for trend in trends(study, resamples=300)}
    assert found["vgg"].spearman_ci95[1] < -0.5
    assert found["vgg"].p_value == pytest.approx(1 / 301)
    assert found["resnet"].spearman_ci95[0] < 0 < found["resnet"].spearman_ci95[1]
    assert trends(study, resamples=300) == trends(study, resamples=300)
    assert trends(Study((run(),), "")) == []


def test_a_difference_at_equal_accuracy_is_not_the_plain_one():
    random = np.random.default_rng(1)
    runs = []
    for family, level, gain in (("vgg", 0.4, 0.0), ("resnet", 0.6, 0.03)):
        for number in range(60):
            clean = level + 0.4 * random.random()
            runs.append(run(f"{number}", family, clean=clean, robust=0.1 + 0.6 * clean + gain))
    study = Study(tuple(runs), "")
    plain = family_difference(study, "resnet", "vgg", 1000, "robust", resamples=200)
    matched = matched_difference(study, "resnet", "vgg", 1000, "robust", resamples=200)
    assert plain.ci95[0] > 0.1
    assert matched.difference == pytest.approx(0.03)
    assert matched.ci95 == pytest.approx((0.03, 0.03))
    assert max(matched.counts) < 60
    # The family of lower clean accuracy looks more robust in the relative number without being so.
    relative = family_difference(study, "resnet", "vgg", 1000, "relative", resamples=200)
    assert relative.difference < 0.03 / 0.6
    with pytest.raises(InputError, match="families of that size: resnet, vgg"):
        family_difference(study, "densenet", "vgg", 1000)


def test_families_that_share_no_accuracy_are_not_compared():
    assert matched_difference(made_up(), "resnet", "vgg", 1000) is None


def test_rows_come_back(tmp_path):
    runs = (run("a", flaws=("one", "two")), run("b", own=dict.fromkeys(CORRUPTIONS, 0.25), flaws=(TRAINING_FLAW,)))
    write_rows(Study(runs, "s"), tmp_path / "study.csv")
    assert read_rows(tmp_path / "study.csv").runs == runs
    with (tmp_path / "study.csv").open() as file:
        first, second = csv.DictReader(file)
    assert float(first["relative"]) == pytest.approx(0.75)
    assert (second["relative"], second["robust"]) == ("", "0.25")
    text = (tmp_path / "study.csv").read_text().replace("0.8,one", "1.8,one")
    (tmp_path / "broken.csv").write_text(text)
    with pytest.raises(InputError, match=r"broken\.csv:2: .*clean is 1\.8"):
        read_rows(tmp_path / "broken.csv")
    (tmp_path / "broken.csv").write_text(text.replace("seed,", "sede,"))
    with pytest.raises(InputError, match=r"broken\.csv:1: column 'seed' is missing.*Did you mean 'sede'"):
        read_rows(tmp_path / "broken.csv")


def test_a_plot_draws_what_its_csv_has(tmp_path):
    study = made_up(12)
    names = [plot.name for plot in study_plots(study)]
    assert names == ["clean_against_depth", "robust_against_depth", "robustness_by_corruption", "robust_against_clean"]
    plot = robustness_by_corruption(study)
    rows = [row for row in plot.rows if row[:2] == ("relative", "vgg") and row[4] == "fog"]
    values = [relative_robustness(one, "fog") for one in study.runs if one.family == "vgg"]
    assert rows[0][5] == pytest.approx(np.mean(values))
    assert "gaussian noise" in plot.svg
    assert "var(--ink)" in plot.svg
    for path in write_figures(study, tmp_path):
        text = path.read_text()
        assert text.startswith("<?xml") == (path.suffix == ".svg")
        assert "var(--" not in text


def test_a_plot_is_written_as_png(tmp_path):
    curve = Curve([0, 1], [0.4, 0.2], [0.3, 0.1], [0.5, 0.3])
    plot = spectra_over_depth({"vgg": {"clean, 1,000 images": curve, "fog 5, 1,000 images": curve}})
    assert [path.suffix for path in plot.write(tmp_path, png=True)] == [".svg", ".csv", ".png"]
    assert (tmp_path / "spectra_over_depth.png").read_bytes()[:4] == b"\x89PNG"
    assert plot.rows[-1] == ("vgg", "fog 5, 1,000 images", 1, 0.2, 0.1, 0.3)
    assert "stroke-dasharray" in plot.svg


def test_the_page_says_flaws_first(tmp_path):
    study = made_up(12)
    flawed = Study(study.runs, "<b>made up</b>", ("Nothing here was trained.",))
    write_study_report(flawed, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.index("Nothing here was trained.") < page.index("What they say") < page.index("<svg")
    assert "<b>made up" not in page
    assert "confounded" in page
    assert 'href="http' not in page
    assert 'src="http' not in page


def test_a_page_of_clean_accuracies_alone(tmp_path):
    study = Study(tuple(run(str(number), depth=number, own={}) for number in range(5)), "")
    write_study_report(study, tmp_path / "report.html")
    assert "Does depth help" in (tmp_path / "report.html").read_text()
