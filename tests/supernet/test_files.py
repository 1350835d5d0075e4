import json
import os
import subprocess

import pytest

from supernet import InputError
from supernet.files import read_json, read_proved_text, sweep, write_bytes, write_json, write_proved_text, write_text
from supernet.settings import UnavailableError


def test_folders_are_made_and_nothing_else_is_left(tmp_path):
    write_json(tmp_path / "a" / "b.json", {"x": 1})
    assert read_json(tmp_path / "a" / "b.json") == {"x": 1}
    content = json.loads((tmp_path / "a" / "b.json").read_text())  # any program can read it
    assert (list(content), content["format"], content["x"]) == (["format", "x", "digest"], 2, 1)
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["b.json"]


def test_numbers_that_are_not_finite_leave_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert read_json(tmp_path / "a.json") == {"x": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no valid JSON"),
        (b"\xff\xfe", "no valid JSON"),
        (b"[" * 100_000, "no valid JSON"),
        (b"[1]", "expected an object, got list"),
        (b'{"format": 2, "x": 1}', "damaged or edited by hand"),
        (b'{"x": 1, "digest": "00"}', "damaged or edited by hand"),
        (
            b'{"format": 3, "x": 1, "digest": "00"}',
            r"written by a newer version \(format 3, this one reads 2\); update",
        ),
    ],
)
def test_a_json_file_that_does_not_prove_itself_is_refused(content, said, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.json: .*{said}"):
        read_json(tmp_path / "a.json")


def test_json_of_format_1_is_read_and_a_missing_file_is_none(tmp_path):
    (tmp_path / "a.json").write_text('{"x": 1}')
    assert read_json(tmp_path / "a.json") == {"x": 1}
    assert read_json(tmp_path / "b.json") is None


def test_text_proves_itself(tmp_path):
    path = tmp_path / "a.yml"
    write_proved_text(path, "a note", "seed: 3\n")
    assert read_proved_text(path).endswith("; a note\nseed: 3\n")
    for edited in (path.read_text().replace("3\n", "4\n"), "seed: 3\n", "# digest 0; a note\nseed: 3\n"):
        write_text(tmp_path / "b.yml", edited)
        with pytest.raises(InputError, match="damaged or edited by hand; use the recipe"):
            read_proved_text(tmp_path / "b.yml")
    write_text(path, "# The resolved configuration of the run a.\nseed: 3\n")  # as format 1 began
    assert read_proved_text(path).endswith("seed: 3\n")
    with pytest.raises(InputError, match="cannot be read"):
        read_proved_text(tmp_path / "absent")
    (tmp_path / "c").write_bytes(b"\xff")
    with pytest.raises(InputError, match="no UTF-8"):
        read_proved_text(tmp_path / "c")


def test_what_the_dead_left_half_written_is_swept(tmp_path):
    (tmp_path / "below").mkdir()
    with subprocess.Popen(["true"]) as process:
        process.wait()
    dead, own = process.pid, os.getpid()
    for name in (f".a.{dead}.tmp", f"below/.b.json.{dead}.tmp", f".a.{own}.tmp", ".c.tmp", "d.tmp"):
        (tmp_path / name).touch()
    sweep(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == sorted([f".a.{own}.tmp", ".c.tmp", "d.tmp"])  # of the living, and of nobody


def test_content_may_come_in_pieces(tmp_path):
    write_text(tmp_path / "a", (f"{number}\n" for number in range(3)))
    assert (tmp_path / "a").read_text() == "0\n1\n2\n"


def test_a_write_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    write_bytes(tmp_path / "a", b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UnavailableError, match="No space left"):
        write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot write"):
        write_bytes(tmp_path / "file" / "a", b"")


@pytest.mark.parametrize("value", ["NaN", "1e999"])
def test_json_with_a_number_that_is_none_is_refused(value, tmp_path):
    path = tmp_path / "some.json"
    path.write_text(f'{{"format": 2, "value": {value}, "digest": "0"}}')
    with pytest.raises(InputError, match="damaged or edited by hand"):
        read_json(path)
