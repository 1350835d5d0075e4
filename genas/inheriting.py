"""What the weights of one network shared by all architectures say of each: kept as a feature of the run's labels.

The trained network lies in the run's folder ``inherit``, the scores with the training-free ones in ``scores.json``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_gen import device_names, refuse_if_driven, run_lock
from data_gen.driver import Signals
from genas.config import InheritSettings, Run, save_settings
from genas.scoring import (
    INHERITED,
    Kept,
    Progress,
    agreements,
    labelled_architectures,
    made_with,
    read_kept,
    sampled,
    unlike_results,
    write_kept,
)
from genas.stages import digest, label_settings, resolve, single_thread
from supernet import Architecture, InputError
from supernet.files import bytes_digest, read_json, sweep, write_bytes, write_json
from training import DataInfo, Recipe

if TYPE_CHECKING:
    import torch

    from supernet.sharing import SharedNetwork
    from training import Split

_FORMAT = 1
"""Of shared.json; another number trains the network again."""

_MORE_EPOCHS = 5
"""Times those of ``generate``: of the weights a step trains only what one architecture uses."""

_KEEP_EVERY = 20


def inherit(run: Run, progress: Callable[[str], Progress | None] = lambda name: None) -> dict[str, Any]:
    """Train one network that all architectures of the run's space share, and score architectures with its weights.

    Each step trains one architecture, drawn as the space samples, on the training images. The score of an
    architecture is the accuracy of its part of the trained network on the validation images, its norms fitted to some
    training images; a ranking at best, no estimate of what training from scratch would give. Scored are all that
    have labels, or the first ``inherit.architectures`` of the run's plan where none has. The scores are kept
    as the feature ``inherited``. What is there already is not made again; other settings of ``inherit`` or another
    seed make another network, which takes the place of the one before with its scores. On a CPU it runs in one thread.

    Args:
        progress: gives the progress function of ``inherit``, which counts steps, and of ``score``.

    Returns:
        ``architectures``, best first, each with ``key``, ``architecture`` and ``inherited``, a fraction; ``shared``,
        the file of weights, and its ``digest``; of the training ``epochs``, ``steps``, ``seconds``, ``train_loss``
        and ``train_accuracy`` by epoch; ``trained`` and ``scored``, what of it this call did; ``score_seconds``,
        median; ``kept``, the file of scores; ``labelled``, whether these are all that have labels; ``agreement`` as
        in :func:`genas.score`: Kendall tau with the labels, of ``macs`` and ``params`` alone too.

    Raises:
        InputError: a space without a weight-sharing network, settings that contradict the run's labels or kept
            scores, a recipe for single networks, damaged weights, or a run that another process drives.
        DivergedError: the training did.
        UnavailableError: a device or folder that is not to be had.
        KeyboardInterrupt: stopped; the training left a checkpoint, and scores that were finished are kept.
    """
    from training import StoppedError
    from training.one_shot import check_recipe

    refuse_if_driven(run.folder)
    run.settings.space.supergraph()  # at once: preparing images may take long
    recipe = _recipe(run.settings.inherit, run.settings.generate.recipe)
    check_recipe(recipe)
    run, info = resolve(run)
    settings, space = run.settings, run.settings.space
    has_store = run.store.is_file()
    unlike = unlike_results(run, settings.seed) if has_store else None
    if unlike is not None:
        raise InputError(f"inherit: {unlike}; set them back, or choose another name with --set name=NAME")
    labelled = labelled_architectures(run) if has_store else []
    chosen = labelled or sampled(run, settings.inherit.architectures)
    path, conditions = run.folder / "scores.json", made_with(run, info, settings.seed)
    result: dict[str, Any] = {}
    with run_lock(run.folder), single_thread(), Signals() as signals:
        _, not_kept = read_kept(path, conditions)
        if not_kept is not None:
            raise InputError(f"inherit: {not_kept}")
        sweep(run.folder)
        if not has_store:
            save_settings(run)
        try:
            result = _inherit(run, info, recipe, chosen, progress, lambda: signals.number is not None)
        except StoppedError:
            if signals.number is None:
                raise
    if not result:  # the signal was passed on to who ignores it
        raise KeyboardInterrupt
    scores, _ = read_kept(path, conditions)
    values = {one: scores[one.key][INHERITED] for one in chosen}
    ranked = sorted(chosen, key=lambda one: -(values[one][0] or 0.0))
    return {
        "run": run.name,
        "architectures": [
            {"key": one.key, "architecture": space.format(one), INHERITED: values[one][0]} for one in ranked
        ],
        **result,
        "score_seconds": statistics.median(seconds for _, seconds in values.values()),
        "images": info.sizes["validation"],
        "kept": str(path),
        "labelled": bool(labelled),
        "agreement": agreements(run, scores, (INHERITED,), chosen) if has_store else {},
    }


def _recipe(settings: InheritSettings, generate: Recipe) -> Recipe:
    """How the shared network is trained."""
    single = {"drop_path": 0.0, "auxiliary": 0.0}
    base = settings.recipe or generate.model_copy(update=single)
    epochs = settings.epochs or (base.epochs if settings.recipe is not None else _MORE_EPOCHS * base.epochs)
    step_epochs = max(1, round(base.step_epochs * epochs / base.epochs))
    return base.model_copy(update={"epochs": epochs, "step_epochs": step_epochs})


def _inherit(
    run: Run,
    info: DataInfo,
    recipe: Recipe,
    chosen: Sequence[Architecture],
    progress: Callable[[str], Progress | None],
    stop: Callable[[], bool],
) -> dict[str, Any]:
    """Train and score what is missing; the caller holds the lock. Raises StoppedError where ``stop`` says so."""
    import torch

    from training import StoppedError, load_split
    from training.one_shot import inherited_accuracy

    settings, space = run.settings, run.settings.space
    device = torch.device(device_names(settings.workers)[0])
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    training = load_split(info, "train").to(device)
    shared, described, trained = _shared(run, info, recipe, training, device, progress("inherit"), stop)
    path, conditions = run.folder / "scores.json", made_with(run, info, settings.seed)
    scores, _ = read_kept(path, conditions)
    missing = [one for one in chosen if INHERITED not in scores.get(one.key, {})]
    if missing:
        measured = load_split(info, "validation").to(device)
    show = progress("score")
    done = 0

    def alive() -> None:
        if stop():
            raise StoppedError(f"stopped after {done} of {len(missing)} scores")

    try:
        for one in missing:
            started = time.perf_counter()
            accuracy = inherited_accuracy(
                shared, shared.graph.encode(one.choices), training, measured, info.normalisation, recipe,
                settings.seed, settings.inherit.calibration_images, alive,
            )  # fmt: skip
            scores.setdefault(one.key, {})[INHERITED] = (accuracy, time.perf_counter() - started)
            done += 1
            if done % _KEEP_EVERY == 0:
                write_kept(path, conditions, scores)
            if show is not None:
                show(len(chosen) - len(missing) + done, len(chosen))
    finally:
        if done:
            write_kept(path, conditions, scores)
    return {
        "space": space.name,
        "shared": str(_weights(run.folder)),
        "digest": described["weights"],
        **described["training"],
        "trained": trained,
        "scored": done,
    }


def _weights(folder: Path) -> Path:
    return folder / "inherit" / "shared.safetensors"


def _shared(
    run: Run,
    info: DataInfo,
    recipe: Recipe,
    training: Split,
    device: torch.device,
    progress: Progress | None,
    stop: Callable[[], bool],
) -> tuple[SharedNetwork, dict[str, Any], bool]:
    """The trained network, what ``shared.json`` says of it, and whether it was trained now."""
    from safetensors.torch import save

    from supernet.sharing import build_shared
    from training import Checkpoints
    from training.one_shot import prepare_shared, train_one_shot

    settings, space = run.settings, run.settings.space
    identity = {
        "format": _FORMAT,
        "space": space.model_dump(mode="json"),
        "data": label_settings(settings)["data"],
        "sizes": dict(info.sizes),
        "recipe": recipe.model_dump(mode="json"),
        "seed": settings.seed,
    }
    made_from, calibration = digest(identity), settings.inherit.calibration_images
    weights = _weights(run.folder)
    described_at = weights.with_suffix(".json")
    described = read_json(described_at)
    shared = build_shared(space.supergraph(), settings.seed)
    if described is not None and described["made_from"] == made_from:
        _load(shared, weights, described["weights"])
        prepare_shared(shared, device)
        if described["calibration_images"] != calibration:
            _drop_scores(run, info)
            described = {**described, "calibration_images": calibration}
            write_json(described_at, described)
        return shared, described, False
    _drop_scores(run, info)
    described_at.unlink(missing_ok=True)  # never beside weights that it does not describe
    checkpoints = Checkpoints(weights.parent, "shared", identity, settings.workers.checkpoint_seconds)
    result = train_one_shot(
        shared, space, training, info.normalisation, recipe, settings.seed, progress, checkpoints, stop
    )
    data = save({name: tensor.cpu().contiguous() for name, tensor in shared.state_dict().items()})
    write_bytes(weights, data)
    described = {
        "made_from": made_from,
        "weights": bytes_digest(data),
        "calibration_images": calibration,
        "training": result.to_json(),
    }
    write_json(described_at, described)
    checkpoints.clear()
    return shared, described, True


def _load(shared: SharedNetwork, path: Path, described: str) -> None:
    """Raises InputError for weights that are damaged or gone."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); delete {path.parent} to train again") from error
    if bytes_digest(data) != described:
        raise InputError(f"{path}: damaged: not the weights that shared.json describes; delete {path.parent}")
    try:
        shared.load_state_dict(load(data))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: not the weights of this network ({error!s:.200}); delete {path.parent}") from error


def _drop_scores(run: Run, info: DataInfo) -> None:
    """Forget the scores of the network before: one table must not mix two."""
    path, conditions = run.folder / "scores.json", made_with(run, info, run.settings.seed)
    scores, _ = read_kept(path, conditions)
    left: Kept = {
        key: {name: entry for name, entry in known.items() if name != INHERITED} for key, known in scores.items()
    }
    if left != scores:
        write_kept(path, conditions, {key: known for key, known in left.items() if known})
