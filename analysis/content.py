"""Files that an earlier stage wrote, checked as they are read."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from supernet.files import read_json
from supernet.settings import InputError


class Content(BaseModel):
    """A file that an earlier stage wrote. Keys that the report does not show may be there."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


Read = TypeVar("Read", bound=Content)


def read_content(path: Path, kind: type[Read]) -> Read | None:
    """The file's content, None where there is no file. Raises InputError for one that is damaged."""
    content = read_json(path)
    if content is None:
        return None
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{path}: damaged ({where + ': ' if where else ''}{first['msg']}); delete it and run the stage again"
        ) from error
