"""The spaces by name. A new one is a settings class that keeps the protocol, and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from supernet.op_subset import OpSubset
from supernet.settings import InputError, nearest

AnySpace: TypeAlias = OpSubset
"""Settings of any space: a union, told apart by ``kind``, as soon as there is a second."""

SPACES: dict[str, type[AnySpace]] = {"op_subset": OpSubset}


def make_space(settings: Mapping[str, object]) -> AnySpace:
    """The space that saved settings describe. Raises InputError for an unknown ``kind``."""
    kind = str(settings.get("kind", "op_subset"))
    if kind not in SPACES:
        raise InputError(f"space {kind!r} is unknown; {nearest(kind, SPACES)}")
    return SPACES[kind].model_validate(settings)
