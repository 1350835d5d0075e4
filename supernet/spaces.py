"""The spaces by name. A new one is a settings class that keeps the protocol, and two lines here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import Discriminator, Tag

from supernet.davidnet import DavidNet
from supernet.op_subset import OpSubset
from supernet.settings import InputError, nearest


def kind(settings: object) -> str:
    """Which space settings are of: their ``kind``, and ``op_subset`` where they have none."""
    if isinstance(settings, Mapping):
        return str(settings.get("kind", "op_subset"))
    return str(getattr(settings, "kind", "op_subset"))


AnySpace: TypeAlias = Annotated[
    Annotated[OpSubset, Tag("op_subset")] | Annotated[DavidNet, Tag("davidnet")], Discriminator(kind)
]
"""Settings of any space, told apart by ``kind``."""

SPACES: dict[str, type[OpSubset] | type[DavidNet]] = {"op_subset": OpSubset, "davidnet": DavidNet}


def space_class(settings: Mapping[str, object]) -> type[OpSubset] | type[DavidNet]:
    """The class that settings are of. Raises InputError for an unknown ``kind``."""
    chosen = kind(settings)
    if chosen not in SPACES:
        raise InputError(f"space {chosen!r:.80} is unknown; {nearest(chosen, SPACES)}")
    return SPACES[chosen]


def make_space(settings: Mapping[str, object]) -> OpSubset | DavidNet:
    """The space that saved settings describe. Raises InputError for an unknown ``kind``."""
    return space_class(settings).model_validate(settings)
