"""Spaces by name or file: ``space: mobile``, ``space: mine.yml``, ``space: {base: mobile, input_size: 96}``."""

from __future__ import annotations

import os.path
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genas.yaml_reader import Document, Value, apply_overrides, read_yaml_file, validate
from supernet import InputError, SearchSpace
from supernet.kinds import kind
from supernet.settings import nearest
from supernet.spaces import COMPOSED, SPACES, space_class

_FILES = Path(__file__).resolve().parent.parent / "config" / "spaces"


def space_names() -> list[str]:
    """The spaces that a recipe may name: those written in Python, then those of bundled files.

    Not those that are composed, which are nothing without what they are made of.
    """
    written = [name for name in SPACES if name not in COMPOSED]
    return [*written, *sorted({path.stem for path in _FILES.glob("*.yml")} - SPACES.keys())]


def is_space(source: str, logs: str | Path) -> bool:
    """Whether a text names a space, or a file with the settings of one; a run of that name comes first."""
    if source in space_names():
        return not os.path.isfile(Path(logs) / source / "config.yml")  # noqa: PTH113 - Path raises for long names
    is_file = source.endswith((".yml", ".yaml")) and os.path.isfile(source)  # noqa: PTH113
    return is_file and "kind" in read_yaml_file(Path(source)).value


def read_space(name: str, folder: Path, place: str) -> Document:
    """The settings that a space's name, or a file of settings, stands for.

    Args:
        folder: where a relative file is looked for.
        place: where the name was written, for the error.

    Raises:
        InputError: no such space or file, or settings in the file that are not valid; says where.
    """
    if name in SPACES:
        return Document({"kind": name}, place, {})
    if name.endswith((".yml", ".yaml")):
        if not os.path.isfile(folder / name):  # noqa: PTH113 - Path raises for names that are too long
            raise InputError(f"{place}: there is no file {str(folder / name)!r:.200}; expected the settings of a space")
        document = read_yaml_file(folder / name)
    elif name in space_names():
        document = read_yaml_file(_FILES / f"{name}.yml")
    else:
        raise InputError(f"{place}: unknown space {name!r:.80}; {nearest(name, space_names())} Or a file, NAME.yml")
    if document.value.get("kind") is None:
        raise InputError(
            f"{document.source}:1: key 'kind' is missing, which says what space it is, such as kind: stages"
        )
    chosen = kind(document.value)
    if chosen not in SPACES:
        raise InputError(f"{document.place(('kind',))}: unknown kind {chosen!r:.80}; {nearest(chosen, SPACES)}")
    validate(space_class(document.value), document)
    return document


def defaults(space: type[SearchSpace]) -> dict[str, Any]:
    """What holds where the settings of a space say nothing, as plain values."""
    given = {name: field.default for name, field in space.model_fields.items() if not field.is_required()}
    return space.model_construct(**given).model_dump(mode="json", include=set(given))


def with_base(document: Document, overrides: Sequence[str], folder: Path) -> tuple[Document, list[str]]:
    """A recipe whose space no longer has a base, and the overrides that are left to apply.

    Settings beside the base change it; a base that an override names does away with what the recipe says of the space.

    Raises:
        InputError: see :func:`read_space`.
    """
    naming = [text for text in overrides if text.partition("=")[0].strip() in ("space", "space.base")]
    named = apply_overrides(document, naming)
    section = named.value.get("space")
    base = section.get("base") if isinstance(section, Mapping) else section
    if not isinstance(base, str):
        return document, list(overrides)
    typed = isinstance(named.places.get(("space", "base"), named.places.get(("space",))), str)
    rebased = any(text.partition("=")[0].strip() == "space.base" for text in naming)
    own: Mapping[str, Value] = section if isinstance(section, Mapping) and not rebased else {}
    settings = read_space(base, Path() if typed else folder, named.place(("space", "base"))).value
    merged = {**settings, **{key: value for key, value in own.items() if key != "base"}}
    places = {path: place for path, place in named.places.items() if path != ("space", "base")}
    rest = [text for text in overrides if text not in naming]
    return Document({**named.value, "space": merged}, named.source, places), rest
