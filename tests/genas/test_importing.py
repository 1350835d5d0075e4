import json
from dataclasses import asdict

import pytest

from analysis.fronts import Member
from analysis.mood import mood_members, read_mood
from genas.importing import import_study
from supernet import InputError, read_table
from tests.analysis.moods import study, write
from tests.data import TABLES


def test_a_study_of_a_front_is_imported(genas, tmp_path):
    source, out = write(tmp_path / "mood", study()), tmp_path / "out"
    answer = genas("import-study", source, "--out", out, "--json")
    assert (answer.code, answer.err) == (0, "")
    result = json.loads(answer.out)
    assert result["networks"] == {"cifar10": 3, "cifar100": 1}
    assert result["files"] == ["mood_cifar10.jsonl", "mood_cifar100.jsonl", "members.json"]
    assert result["memory_error"] == pytest.approx(0, abs=1e-9)
    assert list(result["hypervolume"]) == ["cifar10"]
    assert sorted(path.name for path in out.iterdir()) == sorted(result["files"])
    assert [len(read_table(out / f"mood_{data}.jsonl")) for data in ("cifar10", "cifar100")] == [3, 1]
    written = json.loads((out / "members.json").read_text())
    members = mood_members(read_mood(source), "cifar10")
    assert tuple(Member(**one) for one in written["cifar10"]) == members
    assert [asdict(member) for member in members] == written["cifar10"]
    answer = genas("import-study", source, "--out", out)
    assert "cifar10    3 trained networks, 3 on the front of error and parameters; hypervolume" in answer.out
    assert "cifar100   1 trained networks, 1 on the front of error and parameters\n" in answer.out
    assert f"Next: genas evaluate {out / 'mood_cifar10.jsonl'}" in answer.out


def test_flaws_are_printed_by_network(genas, tmp_path):
    tables = study()
    tables["trained_cifar10.csv"][1]["FLOPs"] = 5
    tables["memory.csv"] = tables["memory.csv"][:5]  # too few for a rule, and no fault
    answer = genas("import-study", write(tmp_path / "mood", tables), "--out", tmp_path / "out")
    assert answer.code == 0
    assert "  flaw: l1_loss_1e03_l2_3e04: FLOPs are 5, its genotype has" in answer.out
    assert "memory" not in answer.out


def test_what_is_no_study_is_refused_and_nothing_written(genas, tmp_path):
    (tmp_path / "empty").mkdir()
    source, out = write(tmp_path / "mood", study()), tmp_path / "out"
    for wrong, said in (
        (
            tmp_path / "empty",
            "empty: no genotypes.json in it; expected a folder of genotypes and their tables, or a CSV",
        ),
        (tmp_path / "gone", "gone: the table cannot be read"),
        (write(tmp_path / "bad", {}), "bad: no table of trained networks"),
    ):
        answer = genas("import-study", wrong, "--out", out)
        assert (answer.code, answer.out) == (2, "")
        assert said in answer.err
        assert not out.exists()
    out.mkdir()
    (out / "store.db").touch()
    with pytest.raises(InputError, match="a run is there"):
        import_study(source, out)


@pytest.mark.skipif(not (TABLES / "mood_nas").exists(), reason="the published tables are not here")
def test_the_published_study_is_imported(tmp_path):
    result = import_study(TABLES / "mood_nas", tmp_path)
    assert (result["networks"], result["searched"]) == ({"cifar10": 37, "cifar100": 6}, 31)
    assert [len(own) for own in result["front"].values()] == [12, 3]
    assert round(result["hypervolume"]["cifar10"]["volume"], 2) == 39.06
    assert list(result["flaws"]) == ["l2_loss_6e02"]
    assert [len(read_table(tmp_path / f"mood_{data}.jsonl")) for data in ("cifar10", "cifar100")] == [36, 6]
    assert [len(own) for own in json.loads((tmp_path / "members.json").read_text()).values()] == [37, 6]
