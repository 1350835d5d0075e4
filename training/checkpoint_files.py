"""The files of a training's checkpoints, without what is in them: NAME.STEP.safetensors and NAME.STEP.json."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_KEPT = 2


def found(folder: Path, name: str) -> Iterator[tuple[int, Path]]:
    """(step, path without ending), newest first; also of those of which only a part is there."""
    pattern = re.compile(rf"{re.escape(name)}\.(\d{{9,}})\.(json|safetensors)")
    matches = [pattern.fullmatch(entry.name) for entry in folder.glob("*")]
    steps = {int(match[1]) for match in matches if match}
    for step in sorted(steps, reverse=True):
        yield step, folder / f"{name}.{step:09d}"


def keep_newest(folder: Path, name: str) -> None:
    """Remove all but the newest two."""
    for _, old in list(found(folder, name))[_KEPT:]:
        remove(old)


def remove(base: Path) -> None:
    """Remove a checkpoint, the JSON first: weights alone are never loaded."""
    for ending in ("json", "safetensors"):
        base.with_name(f"{base.name}.{ending}").unlink(missing_ok=True)
