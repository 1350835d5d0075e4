"""The published MOOD-NAS study: networks of a multi-objective differentiable search, checked against their genotypes.

PC-DARTS (Xu et al. 2020) was run with many weights of an L1 or L2 norm in its loss, and what it found was trained as a
network of 20 cells and 36 channels. The tables name their columns and networks each in their own way. Costs here are
those of the network that a genotype builds for its data set; what a table says otherwise is told as a flaw.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from analysis.fronts import Member
from analysis.study import csv_lines
from supernet.darts import Darts
from supernet.genotypes import Genotype, genotype_graph, parse_genotype
from supernet.graph import ArchGraph
from supernet.operations import graph_costs
from supernet.settings import InputError, nearest
from supernet.table import LabelRow, LabelTable

CLASSES = {"cifar10": 10, "cifar100": 100}
AUXILIARY_PARAMS = 128 * 576 + 2 * 128 + 768 * 128 * 4 + 2 * 768 + 768 * 10 + 10
"""Of the auxiliary head of ten classes, which ``Parameters`` counts in the tables of trained networks."""

GENOTYPES = "genotypes.json"
TEST_IMAGES = 10_000
FEWEST_POINTS = 6
"""Of memory, for a rule of four coefficients to be tried on one that it has not seen."""
LATENCIES = {"latency_gpu": "gpu batch not stated", "latency_cpu": "cpu batch not stated"}

_COUNTED = Darts()
"""What ``Parameters`` and ``FLOPs`` are counted on in all tables, those of CIFAR-100 too: ten classes."""
_WIDE = 16 * _COUNTED.channels
"""Channels before the classifier."""
_NAME = re.compile(r"(l[12])_loss_[0-9]+e[0-9]+(_l2_3e04)?(?:_cifar100)?")
_SYNONYMS = {"criterion": "crit", "regularization": "reg", "accuracy": "acc"}
_SHARED = ("model_name", "weight", "params", "search_crit_loss", "search_reg_loss", "parameters", "flops", *LATENCIES)
_TRAINED = (*_SHARED, "search_acc", "train_loss", "train_acc", "test_loss", "test_acc")
_SEARCHED = (*_SHARED, "search_train_acc", "search_valid_acc")


@dataclass(frozen=True)
class Training:
    """What a network reached, accuracies as fractions; of CIFAR-100 there was no validation."""

    train_accuracy: float
    train_loss: float
    test_accuracy: float
    test_loss: float
    validation_accuracy: float | None
    validation_loss: float | None


@dataclass(frozen=True)
class MoodNetwork:
    """What one search found, trained or not.

    Attributes:
        name: of its genotype; where there is none, as in the table.
        data: ``cifar10`` or ``cifar100``.
        sweep: the norm in the search's loss: ``l1``, ``l2``, or ``l1 + l2 fixed`` (a weight decay of 3e-4 beside it).
        weight: of that norm; tables of trained networks round it.
        params, macs: of the network for its data set, without auxiliary head.
        criterion_loss, regularisation_loss, search_accuracy: at the end of the search, accuracy a fraction.
        latency: as published, by place; neither unit nor batch is stated.
        trained: None where only the search is known.
        flaws: what is wrong with the row, in words; empty where nothing is known to be.
    """

    name: str
    data: str
    sweep: str
    weight: float
    genotype: Genotype | None
    params: int
    macs: int
    criterion_loss: float
    regularisation_loss: float
    search_accuracy: float
    latency: Mapping[str, float]
    trained: Training | None = None
    flaws: tuple[str, ...] = ()


@dataclass(frozen=True)
class MemoryPoint:
    """Memory of a training on a GPU: millions of parameters as published, images in a batch, MB as published."""

    millions: float
    batch: int
    megabytes: float


@dataclass(frozen=True)
class MoodStudy:
    """The study.

    Attributes:
        genotypes: all that are published by name, also those that no table names.
        networks: those that were trained.
        points: what the searches found, trained later or not.
        notes: what a reader must know of the tables, a sentence each.
    """

    genotypes: Mapping[str, Genotype]
    networks: tuple[MoodNetwork, ...]
    points: tuple[MoodNetwork, ...]
    memory: tuple[MemoryPoint, ...]
    notes: tuple[str, ...]

    @property
    def flaws(self) -> dict[str, list[str]]:
        """What is wrong with rows, by the name of the network, where anything is."""
        found: dict[str, list[str]] = {}
        for network in (*self.networks, *self.points):
            if network.flaws:
                found.setdefault(network.name, []).extend(network.flaws)
        return found


def read_mood(folder: Path) -> MoodStudy:
    """The study in a folder that has ``genotypes.json`` and tables, each told from the others by its columns.

    Tables of networks say in their file's name which data set they are of. The search's tables call ``L1_loss_X`` what
    the genotypes call ``l1_loss_X_l2_3e04``, and ``l1_loss_X_l2_3e04_cifar100``.

    Raises:
        InputError: with file and line, for a file that cannot be read, a table of other columns, a number that is none
            or outside its range, a genotype that is none, or a network given twice; also where no network was trained.
    """
    genotypes = _read_genotypes(folder / GENOTYPES)
    found: dict[bool, list[MoodNetwork]] = {True: [], False: []}
    memory: list[MemoryPoint] = []
    lines: dict[tuple[bool, str, str], str] = {}
    for path in sorted(folder.glob("*.csv")):
        for number, original in csv_lines(path, ()):
            where = f"{path}:{number}"
            line = {_plain(name): text for name, text in original.items()}
            try:
                if "gpu_mb" in line:
                    memory.append(_memory_point(line))
                    continue
                network = _network(line, _data(path), genotypes)
                key = (network.trained is not None, network.data, network.name)
                if key in lines:
                    raise InputError(f"network {network.name!r} was given in {lines[key]} already")
            except ValueError as error:
                raise InputError(f"{where}: {error}") from error
            lines[key] = where
            found[network.trained is not None].append(network)
    if not found[True]:
        raise InputError(f"{folder}: no table of trained networks; expected a CSV with the columns {_listed(_TRAINED)}")
    points = tuple(found[False])
    networks = _with_search_flaws(found[True], points)
    return MoodStudy(genotypes, networks, points, tuple(memory), _notes(genotypes, networks, points))


def mood_members(study: MoodStudy, data: str) -> tuple[Member, ...]:
    """The trained networks of a data set on the plane of test error against cost, in the order of the tables.

    Raises InputError for a data set of which none was trained.
    """
    own = _own(study, data)
    return tuple(
        Member(
            name=network.name,
            series="published",
            error=round(1 - training.test_accuracy, 6),
            images=TEST_IMAGES,
            split="test",
            params=network.params,
            macs=network.macs,
            latency=dict(network.latency),
            note=f"{network.sweep}, weight {network.weight:g}",
        )
        for network, training in own
    )


def mood_table(study: MoodStudy, data: str) -> LabelTable:
    """Graphs and measurements of the trained networks of a data set; one without a genotype has no graph, and no row.

    Metrics: ``accuracy`` and ``loss`` are on test images; ``validation_accuracy`` of CIFAR-10 alone;
    ``train_accuracy``; ``latency_gpu`` and ``latency_cpu`` as published. Features: accuracy and cross entropy at the
    end of the search. The norm is none, as sweeps have different ones.

    Raises InputError as :func:`mood_members`.
    """
    rows = []
    for network, training in _own(study, data):
        if network.genotype is None:
            continue
        metrics = {
            "accuracy": training.test_accuracy, "loss": training.test_loss, "train_accuracy": training.train_accuracy,
        }  # fmt: skip
        if training.validation_accuracy is not None:
            metrics["validation_accuracy"] = training.validation_accuracy
        metrics |= {name: network.latency[place] for name, place in LATENCIES.items()}
        features = {"search_accuracy": network.search_accuracy, "search_loss": network.criterion_loss}
        rows.append(LabelRow(network.name, mood_graph(network.genotype, data), metrics, features))
    return LabelTable(tuple(rows))


def mood_graph(genotype: Genotype, data: str) -> ArchGraph:
    """The network that was trained with a genotype: 20 cells, 36 channels, 32 pixels, the data set's classes."""
    return genotype_graph(genotype, _COUNTED.model_copy(update={"classes": CLASSES[data]}))


def memory_error(points: Sequence[MemoryPoint]) -> float:
    """Mean relative error in leave-one-out of memory = a + b parameters + c batch + d parameters x batch.

    Least squares; a fraction, lower is better. Raises InputError for fewer points than FEWEST_POINTS.
    """
    if len(points) < FEWEST_POINTS:
        raise InputError(f"memory: expected at least {FEWEST_POINTS} points, got {len(points)}")
    millions, batch, memory = np.array([(one.millions, one.batch, one.megabytes) for one in points]).T
    design = np.c_[np.ones(len(points)), millions, batch, millions * batch]
    hat = design @ np.linalg.pinv(design)
    left_out = (memory - hat @ memory) / (1 - np.diag(hat))
    return float(np.abs(left_out / memory).mean())


# Reading


def _read_genotypes(path: Path) -> dict[str, Genotype]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: the genotypes cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object of genotypes by name, got {type(content).__name__}")
    genotypes = {}
    for name, one in content.items():
        try:
            genotypes[name] = parse_genotype(one)
        except InputError as error:
            raise InputError(f"{path}: {name!r:.60}: {error}") from error
    return genotypes


def _plain(column: str) -> str:
    """A column's name in one spelling for all tables."""
    words = column.casefold().replace("_", " ").split()
    name = "_".join(_SYNONYMS.get(word, word) for word in words)
    return "params" if name == "size" else name


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(name.replace("_", " ") for name in columns)


def _data(path: Path) -> str:
    found = re.search("cifar100?", path.name.casefold())
    if found is None:
        raise InputError(f"the file's name says no data set; expected cifar10 or cifar100 in it, got {path.name!r:.80}")
    return found[0]


def _number(line: Mapping[str, str], name: str, least: float = 0.0, most: float = math.inf) -> float:
    if name not in line:
        raise InputError(f"column {name.replace('_', ' ')!r} is missing; {nearest(name, line)}")
    expected = f"{name.replace('_', ' ')}: expected a number from {least:g}" + f" to {most:g}" * (most < math.inf)
    try:
        value = float(line[name])
    except ValueError as error:
        raise InputError(f"{expected}, got {line[name]!r:.60}") from error
    if not least <= value <= most or math.isinf(value):
        raise InputError(f"{expected}, got {value}")
    return value


def _whole(line: Mapping[str, str], name: str) -> int:
    value = _number(line, name)
    if not value.is_integer():
        raise InputError(f"{name.replace('_', ' ')}: expected a whole number, got {value}")
    return int(value)


def _percent(line: Mapping[str, str], name: str) -> float:
    return round(_number(line, name, most=100) / 100, 6)  # the tables have what single precision leaves of it


def _memory_point(line: Mapping[str, str]) -> MemoryPoint:
    return MemoryPoint(_number(line, "model_size"), _whole(line, "batch_size"), _number(line, "gpu_mb", 1))


def _network(line: Mapping[str, str], data: str, genotypes: Mapping[str, Genotype]) -> MoodNetwork:
    trained = "test_acc" in line
    for column in _TRAINED if trained else _SEARCHED:
        if column not in line:
            raise InputError(f"column {column.replace('_', ' ')!r} is missing; {nearest(column, line)}")
    name, table_name = line["model_name"], line["model_name"]
    if not trained:
        name = f"{name[:1].casefold()}{name[1:]}_l2_3e04" + "_cifar100" * (data == "cifar100")
    shape = _NAME.fullmatch(name)
    if shape is None:
        raise InputError(f"model name {table_name!r:.60}: expected such as l1_loss_2e04_l2_3e04 or L1_loss_2e04")
    genotype = genotypes.get(name)
    params, macs, flaws = _costs(line, data, trained, genotype)
    return MoodNetwork(
        name=name,
        data=data,
        sweep="l1 + l2 fixed" if shape[2] else shape[1],
        weight=_number(line, "weight"),
        genotype=genotype,
        params=params,
        macs=macs,
        criterion_loss=_number(line, "search_crit_loss"),
        regularisation_loss=_number(line, "search_reg_loss"),
        search_accuracy=_percent(line, "search_acc" if trained else "search_valid_acc"),
        latency={place: _number(line, column) for column, place in LATENCIES.items()},
        trained=_training(line) if trained else None,
        flaws=flaws,
    )


def _training(line: Mapping[str, str]) -> Training:
    validated = "valid_acc" in line
    return Training(
        train_accuracy=_percent(line, "train_acc"),
        train_loss=_number(line, "train_loss"),
        test_accuracy=_percent(line, "test_acc"),
        test_loss=_number(line, "test_loss"),
        validation_accuracy=_percent(line, "valid_acc") if validated else None,
        validation_loss=_number(line, "valid_loss") if validated else None,
    )


def _costs(
    line: Mapping[str, str], data: str, trained: bool, genotype: Genotype | None
) -> tuple[int, int, tuple[str, ...]]:
    """Parameters and MACs of the network for its data set, and where the table disagrees with them."""
    counted, macs = _whole(line, "parameters"), _whole(line, "flops")
    more = CLASSES[data] - _COUNTED.classes
    counted -= AUXILIARY_PARAMS * trained
    flaws = []
    if genotype is None:
        flaws.append("no genotype is published: costs are the table's, and it is in no label table")
    else:
        costs = graph_costs(genotype_graph(genotype, _COUNTED))
        if counted != costs.params:
            flaws.append(f"Parameters less auxiliary head are {counted:,}, its genotype builds {costs.params:,}")
        if macs != costs.macs:
            flaws.append(f"FLOPs are {macs:,}, its genotype has {costs.macs:,} MACs")
        counted, macs = costs.params, costs.macs
    params = counted + (_WIDE + 1) * more
    # Trained networks' sizes are rounded to two places, those of searches to the parameter.
    if abs((size := _number(line, "params")) - params / 1e6) > (0.005001 if trained else 5e-7):
        flaws.append(f"its size is said to be {size} million parameters, and is {params:,}")
    return params, macs + _WIDE * more, tuple(flaws)


# What is wrong with it


def _own(study: MoodStudy, data: str) -> list[tuple[MoodNetwork, Training]]:
    known = sorted({network.data for network in study.networks})
    if data not in known:
        raise InputError(f"study: no network was trained on {data!r:.40}; {nearest(data, known)}")
    return [(one, one.trained) for one in study.networks if one.data == data and one.trained is not None]


def _searched(network: MoodNetwork) -> tuple[str, float, float, float]:
    return (network.data, network.criterion_loss, network.regularisation_loss, network.search_accuracy)


def _with_search_flaws(networks: Sequence[MoodNetwork], points: Sequence[MoodNetwork]) -> tuple[MoodNetwork, ...]:
    """The networks, with flaws where their search's numbers are another's or not those of the search's table."""
    first: dict[tuple[str, float, float, float], str] = {}
    known = {point.name: point for point in points}
    result = []
    for network in networks:
        flaws = list(network.flaws)
        if (other := first.setdefault(_searched(network), network.name)) != network.name:
            flaws.append(f"the numbers of its search are those of {other}")
        if network.name in known and _searched(known[network.name]) != _searched(network):
            flaws.append("the numbers of its search are not those of the search's own table")
        result.append(replace(network, flaws=tuple(flaws)))
    return tuple(result)


def _notes(
    genotypes: Mapping[str, Genotype], networks: Sequence[MoodNetwork], points: Sequence[MoodNetwork]
) -> tuple[str, ...]:
    notes = [
        "Every network was trained once: differences between networks hold the noise of a training.",
        "FLOPs in the tables are multiply-accumulates of convolutions and linear layer.",
        f"Parameters of trained networks count the auxiliary head too ({AUXILIARY_PARAMS:,}); they are left out here.",
        "Neither unit nor batch of the latencies is stated.",
    ]
    if any(network.data == "cifar100" for network in (*networks, *points)):
        notes.append(
            "Parameters and FLOPs of CIFAR-100 networks are counted with a classifier of 10 classes in the tables, "
            "and with one of 100 here."
        )
    if idle := len(genotypes.keys() - {network.name for network in (*networks, *points)}):
        notes.append(f"{idle} of {len(genotypes)} genotypes are in no table.")
    measured = {point.name: point for point in points}
    both = [(network.latency, measured[network.name].latency) for network in networks if network.name in measured]
    if both:
        apart = {
            place: float(np.median([abs(one[place] / other[place] - 1) for one, other in both]))
            for place in LATENCIES.values()
        }
        gpu, cpu = apart.values()
        notes.append(
            f"Latencies of one network in two tables differ by {gpu:.0%} on the GPU and {cpu:.0%} on the CPU "
            f"(median of {len(both)})."
        )
    return tuple(notes)
