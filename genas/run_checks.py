"""The checks of ``genas doctor`` that are about one run: its images, its space, and what lies in its folder."""

from __future__ import annotations

import hashlib
import shlex
from typing import TYPE_CHECKING

from genas.examining import CHANGE_RECIPE, IMPORT_FAILURES, Check, not_imported, one_line

if TYPE_CHECKING:
    from genas.config import Run
    from training import DataInfo
    from training.data import SplitName


def images(run: Run) -> list[Check]:
    """The checks of a run's images, which are prepared first, and of the architectures to be drawn for them."""
    try:
        from genas.stages import resolve
        from supernet import InputError
        from training.data import SPLITS, damage
    except IMPORT_FAILURES as error:
        return [not_imported("images", error)]
    try:
        run, info = resolve(run, SPLITS)
    except InputError as error:
        return [Check("images", "wrong", one_line(error), CHANGE_RECIPE, "configuration")]
    except (ImportError, OSError, RuntimeError) as error:  # no connection, no room, torchvision that is broken
        mend = "mend what the message names; npz:PATH and folder:PATH need neither a connection nor torchvision"
        return [Check("images", "wrong", one_line(error), mend)]
    sizes = ", ".join(f"{count:,} {name}" for name, count in info.sizes.items())
    found = (
        f"{sizes} images of {len(info.classes)} classes, {info.side}x{info.side}, "
        f"{info.channels} channel{'s' if info.channels > 1 else ''}, prepared in {info.folder}"
    )
    checks = [Check("images", "ok", found, part="configuration")]
    wrong = damage(info.folder, SPLITS)  # of files that are only mapped nothing else reads every byte
    if wrong:
        mend = shlex.join(["rm", "-r", str(info.folder)]) + " and run this again"
        checks.append(Check("labels", "wrong", f"{info.folder}: {wrong}", mend, "configuration"))
    else:
        checks += [labels(info), copies(info)]
    return [*checks, architectures(run)]


def labels(info: DataInfo) -> Check:
    """Whether the labels to train and to choose by name a class each, and every class has images."""
    import numpy as np

    classes = len(info.classes)
    counts = {}
    for split in ("train", "validation"):
        values = np.load(info.folder / f"{split}_labels.npy", allow_pickle=False)
        outside = int(((values < 0) | (values >= classes)).sum())
        if outside:
            found = f"{outside} {split} labels are not from 0 to {classes - 1}"
            return Check("labels", "wrong", found, f"correct the labels of {info.source}", "configuration")
        counts[split] = np.bincount(values, minlength=classes)
    absent = {split: [info.classes[label] for label in np.flatnonzero(counts[split] == 0)] for split in counts}
    found = "{} of {} classes have no {} image, such as {!r:.80}"
    if absent["train"]:
        found = found.format(len(absent["train"]), classes, "training", absent["train"][0])
        mend = "raise data.train_images, or remove the empty classes"
        return Check("labels", "wrong", found, mend, "configuration")
    if absent["validation"]:
        found = found.format(len(absent["validation"]), classes, "validation", absent["validation"][0])
        mend = "raise data.validation_fraction or data.validation_images, or add images of these classes"
        return Check("labels", "warning", found, mend, "configuration")
    found = f"{counts['train'].min():,} to {counts['train'].max():,} training images a class"
    return Check("labels", "ok", found, part="configuration")


def copies(info: DataInfo) -> Check:
    """Pictures that are in two splits, found by a digest of each picture's bytes in the prepared folder."""
    # The test split is read here only to be compared with the others byte for byte, and no label of it is looked
    # at: nothing of this reaches a training, the predictor or any choice.
    train, validation, test = (_digests(info, split) for split in ("train", "validation", "test"))
    trained, learnt_from = set(train), {*train, *validation}  # the winner learns from both
    leaked = sum(digest in learnt_from for digest in test)
    shared = sum(digest in trained for digest in validation)
    if not leaked and not shared:
        return Check("copies", "ok", "no picture is in two splits", part="configuration")
    found = (
        f"{leaked:,} of {len(test):,} test images are also training or validation images, "
        f"{shared:,} of {len(validation):,} validation images also training images: accuracies there are too high"
    )
    mend = "remove the copies from the source, or keep them together in folders train, validation and test"
    return Check("copies", "warning", found, mend, "configuration")


def architectures(run: Run) -> Check:
    """Whether there are as many architectures within the limits as the run asks for.

    Args:
        run: resolved, with the classes and channels of its images.
    """
    from data_gen import plan
    from genas.labelling import first_labels
    from genas.limits import limits_json
    from genas.words import limits_words
    from supernet import InputError

    settings = run.settings
    try:
        plan(settings.space, first_labels(settings.generate), settings.bounds, settings.seed)
    except InputError as error:
        return Check("architectures", "wrong", one_line(error), CHANGE_RECIPE, "configuration")
    limits = limits_words(limits_json(settings.bounds))
    found = f"{first_labels(settings.generate).architectures:,} can be drawn under {limits}"
    return Check("architectures", "ok", found, part="configuration")


def run_files(run: Run) -> list[Check]:
    """Whether what is in the run's folder already is whole: every row of the store, every file that proves itself."""
    from data_gen import read_store
    from supernet import InputError
    from supernet.files import read_json, read_proved_text
    from supernet.settings import UnavailableError

    if not run.store.is_file():
        return []
    try:
        store = read_store(run.store)
    except (InputError, UnavailableError) as error:
        mend = f"genas generate {shlex.quote(run.name)}: keeps what is whole, trains the rest again"
        return [Check("store", "wrong", one_line(error), mend, "configuration")]
    found = ", ".join(f"{store.counts(stage)[1]:,} results of {stage}" for stage in store.stages()) or "none yet"
    store.close()
    checks = [Check("store", "ok", f"every row is whole: {found}", part="configuration")]
    whole = 0
    for path in sorted([*run.folder.glob("*.json"), *run.folder.glob("*/*.json"), run.folder / "config.yml"]):
        if path.name == "predictor.json" or not path.exists():  # fit and search check it with its weights
            continue
        try:
            (read_proved_text if path.suffix == ".yml" else read_json)(path)
            whole += 1
        except InputError as error:
            mend = shlex.join(["rm", str(path)]) + " and run the stage again"
            checks.append(Check("files", "wrong", one_line(error), mend, "configuration"))
    if len(checks) == 1:
        checks.append(
            Check("files", "ok", f"{whole} JSON and YAML files of {run.folder} are whole", part="configuration")
        )
    return checks


def _digests(info: DataInfo, split: SplitName) -> list[bytes]:
    import numpy as np

    pictures = np.load(info.folder / f"{split}_images.npy", mmap_mode="r", allow_pickle=False)
    return [hashlib.blake2b(picture.tobytes(), digest_size=16).digest() for picture in pictures]
