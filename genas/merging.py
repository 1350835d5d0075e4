"""Runs brought together: what was trained elsewhere goes into one run, which then holds all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from data_gen import Store, open_store, read_store, refuse_if_driven, run_lock
from data_gen.merging import Training, hold, merge_stores
from genas.config import check_name, copy_settings, differences, load_run
from genas.kept_weights import described_digest, read_weights, weights_folder
from genas.stages import saved_settings
from supernet import InputError
from supernet.files import bytes_digest, read_json, write_bytes, write_json

_MOST_NAMED = 5

Known = dict[str, tuple[Path, Mapping[str, Any]]]
"""By stage, what its results were made with, and the run that says so."""


def home(name: str, logs: str | Path = "logs") -> Path:
    """The folder that a run has or would have, by its name, its folder or its recipe. Raises InputError."""
    path = Path(name)
    if path.suffix in (".yml", ".yaml"):
        return load_run(path, logs=logs).folder
    return path if len(path.parts) > 1 else Path(logs) / check_name(name)


def merge(into: Path, sources: Sequence[Path]) -> dict[str, Any]:
    """Add to a run what other runs hold and it lacks: results, failures, and weights that were kept.

    What the run has stays as it is. A run that is not there is made, with the configuration of the first source. The
    sources are only read; one that is being driven is taken as it is at that moment. Killed at any moment, the run is
    whole, and the same call again finishes it.

    Args:
        into: folder of the run that gets them.
        sources: folders of the runs that are read. Of two that have another result for a training the first counts.

    Returns:
        ``into``, ``sources``, and whether it was ``made``; counts of what was ``added`` (``architectures``, ``jobs``,
        ``results``, ``failures``, ``settings`` of stages, ``weights``), of results that were ``present`` already with
        the same label, and of those that were there with a ``differing`` one, the first of them ``named``; weights
        that are ``damaged`` and were left out; ``results`` that the run now has, and planned trainings that are
        ``missing`` one.

    Raises:
        InputError: a run merged into itself, a source that is no run or is damaged, results that were made with other
            settings, or a run that another process drives. Nothing was written.
        UnavailableError: the folder cannot be written. The store is as it was, or has everything.
    """
    sources = list(dict.fromkeys(sources))
    for source in sources:
        if _is_same(source, into):
            raise InputError(f"{source}: a run cannot be merged into itself; name other runs")
    refuse_if_driven(into)
    with ExitStack() as stack:
        opened: dict[Path, Store] = {}
        for source in sources:
            opened[source] = stack.enter_context(closing(read_store(source / "store.db")))
            hold(opened[source])
        known: Known = {}
        for source, store in opened.items():
            _agree(source, store, store.stages(), known)
        stack.enter_context(run_lock(into))
        made = not (into / "store.db").exists()
        if made:
            _begin(into, sources[0])
        target = stack.enter_context(closing(open_store(into / "store.db")))
        _agree(into, target, list(known), known)
        found = merge_stores(target, {str(source): store for source, store in opened.items()})
        target.seal()
        weights, damaged = 0, 0
        for source in sources:
            for path in _missing_weights(source, into, found.same[str(source)]):
                whole = _copy_weights(source / path, into / path)
                weights, damaged = weights + whole, damaged + (not whole)
        counts = [target.counts(stage) for stage in target.stages()]
        planned, results = sum(both[0] for both in counts), sum(both[1] for both in counts)
    return {
        "into": str(into),
        "sources": [str(source) for source in sources],
        "made": made,
        "added": {**found.added, "weights": weights},
        "present": found.present,
        "differing": len(found.differing),
        "named": [training._asdict() for training in found.differing[:_MOST_NAMED]],
        "damaged": damaged,
        "results": results,
        "missing": planned - results,
    }


def _is_same(one: Path, other: Path) -> bool:
    own, others = one / "store.db", other / "store.db"
    return own.is_file() and others.is_file() and own.samefile(others)


def _agree(folder: Path, store: Store, stages: Sequence[str], known: Known) -> None:
    """Note what a run made stages with. Raises InputError where another run made one with something else."""
    for stage in stages:
        saved = saved_settings(store, stage)
        if saved is None:
            continue
        other, before = known.setdefault(stage, (folder, saved))
        changed = differences(before, saved)
        if changed:
            raise InputError(
                f"{other} and {folder}: their trainings of {stage} were planned with different settings "
                f"({'; '.join(changed)}), so their results cannot be compared; nothing was merged"
            )


def _begin(into: Path, source: Path) -> None:
    """Write down for a run that is made what its first source says of configuration and images."""
    if (source / "config.yml").exists():
        copy_settings(source, into)
    described = read_json(source / "meta.json")
    if described is not None:
        write_json(into / "meta.json", described)


def _missing_weights(source: Path, into: Path, trainings: Sequence[Training]) -> Iterator[Path]:
    """Files of weights that a source kept and the run lacks, relative to their folders."""
    by_stage: dict[str, list[str]] = {}
    for training in trainings:
        by_stage.setdefault(training.stage, []).append(f"{training.key}-{training.seed}.safetensors")
    for stage, names in by_stage.items():
        folder = weights_folder(stage)
        if folder is None:
            continue
        kept = {path.name for path in (source / folder).glob("*.safetensors")}
        there = {path.name for path in (into / folder).glob("*.safetensors")}
        for name in names:
            if name in kept and (name not in there or described_digest(into / folder / name) is None):
                yield folder / name


def _copy_weights(source: Path, path: Path) -> bool:
    """Copy a file of weights and the JSON beside it; False, and nothing is written, where it is damaged."""
    try:
        data = read_weights(source)
    except InputError:
        return False
    write_bytes(path, data)
    write_json(path.with_suffix(".json"), {"weights": bytes_digest(data)})
    return True
