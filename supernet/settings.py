"""What every room shares at its door: checked settings and the error that a user reads."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict


class InputError(ValueError):
    """Something given from outside is wrong.

    The message is for the user: what, where, expected, got, and the nearest valid value.
    The command line prints it without a traceback and exits with code 2.
    """


class Settings(BaseModel):
    """Frozen settings: unknown keys and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


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
