"""The spaces by name. A new one is a class of its own, and its name in one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, TypeAlias, Union

from pydantic import Discriminator, Tag

from supernet.darts import Darts
from supernet.davidnet import DavidNet
from supernet.families import Families
from supernet.handmade import HandMade
from supernet.nasbench201 import NasBench201
from supernet.op_subset import OpSubset
from supernet.settings import InputError, nearest
from supernet.space import SearchSpace
from supernet.stages import Stages


def kind(settings: object) -> str:
    """Which space settings are of: their ``kind``, and ``op_subset`` where they have none."""
    if isinstance(settings, Mapping):
        return str(settings.get("kind", "op_subset"))
    return str(getattr(settings, "kind", "op_subset"))


_CLASSES: tuple[type[SearchSpace], ...] = (OpSubset, DavidNet, NasBench201, Darts, Families, HandMade, Stages)
"""Every space. A new one is entered here."""

SPACES: dict[str, type[SearchSpace]] = {space.model_fields["kind"].default: space for space in _CLASSES}
"""The spaces by ``kind``."""

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
