import csv
import io
import json
import re

import pytest

from analysis import write_report
from analysis.front_file import ENSEMBLE_FILE, FRONT_FILE, FrontFile, read_front
from analysis.front_sections import front_sections, front_summary
from analysis.fronts import member_to_json, non_dominated
from analysis.record import read_record
from supernet import InputError
from tests.analysis.conftest import write
from tests.analysis.fronts import front_content, made_up


def parts(run, content=None, ensembles=()):
    write(run.folder / FRONT_FILE, front_content() if content is None else content)
    if ensembles:
        write(run.folder / ENSEMBLE_FILE, {"front_members": [member_to_json(one) for one in ensembles]})
    return {section.key: section for section in front_sections(read_record(run.folder))}


def said(section):
    return re.sub(r"\s", " ", " ".join(section.text))


@pytest.fixture
def run(make_run):
    return make_run().upto("generate")


def test_a_run_without_a_front_has_no_such_part(run):
    record = read_record(run.folder)
    assert record.trained_front is None
    assert front_sections(record) == front_summary(record) == []


def test_the_page_has_the_front(run):
    write(run.folder / FRONT_FILE, front_content())
    page = write_report(run.folder).read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {"trained-front", "front-search"} <= set(ids)
    assert "<dt>Front</dt>" in page
    assert "the lowest validation error is" in re.sub(r"\s", " ", page)


def test_the_table_has_what_nothing_dominates_and_the_ensembles(run):
    ensembles = made_up("ensembles", 2, split="test")
    section = parts(run, ensembles=ensembles)["trained-front"]
    table, standings = section.tables
    on = non_dominated(made_up("preferences", 20), "params")
    assert len(table.rows) == len(on) + 2
    assert table.head == (
        "not dominated", "space", "parameters", "MACs (million)", "cpu batch 1 (ms)", "cuda batch 64 (ms)",
        "validation error (%)", "test error (%)",
    )  # fmt: skip
    for row, one in zip(table.rows, on, strict=False):
        assert row[0] == one.name
        assert row[1:4] == ("narrow", f"{one.params:,}", f"{one.macs / 1e6:,.1f}")
        assert row[-2:] == (f"{100 * one.error:.2f}", f"{100 * one.error + 0.2:.2f}")
    assert table.rows[-1][0] == "ensembles1"
    assert table.rows[-1][-2:] == ("", f"{100 * ensembles[1].error:.2f}")
    assert [row[0] for row in standings.rows] == ["this run (preferences)", "published"]
    (_, plotted), (_, trained) = section.details
    assert len(list(csv.DictReader(io.StringIO(plotted)))) == 20 + 10 + 2
    rows = list(csv.DictReader(io.StringIO(trained)))
    assert sum(row["on_front"] == "True" for row in rows) == len(on)
    assert rows[0]["architecture"].endswith("preferences0")


def test_the_words_claim_what_was_measured(run):
    section, search = parts(run).values()
    text = said(section)
    assert "64 distinct networks, 35 of them candidates, 30 ranked, 20 trained, in 1 h 6 min" in text
    assert "up to 5,000,000 parameters and 15.0 % error is" in text
    assert "Volume less that of published: +" in text
    assert "better than images alone explain" in text
    text = said(search)
    assert (
        "did not collapse into operations without weights. In the last epoch skips stand on 75 % of the edges" in text
    )
    assert text.count("no better than chance") == 1


def test_a_collapse_is_told(run):
    content = front_content()
    content["search"] |= {"collapsed": True, "history": []}
    search = parts(run, content)["front-search"]
    assert "The search collapsed" in said(search)
    assert not search.figure


def test_fronts_of_other_images_are_not_compared(run):
    content = front_content()
    for one in content["beside"][0]["members"]:
        one["split"] = "test"
    assert "the volumes do not compare" in said(parts(run, content)["trained-front"])


def test_a_front_of_nothing_is_told_without_fault(run):
    content = front_content(beside=0, members=[], cheap_tau=None)
    section = parts(run, content)["trained-front"]
    assert section.tables[0].rows == []
    assert front_summary(read_record(run.folder)) == []


def test_a_front_alone_is_a_run(tmp_path):
    with pytest.raises(InputError, match="no run here"):
        read_record(tmp_path)
    write(tmp_path / FRONT_FILE, front_content(count=3, beside=0))
    assert isinstance(read_front(tmp_path), FrontFile)
    assert "Front" in write_report(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"method": "luck"}, "method"),
        ({"reference": {"cost": 0, "error": 0.1}}, "reference.cost"),
        ({"hypervolume": {"value": 3}}, "hypervolume.low"),
        ({"members": [{"name": "a"}]}, "members.0.series"),
    ],
)
def test_a_damaged_front_is_refused_with_its_place(tmp_path, change, where):
    (tmp_path / FRONT_FILE).parent.mkdir()
    (tmp_path / FRONT_FILE).write_text(json.dumps(front_content(count=2, beside=0) | change))
    with pytest.raises(InputError, match=rf"front\.json: damaged \({where}"):
        read_front(tmp_path)
