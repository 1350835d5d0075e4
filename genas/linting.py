"""What a space is worth before trainings are paid for: its size, costs, limits, and options that do nothing.

Of a space alone it needs no torch. All from a few thousand draws with a fixed seed, so that it takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations, islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from genas.limits import limits_json
from supernet import (
    COST_NAMES,
    ArchGraph,
    Bound,
    Choices,
    InputError,
    Limits,
    SearchSpace,
    architectures,
    feasible_share,
)
from supernet.limits import bounds, check_limits, limited_costs, within
from supernet.moves import redraw
from supernet.operations import node_costs
from supernet.sampling import feasible, up_to
from supernet.settings import UnavailableError

if TYPE_CHECKING:
    from genas.config import Run

State = Literal["warning", "wrong"]

_ENUMERATED = 200_000
"""Rows of options up to which every one is looked at."""
_SAMPLE = 2_000
_GRAPHS = 64
"""Architectures whose graphs are looked at."""
_CONTEXTS = 24
"""Architectures in which each choice is given each of its options."""
_DOUBTS = 500
"""Architectures in which options are compared that those did not tell apart."""
_DRAWS = 4_096
"""Draws that decide whether a share is counted; smaller ones are walked down to."""
_FEASIBLE = 1_000
"""Feasible networks in which an option that is not excluded is expected."""
_QUANTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class Finding:
    """What may not be meant.

    Attributes:
        state: ``wrong`` where a run would fail.
        found: in words.
        mend: what to do about it.
    """

    state: State
    found: str
    mend: str


def lint(space: SearchSpace, limits: Limits | None = None, wanted: int | None = None) -> dict[str, Any]:
    """Look a space over.

    Args:
        limits: what costs may be, see :mod:`supernet.limits`.
        wanted: distinct networks that are to be labelled within the limits; None asks for none.

    Returns:
        ``size`` and ``rows`` (of options, valid or not); ``invalid_share`` of the rows; ``distinct``: the ``share``
        of texts that are the representative of their network, whether it is ``exact``, and then the number of
        ``networks`` and of those ``within_limits``; ``costs``: for each the exact ``min``, quantiles in percent and
        the ``max`` of ``sampled`` architectures; ``limits``: for each the ``limit``, the ``share`` of draws that keep
        it, and for all together ``feasible_share``, ``found`` of the ``wanted``, and the one that is ``binding``,
        kept by the fewest; ``findings``, each a :class:`Finding` as an object, and how many are ``wrong`` and
        ``warnings``.

    Raises:
        InputError: an unknown cost.
    """
    limits = bounds(limits or {})
    random = np.random.default_rng(0)
    rows = space.sample(_SAMPLE, random)
    shape, findings = _shape(space, limits, rows, random)
    costs = space.costs(rows)
    findings += _graphs(space, rows[:_GRAPHS], int(np.median(costs["params"])))
    findings += _idle(space, rows)
    kept, more = _limits(space, limits, wanted, rows)
    findings += more
    return {
        "space": space.name,
        "choices": len(space.cardinalities),
        **shape,
        "sampled": len(rows),
        "costs": {name: _quantiles(space, name, costs[name]) for name in COST_NAMES},
        **kept,
        **dict.fromkeys(("label_seconds", "trainings", "workers", "device")),
        "findings": [asdict(finding) for finding in findings],
        "wrong": sum(finding.state == "wrong" for finding in findings),
        "warnings": sum(finding.state == "warning" for finding in findings),
    }


def lint_run(run: Run) -> dict[str, Any]:
    """The space and limits of a run, as :func:`lint`, and what its ``trainings`` would take here.

    ``label_seconds``, ``trainings``, ``workers`` and ``device`` are None where a run would fail, and where the images
    are not to be had.

    Raises:
        InputError: settings that contradict the images.
        UnavailableError: images that the space's classes are to be taken from are not to be had.
    """
    from genas.fitting import FEWEST_LABELS
    from genas.overview import estimate
    from genas.stages import resolve_space

    run = resolve_space(run)
    settings = run.settings
    result = lint(settings.space, settings.bounds, settings.generate.architectures)
    if settings.generate.architectures < FEWEST_LABELS:
        text = f"generate.architectures: {settings.generate.architectures}; a predictor wants at least {FEWEST_LABELS}"
        few = Finding("warning", text, "label more, or there will be no fit and no search")
        result |= {"findings": [*result["findings"], asdict(few)], "warnings": result["warnings"] + 1}
    if not result["wrong"]:
        try:
            expected = estimate(run)
        except UnavailableError:
            return result
        result |= {"label_seconds": expected["generate_seconds"], "trainings": expected["trainings"]}
        result |= {"workers": expected["workers"], "device": expected["device"]}
    return result


def exit_code(result: Mapping[str, Any]) -> int:
    """Of the command: 2 where a run would fail, 0 otherwise."""
    return 2 if result["wrong"] else 0


def _shape(
    space: SearchSpace, limits: Limits, rows: Choices, random: np.random.Generator
) -> tuple[dict[str, Any], list[Finding]]:
    """How many architectures, networks and invalid rows."""
    counts = space.cardinalities
    number = math.prod(counts)
    distinct: dict[str, Any]
    if number <= _ENUMERATED:
        every = np.stack(np.unravel_index(np.arange(number), counts), axis=1).astype(np.int8)
        valid = every[space.is_valid(every)]
        different = np.unique(space.canonical(valid), axis=0)
        networks = len(different)
        invalid = 1 - len(valid) / number
        keep = int(within(space, different, limits).sum()) if limits else networks
        distinct = {"share": networks / space.size, "networks": networks, "exact": True, "within_limits": keep}
    else:
        drawn = random.integers(0, counts, size=(_DRAWS, len(counts))).astype(np.int8)
        invalid = 1 - float(space.is_valid(drawn).mean())
        texts = [space.parse(space.format(one)).choices for one in architectures(space, rows)]
        forms = np.array(texts, np.int8)
        own = float((space.canonical(forms) == forms).all(axis=1).mean())
        distinct = {"share": own, "networks": None, "exact": False, "within_limits": None}
    findings = []
    if distinct["networks"] == 1:
        findings.append(Finding("wrong", "every member is the same network", "give the space something to choose"))
    stuck = 1 - float(space.is_valid(_changed(rows, counts, random)).mean())
    if stuck > 0.9:
        findings.append(
            Finding(
                "warning",
                f"{stuck:.1%} of single changes lead to an invalid row",
                "most mutations leave a row as it was: choose options so that more go together, or give the space a "
                "mutate of its own",
            )
        )
    return {"size": space.size, "rows": number, "invalid_share": invalid, "distinct": distinct}, findings


def _changed(rows: Choices, counts: tuple[int, ...], random: np.random.Generator) -> Choices:
    """Each row with one choice given another option."""
    where = np.zeros(rows.shape, np.bool_)
    where[np.arange(len(rows)), random.integers(len(counts), size=len(rows))] = True
    return redraw(rows, where, counts, random)


def _quantiles(space: SearchSpace, name: str, values: NDArray[np.int64]) -> dict[str, int]:
    """The exact least of a cost, quantiles and the largest seen."""
    least = int(space.costs(space.cheapest(name).row())[name][0])
    points = {str(percent): round(float(np.percentile(values, percent))) for percent in _QUANTILES}
    return {"min": least, **points, "max": int(values.max())}


def _graphs(space: SearchSpace, rows: Choices, params: int) -> list[Finding]:
    """What shows in graphs: kernels beyond the picture, a large end that nothing decides, networks under two keys."""
    keys = np.unique(space.canonical(rows), axis=0)
    graphs = [space.graph(one) for one in architectures(space, keys)]
    findings = []
    blind = sorted({text for graph in graphs for text in _blind(graph)})
    if blind:
        findings.append(
            Finding(
                "warning",
                f"kernels with weights that see nothing but padding: {_listed(blind)}",
                "raise space.input_size, stride less, or leave the kernels out: smaller ones do the same for less",
            )
        )
    head = 0
    for nodes in zip(*(graph.nodes[::-1] for graph in graphs), strict=False):
        if len(set(nodes)) > 1:
            break
        head += node_costs(nodes[0]).params
    if head > params / 2 and len(keys) > 1:
        findings.append(
            Finding(
                "warning",
                f"the end of the network, which no choice changes, has {head:,} of {params:,} params (median)",
                "params tell architectures little apart: limit macs rather than params, or make the end narrower",
            )
        )
    digests = len({graph.digest() for graph in graphs})
    if digests < len(keys):
        findings.append(
            Finding(
                "warning",
                f"{len(keys) - digests} of {len(keys)} sampled networks are another one under a second key",
                "they would be trained twice: give the space a canonical that gives them one",
            )
        )
    return findings


def _blind(graph: ArchGraph) -> list[str]:
    """Its nodes whose outer weights lie on padding wherever the window is."""
    result = []
    for node in graph.nodes:
        side = node.get("input_resolution") or node.get("resolution") * node.get("stride", 1)
        if node.get("params") and 0 < side <= node.get("kernel", 1) // 2 * node.get("dilation", 1):
            dilated = f" dilated by {node.integer('dilation')}" if node.get("dilation", 1) > 1 else ""
            result.append(f"{node.op} {node.integer('kernel')}{dilated} on side {side:.0f}")
    return result


def _idle(space: SearchSpace, rows: Choices) -> list[Finding]:
    """Choices that never change the network, and options that are never told apart from another.

    Each choice is given each option in some architectures. Graphs are compared where the costs never differ.
    """
    contexts, counts = rows[:_CONTEXTS], space.cardinalities
    dead: list[str] = []
    same: list[str] = []
    for place, count in enumerate(counts):
        moved = np.repeat(contexts[None], count, axis=0)
        moved[:, :, place] = np.arange(count)[:, None]
        valid = space.is_valid(moved.reshape(-1, len(counts))).reshape(count, -1)
        costs = np.zeros((count, len(contexts), len(COST_NAMES)), np.int64)
        costs[valid] = np.stack(list(space.costs(moved[valid]).values()), axis=1)
        representative: dict[int, int] = {}  # of each option the first that does the same
        for first, second in combinations(range(count), 2):
            both = valid[first] & valid[second]
            if second in representative or first in representative or not both.any():
                continue
            if (costs[first][both] == costs[second][both]).all() and _equal(space, rows, place, first, second):
                representative[second] = first
        if count > 1 and len(representative) == count - 1:
            dead.append(str(place + 1))
        else:
            same += [
                f"{space.option_name(place, second)} (as {space.option_name(place, first)})"
                for second, first in representative.items()
            ]
    findings = []
    if dead:
        findings.append(
            Finding("warning", f"choices that change nothing in the network: {_listed(dead)}", "leave them out")
        )
    if same:
        findings.append(
            Finding("warning", f"options that do the same as another: {_listed(same)}", "leave one of each out")
        )
    return findings


def _equal(space: SearchSpace, rows: Choices, place: int, first: int, second: int) -> bool:
    """Whether no architecture of many tells two options of a choice apart."""
    pair = np.repeat(rows[None, :_DOUBTS], 2, axis=0)
    pair[0, :, place], pair[1, :, place] = first, second
    both = space.is_valid(pair[0]) & space.is_valid(pair[1])
    one, other = pair[0][both], pair[1][both]
    by_cost = [space.costs(batch) for batch in (one, other)]
    if any((by_cost[0][name] != by_cost[1][name]).any() for name in COST_NAMES):
        return False
    differ = (space.canonical(one) != space.canonical(other)).any(axis=1)  # where not, the space itself knows
    pairs = zip(architectures(space, one[differ]), architectures(space, other[differ]), strict=True)
    return all(space.graph(a).digest() == space.graph(b).digest() for a, b in islice(pairs, _GRAPHS))


def _limits(
    space: SearchSpace,
    limits: dict[str, Bound],
    wanted: int | None,
    rows: Choices,
) -> tuple[dict[str, Any], list[Finding]]:
    """How much of the space the limits leave."""
    findings: list[Finding] = []
    each: dict[str, dict[str, Any]] = {}
    for name, limit in limits.items():
        each[name] = {"limit": limits_json({name: limit})[name], "share": 0.0}
        try:
            check_limits(space, {name: limit})
        except InputError as error:
            mend = f"lower limits.{name}.min" if "costliest" in str(error) else f"raise limits.{name}"
            findings.append(Finding("wrong", f"limits.{str(error).removeprefix('limit ')}", mend))
            continue
        each[name]["share"] = _share(space, {name: limit})
        if limit.keeps(limited_costs(space, rows, {name: limit})[name]).all():
            text = f"limits.{name}: all of {len(rows):,} sampled architectures have {limit.text}"
            findings.append(Finding("warning", text, f"it decides nothing: tighten limits.{name} or leave it out"))
    if any(finding.state == "wrong" for finding in findings):
        share, found = 0.0, 0 if wanted else None
    else:
        share = _share(space, limits) if len(each) > 1 else min((one["share"] for one in each.values()), default=1.0)
        found, more = _plan(space, limits, wanted, share)
        findings += more
        if share and limits:
            findings += _excluded(space, limits, rows)
    result = {
        "limits": each,
        "feasible_share": share,
        "binding": min(each, key=lambda name: each[name]["share"]) if each and share < 1 else None,
        "wanted": wanted,
        "found": found,
    }
    return result, findings


def _share(space: SearchSpace, limits: Limits) -> float:
    return feasible_share(space, limits, np.random.default_rng(0), _DRAWS)


def _plan(space: SearchSpace, limits: Limits, wanted: int | None, share: float) -> tuple[int | None, list[Finding]]:
    """How many of the networks that are to be labelled there are."""
    if wanted is None:
        return None, []
    found = len(up_to(space, min(2 * wanted, space.size), np.random.default_rng(0), limits)) if share else 0
    if found < wanted:
        text = f"generate.architectures: {wanted:,} are wanted, {found:,} networks were found within the limits"
        return found, [Finding("wrong", text, "ask for fewer or raise the limits")]
    if found < 2 * wanted:
        text = f"generate.architectures: {wanted:,} of the {found:,} networks found within the limits"
        return wanted, [Finding("warning", text, "a search has little left to find: label fewer, or raise the limits")]
    return wanted, []


def _excluded(space: SearchSpace, limits: Limits, rows: Choices) -> list[Finding]:
    """Options that are common without the limits, and in no network within them."""
    batches, number = [], 0
    for batch, _ in islice(feasible(space, limits, np.random.default_rng(0)), 200):
        batches.append(batch)
        number += len(batch)
        if number >= _FEASIBLE:
            break
    kept, free = np.concatenate(batches), space.canonical(rows)
    lost = []
    for place, count in enumerate(space.cardinalities):
        for option in range(count):
            usual = float((free[:, place] == option).mean())
            if usual * len(kept) >= 10 and not (kept[:, place] == option).any():
                lost.append(space.option_name(place, option))
    if not lost:
        return []
    text = f"options in none of {len(kept):,} draws within the limits: {_listed(lost)}"
    return [Finding("warning", text, "labels say nothing of them: raise the limits, or leave the options out")]


def _listed(words: list[str], most: int = 8) -> str:
    """Words with commas, the first few of many."""
    rest = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + rest
