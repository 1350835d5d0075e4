import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import training.corrupted
from training import Normalisation, Recipe
from training.corrupted import CorruptedSplit, evenly_spaced, measure_robustness
from training.corruption_names import CORRUPTIONS, EXTRA
from training.corruptions import corrupt
from training.images import Split
from training.loop import measure
from training.robustness import RobustnessSettings, accuracies_by_cell, cell_name, robustness_metrics

NORMALISATION = Normalisation((0.5,), (0.25,))
SETTINGS = RobustnessSettings(corruptions=("fog", "gaussian_noise"), severities=(1, 5), images=6, seed=3)


def split(count=10, side=8):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, side, side, 1), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(count) % 4)


class TestSettings:
    def test_the_defaults_are_the_75_cells(self):
        cells = list(RobustnessSettings().cells)
        assert len(cells) == len(set(cells)) == 75
        assert cells[:6] == [*(("gaussian_noise", severity) for severity in range(1, 6)), ("shot_noise", 1)]

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"corruptions": ("fog", "snow", "fog")}, "fog is named twice"),
            ({"severities": (1, 1)}, "1 is named twice"),
            ({"corruptions": ()}, "at least 1"),
            ({"severities": ()}, "at least 1"),
            ({"corruptions": ("foggy",)}, "'fog'"),
            ({"severities": (0,)}, "greater than or equal to 1"),
            ({"severities": (6,)}, "less than or equal to 5"),
            ({"images": 0}, "greater than or equal to 1"),
            ({"seed": -1}, "greater than or equal to 0"),
            ({"severity": (1,)}, "Extra inputs"),
        ],
    )
    def test_what_is_refused(self, values, said):
        with pytest.raises(ValidationError, match=said):
            RobustnessSettings(**values)


def metrics(clean, **cells):
    return {"accuracy_clean": clean, **{f"accuracy_{name}": value for name, value in cells.items()}}


class TestMetrics:
    def test_nothing_measured_is_nothing_said(self):
        assert robustness_metrics({}) == {}
        assert robustness_metrics({"accuracy_clean": 0.5}) == {}

    def test_means_over_cells_and_severities(self):
        found = robustness_metrics(metrics(0.8, fog_1=0.6, fog_5=0.2, snow_1=0.7, snow_5=0.5))
        assert found == {
            "robust_accuracy": pytest.approx(0.5),
            "relative_robustness": pytest.approx(0.625),
            "accuracy_clean": 0.8,
            "accuracy_fog": pytest.approx(0.4),
            "accuracy_snow": pytest.approx(0.6),
        }

    def test_the_four_extra_ones_count_only_where_nothing_else_does(self):
        both = robustness_metrics(metrics(0.8, fog_1=0.6, spatter_1=0.1))
        assert (both["robust_accuracy"], both["accuracy_spatter"]) == (0.6, 0.1)
        assert robustness_metrics(metrics(0.8, spatter_1=0.1, saturate_2=0.3))["robust_accuracy"] == pytest.approx(0.2)

    def test_nothing_is_relative_to_an_accuracy_of_0(self):
        found = robustness_metrics(metrics(0.0, fog_1=0.1))
        assert "relative_robustness" not in found
        assert found["robust_accuracy"] == 0.1

    @given(st.dictionaries(st.tuples(st.sampled_from((*CORRUPTIONS, *EXTRA)), st.integers(1, 5)), st.floats(0, 1)))
    def test_cells_are_read_back_by_their_names(self, cells):
        assert (
            accuracies_by_cell({"accuracy_clean": 0.5, **{cell_name(*cell): one for cell, one in cells.items()}})
            == cells
        )


class TestImages:
    @given(st.integers(1, 50), st.integers(1, 60))
    def test_some_are_evenly_spaced(self, there, asked):
        places = evenly_spaced(Split(torch.zeros(there, 1, 1, 1), torch.arange(there)), asked).labels
        assert len(places) == min(there, asked)
        gaps = places.diff()
        assert places[0] == 0
        assert not len(gaps) or gaps.max() - gaps.min() <= 1
        assert there - int(places[-1]) <= -(-there // min(there, asked))

    def test_all_are_the_split_itself(self):
        whole = split()
        assert evenly_spaced(whole, None) is whole
        assert evenly_spaced(whole, 10) is whole

    def test_every_cell_of_the_same_images_under_the_same_draws(self):
        whole = split()
        found = list(CorruptedSplit(whole, SETTINGS))
        assert [(name, severity) for name, severity, _ in found] == list(SETTINGS.cells)
        clean = evenly_spaced(whole, 6)
        for name, severity, images in found:
            assert torch.equal(images.labels, clean.labels)
            assert torch.equal(images.images, corrupt(clean.images, name, severity, 3))

    def test_kept_images_and_those_made_anew_are_the_same(self, monkeypatch):
        kept = CorruptedSplit(split(), SETTINGS)
        first, second = ([images.images for _, _, images in kept] for _ in range(2))
        assert all(one is other for one, other in zip(first, second, strict=True))
        monkeypatch.setattr(training.corrupted, "_KEPT_BYTES", 0)
        anew = CorruptedSplit(split(), SETTINGS)
        for _ in range(2):
            assert all(torch.equal(one, other.images) for one, (_, _, other) in zip(first, anew, strict=True))


class TestMeasuring:
    @pytest.fixture
    def network(self):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))

    def test_accuracies_are_those_of_the_loop(self, network):
        whole, recipe = split(), Recipe(batch_size=4)
        found = measure_robustness(network, CorruptedSplit(whole, SETTINGS), NORMALISATION, recipe)
        clean = evenly_spaced(whole, 6)
        expected = {"accuracy_clean": measure(network, clean, NORMALISATION, recipe)[0]}
        for name, severity in SETTINGS.cells:
            images = Split(corrupt(clean.images, name, severity, 3), clean.labels)
            expected[cell_name(name, severity)] = measure(network, images, NORMALISATION, recipe)[0]
        assert found == expected

    def test_a_stop_ends_it(self, network):
        class Stop(BaseException):
            pass

        calls = []

        def alive():
            calls.append(1)
            if len(calls) == 3:
                raise Stop

        with pytest.raises(Stop):
            measure_robustness(network, CorruptedSplit(split(), SETTINGS), NORMALISATION, Recipe(), alive)
        assert len(calls) == 3
