"""Reading what the stages left for each other, and telling whether it is still true."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from supernet import InputError


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, None where there is no file. Raises InputError for a damaged one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged or unreadable ({error}); delete it and run the stage again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object, got {type(content).__name__}; delete it and run the stage again")
    return content


def digest(*parts: object) -> str:
    """Tells whether anything that a result was made from has changed."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
