"""The spaces that are described by themselves. A new one is a class of its own, and one entry here."""

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
from supernet.space import SearchSpace
from supernet.stages import Stages


def kind(settings: object) -> str:
    """Which space settings are of: their ``kind``, and ``op_subset`` where they have none."""
    if isinstance(settings, Mapping):
        return str(settings.get("kind", "op_subset"))
    return str(getattr(settings, "kind", "op_subset"))


def by_kind(classes: tuple[type[SearchSpace], ...]) -> dict[str, type[SearchSpace]]:
    """Classes of spaces by the ``kind`` that each has."""
    return {space.model_fields["kind"].default: space for space in classes}


CLASSES: tuple[type[SearchSpace], ...] = (OpSubset, DavidNet, NasBench201, Darts, Families, HandMade, Stages)
"""Every space but the union of some of these. A new one is entered here."""

if TYPE_CHECKING:
    OneSpace: TypeAlias = SearchSpace
else:
    _TAGGED = tuple(Annotated[space, Tag(name)] for name, space in by_kind(CLASSES).items())
    OneSpace = Annotated[Union[_TAGGED], Discriminator(kind)]  # noqa: UP007 - made of a tuple
"""Settings of any of them, told apart by ``kind``."""
