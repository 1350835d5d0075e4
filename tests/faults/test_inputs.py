"""Rows 12, 13, 14, 16 and 17: what people and other programs hand in, seen through the command line."""

import gzip
import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genas.config import load_run
from supernet import InputError, OpSubset, architectures
from supernet.graph import graph_to_json
from training import DataSettings, prepare

NO_TRACEBACK = "Traceback"


# --- row 12 --------------------------------------------------------------------------------------------------


class Canary:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def huge_header():
    """safetensors that announces a header of an exabyte, and one whose tensor lies far outside."""
    return {
        "an exabyte of header": struct.pack("<Q", 2**60) + b"{}",
        "a tensor beyond the end": _safetensors({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        "negative offsets": _safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}),
    }


def _safetensors(header):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(16)


LOADED = {
    "store.db": [("status", "tiny"), ("generate", "tiny"), ("report", "tiny"), ("fit", "tiny")],
    "config.yml": [("fit", "tiny"), ("generate", "tiny")],
    "predictor/evaluation.json": [("fit", "tiny"), ("search", "tiny"), ("status", "tiny"), ("report", "tiny")],
    "predictor/predictor.json": [("search", "tiny", "--set", "search.queries=150")],
    "predictor/predictor.safetensors": [("search", "tiny", "--set", "search.queries=150")],
    "winner/search.json": [("search", "tiny"), ("status", "tiny"), ("report", "tiny")],
    "winner/architecture.json": [("retrain", "tiny"), ("report", "tiny")],
    "winner/retrain.json": [("status", "tiny"), ("report", "tiny")],
}


@pytest.mark.parametrize("name", LOADED)
def test_a_pickle_in_the_place_of_any_file_is_refused(name, whole, tmp_path, genas, figure):
    canary = tmp_path / "canary"
    contents = {"pickle": pickle.dumps(Canary(canary)), **huge_header()}
    for content in contents.values():
        for line in LOADED[name]:
            (whole / name).write_bytes(content)
            code, words = genas(*line, "--logs", whole.parent)
            assert (code, NO_TRACEBACK in words) == (2, False), (line, words)
            assert not canary.exists()
    figure(
        12,
        f"{name}: a pickle and 3 bad safetensors, {len(LOADED[name]) * 4} calls: exit 2, canary absent",
    )


def test_pickles_among_the_trained_weights_are_not_read_but_trained_again(whole, tmp_path, genas):
    canary = tmp_path / "canary"
    (whole / "winner" / "retrain.json").unlink()
    kept = {path: path.read_bytes() for path in (whole / "checkpoints").glob("*.safetensors")}
    assert kept
    for path in kept:
        path.write_bytes(pickle.dumps(Canary(canary)))
    code, words = genas("retrain", "tiny", "--logs", whole.parent)
    assert (code, NO_TRACEBACK in words) == (0, False), words
    assert {path: path.read_bytes() for path in kept} == kept
    assert not canary.exists()


# --- row 13 --------------------------------------------------------------------------------------------------

BAD_YAML = {
    "empty": ("", "empty; expected keys and values"),
    "only a comment": ("# nothing\n", "empty"),
    "a list": ("- 1\n- 2", "expected keys and values"),
    "a word": ("quickstart", "expected keys and values"),
    "a number": ("3", "expected keys and values"),
    "text for a number": ("seed: three", "seed"),
    "a fraction for a whole number": ("generate: {architectures: 2.5}", "architectures"),
    "true for a number": ("seed: true", "seed"),
    "no": ("generate: {recipe: {flip: no}}", "write false"),
    "yes in quotes": ("generate: {recipe: {flip: 'true'}}", "flip"),
    "octal": ("seed: 010", "begins with a zero"),
    "hexadecimal": ("seed: 0x1F", "decimal"),
    "binary": ("seed: 0b11", "decimal"),
    "NaN": ("generate: {recipe: {learning_rate: .nan}}", "finite"),
    "infinity": ("generate: {recipe: {learning_rate: .inf}}", "finite"),
    "1e999": ("generate: {recipe: {learning_rate: 1e999}}", "finite"),
    "negative": ("generate: {architectures: -3}", "architectures"),
    "zero": ("generate: {architectures: 0}", "architectures"),
    "a huge number": ("seed: 99999999999999999999999999", "at most"),
    "unknown key": ("sed: 1", "Did you mean 'seed'"),
    "unknown key below": ("generate: {architecture: 3}", "Did you mean 'architectures'"),
    "duplicate key": ("seed: 1\nseed: 2", "given twice"),
    "duplicate key below": ("data:\n  source: digits\n  source: digits", "given twice"),
    "a number as key": ("1: 2", "expected text"),
    "null as key": ("~: 2", "expected text"),
    "a list as key": ("[1]: 2", "key"),
    "merge key": ("a: &b {}\n<<: *b", "anchor"),
    "anchor": ("seed: &x 1", "anchor"),
    "alias bomb": ("a: &a [1]\nb: &b [*a,*a]\nc: [*b,*b]", "anchor"),
    "python object": ("seed: !!python/object/apply:os.system ['touch canary']", "tag"),
    "python name": ("seed: !!python/name:os.system", "tag"),
    "binary tag": ("seed: !!binary aGVsbG8=", "tag"),
    "a tab": ("data:\n\tsource: digits", "tab"),
    "not closed": ("data: {source: digits", "not YAML"),
    "a quote not closed": ("data: 'digits", "not YAML"),
    "two documents": ("seed: 1\n---\nseed: 2", "second document"),
    "no UTF-8": (b"seed: \xff", "not UTF-8"),
    "a control character": ("seed: \x01", "not allowed"),
    "deep": ("a: " + "[" * 500 + "]" * 500, "nested deeper"),
    "large": ("a: [" + "1, " * 20_000 + "1]", "more than"),
    "unknown choice": ("generate: {recipe: {schedule: cosin}}", "Did you mean 'cosine'"),
    "unknown cost": ("limits: {flops: 3}", "unknown cost"),
    "a mapping for a number": ("seed: {a: 1}", "seed"),
    "a bad name": ("name: ../x", "name"),
}
CONVERTED = {
    "1e-3": ("generate: {recipe: {learning_rate: 1e-3}}", ("generate", "recipe", "learning_rate"), 0.001),
    "15e6": ("limits: {macs: 15e6}", ("limits", "macs"), 15_000_000),
    "underscores": ("limits: {macs: 15_000_000}", ("limits", "macs"), 15_000_000),
    "a whole number for a fraction": (
        "generate: {recipe: {weight_decay: 0}}",
        ("generate", "recipe", "weight_decay"),
        0.0,
    ),
    "False": ("generate: {recipe: {flip: False}}", ("generate", "recipe", "flip"), False),
    "a byte order mark": ("\ufeffseed: 3", ("seed",), 3),
}


@pytest.mark.parametrize("case", BAD_YAML)
def test_bad_yaml(case, genas, tmp_path):
    content, said = BAD_YAML[case]
    path = tmp_path / "bad.yml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, words = genas("generate", path)
    assert (code, NO_TRACEBACK in words) == (2, False), words
    assert said in words
    assert "bad.yml:" in words  # the place
    assert not list(Path().iterdir())
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("case", CONVERTED)
def test_yaml_that_is_meant_is_rightly_converted(case, tmp_path):
    content, path, expected = CONVERTED[case]
    (tmp_path / "good.yml").write_text(content, encoding="utf-8")
    value = load_run(tmp_path / "good.yml").settings.model_dump()
    for key in path:
        value = value[key]
    assert (value, type(value)) == (expected, type(expected))


def test_a_wrong_recipe_is_refused_before_any_work(tmp_path, figure):
    """In a process of its own, as a user meets it: nothing heavy is imported first."""
    took = []
    for number, case in enumerate(("unknown key below", "alias bomb", "deep")):
        path = tmp_path / f"bad{number}.yml"
        path.write_text(BAD_YAML[case][0])
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-P", "-X", "importtime", "-m", "genas.cli", "generate", str(path)],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        took.append(time.monotonic() - began)
        assert done.returncode == 2
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
        assert not {"torch", "scipy", "sklearn", "matplotlib"} & imported
    count = len(BAD_YAML) + len(CONVERTED)
    figure(13, f"{count} cases refused or converted; as a process: exit 2 after {np.median(took):.2f} s median")


# --- row 14 --------------------------------------------------------------------------------------------------


def table_lines():
    space = OpSubset()
    found = architectures(space, space.sample(12, np.random.default_rng(0)))
    return [
        {"id": one.key, **graph_to_json(space.graph(one)), "metrics": {"accuracy": 0.1 + number / 100},
         "choices": list(one.choices)}
        for number, one in enumerate(found)
    ]  # fmt: skip


def changed(**values):
    return lambda entry: entry | values


def without(key):
    return lambda entry: {name: value for name, value in entry.items() if name != key}


def first_node(**values):
    return lambda entry: entry | {"nodes": [entry["nodes"][0] | values, *entry["nodes"][1:]]}


BAD_ROWS = {
    "NaN": (changed(metrics={"accuracy": float("nan")}), "NaN is not a finite number"),
    "infinity": (changed(metrics={"accuracy": float("inf")}), "Infinity is not a finite number"),
    "above 1": (changed(metrics={"accuracy": 93.1}), "fraction from 0 to 1"),
    "below 0": (changed(metrics={"accuracy": -0.1}), "fraction from 0 to 1"),
    "text": (changed(metrics={"accuracy": "0.5"}), "finite number"),
    "true": (changed(metrics={"accuracy": True}), "finite number"),
    "null": (changed(metrics={"accuracy": None}), "finite number"),
    "no metric": (changed(metrics={}), "empty"),
    "no metrics": (without("metrics"), "'metrics' is missing"),
    "no nodes": (without("nodes"), "'nodes' is missing"),
    "empty nodes": (changed(nodes=[], edges=[]), "no nodes"),
    "missing node": (changed(edges=[[0, 999]]), "outside"),
    "negative node": (changed(edges=[[-1, 0]]), "outside"),
    "cycle": (changed(edges=[[0, 1], [1, 0]]), "cycle"),
    "loop": (changed(edges=[[0, 0]]), "cycle"),
    "edge twice": (changed(edges=[[0, 1], [0, 1]]), "twice"),
    "edge of three": (changed(edges=[[0, 1, 2]]), "pair"),
    "edge of text": (changed(edges=[["0", 1]]), "pair"),
    "no op": (first_node(op=None), "'op'"),
    "attribute of text": (first_node(kernel="3"), "finite number"),
    "unknown key": (changed(nod=[]), "unknown key"),
    "no id": (changed(id=""), "'id'"),
    "choices of text": (changed(choices=["1"]), "whole numbers"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_labels_in_a_table(case, genas, tmp_path):
    change, said = BAD_ROWS[case]
    lines = table_lines()
    lines[6] = change(lines[6])
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for line in (("fit", path), ("evaluate", path)):
        code, words = genas(*line)
        assert (code, NO_TRACEBACK in words) == (2, False), words
        assert "labels.jsonl:7:" in words
        assert said in words
    assert not list(Path().iterdir())


def test_bad_tables_are_counted(figure):
    figure(14, f"{len(BAD_ROWS)} kinds of bad rows: refused with file and line by fit and evaluate, nothing written")


# --- row 16 --------------------------------------------------------------------------------------------------


def picture(value):
    file = io.BytesIO()
    Image.new("RGB", (6, 6), (value, 10, 20)).save(file, "PNG")
    return file.getvalue()


def members(count=12):
    return {f"{name}/{number}.png": picture(20 * number + place) for place, name in enumerate(("ant", "bee"))
            for number in range(count)}  # fmt: skip


def make_zip(path, extra=(), **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members().items():
            archive.writestr(name, data)
        for name, data in extra:
            archive.writestr(name, data)


def make_tar(path, extra=(), mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in members().items():
            _add(archive, name, data)
        for name, data in extra:
            if isinstance(name, tarfile.TarInfo):
                archive.addfile(name)
            else:
                _add(archive, name, data)


def _add(archive, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def symbolic(name):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return info


EVIL = {
    "zip": [("../canary.png", b"x"), ("/tmp/genas-canary.png", b"x"), ("ant/../../canary.png", b"x"),
            (symbolic("ant/link.png"), b"/etc/passwd"), ("ant\\..\\..\\canary.png", b"x"), ("C:/canary.png", b"x")],
    "tar": [("../canary.png", b"x"), ("/tmp/genas-canary.png", b"x"), ("ant/../../canary.png", b"x"),
            (special("ant/link.png", tarfile.SYMTYPE, "/etc/passwd"), b""),
            (special("ant/hard.png", tarfile.LNKTYPE, "/etc/passwd"), b""),
            (special("ant/device.png", tarfile.CHRTYPE), b""), (special("ant/pipe.png", tarfile.FIFOTYPE), b"")],
}  # fmt: skip


@pytest.mark.parametrize("kind", EVIL)
def test_members_that_lead_out_of_an_archive(kind, tmp_path, monkeypatch, figure):
    inside = tmp_path / "inside" / "deep"
    inside.mkdir(parents=True)
    monkeypatch.setenv("GENAS_CACHE", str(inside / "cache"))
    monkeypatch.chdir(inside)
    for extra in EVIL[kind]:
        path = inside / f"pictures.{kind}"
        (make_zip if kind == "zip" else make_tar)(path, [extra])
        with pytest.raises(InputError, match="pictures"):
            prepare(DataSettings(source=f"archive:{path}"), 6)
        assert [entry.name for entry in tmp_path.iterdir()] == ["inside"]
        assert sorted(entry.name for entry in inside.iterdir()) in (["cache", path.name], [path.name])
        assert not Path("/tmp/genas-canary.png").exists()
    figure(
        16,
        f"{kind}: {len(EVIL[kind])} members that climb, link or are devices: refused, nothing unpacked to disk",
    )


def test_bombs(tmp_path, monkeypatch, figure):
    monkeypatch.setenv("GENAS_CACHE", str(tmp_path / "cache"))
    zeros = bytes(80 * 2**20)
    make_zip(tmp_path / "bomb.zip", [("ant/zeros.png", zeros)])
    make_tar(tmp_path / "bomb.tar", mode="w")
    with gzip.open(tmp_path / "bomb.tar.gz", "wb", compresslevel=9) as file:
        inner = io.BytesIO()
        with tarfile.open(fileobj=inner, mode="w") as archive:
            _add(archive, "ant/zeros.png", zeros)
            _add(archive, "bee/zeros.png", zeros)
        file.write(inner.getvalue())
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", zeros)
    sizes = [(tmp_path / name).stat().st_size for name in ("bomb.zip", "bomb.tar.gz", "bomb.npz")]
    for source in ("archive:{}/bomb.zip", "archive:{}/bomb.tar.gz", "npz:{}/bomb.npz"):
        with pytest.raises(InputError, match="bomb"):
            prepare(DataSettings(source=source.format(tmp_path)), 6)
    figure(16, f"bombs of {', '.join(f'{size:,}' for size in sizes)} bytes (zip, tar.gz, npz): refused")


# --- row 17 --------------------------------------------------------------------------------------------------

BAD_NAMES = [
    "../x",
    "/etc",
    "a/b",
    "",
    ".",
    "..",
    ".hidden",
    "-x",
    "a b",
    "a\nb",
    "a:b",
    "ä",
    "x" * 65,
    "x" * 300,
    "~",
    "$HOME",
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=range(len(BAD_NAMES)))
def test_run_names(name, genas, recipe):
    code, words = genas("generate", recipe, "--set", f"name={json.dumps(name)}")
    assert (code, NO_TRACEBACK in words) == (2, False), words
    for command in ("status", "report", "search"):
        code, words = genas(command, name)
        assert (code, NO_TRACEBACK in words) == (2, False), words
    assert not list(Path().iterdir())


def test_names_with_a_nul(genas, recipe, figure):
    for line in (("status", "a\0b"), ("generate", "a\0b"), ("generate", recipe, "--set", 'name="a\\0b"')):
        code, words = genas(*line)
        assert (code, NO_TRACEBACK in words) == (2, False), words
    for good in ("a", "0", "A-b_c.d", "x" * 64):
        assert load_run(recipe, [f"name={json.dumps(good)}"]).name == good
    figure(17, f"{len(BAD_NAMES) + 1} names that climb, hide, are too long or hold a NUL: exit 2, nothing written")
