"""What every room shares at its door: checked settings and the error that a user reads."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

Option = TypeVar("Option")


class InputError(ValueError):
    """Something given from outside is wrong.

    The message is for the user: what, where, expected, got, and the nearest valid value.
    The command line prints it without a traceback and exits with code 2.
    """


class Settings(BaseModel):
    """Frozen settings: unknown keys and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


def distinct(value: tuple[Option, ...]) -> tuple[Option, ...]:
    """A validator of options. Raises ValueError for one that is named twice."""
    twice = next((option for at, option in enumerate(value) if option in value[:at]), None)
    if twice is not None:
        raise ValueError(f"{twice} is named twice")
    return value


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the known names, and the one that was probably meant."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"known: {', '.join(names)}.{hint}"


class UnavailableError(RuntimeError):
    """The machine lacks something: a network connection, a device, a writable folder, free disk.

    The command line prints the message without a traceback and exits with code 3.
    """
