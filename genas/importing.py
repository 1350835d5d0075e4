"""Published studies, whatever they are of: a table of robustness, or a folder of searched networks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from analysis.fronts import Member
from analysis.mood import (
    CLASSES,
    FEWEST_POINTS,
    GENOTYPES,
    MoodStudy,
    memory_error,
    mood_members,
    mood_table,
    read_mood,
)
from analysis.published import import_study as import_table
from supernet.files import write_text
from supernet.pareto import front, hypervolume
from supernet.settings import InputError
from supernet.table import write_table

REFERENCES = {"cifar10": (5.0, 15.0)}
"""Million parameters and error in % that the published hypervolume goes to; of CIFAR-100 none is published."""


def import_study(source: Path, folder: Path) -> dict[str, Any]:
    """Read a published study and write all that is made of it into a folder, which is made.

    A table is read as :func:`analysis.published.import_study` says. A folder with ``genotypes.json`` is the MOOD-NAS
    study, see :func:`analysis.mood.read_mood`: ``mood_cifar10.jsonl`` and ``mood_cifar100.jsonl`` are label tables, and
    ``members.json`` has the trained networks by data set, each an object with the attributes of ``Member``.

    Returns:
        Of a folder: ``networks``, ``front`` and ``hypervolume`` by data set (trained networks; those not dominated in
        test error and parameters; of CIFAR-10, million parameters x points of error below 5 M and 15 %), ``searched``,
        ``memory`` and ``memory_error`` (points, and how far :func:`analysis.mood.memory_error` is off), ``genotypes``,
        ``flaws`` (by network), ``notes`` and ``files``.

    Raises:
        InputError: a source that is neither, whose files are not as they must be, or a folder that holds a run.
        UnavailableError: the folder cannot be written.
    """
    if not source.is_dir():
        return import_table(source, folder)
    if not (source / GENOTYPES).is_file():
        raise InputError(f"{source}: no {GENOTYPES} in it; expected a folder of genotypes and their tables, or a CSV")
    if (folder / "store.db").exists():
        raise InputError(f"{folder}: a run is there; name another folder")
    study = read_mood(source)
    sets = [data for data in CLASSES if any(network.data == data for network in study.networks)]
    members = {data: mood_members(study, data) for data in sets}
    for data in sets:
        write_table(mood_table(study, data), folder / f"mood_{data}.jsonl")
    content = {data: [asdict(member) for member in own] for data, own in members.items()}
    write_text(folder / "members.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    return _result(study, members)


def _result(study: MoodStudy, members: dict[str, tuple[Member, ...]]) -> dict[str, Any]:
    planes = {data: _plane(own) for data, own in members.items()}
    return {
        "networks": {data: len(own) for data, own in members.items()},
        "front": {data: [own[place].name for place in front(planes[data])] for data, own in members.items()},
        "hypervolume": {
            data: {"reference": list(REFERENCES[data]), "volume": hypervolume(plane, np.array(REFERENCES[data]))}
            for data, plane in planes.items()
            if data in REFERENCES
        },
        "searched": len(study.points),
        "memory": len(study.memory),
        "memory_error": memory_error(study.memory) if len(study.memory) >= FEWEST_POINTS else None,
        "genotypes": len(study.genotypes),
        "flaws": study.flaws,
        "notes": list(study.notes),
        "files": [*(f"mood_{data}.jsonl" for data in members), "members.json"],
    }


def _plane(members: Sequence[Member]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Million parameters and error in %, shape (members, 2)."""
    return np.array([(member.params / 1e6, 100 * member.error) for member in members])
