"""The report's parts about a front of trained networks: what is on it, what it is worth, how it was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis import words
from analysis.front_figures import front_plot, search_plot
from analysis.front_file import FrontFile, FrontMember, RankTau
from analysis.fronts import Difference, Hypervolume, Member, compare, unit_of
from analysis.parts import Section, Table, csv_details
from analysis.record import Record

_LONGEST = 60  # characters of an architecture in the table: longer ones begin alike, and go by their name

_METHODS = {
    "preferences": "one supernet for all preferences between accuracy and cost",
    "costs": "the cost in the loss, a search for each weight",
    "norms": "a norm of the shared weights in the loss, a search for each strength of the norm",
    "predictor": "the predictor, as the points of search --front",
}


def front_summary(record: Record) -> list[tuple[str, str]]:
    """(heading, sentence) of the front; nothing where there is none."""
    found = record.trained_front
    if found is None or not found.members:
        return []
    best = min(found.members, key=lambda one: (one.split != "test", one.error))
    sentence = (
        f"{words.count(found.trained, 'network')} trained, {sum(one.on_front for one in found.members)} of them on the "
        f"front; the lowest {best.split} error is {words.percent(best.error, 2)} with "
        f"{words.cost(found.cost, getattr(best, found.cost))}; volume {_volume(found.hypervolume)}."
    )
    return [("Front", sentence)]


def front_sections(record: Record) -> list[Section]:
    """The front and the search for it; nothing where there is none."""
    found = record.trained_front
    if found is None:
        return []
    return [_front(found, record.ensembles), _search(found)]


def _front(found: FrontFile, ensembles: Sequence[Member]) -> Section:
    tested = [one for one in found.members if one.split == "test"]
    own = [one.plain() for one in tested or found.members]  # what validation left aside was never tested
    others = {one.name: [member.plain() for member in one.members] for one in found.beside}
    everyone = [*own, *ensembles, *(member for members in others.values() for member in members)]
    reference = (found.reference.cost, found.reference.error)
    plot = front_plot(everyone, found.cost, reference, _volumes(found))
    best = sorted((one for one in found.members if one.on_front), key=lambda one: float(getattr(one, found.cost)))
    caption = f"{plot.caption} Source: front/front.json{', ensemble/ensemble.json' if ensembles else ''}."
    return Section(
        "trained-front", "Front", figure=plot.svg, caption=caption,
        text=[_what(found), _reading(found.hypervolume), *_beside(found, own, others, reference)],
        tables=[_members(best, ensembles, everyone), *_standings(found)],
        details=[("Plotted data as CSV", plot.csv), _all_members(found.members)],
    )  # fmt: skip


def _volumes(found: FrontFile) -> Mapping[str, Hypervolume]:
    """By series, as the figure's legend has them."""
    fronts = [(found.members, found.hypervolume), *((one.members, one.hypervolume) for one in found.beside)]
    return {members[0].series: volume for members, volume in fronts if members}


def _what(found: FrontFile) -> str:
    chosen = (
        f"Found by {_METHODS[found.method]}: {words.count(found.distinct, 'distinct network')}, "
        f"{found.candidates:,} of them candidates, {found.ranked:,} ranked, {found.trained:,} trained, "
        f"in {words.duration(found.seconds)}."
    )
    seeds = sorted({one.seeds for one in found.members})
    if seeds[-1:] and seeds[-1] > 1:
        chosen += f" Errors are means of up to {seeds[-1]} trainings."
    return chosen


def _reading(volume: Hypervolume) -> str:
    text = (
        f"The front's volume up to {words.cost(volume.cost, volume.reference_cost)} and "
        f"{words.percent(volume.reference_error)} error is {_volume(volume)}; larger is better. The interval is what "
        f"other images of the same kind would change, not other trainings."
    )
    if volume.high < volume.value:
        text += " It lies below the volume: where many networks compete, the lowest of their errors are partly luck."
    return text


def _beside(
    found: FrontFile, own: Sequence[Member], others: Mapping[str, Sequence[Member]], reference: tuple[float, float]
) -> list[str]:
    """A sentence on each front beside the run's own."""
    lines, splits = [], {one.split for one in own}
    for name, members in others.items():
        if len(splits | {one.split for one in members}) > 1:
            lines.append(f"Beside it stands {name}, measured on other images: the volumes do not compare.")
            continue
        lines.append(f"Volume less that of {name}: {_difference(compare(own, members, found.cost, reference))}.")
    return lines


def _difference(value: Difference) -> str:
    size = f"{value.value:+.2f} (95 % CI {value.low:+.2f} to {value.high:+.2f}) {value.unit}"
    verdict = "better" if value.low > 0 else "worse" if value.high < 0 else ""
    size = size.replace("-", "\N{MINUS SIGN}")
    return (
        f"{size}: {verdict} than images alone explain" if verdict else f"{size}: no difference that these images show"
    )


def _members(best: Sequence[FrontMember], ensembles: Sequence[Member], everyone: Sequence[Member]) -> Table:
    places = list(dict.fromkeys(name for one in everyone for name in one.latency))
    rows = [
        (
            _short(one.architecture if len(one.architecture) <= _LONGEST else one.name),
            one.member or one.note, *_costs(one.plain(), places),
            f"{100 * one.validation_error:.2f}",
            "" if one.test_error is None else f"{100 * one.test_error:.2f}",
        )
        for one in best
    ]  # fmt: skip
    rows += [
        (
            _short(one.name), one.note or one.series, *_costs(one, places),
            *(f"{100 * one.error:.2f}" if one.split == split else "" for split in ("validation", "test")),
        )
        for one in ensembles
    ]  # fmt: skip
    head = ("not dominated", "space", "parameters", "MACs (million)", *(f"{name} (ms)" for name in places))
    return Table((*head, "validation error (%)", "test error (%)"), rows, left=2)


def _costs(member: Member, places: Sequence[str]) -> list[str]:
    latencies = (member.latency.get(name) for name in places)
    return [
        f"{member.params:,}",
        f"{member.macs / 1e6:,.1f}",
        *("" if value is None else f"{value:,.3g}" for value in latencies),
    ]


def _standings(found: FrontFile) -> list[Table]:
    """The volumes side by side, where there is anything beside."""
    if not found.beside:
        return []
    fronts = [(f"this run ({found.method})", len(found.members), found.hypervolume)]
    fronts += [(one.name, len(one.members), one.hypervolume) for one in found.beside]
    rows = [
        (name, f"{members:,}", f"{one.value:.2f}", f"{one.low:.2f} to {one.high:.2f}") for name, members, one in fronts
    ]
    return [Table(("front", "networks", f"volume ({unit_of(found.cost)})", "95 % interval"), rows)]


def _all_members(members: Sequence[FrontMember]) -> tuple[str, str]:
    names = (
        "key", "architecture", "member", "preference", "params", "macs", "validation_error", "test_error", "cheap",
        "seeds", "on_front",
    )  # fmt: skip
    rows = [tuple(getattr(one, name) for name in names) for one in members]
    return csv_details(names, rows, "All trained networks as CSV")


def _search(found: FrontFile) -> Section:
    search = found.search
    if found.method == "predictor":
        return Section("front-search", "Front: the search", text=["The predictor's; see there.", *_ranked(found)])
    text = [
        f"{words.count(search.epochs, 'epoch')} in {words.duration(search.seconds)} gave "
        f"{words.count(search.genotypes, 'genotype')}.",
        _collapse(found),
        *_ranked(found),
    ]
    title, key = "Front: the search", "front-search"
    if not search.history:
        return Section(key, title, text=text)
    plot = search_plot(search.history)
    return Section(
        key, title, text=text, figure=plot.svg, caption=f"{plot.caption} Source: front/front.json.",
        details=[("Plotted data as CSV", plot.csv)],
    )  # fmt: skip


def _collapse(found: FrontFile) -> str:
    last = found.search.history[-1:]
    share = (
        f" In the last epoch skips stand on {words.percent(last[0].skip_share, 0)} of the edges that are kept."
        if last
        else ""
    )
    if found.search.collapsed:
        return (
            f"The search collapsed: most of what it ends with are operations without weights (skips, pools, zeros), "
            f"which help a network that has learned little, not one that is trained. Its genotypes are not to be "
            f"trusted.{share}"
        )
    return f"The search did not collapse into operations without weights.{share}"


def _ranked(found: FrontFile) -> list[str]:
    return _rank("a short training", found.cheap_tau)


def _rank(what: str, tau: RankTau | None) -> list[str]:
    if tau is None:
        return []
    sentence = (
        f"Accuracy with {what} ranks {words.count(tau.architectures, 'network')} as their full trainings do with "
        f"Kendall tau {words.tau(tau.tau)} (95 % CI {words.interval(tau.ci95)})"
    )
    return [f"{sentence}{': no better than chance, as far as these show' if tau.ci95[0] <= 0 else ''}."]


def _volume(volume: Hypervolume) -> str:
    return f"{volume.value:.2f} (95 % CI {volume.low:.2f} to {volume.high:.2f}) {volume.unit}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
