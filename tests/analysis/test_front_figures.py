import csv
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from analysis.front_figures import front_plot, search_plot
from analysis.front_file import Epoch
from analysis.fronts import front_volume, non_dominated
from tests.analysis.fronts import PLACES, REFERENCE, front_content, made_up

OWN, OTHERS = made_up("preferences", 40), made_up("published", 20, 0.01)
ENSEMBLES = [
    replace(one, name=f"e{number}", series="ensembles", params=10_000_000 + number, latency={})
    for number, one in enumerate(OWN[:2])
]


def volumes(**series):
    return {name: front_volume(members, "params", *REFERENCE, seed=0, draws=20) for name, members in series.items()}


def words(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.fixture(scope="module")
def plot():
    known = volumes(preferences=OWN, published=OTHERS)
    return front_plot([*OWN, *OTHERS, *ENSEMBLES], "params", REFERENCE, known)


def test_every_cost_has_a_panel_and_every_series_its_volume(plot):
    found = words(plot.svg)
    for text in (
        "parameters (million)", "MACs per image (million)", "latency, cpu batch 1 (ms)", "latency, cuda batch 64 (ms)",
        "reference (5 M, 15 %)", "volume and 95 % interval (M parameters x points)", "ensembles",
    ):  # fmt: skip
        assert found.count(text) == 1, text
    value = volumes(preferences=OWN)["preferences"]
    assert f"preferences: {value.value:.2f} [{value.low:.2f}, {value.high:.2f}]" in found
    assert ET.fromstring(plot.svg) is not None


def test_the_csv_has_everything_that_is_drawn(plot):
    rows = list(csv.DictReader(io.StringIO(plot.csv)))
    assert len(rows) == 62
    for row, member in zip(rows, [*OWN, *OTHERS, *ENSEMBLES], strict=True):
        assert (row["name"], row["series"], float(row["error"])) == (member.name, member.series, member.error)
        for name in PLACES:
            assert row[f"latency_ms {name}"] == str(member.latency.get(name, ""))
    for cost in ("params", "macs", *PLACES):
        marked = [row["name"] for row in rows if row["series"] == "published" and row[f"on_front {cost}"] == "1"]
        assert sorted(marked) == sorted(one.name for one in non_dominated(OTHERS, cost))


def test_files_stand_for_themselves(plot, tmp_path):
    svg, table = plot.write(tmp_path)
    assert (svg.name, table.name) == ("front_error.svg", "front_error.csv")
    assert "var(--" not in svg.read_text(encoding="utf-8")


@pytest.mark.parametrize("members", [[], OWN[:1], [replace(OWN[0], error=0.0, latency={})]])
def test_few_or_no_members_are_drawn_too(members):
    assert front_plot(members, "macs", (700e6, 0.2), {}).svg.startswith("<svg")


def test_the_search_is_drawn_epoch_by_epoch():
    history = [Epoch.model_validate(one) for one in front_content()["search"]["history"]]
    plot = search_plot(history)
    assert {"skips", "all operations without weights", "loss", "epoch", "share of edges (%)"} <= set(words(plot.svg))
    rows = list(csv.DictReader(io.StringIO(plot.csv)))
    assert len(rows) == 30
    assert float(rows[-1]["dominant skip_connect"]) == 0.75
    assert float(rows[3]["loss"]) == history[3].loss


def test_a_search_without_losses_or_operations_is_drawn():
    plot = search_plot([Epoch(epoch=1, skip_share=0.5)])
    assert "skips" in words(plot.svg)
    assert "loss" not in plot.svg.split("front_search-legend")[-1].split("skips")[-1]
