"""The spaces by name: those of :mod:`supernet.kinds`, and the union of some of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, TypeAlias, Union

from pydantic import Discriminator, Tag

from supernet.kinds import CLASSES, by_kind, kind
from supernet.settings import InputError, nearest
from supernet.space import SearchSpace
from supernet.union import UnionSpace

SPACES: dict[str, type[SearchSpace]] = by_kind((*CLASSES, UnionSpace))
"""The spaces by ``kind``."""

COMPOSED = ("stages", "union")
"""Spaces that are nothing before a file or recipe says what they are made of."""

if TYPE_CHECKING:
    AnySpace: TypeAlias = SearchSpace
else:
    _TAGGED = tuple(Annotated[space, Tag(name)] for name, space in SPACES.items())
    AnySpace = Annotated[Union[_TAGGED], Discriminator(kind)]  # noqa: UP007 - made of a tuple
"""Settings of any space, told apart by ``kind``."""


def space_class(settings: Mapping[str, object]) -> type[SearchSpace]:
    """The class that settings are of. Raises InputError for an unknown ``kind``."""
    chosen = kind(settings)
    if chosen not in SPACES:
        raise InputError(f"space {chosen!r:.80} is unknown; {nearest(chosen, SPACES)}")
    return SPACES[chosen]


def make_space(settings: Mapping[str, object]) -> SearchSpace:
    """The space that saved settings describe. Raises InputError for an unknown ``kind``."""
    return space_class(settings).model_validate(settings)
