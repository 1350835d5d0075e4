"""Broken input for everything that parses: refused in words, or read as what it is; no traceback, nothing written.

``make test`` runs some examples of each target, always the same; ``make fuzz`` sets GENAS_FUZZ, a factor, and runs
at least 100,000 in all, at random.
"""

import io
import json
import os
import shutil
import tempfile
import types
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from analysis.record import read_record
from data_gen import WorkerSettings, open_store, read_store
from data_gen.driver import Progress, _Pool, _Worker
from data_gen.runner import Place
from genas.config import check_name, load_run
from genas.costing import find_space
from genas.yaml_reader import apply_overrides, read_yaml, read_yaml_file
from predictor import fit_predictor
from predictor.files import read_predictor
from supernet import InputError, read_table
from supernet.files import read_json, read_proved_text
from supernet.graph import graph_from_json
from supernet.settings import UnavailableError
from tests.data_gen.harness import SPACE
from tests.data_gen.harness import architectures as small
from training import Checkpoints
from training.data import damage, open_prepared
from training.sources import _read_image, open_source

FACTOR = float(os.environ.get("GENAS_FUZZ", "0"))
REFUSED = (InputError, UnavailableError)
FIXTURE = Path(__file__).parent.parent / "fixtures" / "format2"
COUNTS: Counter[str] = Counter()


def fuzz(weight):
    """So many examples for each unit of GENAS_FUZZ, 40 of the always same ones without it."""
    return settings(
        max_examples=max(1, round(weight * FACTOR)) if FACTOR else 40,
        derandomize=not FACTOR, deadline=None, database=None, suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _count(record_property):
    """The numbers of inputs, for the terminal summary."""
    before = COUNTS.copy()
    yield
    for target, count in (COUNTS - before).items():
        record_property("fuzzed", (target, count))


@pytest.fixture(scope="module")
def folder():
    """A folder of its own below one that must stay as it is."""
    outside = Path(tempfile.mkdtemp(prefix="genas-fuzz-"))
    inside = outside / "inside"
    inside.mkdir()
    yield inside
    left = sorted(path.name for path in outside.iterdir())
    shutil.rmtree(outside)
    assert left == ["inside"]


numbers = st.one_of(
    st.integers(), st.floats(), st.just(10**400), st.just(-(2**63)), st.just(float("nan")), st.booleans(), st.none()
)
texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=30)
json_values = st.recursive(
    numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
changes = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "splice", "double", "insert", "zero"]), st.floats(0, 1, exclude_max=True),
              st.floats(0, 1, exclude_max=True), st.binary(max_size=16)),
    min_size=1, max_size=4,
)  # fmt: skip


def changed(data, many):
    """Bytes after some changes at relative places."""
    content = bytearray(data)
    for kind, first, second, piece in many:
        if not content:
            break
        start, end = sorted((int(first * len(content)), int(second * len(content))))
        if kind == "flip":
            content[start] ^= 1 << end % 8
        elif kind == "cut":
            del content[start:]
        elif kind == "splice":
            content = content[:start] + content[end:]
        elif kind == "double":
            content[start:start] = content[start : min(end, start + 200)]
        elif kind == "insert":
            content[start:start] = piece
        else:
            content[start:end] = bytes(end - start)
    return bytes(content)


# --- recipes, names, architectures ---------------------------------------------------------------------------

RECIPE = (FIXTURE / "config.yml").read_text()
WORDS = [
    *RECIPE.split(), "&a", "*a", "<<:", "!!python/name:os.system", "- ", "{", "}", "[", "]", ": ", "\n", "  ", "\t",
    "1e999", ".nan", "0o17", "---", "...", "|", ">", "'", '"', "#", "%YAML 1.1", "\0", "é",
]  # fmt: skip
tokens = st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)


@fuzz(16_000)
@given(texts | tokens | changes.map(lambda many: changed(RECIPE.encode(), many).decode("utf-8", "replace")))
def test_yaml(text):
    COUNTS["yaml"] += 1
    with suppress(*REFUSED):
        document = read_yaml(text, "a.yml")
        json.dumps(document.value, allow_nan=False)  # plain values alone
        apply_overrides(document, ["seed=3", "space.layers.0.channels=8"])


@fuzz(6_000)
@given(changes)
def test_recipe_files(folder, many):
    COUNTS["recipe files"] += 1
    path = folder / "recipe.yml"
    path.write_bytes(changed(RECIPE.encode(), many))
    with suppress(*REFUSED):
        read_yaml_file(path)
    with suppress(*REFUSED):
        load_run(path, logs=folder)


@fuzz(16_000)
@given(texts | st.lists(st.sampled_from(list("01 \t2-")), max_size=40).map("".join))
def test_architectures_and_names(text):
    COUNTS["architectures, names"] += 1
    with suppress(*REFUSED):
        architecture = SPACE.parse(text)
        assert SPACE.parse(SPACE.format(architecture)) == architecture
        SPACE.graph(architecture)
    with suppress(*REFUSED):
        assert check_name(text) == text
        assert Path(text).name == text
        assert text not in (".", "..")
    with suppress(*REFUSED):
        find_space("op_subset", [text])


# --- tables --------------------------------------------------------------------------------------------------

LINES = (FIXTURE / "labels.jsonl").read_bytes().splitlines(keepends=True)[:2]


@fuzz(16_000)
@given(changes | json_values.map(lambda value: [value]), st.booleans())
def test_tables(folder, many, whole):
    COUNTS["tables"] += 1
    path = folder / "labels.jsonl"
    if many and isinstance(many[0], tuple):
        path.write_bytes((LINES[0] if whole else b"") + changed(LINES[1], many))
    else:
        path.write_text(json.dumps(many[0]) + "\n")
    with suppress(*REFUSED):
        for row in read_table(path).rows:
            assert all(np.isfinite(list(row.metrics.values())))


@fuzz(16_000)
@given(json_values, json_values)
def test_graphs(nodes, edges):
    COUNTS["graphs"] += 1
    with suppress(*REFUSED):
        graph_from_json(nodes, edges).order()
    good = [{"op": "conv", "in": 3}, {"op": "sum"}]
    with suppress(*REFUSED):
        graph_from_json(good, edges)
    with suppress(*REFUSED):
        graph_from_json([nodes, *good], [[0, 1]])


# --- what a run has written ----------------------------------------------------------------------------------


def results(path):
    with closing(read_store(path)) as store:
        return {(row.job.stage, row.job.architecture, row.job.seed): row for stage in ("generate", "retrain")
                for row in store.results(stage)}  # fmt: skip


STORES = [path.read_bytes() for path in sorted(FIXTURE.parent.glob("format*/store.db"))]
KNOWN = [results(path) for path in sorted(FIXTURE.parent.glob("format*/store.db"))]


@fuzz(1_500)
@given(st.sampled_from(range(len(STORES))), changes)
def test_stores(folder, number, many):
    COUNTS["stores"] += 1
    shutil.rmtree(folder / "run", ignore_errors=True)
    (folder / "run").mkdir()
    path = folder / "run" / "store.db"
    data = changed(STORES[number], many)
    path.write_bytes(data)
    with suppress(*REFUSED):
        assert results(path).items() <= KNOWN[number].items() or number == 0  # format 1 has no digests
    assert path.read_bytes() == data
    with suppress(*REFUSED):
        open_store(path).close()
        assert results(path).items() <= KNOWN[number].items() or number == 0


@fuzz(8_000)
@given(st.sampled_from(["search.json", "architecture.json", "retrain.json"]), changes)
def test_json_files(folder, name, many):
    COUNTS["JSON files"] += 1
    data = (FIXTURE / "winner" / name).read_bytes()
    path = folder / name
    path.write_bytes(changed(data, many))
    with suppress(*REFUSED):
        read_json(path)
        assert path.read_bytes() == data
    path.write_bytes(changed(RECIPE.encode(), many))
    with suppress(*REFUSED):
        read_proved_text(path)
        assert path.read_text() == RECIPE


REPORTED = [
    "winner/search.json", "winner/architecture.json", "winner/retrain.json", "meta.json", "config.yml",
    "predictor/evaluation.json",
]  # fmt: skip


@fuzz(2_000)
@given(st.sampled_from(REPORTED), changes | json_values)
def test_reports(folder, name, content):
    COUNTS["run folders"] += 1
    run = folder / "report"
    if not run.exists():
        shutil.copytree(FIXTURE, run)
    data = (run / name).read_bytes()
    if content and isinstance(content, list) and isinstance(content[0], tuple):
        (run / name).write_bytes(changed(data, content))
    else:
        (run / name).write_text(json.dumps(content))
    try:
        with suppress(*REFUSED):
            read_record(run)
    finally:
        (run / name).write_bytes(data)


@fuzz(4_000)
@given(st.sampled_from(["predictor.json", "predictor.safetensors"]), changes)
def test_predictors(folder, name, many):
    COUNTS["predictors"] += 1
    target = folder / "predictor"
    if not target.exists():
        fit_predictor(read_table(FIXTURE / "labels.jsonl"), "accuracy", "ridge").save(target)
    _, known = read_predictor(target)
    data = (target / name).read_bytes()
    (target / name).write_bytes(changed(data, many))
    try:
        with suppress(*REFUSED):
            _, content = read_predictor(target)
            assert content == known
    finally:
        (target / name).write_bytes(data)


@fuzz(5_000)
@given(st.sampled_from(["json", "safetensors"]), st.sampled_from([1, 2]), changes)
def test_checkpoints(folder, ending, step, many):
    COUNTS["checkpoints"] += 1
    target = folder / "checkpoints"
    checkpoints = Checkpoints(target, "a", {"seed": 3}, every=60)
    if not target.exists():
        for number in (1, 2):
            checkpoints.save(number, {"x": torch.full((3,), float(number))}, {"step": number})
    path = target / f"a.{step:09d}.{ending}"
    data = path.read_bytes()
    path.write_bytes(changed(data, many))
    try:
        saved = checkpoints.newest()
        assert saved is not None  # only one of the two is hurt
        assert saved.tensors["x"].tolist() == [float(saved.content["step"])] * 3
    finally:
        path.write_bytes(data)


# --- pictures ------------------------------------------------------------------------------------------------


def picture(kind):
    file = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(file, kind)
    return file.getvalue()


PICTURES = [(kind.lower(), picture(kind)) for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "PPM")]


@fuzz(8_000)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it can still read
@given(st.sampled_from(PICTURES), changes)
def test_pictures(folder, kind, many):
    COUNTS["pictures"] += 1
    path = folder / f"a.{kind[0]}"
    path.write_bytes(changed(kind[1], many))
    with suppress(*REFUSED):
        pixels = _read_image(path, path)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3


def archives():
    import tarfile
    import zipfile

    arrays, zipped, tarred = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez(arrays, train_images=np.zeros((4, 3, 3), np.uint8), train_labels=np.arange(4) % 2)
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as target:
        for number in range(4):
            target.writestr(f"{'ab'[number % 2]}/{number}.png", PICTURES[0][1])
    with tarfile.open(fileobj=tarred, mode="w:gz") as target:
        for number in range(4):
            info = tarfile.TarInfo(f"{'ab'[number % 2]}/{number}.png")
            info.size = len(PICTURES[0][1])
            target.addfile(info, io.BytesIO(PICTURES[0][1]))
    return [("npz", arrays.getvalue()), ("zip", zipped.getvalue()), ("tar.gz", tarred.getvalue())]


ARCHIVES = archives()


@fuzz(6_000)
@pytest.mark.filterwarnings("ignore")
@given(st.sampled_from(ARCHIVES), changes)
def test_archives(folder, kind, many):
    COUNTS["archives"] += 1
    path = folder / f"a.{kind[0]}"
    path.write_bytes(changed(kind[1], many))
    with suppress(*REFUSED):
        source = open_source(f"{'npz' if kind[0] == 'npz' else 'archive'}:{path}", folder, download=False)
        with closing(source):
            for part in source.parts.values():
                part.read(range(len(part.labels)))


@fuzz(4_000)
@given(changes | json_values)
def test_prepared_images(folder, content):
    COUNTS["prepared images"] += 1
    target = folder / "prepared"
    target.mkdir(exist_ok=True)
    known = b'{\n "format": 2,\n "files": {},\n "side": 8,\n "digest": "ab"\n}\n'
    if content and isinstance(content, list) and isinstance(content[0], tuple):
        (target / "info.json").write_bytes(changed(known, content))
    else:
        (target / "info.json").write_text(json.dumps(content))
    assert damage(target, ("train", "validation"))
    with suppress(*REFUSED):
        open_prepared(target, 512)


# --- what a worker answers -----------------------------------------------------------------------------------

RESULT = {
    "accuracy": 0.5, "loss": 1.25, "epochs": 3, "pieces": 1, "seconds": 2.5, "peak_memory": 12345,
    "images_per_second": 99.5, "curves": {},
}  # fmt: skip
answers = st.dictionaries(
    st.sampled_from(["job", "ready", "step", "steps", "batches", "result", "failure", "message", "stopped", "x"]),
    st.sampled_from([1, 0, "oom", "crash", "unavailable ", RESULT]) | json_values, max_size=5,
)  # fmt: skip


class Deaf:
    """A runner whose workers are gone."""

    def end(self, worker):
        pass

    def give_up(self, node, why):
        raise UnavailableError(why)


@fuzz(4_000)
@given(answers | st.dictionaries(st.sampled_from(sorted(RESULT)), json_values).map(
    lambda values: {"job": 1, "result": RESULT | values}))  # fmt: skip
@example({"job": 1, "batches": 3, "step": 1, "steps": 0})
@example({"job": 1, "batches": "many"})
@example({"job": 1, "failure": ["oom"]})
@example({"job": 1, "result": RESULT})
def test_answers_of_a_worker(folder, answer):
    """Whatever a worker says ends as a result that is one, or as a failed attempt; never as the end of the driver."""
    COUNTS["answers of workers"] += 1
    path = folder / "answers.db"
    path.unlink(missing_ok=True)
    with closing(open_store(path)) as store:
        planned = [(small(1)[0], 0, "sample")]
        (job,) = store.add_jobs("generate", planned, {planned[0][0].key: dict.fromkeys(
            ("macs", "conv_macs", "params", "activations"), 1)})  # fmt: skip
        pool = _Pool(
            store, [], types.SimpleNamespace(checkpoints=None), WorkerSettings(), Deaf(), Progress(0, 0, 1, (), None)
        )
        worker = _Worker(1, Place("here", "cpu", 1), ready=True, job=job, attempt=store.start(job, 1))
        pool.workers = {1: worker}
        pool._next_job = lambda free: None
        with suppress(UnavailableError), store.together():
            pool._hear(worker, answer)
        for row in store.results("generate"):
            assert 0 <= row.accuracy <= 1
