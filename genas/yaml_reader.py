"""YAML recipes, read safely, with a line for every key, so that an error can name the place it comes from.

Only plain values are built: mappings with text keys, lists, text, whole numbers, floats, true, false and
null, by the rules of YAML 1.2. So ``no``, ``yes`` and ``on`` are text, ``010`` and ``0x1F`` are refused,
``15_000_000`` and ``15e6`` are the same whole number. Tags, anchors, aliases, duplicate keys and
several documents are refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from supernet.settings import InputError, nearest

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"
KeyPath: TypeAlias = tuple[str | int, ...]
"""Keys and list positions from the top of the document, such as ``("space", "layers", 0)``."""

Model = TypeVar("Model", bound=BaseModel)

MAX_BYTES = 1_000_000
_MAX_DEPTH = 32
_MAX_VALUES = 10_000
_LARGEST = 2**63 - 1
_EXACT = 2**53  # floats beyond this no longer hold every whole number

_DIGITS = r"(?:0|[1-9][0-9]*(?:_[0-9]+)*)"
_INTEGER = re.compile(rf"[-+]?{_DIGITS}")
_FLOAT = re.compile(rf"[-+]?(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?")
_OTHER_BASE = re.compile(r"[-+]?0(?:[xX][0-9a-fA-F_]+|[oO][0-7_]+|[bB][01_]+)")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_BOOL_TEXTS = {"yes": "true", "y": "true", "on": "true", "no": "false", "n": "false", "off": "false"}


@dataclass(frozen=True)
class Document:
    """Plain values and where they were written. The values are not to be changed.

    Attributes:
        value: the top-level mapping.
        source: what error messages call the document, usually the file's name.
        places: for each path the line of its key or list element (from 1), or the ``--set`` text that gave it.
    """

    value: dict[str, Value]
    source: str
    places: Mapping[KeyPath, int | str]

    def line(self, path: KeyPath) -> int:
        """The line of a key or list element, or of the nearest one around it that the file has."""
        return next((place for place in self._around(path) if isinstance(place, int)), 1)

    def place(self, path: KeyPath) -> str:
        """``FILE:LINE``, or the ``--set`` text that a value comes from."""
        place = next(self._around(path), 1 if self.places else None)
        if place is None:  # nothing was written
            return self.source
        return place if isinstance(place, str) else f"{self.source}:{place}"

    def _around(self, path: KeyPath) -> Iterator[int | str]:
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                yield self.places[path[:length]]


def read_yaml_file(path: Path) -> Document:
    """Read a recipe from a file. Raises InputError as :func:`read_yaml`, and for what is no text file."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        raise InputError(f"{path}: cannot read the recipe ({getattr(error, 'strerror', None) or error})") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{path}:1: larger than {MAX_BYTES:,} bytes; expected a recipe in YAML")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8 text (byte 0x{data[error.start]:02x})") from error
    return read_yaml(text, str(path))


def read_yaml(text: str, source: str) -> Document:
    """Read a recipe. ``source`` is what error messages call it.

    Raises:
        InputError: with source, line and reason, for what is no YAML, no mapping, larger than 1 MB, or
            uses anything beyond plain values (see the module).
    """
    places: dict[KeyPath, int | str] = {}
    value = _parse(text, lambda line: f"{source}:{line}", places)
    if value is None:
        raise InputError(f"{source}:1: empty; expected keys and values")
    if not isinstance(value, dict):
        raise InputError(f"{source}:1: expected keys and values at the top level, got {_shown(value)}")
    return Document(value, source, places)


def apply_overrides(
    document: Document, overrides: Iterable[str], defaults: Mapping[str, object] | None = None
) -> Document:
    """The document with ``key=value`` texts applied in order; the document itself is not changed.

    Keys are joined by dots, list elements are addressed by position from 0:
    ``space.stem_channels=8``, ``space.layers.0.channels=8``, ``limits={macs: 15e6}``. Values follow the
    rules of the file. Whether a key exists is found out by :func:`validate`.

    Args:
        defaults: what holds where the document says nothing (a model dumped to plain values): an element
            of a list that only the defaults have can then be set.

    Raises:
        InputError: no ``=``, an empty key, a value that is not YAML, or a path that leads nowhere.
    """
    value = _copied(document.value)
    places = dict(document.places)
    for override in overrides:
        place = f"--set {override:.200}"
        key, equals, text = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise InputError(f"{place}: expected KEY=VALUE, such as space.stem_channels=8")
        if len(parts) > _MAX_DEPTH:
            raise InputError(f"{place}: a key of {len(parts)} parts; expected at most {_MAX_DEPTH}")
        new = _parse(text, partial(_same, place), {})
        holder: Any = value
        default: object = defaults
        path: KeyPath = ()
        for depth, part in enumerate(parts, 1):
            step = _step(holder, part, path, place, document.source)
            path = (*path, step)
            if isinstance(default, Mapping):
                default = default.get(part)
            elif isinstance(default, list | tuple) and isinstance(step, int) and step < len(default):
                default = default[step]
            else:
                default = None
            if depth == len(parts):
                holder[step] = new
                places = {known: at for known, at in places.items() if known[: len(path)] != path}
                places[path] = place
                break
            below = holder.get(step) if isinstance(holder, dict) else holder[step]
            if below is None:
                below = _copied(default) if parts[depth].isdecimal() and isinstance(default, list | tuple) else {}
                holder[step] = below
                places[path] = place
            holder = below
    return Document(value, document.source, places)


def validate(model: type[Model], document: Document) -> Model:
    """The document as settings. Text is never taken for a number or a truth value.

    Raises:
        InputError: the first error in the order of lines, with place, key, expected, got and nearest known
            key or value, and the number of further errors.
    """
    try:
        # JSON is where pydantic takes lists for tuples and text for paths while all else stays strict.
        return model.model_validate_json(json.dumps(document.value, allow_nan=False), strict=True)
    except ValidationError as error:
        problems = [_problem(model, document, dict(entry)) for entry in error.errors() if not _follows(dict(entry))]
        first = min(problems, key=lambda problem: document.line(problem.path))
        same = [problem.error for problem in problems if problem.path == first.path]
        others = len({problem.path for problem in problems}) - 1
        more = f" ({others} more error{'s' if others > 1 else ''})" if others else ""
        raise InputError(f"{document.place(first.path)}: {_message(first, same)}{more}") from error


# --- from text to values -------------------------------------------------------------------------------------


def _parse(text: str, at: Callable[[int], str], places: dict[KeyPath, int | str]) -> Value:
    """The one document in a text as a plain value; None for an empty text. Fills in ``places``.

    Args:
        at: names the place of an error from its line.
    """
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InputError(f"{at(1)}: larger than {MAX_BYTES:,} bytes; expected a recipe in YAML")
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        return _Builder(loader, at, places).document()
    except InputError:
        raise
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{at(line)}: character U+{_code(error.character):04X} is not allowed in YAML") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = error.problem or error.context or "not YAML"
        if "'\\t'" in reason:
            reason = "a tab where blanks are expected; indent with blanks"
        raise InputError(f"{at(mark.line + 1 if mark is not None else 1)}: not YAML: {reason}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        line = loader.line + 1 if loader is not None else 1
        raise InputError(f"{at(line)}: not YAML: an escape or number is out of range") from error


def _code(character: str | int) -> int:
    """PyYAML gives either a character or its number."""
    return character if isinstance(character, int) else ord(character)


class _Builder:
    """Builds plain values from the parser's events, in one pass, so that nothing refused is ever built."""

    def __init__(self, loader: yaml.SafeLoader, at: Callable[[int], str], places: dict[KeyPath, int | str]) -> None:
        self._loader = loader
        self._at = at
        self._places = places
        self._count = 0

    def document(self) -> Value:
        self._next()  # start of the stream
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        value = self._value(self._next(), ())
        self._next()  # end of the document
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise self._error(event, "a second document begins; expected one")
        return value

    def _next(self) -> Any:  # noqa: ANN401 - PyYAML's events share no typed base
        return self._loader.get_event()  # type: ignore[no-untyped-call]

    def _error(self, event: Any, reason: str) -> InputError:  # noqa: ANN401
        return InputError(f"{self._at(_line(event))}: {reason}")

    def _value(self, event: Any, path: KeyPath) -> Value:  # noqa: ANN401
        self._count += 1
        if self._count > _MAX_VALUES:
            raise self._error(event, f"more than {_MAX_VALUES:,} keys and values; expected a recipe")
        if isinstance(event, yaml.AliasEvent):
            raise self._error(event, f"alias '*{event.anchor:.80}'; aliases are not read, write the value out")
        if event.anchor is not None:
            raise self._error(event, f"anchor '&{event.anchor:.80}'; anchors are not read, write the value out")
        if event.tag is not None:
            raise self._error(event, f"tag {event.tag!r:.80}; tags are not read, write a plain value")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if len(path) >= _MAX_DEPTH:
            raise self._error(event, f"nested deeper than {_MAX_DEPTH} levels")
        return self._list(path) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(path)

    def _list(self, path: KeyPath) -> list[Value]:
        result: list[Value] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            here = (*path, len(result))
            self._places[here] = _line(event)
            result.append(self._value(event, here))
        return result

    def _mapping(self, path: KeyPath) -> dict[str, Value]:
        result: dict[str, Value] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent | yaml.AliasEvent):
                raise self._error(event, "a list or mapping as key; expected text")
            if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.style is None:
                raise self._error(event, "merge key '<<'; merging is not read, write the values out")
            key = self._value(event, path)
            if not isinstance(key, str):
                raise self._error(event, f"key {_shown(key)}; expected text (put it in quotes if it is meant)")
            here = (*path, key)
            if key in result:
                raise self._error(event, f"key {_dotted(here)!r} is given twice, first in line {self._places[here]}")
            self._places[here] = _line(event)
            result[key] = self._value(self._next(), here)
        return result

    def _scalar(self, event: Any) -> Value:  # noqa: ANN401
        text = str(event.value)
        if event.style is not None:
            if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
                raise self._error(event, "a character that no text may hold (NUL or half a surrogate pair)")
            return text
        try:
            return _plain(text)
        except InputError as error:
            raise self._error(event, str(error)) from error


def _line(event: Any) -> int:  # noqa: ANN401
    return int(event.start_mark.line) + 1


def _plain(text: str) -> Value:
    """A value that is written without quotes. Raises InputError for numbers that YAML versions read differently."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _LEADING_ZERO.fullmatch(text):
        raise InputError(f"{text:.80} begins with a zero; write the number without it, or put text in quotes")
    if _OTHER_BASE.fullmatch(text):
        raise InputError(f"{text:.80}; write the number in decimal digits, or put text in quotes")
    if _NOT_FINITE.fullmatch(text):
        raise InputError(f"{text}; expected a finite number")
    if not _FLOAT.fullmatch(text):
        return text
    digits = text.replace("_", "")
    if _INTEGER.fullmatch(text):
        if len(digits) > 20 or abs(int(digits)) > _LARGEST:
            raise InputError(f"{text:.80}; expected a whole number of at most {_LARGEST:,}")
        return int(digits)
    number = float(digits)
    if not math.isfinite(number):
        raise InputError(f"{text:.80}; expected a finite number")
    # 15e6 is a whole number: settings of either kind take it.
    return int(number) if number.is_integer() and abs(number) < _EXACT else number


# --- overrides -----------------------------------------------------------------------------------------------


def _copied(value: Any) -> Any:  # noqa: ANN401 - any tree of plain values
    if isinstance(value, Mapping):
        return {str(key): _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value


def _same(place: str, line: int) -> str:
    """The place of an error in an override: it has no lines."""
    return place


def _step(holder: Any, part: str, path: KeyPath, place: str, source: str) -> str | int:  # noqa: ANN401
    """One part of an override's key as a key or list position of what it is to be applied to."""
    if isinstance(holder, dict):
        return part
    name = f"{_dotted(path)!r}"
    if not isinstance(holder, list):
        raise InputError(f"{place}: {name} is {_shown(holder)} in {source}, so it has no {part!r}")
    if not re.fullmatch("[0-9]{1,6}", part) or int(part) >= len(holder):
        expected = f"a position from 0 to {len(holder) - 1}" if holder else "nothing below, for it is empty"
        raise InputError(f"{place}: {name} is a list; expected {expected}, got {part!r:.80}")
    return int(part)


# --- from pydantic's errors to messages ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Problem:
    """One of pydantic's errors, its path in the document, and the keys known around it.

    Attributes:
        owners: members of a union that know the key, while the document chose another.
    """

    path: KeyPath
    error: dict[str, Any]
    known: list[str]
    owners: list[str]


def _discriminator(error: dict[str, Any]) -> str:
    """The key by which the members of a union are told apart; a function that finds it has the key's name."""
    return str(error["ctx"]["discriminator"]).strip("'()")


def _follows(error: dict[str, Any]) -> bool:
    """Whether a list only counts as too short because elements of it were refused, each with its own error."""
    return bool(error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"])


def _problem(model: type[BaseModel], document: Document, error: dict[str, Any]) -> _Problem:
    """Finds an error's path in the document.

    Pydantic's locations also hold names of union members, which the document does not have: they
    choose among the models instead.
    """
    value: Any = document.value
    models = [model]
    around = models
    others: list[type[BaseModel]] = []
    rivals = others
    path: KeyPath = ()
    location = tuple(error["loc"])
    for position, part in enumerate(location):
        last = position == len(location) - 1
        is_tag = len(models) > 1 and any(part in _tags(entry) for entry in models)  # a key may have a tag's name
        if (
            not is_tag
            and isinstance(value, dict)
            and isinstance(part, str)
            and (part in value or (last and error["type"] == "missing"))
        ):
            around, rivals, others = models, others, []
            fields = [entry.model_fields[part].annotation for entry in models if part in entry.model_fields]
            models = [found for annotation in fields for found in _models(annotation)] if fields else models
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
            rivals = others = []
        else:
            chosen = [entry for entry in models if entry.__name__ == part or part in _tags(entry)] or models
            others = [entry for entry in models if entry not in chosen]
            models = chosen
            continue
        path = (*path, part)
    if error["type"] == "union_tag_invalid" and isinstance(value, dict):
        path = (*path, _discriminator(error))
    if error["type"] == "value_error" and isinstance(value, dict | list):
        path, error = _deeper(path, value, error)
    known = list(dict.fromkeys(name for entry in around for name in entry.model_fields))
    owners = [str(tag) for entry in rivals if path and path[-1] in entry.model_fields for tag in _tags(entry)]
    return _Problem(path, error, known, owners)


def _deeper(path: KeyPath, value: Any, error: dict[str, Any]) -> tuple[KeyPath, dict[str, Any]]:  # noqa: ANN401
    """An error that begins with a key below, ``stages.0: ...``, is told of that key."""
    found = re.match(r"Value error, ([a-z_]+(?:\.[a-z0-9_]+)*): ", error["msg"])
    if found is None:
        return path, error
    steps: list[str | int] = []
    for part in found[1].split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
            steps.append(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
            steps.append(int(part))
        else:
            return path, error
    return (*path, *steps), {**error, "msg": f"Value error, {error['msg'][found.end() :]}", "input": value}


def _models(annotation: Any) -> list[type[BaseModel]]:  # noqa: ANN401 - any type annotation
    """Every model that an annotation mentions, through unions, containers and Annotated."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [found for part in get_args(annotation) for found in _models(part)]


def _tags(model: type[BaseModel]) -> set[object]:
    """The values of a model's fields of one fixed value, by which unions are told apart."""
    annotations = [field.annotation for field in model.model_fields.values()]
    fixed = [get_args(annotation) for annotation in annotations if get_origin(annotation) is Literal]
    return {tag for values in fixed if len(values) == 1 for tag in values}


def _message(problem: _Problem, errors: list[dict[str, Any]]) -> str:
    """What is wrong with one key; several errors are the members of a union that all refused it."""
    path, error = problem.path, problem.error
    name = f"key {_dotted(path)!r}" if path else "the whole document"
    value = error["input"]
    match error["type"]:
        case "extra_forbidden":
            elsewhere = f" (a setting of {' and '.join(problem.owners)})" if problem.owners else ""
            return f"unknown {name}{elsewhere}; {nearest(str(path[-1]), problem.known)}"
        case "missing":
            return f"{name} is missing"
        case "value_error" | "assertion_error":
            reason = str(error["msg"]).partition(", ")[2] or str(error["msg"])
            if isinstance(value, dict | list) or "got " in reason or "Did you mean" in reason:
                return f"{name}: {reason}"
            return f"{name}: {reason.rstrip('.')}, got {_shown(value)}"
        case "union_tag_not_found":
            return f"{name}: key {_discriminator(error)!r} is missing, which says what it is"
        case "union_tag_invalid":
            tag = str(error["ctx"]["tag"])
            tags = re.findall(r"'([^']*)'", str(error["ctx"]["expected_tags"]))
            return f"{name}: unknown {path[-1]} {tag!r:.80}; {nearest(tag, tags)}"
    expected = " or ".join(dict.fromkeys(_expected(entry) for entry in errors))
    return f"{name}: expected {expected}, got {_shown(value)}{_hint(error)}"


def _expected(error: dict[str, Any]) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "int_type" | "int_parsing" | "int_from_float":
            return "a whole number"
        case "float_type" | "float_parsing":
            return "a number"
        case "bool_type" | "bool_parsing":
            return "true or false"
        case "string_type" | "path_type":
            return "text"
        case "none_required":
            return "null"
        case "greater_than_equal":
            return f"at least {context['ge']}"
        case "greater_than":
            return f"more than {context['gt']}"
        case "less_than_equal":
            return f"at most {context['le']}"
        case "less_than":
            return f"less than {context['lt']}"
        case "literal_error" | "enum":
            return f"one of {context['expected']}"
        case "list_type" | "tuple_type" | "set_type" | "frozen_set_type":
            return "a list"
        case "dict_type" | "model_type" | "model_attributes_type" | "dataclass_type":
            return "keys and values"
        case "too_short":
            return f"at least {context['min_length']} in the list"
        case "too_long":
            return f"at most {context['max_length']} in the list"
        case "string_too_short":
            return f"text of at least {context['min_length']} characters"
        case "string_too_long":
            return f"text of at most {context['max_length']} characters"
    message = str(error["msg"]).removeprefix("Input should be ").removeprefix("a valid ")
    return message[:1].lower() + message[1:]


def _hint(error: dict[str, Any]) -> str:
    value = error["input"]
    match error["type"]:
        case "bool_type" if isinstance(value, str) and value.lower() in _BOOL_TEXTS:
            return f" (which is text here; write {_BOOL_TEXTS[value.lower()]})"
        case "string_type" if isinstance(value, int | float):
            return " (put it in quotes to make it text)"
        case "int_type" | "float_type" if isinstance(value, str) and _FLOAT.fullmatch(value.strip()):
            return " (which is text; write it without quotes)"
        case "literal_error" if isinstance(value, str):
            names = re.findall(r"'([^']*)'", str(error["ctx"]["expected"]))
            _, meant, name = nearest(value, names).partition("Did you mean ")
            return f". {meant}{name}" if meant else ""
    return ""


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)


def _shown(value: object) -> str:
    """A value as in the file, at most some 80 characters of it."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return f"keys {', '.join(map(str, value))}"[:80] if value else "no keys"
    if isinstance(value, str):
        return f"{value!r:.80}"
    return f"{json.dumps(value, default=str):.80}"
