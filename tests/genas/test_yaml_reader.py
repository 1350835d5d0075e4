import json
import math
import re
import textwrap
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, field_validator, model_validator

from genas.yaml_reader import apply_overrides, read_yaml, read_yaml_file, validate
from supernet import InputError, OpSubset, Settings


class Digits(Settings):
    kind: Literal["digits"] = "digits"
    train: Annotated[int, Field(ge=1)] = 100


class Folder(Settings):
    kind: Literal["folder"] = "folder"
    path: Path
    gray: bool = False


class Training(Settings):
    epochs: Annotated[int, Field(ge=1, le=1000)] = 60
    learning_rate: Annotated[float, Field(gt=0, lt=10)] = 0.025
    schedule: Literal["cosine", "step"] = "cosine"
    channels_last: bool = True
    name: str = "plain"
    seeds: Annotated[tuple[int, ...], Field(min_length=1, max_length=3)] = (0,)
    batch: int | Literal["auto"] = 64

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if "/" in value:
            raise ValueError("a name is no path")
        return value


class Recipe(Settings):
    space: OpSubset = OpSubset()
    data: Annotated[Digits | Folder, Field(discriminator="kind")] = Digits()
    training: Training = Training()
    limits: dict[str, int] = Field(default_factory=dict)
    note: str | None = None

    @model_validator(mode="after")
    def _folder_is_noted(self):
        if isinstance(self.data, Folder) and self.note == "":
            raise ValueError("a folder needs a note")
        return self


def read(text, *overrides):
    document = read_yaml(textwrap.dedent(text), "recipe.yml")
    return validate(Recipe, apply_overrides(document, overrides, Recipe().model_dump()))


def test_a_whole_recipe():
    recipe = read(
        """\
        # a comment
        space:
          kind: op_subset
          layers:
            - {channels: 8}
            - channels: 16
              stride: 2
          operations: [skip, sep_conv_3]
        data: {kind: folder, path: /pictures/of cats, gray: true}
        training:
          learning_rate: 1e-3
          epochs: 1e2
          seeds: [1, 2]
          name: "no"
          batch: auto
        limits:
          macs: 15_000_000
          params: 1.5e6
        note:
        """
    )
    assert recipe.space == OpSubset(
        layers=({"channels": 8}, {"channels": 16, "stride": 2}), operations=("skip", "sep_conv_3")
    )
    assert recipe.data == Folder(path=Path("/pictures/of cats"), gray=True)
    assert recipe.training == Training(learning_rate=0.001, epochs=100, seeds=(1, 2), name="no", batch="auto")
    assert recipe.limits == {"macs": 15_000_000, "params": 1_500_000}
    assert recipe.note is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("15_000_000", 15_000_000),
        ("15e6", 15_000_000),
        ("15E+6", 15_000_000),
        ("1.5e1", 15),
        ("2.0", 2),
        ("-0.5", -0.5),
        (".5", 0.5),
        ("5.", 5),
        ("1e-3", 0.001),
        ("1_000.5", 1000.5),
        ("1e300", 1e300),
        ("9223372036854775807", 2**63 - 1),
        ("yes", "yes"),
        ("No", "No"),
        ("on", "on"),
        ("off", "off"),
        ("tRue", "tRue"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("1:30", "1:30"),
        ("2024-01-02", "2024-01-02"),
        ("1__0", "1__0"),
        ("1_", "1_"),
        ("_1", "_1"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
        (".", "."),
        ("١", "١"),
        ("=", "="),
        ("npz:/data/a.npz", "npz:/data/a.npz"),
        ("111000 011101", "111000 011101"),
        ('"5"', "5"),
        ("'010'", "010"),
        ('"true"', "true"),
        ("[1, [a, 2.5], {b: null}]", [1, ["a", 2.5], {"b": None}]),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_scalars(text, value):
    got = read_yaml(f"key: {text}", "f").value["key"]
    assert got == value
    assert type(got) is type(value)


def test_lines():
    document = read_yaml("a: 1\n\nb:\n  - x\n  - c: 2\n    d: [1,\n      2]\n", "f.yml")
    assert document.line(("a",)) == 1
    assert document.line(("b",)) == 3
    assert document.line(("b", 0)) == 4
    assert document.line(("b", 1, "c")) == 5
    assert document.line(("b", 1, "d", 1)) == 7
    assert document.line(("b", 1, "missing", "below")) == 5
    assert document.line(("nowhere",)) == 1
    assert document.line(()) == 1
    assert document.place(("b", 0)) == "f.yml:4"


BAD_YAML = {
    "empty": ("", 1, "empty; expected keys and values"),
    "comments only": ("# nothing\n", 1, "empty"),
    "null": ("null", 1, "empty"),
    "a list": ("- 1\n- 2", 1, r"at the top level, got \[1, 2\]"),
    "a text": ("just words", 1, "at the top level, got 'just words'"),
    "duplicate key": ("training:\n  epochs: 1\n  epochs: 2", 3, "'training.epochs' is given twice, first in line 2"),
    "duplicate quoted key": ("note: a\n'note': b", 2, "'note' is given twice, first in line 1"),
    "anchor": ("note: &a b", 1, "anchor '&a'"),
    "alias": ("a: 1\nnote: *a", 2, r"alias '\*a'"),
    "alias as key": ("a: 1\n*a : 1", 2, r"alias '\*a'"),
    "merge key": ("a:\n  <<: {b: 1}", 2, "merge key '<<'"),
    "alias bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", 1, "anchor '&a'"),
    "python tag": ("note: !!python/object/apply:os.system ['true']", 1, "tag 'tag:yaml.org,2002:python/object"),
    "local tag": ("a: 1\nnote: !x y", 2, "tag '!x'"),
    "core tag": ("note: !!str 5", 1, "tags are not read"),
    "non-specific tag": ("note: ! 5", 1, "tags are not read"),
    "second document": ("a: 1\n---\nb: 2", 2, "a second document begins"),
    "tab": ("training:\n\tepochs: 1", 2, "a tab where blanks are expected"),
    "bad indentation": ("training:\n  epochs: 1\n name: b", 3, "not YAML"),
    "open bracket": ("limits: {macs: 1\n", 2, "not YAML"),
    "open quote": ("note: 'a\n", 2, "not YAML: found unexpected end of stream"),
    "two colons": ("note: a: b", 1, "not YAML: mapping values are not allowed here"),
    "percent": ("note: %a", 1, "not YAML"),
    "at sign": ("note: @a", 1, "not YAML"),
    "escape": ('note: "\\q"', 1, "not YAML: found unknown escape character"),
    "escape beyond Unicode": ('a: 1\nnote: "\\UFFFFFFFF"', 2, "not YAML"),
    "surrogate": ('note: "\\ud800"', 1, "surrogate"),
    "NUL escape": ('note: "a\\0b"', 1, "NUL"),
    "control character": ("a: 1\nnote: \x07", 2, r"U\+0007 is not allowed in YAML"),
    "NUL": ("a: 1\n\nb: \x00", 3, "not allowed in YAML"),
    "future YAML": ("%YAML 9.9\n---\na: 1", 1, "not YAML"),
    "number as key": ("1: a", 1, "key 1; expected text"),
    "true as key": ("a: b\ntrue: a", 2, "key true; expected text"),
    "null as key": ("~: a", 1, "key nothing; expected text"),
    "list as key": ("? [a, b]\n: c", 1, "a list or mapping as key"),
    "leading zero": ("training:\n  epochs: 010", 2, "010 begins with a zero"),
    "leading zero float": ("a: 00.5", 1, "begins with a zero"),
    "hexadecimal": ("a: 0x1F", 1, "0x1F; write the number in decimal digits"),
    "octal": ("a: 0o17", 1, "decimal digits"),
    "binary": ("a: 0b11", 1, "decimal digits"),
    "nan": ("training:\n\n  learning_rate: .nan", 3, "expected a finite number"),
    "inf": ("a: -.inf", 1, "expected a finite number"),
    "overflow": ("a: 1e999", 1, "expected a finite number"),
    "huge integer": ("a: " + "9" * 30, 1, "whole number of at most"),
    "integer of 5,000 digits": ("a: " + "9" * 5000, 1, "whole number of at most"),
    "too deep": ("a: " + "[" * 100, 1, "nested deeper than 32"),
    "too deep in blocks": ("- " * 100, 1, "nested deeper than 32"),
    "too many values": ("a:\n" + " - 1\n" * 10_001, 9_999, "more than 10,000"),
    "too large": ("note: " + "x" * 1_000_000, 1, "larger than 1,000,000 bytes"),
    "too large in bytes": ("note: " + "ä" * 600_000, 1, "larger than 1,000,000 bytes"),
}

BAD_RECIPE = {
    "unknown key": ("note: a\ntrainin: {}", 2, r"unknown key 'trainin'; known: .*training.* Did you mean 'training'\?"),
    "unknown nested key": (
        "space:\n  stem_chanels: 8",
        2,
        r"unknown key 'space.stem_chanels'; .* Did you mean 'stem_channels'\?",
    ),
    "unknown key in a list": (
        "space:\n  layers:\n    - {channels: 8}\n    - channels: 8\n      strid: 2",
        5,
        r"unknown key 'space.layers.1.strid'; known: channels, stride. Did you mean 'stride'\?",
    ),
    "unknown key in a union": (
        "data:\n  kind: folder\n  path: a\n  grey: true",
        4,
        r"unknown key 'data.grey'; known: kind, path, gray. Did you mean 'gray'\?",
    ),
    "key of the other member": (
        "data:\n  kind: digits\n  path: a",
        3,
        r"'data.path' \(a setting of folder\); known: kind, train",
    ),
    "dotted key": ("space.stem_channels: 8", 1, "unknown key 'space.stem_channels'"),
    "missing key": ("note: a\ndata:\n  kind: folder", 2, "key 'data.path' is missing"),
    "missing in a list": ("space:\n  layers:\n   - stride: 2", 3, "key 'space.layers.0.channels' is missing"),
    "unknown kind": (
        "data:\n  kind: foldr",
        2,
        r"'data.kind': unknown kind 'foldr'; known: digits, folder. Did you mean 'folder'\?",
    ),
    "no kind": ("data:\n  path: a", 1, "'data': key 'kind' is missing"),
    "wrong kind of space": ("space: {kind: dag}", 1, r"'space.kind': expected one of 'op_subset', got 'dag'"),
    "no for a truth value": (
        "training:\n  channels_last: no",
        2,
        r"expected true or false, got 'no' \(which is text here; write false\)",
    ),
    "On for a truth value": ("training:\n  channels_last: On", 2, "write true"),
    "number for a truth value": ("training: {channels_last: 1}", 1, "expected true or false, got 1"),
    "text for a number": ("training: {epochs: many}", 1, "'training.epochs': expected a whole number, got 'many'"),
    "quoted number": ("training: {epochs: '5'}", 1, r"got '5' \(which is text; write it without quotes\)"),
    "truth value for a number": ("training: {epochs: true}", 1, "expected a whole number, got true"),
    "truth value for a float": ("training: {learning_rate: true}", 1, "expected a number, got true"),
    "nan as text": ("training: {learning_rate: nan}", 1, "expected a number, got 'nan'"),
    "sexagesimal": ("training: {epochs: 1:30}", 1, "expected a whole number, got '1:30'"),
    "fraction for a whole number": ("training: {epochs: 1.5}", 1, "expected a whole number, got 1.5"),
    "number for text": ("training: {name: 5}", 1, r"expected text, got 5 \(put it in quotes to make it text\)"),
    "nothing for a number": ("training:\n  epochs:", 2, "expected a whole number, got nothing"),
    "nothing for a mapping": ("note: a\ntraining:", 2, "'training': expected keys and values, got nothing"),
    "list for a mapping": ("training: [1]", 1, r"expected keys and values, got \[1\]"),
    "mapping for a list": ("space: {layers: {channels: 8}}", 1, "expected a list, got keys channels"),
    "mapping for a number": ("training: {epochs: {a: 1}}", 1, "expected a whole number, got keys a"),
    "text for a list": ("space: {operations: skip}", 1, "expected a list, got 'skip'"),
    "too small": ("training: {epochs: 0}", 1, "expected at least 1, got 0"),
    "too large": ("training: {epochs: 1e6}", 1, "expected at most 1000, got 1000000"),
    "not above": ("training: {learning_rate: 0}", 1, "expected more than 0.* got 0"),
    "not below": ("training: {learning_rate: 10.5}", 1, r"expected less than 10.* got 10\.5"),
    "unknown choice": (
        "training: {schedule: cosin}",
        1,
        r"expected one of 'cosine' or 'step', got 'cosin'\. Did you mean 'cosine'\?",
    ),
    "unknown operation": ("space:\n  operations:\n  - skip\n  - sep_conv_4", 4, "'space.operations.1'.*Did you mean"),
    "stride of three": ("space: {layers: [{channels: 8, stride: 3}]}", 1, "expected one of 1 or 2, got 3"),
    "empty list": ("training: {seeds: []}", 1, r"expected at least 1 in the list, got \[\]"),
    "long list": ("training: {seeds: [1, 2, 3, 4]}", 1, "expected at most 3 in the list"),
    "one bad element": ("training:\n  seeds:\n  - 1\n  - x", 4, "'training.seeds.1': expected a whole number, got 'x'"),
    "either of two": ("training: {batch: many}", 1, "expected a whole number or one of 'auto', got 'many'"),
    "value of a free mapping": ("limits:\n  macs: 1\n  params: lots", 3, "'limits.params': expected a whole number"),
    "own check": ("training:\n  name: a/b", 2, "key 'training.name': a name is no path, got 'a/b'"),
    "own check of a list": ("space: {operations: [skip, skip]}", 1, "skip is named twice"),
    "check of the whole": ("data: {kind: folder, path: a}\nnote: ''", 1, "the whole document: a folder needs a note"),
    "several errors": (
        "note: a\ntraining:\n  epochs: 0\n  nam: x\nspac: 1",
        3,
        r"'training.epochs': expected at least 1, got 0 \(2 more errors\)",
    ),
    "two errors": ("training:\n  seeds: [a, 1, b]", 2, r"'training.seeds.0'.*\(1 more error\)"),
}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [pytest.param(*case, id=name) for name, case in [*BAD_YAML.items(), *BAD_RECIPE.items()]],
)
def test_bad_recipes_are_refused_with_their_line(text, line, message):
    with pytest.raises(InputError) as caught:
        validate(Recipe, read_yaml(text, "recipe.yml"))
    assert str(caught.value).startswith(f"recipe.yml:{line}: ")
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("space.stem_channels=8", "space.stem_channels", 8),
        ("space.layers.0.channels=8", "space.layers.0.channels", 8),
        ("space.layers.4.stride=2", "space.layers.4.stride", 2),
        ("training.seeds=[1, 2]", "training.seeds", (1, 2)),
        ("training.seeds.0=5", "training.seeds.0", 5),
        ("limits={macs: 15e6}", "limits", {"macs": 15_000_000}),
        ("limits.conv_macs=15_000_000", "limits.conv_macs", 15_000_000),
        ("note=a=b", "note", "a=b"),
        ("note=", "note", None),
        ("note='12'", "note", "12"),
        ("training.channels_last=false", "training.channels_last", False),
        (" training.epochs = 7", "training.epochs", 7),
    ],
)
@pytest.mark.parametrize("text", ["note: old", "training:\n  name: b\nspace: {kind: op_subset}\nlimits: {}\n"])
def test_overrides(override, path, value, text):
    got = read(text, override)
    for part in path.split("."):
        got = got[int(part)] if isinstance(got, tuple) else got[part] if isinstance(got, dict) else getattr(got, part)
    assert got == value


def test_an_override_fills_an_empty_section():
    assert read("training:\n", "training.epochs=7").training == Training(epochs=7)


def test_overrides_keep_everything_else_and_the_document():
    document = read_yaml("space:\n  layers: [{channels: 4}, {channels: 6}]\ntraining: {epochs: 3}\n", "f")
    changed = apply_overrides(document, ["space.layers.1.channels=8", "training.epochs=1", "training.epochs=2"])
    assert document.value == {"space": {"layers": [{"channels": 4}, {"channels": 6}]}, "training": {"epochs": 3}}
    assert changed.value == {"space": {"layers": [{"channels": 4}, {"channels": 8}]}, "training": {"epochs": 2}}
    assert changed.place(("training", "epochs")) == "--set training.epochs=2"
    assert changed.place(("space", "layers", 0, "channels")) == "f:2"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "expected KEY=VALUE"),
        ("=5", "expected KEY=VALUE"),
        ("training..epochs=5", "expected KEY=VALUE"),
        ("", "expected KEY=VALUE"),
        ("trainin.epochs=5", "unknown key 'trainin'; .* Did you mean 'training'"),
        ("training.epoch=5", "unknown key 'training.epoch'; .* Did you mean 'epochs'"),
        ("training.epochs=0", "'training.epochs': expected at least 1, got 0"),
        ("training.epochs=010", "010 begins with a zero"),
        ("training.channels_last=no", "write false"),
        ("note.below=1", "'note' is 'old' in recipe.yml, so it has no 'below'"),
        ("space.layers.5.channels=8", "'space.layers' is a list; expected a position from 0 to 4, got '5'"),
        ("space.layers.-1.channels=8", "expected keys and values|expected a list"),
        ("space.layers.0.chanels=8", "unknown key 'space.layers.0.chanels'; .*'channels'"),
        ("space.layers=[{channel: 8}]", "'space.layers.0.channel"),
        ("limits=[1", "not YAML"),
        ("note=@a", "not YAML"),
        ("note=!!python/name:os.system", "tags are not read"),
        ("note=*a", "aliases are not read"),
        ("data.kind=foldr", "unknown kind 'foldr'"),
        ("a." * 40 + "a=1", "a key of 41 parts; expected at most 32"),
    ],
)
def test_bad_overrides_are_named(override, message):
    with pytest.raises(InputError) as caught:
        read("note: old", override)
    assert str(caught.value).startswith(f"--set {override}: ")
    assert re.search(message, str(caught.value))


def test_an_element_of_an_empty_list():
    with pytest.raises(InputError, match=r"'training.seeds' is a list; expected nothing below, for it is empty"):
        read("training: {seeds: []}", "training.seeds.0=1")


def test_files(tmp_path):
    path = tmp_path / "recipe.yml"
    path.write_bytes(b"\xef\xbb\xbfnote: gr\xc3\xbcn\r\nlimits:\r\n  macs: 5\r\n")
    document = read_yaml_file(path)
    assert document.value == {"note": "grün", "limits": {"macs": 5}}
    assert document.place(("limits", "macs")) == f"{path}:3"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"note: a\nname: \xff\xfe", r":2: not UTF-8 text \(byte 0xff\)"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", ":1: not UTF-8 text"),
        (b"a: 1\n" * 300_000, ":1: larger than 1,000,000 bytes"),
        (b"", ":1: empty"),
    ],
)
def test_files_that_are_no_recipes(tmp_path, data, message):
    path = tmp_path / "recipe.yml"
    path.write_bytes(data)
    with pytest.raises(InputError, match=re.escape(str(path)) + message):
        read_yaml_file(path)


@pytest.mark.parametrize("name", ["", "missing.yml", "a\0b", "x" * 300])
def test_paths_that_cannot_be_read(tmp_path, name):
    with pytest.raises(InputError, match="cannot read the recipe"):
        read_yaml_file(tmp_path / name)


pieces = [*"ab01_.e:-[]{},&*!|>'\"%@`#?~= \t\n\0\ud800", "true", "<<", "0x", "\\U", "training", "epochs", ": "]
words = st.lists(st.sampled_from(pieces), max_size=30).map("".join)


@given(words | st.text(max_size=60), st.lists(words, max_size=2))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused(text, overrides):
    try:
        document = apply_overrides(read_yaml(text, "f"), overrides)
        validate(Recipe, document)
    except InputError as error:
        assert re.match(r"f:\d+: |--set ", str(error))  # noqa: PT017 - either outcome is right


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text([*map(chr, range(32, 127)), *"\t\nä€𐀀"], max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.text("abc", min_size=1), plain, min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_json_is_read_as_itself(value):
    assert read_yaml(json.dumps(value, ensure_ascii=False), "f").value == value


def test_floats_keep_their_value():
    for number in (0.1, 1 / 3, 1e-300, math.pi, 2.0**60):
        assert read_yaml(f"a: {number!r}", "f").value["a"] == number
