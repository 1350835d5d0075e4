"""The command line. Every command calls the public function of its name; heavy imports wait until then."""

from __future__ import annotations

import gc
import json
import os
import shlex
import signal
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from genas.config import Run

app = typer.Typer(
    name="genas",
    help="Find a network for your own images under a hard limit.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
space_app = typer.Typer(help="Questions about a search space.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(space_app, name="space")

Source = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A recipe file, the name of a run, or of a bundled recipe.")
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="The name of a run, or its folder.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated.")
]
Metrics = Annotated[
    str | None,
    typer.Option("--metrics", metavar="A,B,...", help="Training-free metrics; hook_logdet,synflow,params if left out."),
]
Runner = Annotated[
    Literal["local", "ray"] | None,
    typer.Option("--runner", help="Where trainings run: processes here, or a Ray cluster (workers.runner)."),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="The cluster: auto (this machine's), local (started for this run), HOST:PORT, ray://HOST:PORT.",
    ),
]
Logs = Annotated[str, typer.Option("--logs", metavar="DIR", help="The folder of all runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@app.command()
def run(
    source: Source = "quickstart",
    runner: Runner = None,
    address: Address = None,
    overrides: Overrides = None,
    logs: Logs = "logs",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show settings, trainings and time; train nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Every stage in turn: generate, fit, search, retrain, report. The same line again continues."""
    loaded = _load(source, overrides, logs, runner, address)
    if dry_run:
        _dry_run(loaded, as_json)
        return
    _refuse_if_driven(loaded)
    from genas.display import Display
    from genas.pipeline import run_all

    with Display(quiet=as_json) as display:
        results = run_all(loaded, display.stage)
    if as_json:
        _print_json(results)
        _exit_if_failed(results["generate"], results["retrain"])
        return
    from genas.robust_words import studied
    from genas.words import fitted, found, generated, retrained

    study = [studied(results["study"])] if "study" in results else []
    ends = fitted(results["fit"]), found(results["search"]), retrained(results["retrain"])
    _say(generated(results["generate"]), *study, *ends)
    if results["retrain"]["model"] is not None:
        _say(f"Network: {loaded.folder / 'winner' / 'model.py'} with weights.safetensors")
    _say(
        f"Report:  {results['report']}",
        f"Next:    genas status {loaded.name} | genas search {loaded.name} --set limits.macs=NUMBER | "
        f"genas export-table {loaded.name} --out labels.jsonl",
    )
    _exit_if_failed(results["generate"], results["retrain"])


@app.command()
def generate(
    source: Source,
    active: Annotated[
        bool,
        typer.Option("--active", help="Let the labels so far choose the next ones; stops when nothing changes."),
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(
            "--part", metavar="I/N", help="Train every N-th only, from the I-th; genas merge joins the parts."
        ),
    ] = None,
    runner: Runner = None,
    address: Address = None,
    overrides: Overrides = None,
    logs: Logs = "logs",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show settings, trainings and time; train nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a sample of architectures; each result is kept the moment it is there."""
    loaded = _load(source, overrides, logs, runner, address)
    if active and loaded.settings.generate.active is None:
        loaded = _active(loaded)
    if dry_run:
        if part is not None:
            raise typer.BadParameter("--dry-run is of the whole plan: leave --part out")
        _dry_run(loaded, as_json)
        return
    from genas.display import Display
    from genas.generating import generate as stage
    from genas.generating import read_part
    from genas.words import generated

    own = None if part is None else read_part(part)
    with Display(quiet=as_json) as display:
        result = stage(loaded, display.stage("generate"), own)
    if own is not None and own.parts > 1:
        following = f"genas merge {loaded.name} RUN..., the folders of the other parts; then genas fit {loaded.name}"
    else:
        following = f"genas fit {loaded.name}"
    _answer(result, as_json, generated(result), f"Next: {following}")
    _exit_if_failed(result)


@app.command()
def fit(
    source: Annotated[
        str, typer.Argument(metavar="CONFIG|TABLE.jsonl", help="A recipe, a run, or a graph-table file.")
    ],
    table: Annotated[
        Path | None,
        typer.Option("--table", metavar="FILE", help="Fit on this graph-table file, not on the run's labels."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option("--features", metavar="A,B,...", help="Let these scores of genas score enter; not for a search."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help="The measured number to predict; several with --out: one predictor each."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write the predictor there; not for a search.")
    ] = None,
    zero_cost_only: Annotated[
        bool, typer.Option("--zero-cost-only", help="Fit on training-free scores of a sample; needs no labels.")
    ] = False,
    count: Annotated[
        int | None, typer.Option("--count", help="With --zero-cost-only: architectures to score, 300 if left out.")
    ] = None,
    metrics: Metrics = None,
    overrides: Overrides = None,
    logs: Logs = "logs",
    as_json: Json = False,
) -> None:
    """Fit a predictor of the labels and measure how far to trust it on held-out architectures."""
    from genas.fitting import fit as stage
    from genas.fitting import fit_zero_cost
    from genas.words import fitted
    from supernet import InputError, read_table

    if zero_cost_only:
        if table is not None or source.endswith(".jsonl") or features is not None or metric or out is not None:
            raise typer.BadParameter(
                "--zero-cost-only scores a sample of CONFIG: no table, --features, --metric, --out"
            )
        from genas.display import Display

        loaded = _load(source, overrides, logs)
        with Display(quiet=as_json) as display:
            result = fit_zero_cost(loaded, 300 if count is None else count, _names(metrics), display.counts("score"))
        lines = [] if result["not_kept"] is None else [f"Scores not kept: {result['not_kept']}."]
        lines.append(f"Saved in {loaded.folder / 'predictor'}. Next: genas search {loaded.name}")
        _answer(result, as_json, fitted(result), *lines)
        return
    if count is not None or metrics is not None:
        raise typer.BadParameter("--count and --metrics say what --zero-cost-only scores: add it, or leave them out")
    from genas.config import Run, check_name, settings_of

    if source.endswith(".jsonl"):
        from genas.yaml_reader import Document

        if table is not None:
            raise typer.BadParameter(f"two tables, {source} and {table}: leave one out")
        table = Path(source)
        settings = settings_of(Document({}, source, {}), overrides or [], Path(source).parent)
        loaded = Run(folder=Path(logs) / check_name(settings.name or table.stem), settings=settings)
        if out is None and (loaded.folder / "store.db").exists():
            raise InputError(f"{loaded.folder} is a run with labels of its own; choose another with --set name=NAME")
        following = f"genas search CONFIG --set name={loaded.name}"  # a table does not know its space
    else:
        loaded = _load(source, overrides, logs)
        known = (loaded.folder / "config.yml").exists()  # a table fitted under a recipe leaves none
        following = f"genas search {loaded.name if known else source}"
    if features is not None:
        loaded = _with_features(loaded, features)
    if out is not None or metric:
        names = list(dict.fromkeys(metric or [loaded.settings.fit.metric]))
        if len(names) > 1 and out is None:
            raise typer.BadParameter("a search has one --metric; several need --out DIR")
        runs = [_with_metric(loaded, name) for name in names]
        if out is not None:
            content = None if table is None else read_table(table)
            if content is not None:
                for name in names:
                    content.metric(name)  # at once: fitting the others may take long
            results = {
                name: stage(each, content, out=out if len(names) == 1 else out / check_name(name))
                for name, each in zip(names, runs, strict=True)
            }
            lines = [fitted(one) for one in results.values()]
            lines.append(f"Saved in {out}. Next: genas predict {out} TABLE.jsonl")
            _answer(results if len(names) > 1 else results[names[0]], as_json, *lines)
            return
        loaded = runs[0]
    result = stage(loaded, None if table is None else read_table(table))
    needed = result.get("features", loaded.settings.fit.features)  # evaluations of earlier versions do not tell
    if needed:
        then = f"A search cannot use it: each candidate would need {', '.join(needed)}; fit without features for one."
    else:
        then = f"Next: {following}"
    _answer(result, as_json, fitted(result), f"Saved in {loaded.folder / 'predictor'}. {then}")


@app.command()
def search(
    source: Source,
    exact: Annotated[
        bool, typer.Option("--exact", help="The true optimum under the limits, and how near evolution comes to it.")
    ] = False,
    limits: Annotated[
        str | None,
        typer.Option("--limits", metavar="5M:20M:20", help="A winner for each of 20 limits on MACs; or COST=A:B:N."),
    ] = None,
    front: Annotated[
        str | None,
        typer.Option("--front", metavar="COST,...", help="The trade-off of the prediction and these costs."),
    ] = None,
    also: Annotated[
        list[Path] | None,
        typer.Option("--also", metavar="DIR", help="With --front: a further predictor, as fit --out writes it."),
    ] = None,
    many: Annotated[bool, typer.Option("--many", help="With --front: NSGA-III, for four objectives or more.")] = False,
    engine: Annotated[
        Literal["own", "pymoo"], typer.Option(help="With --front: what searches; pymoo needs that package.")
    ] = "own",
    top: Annotated[
        int | None, typer.Option("--top", metavar="N", help="Show the best N; with --retrain, train them.")
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="With --top: train the best N; validation accuracy picks the winner.")
    ] = False,
    take: Annotated[
        str | None,
        typer.Option("--take", metavar="ARCHITECTURE", help="Make this one the winner, such as a point of a front."),
    ] = None,
    runner: Runner = None,
    address: Address = None,
    overrides: Overrides = None,
    logs: Logs = "logs",
    as_json: Json = False,
) -> None:
    """Search with the fitted predictor under the hard limits, besides random search at equal cost."""
    kinds = {
        "--exact": exact,
        "--limits": limits is not None,
        "--front": front is not None,
        "--top": top is not None,
        "--take": take is not None,
    }
    given = [name for name, is_given in kinds.items() if is_given]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} ask different questions: one at a time")
    if front is None and (also or many or engine != "own"):
        raise typer.BadParameter("--also, --many and --engine say how --front looks: add it, or leave them out")
    if retrain and top is None:
        raise typer.BadParameter("--retrain trains the best few: say how many with --top N")
    if top is not None and not 1 <= top <= 1000:
        raise typer.BadParameter(f"--top {top}: expected 1 to 1000")
    loaded = _load(source, overrides, logs, runner, address)
    from genas import words

    if exact or limits is not None or front is not None:
        from genas.searching import search_exact, search_front, search_limits

        if exact:
            result = search_exact(loaded)
            _answer(result, as_json, words.found_exact(result))
        elif limits is not None:
            result = search_limits(loaded, limits)
            told = f"Saved in {loaded.folder / 'winner' / 'limits.json'}."
            _answer(result, as_json, words.found_limits(result), told)
        else:
            names = [name.strip() for name in (front or "").split(",") if name.strip()]
            result = search_front(loaded, names, also or (), many, engine)
            told = f"Saved in {loaded.folder / 'winner' / 'front.json'}."
            _answer(result, as_json, words.found_front(result), told)
        return
    if take is not None:
        from genas.searching import take as choose

        result = choose(loaded, take)
        _answer(result, as_json, words.taken(result), f"Next: genas retrain {loaded.name}")
        return
    if retrain and top is not None:
        from genas.display import Display
        from genas.picking import pick

        with Display(quiet=as_json) as display:
            result = pick(loaded, top, display.stage("search"))
        _answer(result, as_json, words.chosen(result), f"Next: genas retrain {loaded.name}")
        _exit_if_failed(result["top"])
        return
    from genas.searching import search as stage

    result = stage(loaded if top is None else _with_keep(loaded, top))
    best = [] if top is None else [words.best(result, top)]
    _answer(result, as_json, words.found(result), *best, f"Next: genas retrain {loaded.name}")


@app.command()
def retrain(
    source: Source,
    runner: Runner = None,
    address: Address = None,
    overrides: Overrides = None,
    logs: Logs = "logs",
    as_json: Json = False,
) -> None:
    """Train the winner and its controls from scratch; read the test split once; write model.py."""
    loaded = _load(source, overrides, logs, runner, address)
    _refuse_if_driven(loaded)
    from genas.display import Display
    from genas.retraining import retrain as stage
    from genas.words import retrained

    with Display(quiet=as_json) as display:
        result = stage(loaded, display.stage("retrain"))
    _answer(
        result, as_json, retrained(result), f"Saved in {loaded.folder / 'winner'}. Next: genas report {loaded.name}"
    )
    _exit_if_failed(result)


@app.command()
def fidelity(
    source: Source,
    setting: Annotated[
        str | None, typer.Option("--setting", metavar="NAME", help="Train this cheap setting only.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="With --setting: train it for every architecture of the plan.")
    ] = False,
    runner: Runner = None,
    address: Address = None,
    overrides: Overrides = None,
    logs: Logs = "logs",
    as_json: Json = False,
) -> None:
    """Measure how well cheap trainings rank architectures as the full recipe does; pick the cheapest."""
    loaded = _load(source, overrides, logs, runner, address)
    from genas.display import Display
    from genas.ranking import fidelity as stage
    from genas.words import compared

    with Display(quiet=as_json) as display:
        result = stage(loaded, display.stage, setting, everything)
    lines = [f"Saved in {loaded.folder / 'fidelity.json'}."]
    if result["pick"] is not None:
        lines.append(
            f"Next: genas fidelity {source} --setting {result['pick']['setting']} --all | "
            f"genas export-table {loaded.name} --out labels.jsonl"
        )
    _answer(result, as_json, compared(result), *lines)
    _exit_if_failed(result)


@app.command()
def inherit(source: Source, overrides: Overrides = None, logs: Logs = "logs", as_json: Json = False) -> None:
    """Train one network that shares its weights among all architectures; score them by these, without training each."""
    loaded = _load(source, overrides, logs)
    _refuse_if_driven(loaded)
    from genas.display import Display
    from genas.inherit_words import inherited
    from genas.inheriting import inherit as stage

    with Display(quiet=as_json) as display:
        result = stage(loaded, display.counts)
    following = f" Next: genas fit {loaded.name} --features inherited" if result["labelled"] else ""
    _answer(result, as_json, inherited(result), f"Kept in {result['kept']}.{following}")


@app.command()
def study(
    source: Source,
    runner: Runner = None,
    address: Address = None,
    overrides: Overrides = None,
    logs: Logs = "logs",
    as_json: Json = False,
) -> None:
    """Train the run's architectures on smaller sets of images too; compare accuracy and robustness by family."""
    loaded = _load(source, overrides, logs, runner, address)
    from genas.display import Display
    from genas.robust_words import studied
    from genas.studying import study as stage

    with Display(quiet=as_json) as display:
        result = stage(loaded, display.stage)
    _answer(result, as_json, studied(result), f"Saved in {result['folder']}. Next: genas report {loaded.name}")
    _exit_if_failed(result)


@app.command()
def front(
    source: Source,
    runner: Runner = None,
    address: Address = None,
    overrides: Overrides = None,
    logs: Logs = "logs",
    as_json: Json = False,
) -> None:
    """Find and train a front of error against cost by differentiable search; read the test images once."""
    loaded = _load(source, overrides, logs, runner, address)
    _refuse_if_driven(loaded)
    from genas.display import Display
    from genas.front_words import fronted
    from genas.fronting import front as stage

    with Display(quiet=as_json) as display:
        result = stage(loaded, display.stage, display.counts("search"))
    told = f"Saved in {loaded.folder / 'front'}. Next: genas ensemble {loaded.name} | genas report {loaded.name}"
    _answer(result, as_json, fronted(result), told)
    _exit_if_failed(result)


@app.command()
def spectra(
    source: Source,
    under: Annotated[
        str | None,
        typer.Option("--under", metavar="A,B,...", help="clean, and corruptions with severity, such as fog_3."),
    ] = None,
    images: Annotated[int, typer.Option(help="Validation images that features are taken of, at most.")] = 512,
    train_images: Annotated[
        int | None, typer.Option("--train-images", metavar="N", help="Of the networks that study trained on N images.")
    ] = None,
    overrides: Overrides = None,
    logs: Logs = "logs",
    as_json: Json = False,
) -> None:
    """How many directions the features of each trained network use, layer by layer, clean and corrupted."""
    loaded = _load(source, overrides, logs)
    from genas.display import Display
    from genas.feature_spectra import CONDITIONS
    from genas.feature_spectra import spectra as question
    from genas.robust_words import spanned

    conditions = CONDITIONS if under is None else _names(under)
    with Display(quiet=as_json) as display:
        progress = display.counts("spectra")
        result = question(loaded, conditions, images, progress=progress, train_images=train_images)
    _answer(result, as_json, spanned(result), f"Saved in {result['folder']}. Next: genas report {loaded.name}")


@app.command()
def ensemble(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs that kept weights, by name or folder.")],
    budget: Annotated[str, typer.Option("--budget", metavar="15M", help="Largest total cost of the distinct members.")],
    cost: Annotated[Literal["params", "macs"], typer.Option(help="What the budget is on.")] = "params",
    members: Annotated[int, typer.Option(metavar="N", help="Distinct members, at most.")] = 8,
    methods: Annotated[
        str | None,
        typer.Option("--methods", metavar="A,B,...", help="uniform,accuracy,greedy,convex,per_class if left out."),
    ] = None,
    robust: Annotated[
        bool, typer.Option("--robust/--no-robust", help="Measure the chosen one on corrupted test images too.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Instead of the first run's folder ensemble.")
    ] = None,
    logs: Logs = "logs",
    as_json: Json = False,
) -> None:
    """Weigh trained networks together under one budget; test accuracy beside the best single network; one model.py."""
    from genas.config import find_run
    from genas.display import Display
    from genas.ensemble_words import ensembled
    from genas.limits import budget_of

    most = budget_of(budget)
    folders = [find_run(name, logs) for name in names]
    runs = [_load(folder.name, None, str(folder.parent)) for folder in folders]
    from genas.ensembling import ensemble as question
    from training.ensembles import METHODS

    chosen = METHODS if methods is None else tuple(name.strip() for name in methods.split(",") if name.strip())
    with Display(quiet=as_json) as display:
        result = question(runs, most, cost, chosen, members, robust, out, display.counts("ensemble"))
    _answer(result, as_json, ensembled(result), f"Saved in {result['folder']}: model.py, weights, ensemble.json")


@app.command("import-study")
def import_study(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE.csv|DIR", help="Accuracies under corruptions, or genotypes.json and the tables of MOOD-NAS."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where label tables and all else go.")],
    as_json: Json = False,
) -> None:
    """Read a published study of robustness, or of a front; write label tables and figures, its flaws said first."""
    from genas.importing import import_study as question
    from genas.robust_words import imported

    result = question(source, out)
    _answer(result, as_json, imported(result, out))


@app.command()
def merge(
    into: Annotated[
        str, typer.Argument(metavar="INTO", help="The run that gets them, by name or folder; made where there is none.")
    ],
    names: Annotated[list[str], typer.Argument(metavar="FROM...", help="Runs that are read, by name or folder.")],
    logs: Logs = "logs",
    as_json: Json = False,
) -> None:
    """Add to a run what others hold and it lacks: results, failures, kept weights. The same line again adds nothing."""
    from genas.config import find_run
    from genas.merging import home
    from genas.merging import merge as question
    from genas.words import merged

    folder = home(into, logs)
    result = question(folder, [find_run(name, logs) for name in names])
    missing = f"genas generate {folder.name}, which trains the {result['missing']} missing | "
    told = f"Next: {missing if result['missing'] else ''}genas fit {folder.name}"
    _answer(result, as_json, merged(result), told)


@app.command()
def report(name: RunName, logs: Logs = "logs") -> None:
    """Write one self-contained report.html for a run."""
    from analysis import write_report
    from genas.config import find_run

    _say(f"Report: {write_report(find_run(name, logs))}")


@app.command()
def status(name: RunName, logs: Logs = "logs", as_json: Json = False) -> None:
    """How a run stands."""
    from genas.config import find_run
    from genas.standing import status as question
    from genas.words import standing

    result = question(find_run(name, logs))
    _answer(result, as_json, standing(result))


@app.command("export-table")
def export_table(
    name: RunName,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.jsonl", help="The graph-table file to write.")],
    logs: Logs = "logs",
) -> None:
    """Write a run's labels as a graph-table file."""
    from genas.config import find_run
    from genas.generating import export_table as write

    _say(f"{out}: {write(find_run(name, logs), out)} architectures")


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What fit --out wrote, or RUN/predictor.")],
    table: Annotated[
        Path, typer.Argument(metavar="TABLE.jsonl", help="A graph-table file; its measured numbers are not read.")
    ],
    level: Annotated[float, typer.Option(help="Probability that an interval holds the label.")] = 0.8,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.csv", help="Write all rows there.")] = None,
    as_json: Json = False,
) -> None:
    """What a fitted predictor says of the architectures of a table, best first."""
    from genas.fitting import predict as question
    from genas.words import predicted, predicted_csv
    from supernet import InputError, read_table
    from supernet.files import write_text

    if out is not None and out.suffix != ".csv":
        raise InputError(f"{out}: expected a name that ends with .csv")
    entries = question(folder, read_table(table), level)
    lines = [predicted(entries, level)]
    if out is not None:
        write_text(out, predicted_csv(entries))
        lines.append(f"Saved in {out}.")
    _answer({"level": level, "architectures": entries}, as_json, *lines)


@app.command()
def evaluate(
    table: Annotated[Path, typer.Argument(metavar="TABLE.jsonl", help="A graph-table file.")],
    metric: Annotated[str, typer.Option(help="The measured number to predict.")] = "accuracy",
    train_size: Annotated[
        int | None, typer.Option("--train-size", help="Rows to fit on; five sixths where left out.")
    ] = None,
    trials: Annotated[int, typer.Option(help="Random splits.")] = 20,
    seed: Annotated[int, typer.Option(help="Decides the splits.")] = 0,
    models: Annotated[
        str | None,
        typer.Option("--models", metavar="A,B,...", help="hybrid,graph,gp,ridge,trees,mlp,macs if left out."),
    ] = None,
    split_file: Annotated[
        Path | None,
        typer.Option("--split-file", metavar="CSV", help="Columns id and split: train rows to draw from, test rows."),
    ] = None,
    features: Annotated[
        bool, typer.Option("--features/--no-features", help="Let the table's features enter where all rows have them.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Compare the predictors by Kendall tau on random splits of a label table."""
    from genas.display import Display
    from genas.overview import evaluate as question
    from genas.words import evaluated
    from supernet import read_table

    with Display(quiet=as_json) as display:
        progress = display.counts("evaluate")
        names = None if models is None else [name.strip() for name in models.split(",") if name.strip()]
        result = question(read_table(table), metric, train_size, trials, seed, names, split_file, features, progress)
    _answer(result.to_json(), as_json, evaluated(result.to_json()))


@app.command()
def score(
    source: Source,
    arch: Annotated[
        list[str] | None, typer.Option("--arch", help="An architecture, as status prints it; may be repeated.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--count", help="The first of the run's plan. Left out: all that have labels, 20 where none have."
        ),
    ] = None,
    metrics: Metrics = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write all: .csv, or .jsonl with scores as features.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of batch and initial weights; the run's where left out.")] = None,
    overrides: Overrides = None,
    logs: Logs = "logs",
    as_json: Json = False,
) -> None:
    """Training-free metrics of untrained architectures; those of labelled ones are kept as features."""
    from genas.display import Display
    from genas.scoring import score as question
    from genas.scoring import write_scores
    from genas.words import scored
    from supernet import InputError

    if out is not None and out.suffix not in (".csv", ".jsonl"):  # at once: scoring may take long
        raise InputError(f"{out}: expected a name that ends with .csv or .jsonl")
    loaded = _load(source, overrides, logs)
    with Display(quiet=as_json) as display:
        result = question(loaded, count, arch or (), _names(metrics), seed, display.counts("score"))
    lines = [scored(result)]
    if out is not None:
        write_scores(result, out)
        lines.append(f"Saved in {out}.")
    if result["not_kept"] is not None:
        lines.append(f"Not kept: {result['not_kept']}.")
    elif result["kept"] is not None:
        following = (
            f" Next: genas export-table {loaded.name} --out labels.jsonl | "
            f"genas fit {loaded.name} --features {','.join(result['metrics'])}"
        )
        lines.append(f"Kept in {result['kept']}.{following if result['labelled'] else ''}")
    _answer(result, as_json, *lines)


@app.command()
def bench(
    space: Annotated[str, typer.Argument(metavar="SPACE", help="The space of the table: nasbench201.")],
    table: Annotated[Path, typer.Option("--table", metavar="FILE.csv", help="Measurements of all its networks.")],
    strategy: Annotated[str, typer.Option(help="random, evolution, aging or model.")] = "model",
    score: Annotated[
        str, typer.Option(help="What is paid for: val12, synflow, hook_logdet, snip, params or macs.")
    ] = "val12",
    dataset: Annotated[str, typer.Option(help="cifar10, cifar100, imagenet16 or all.")] = "all",
    budget: Annotated[int, typer.Option(help="Networks paid for in a trial.")] = 50,
    warmup: Annotated[int, typer.Option(metavar="K", help="Random networks ranked by a cheap score first.")] = 0,
    warmup_score: Annotated[str, typer.Option("--warmup-score", help="That cheap score.")] = "synflow",
    proxies: Annotated[
        list[str] | None,
        typer.Option("--proxy", metavar="SCORE", help="A cheap score that the model sees; may be repeated."),
    ] = None,
    trials: Annotated[int, typer.Option(help="Searches with seeds of their own.")] = 100,
    seed: Annotated[int, typer.Option(help="Decides the trials.")] = 0,
    as_json: Json = False,
) -> None:
    """Search where every network was trained before: what a strategy finds for what it pays."""
    from genas.benching import bench as question
    from genas.words import benched

    result = question(space, table, strategy, score, dataset, budget, warmup, warmup_score, proxies or (), trials, seed)
    _answer(result, as_json, benched(result))


@app.command()
def cost(
    source: Annotated[str, typer.Argument(metavar="SPACE|CONFIG", help="A space, by name or file, or as for run.")],
    arch: Annotated[str, typer.Option("--arch", help="The architecture, as status and reports print it.")],
    compare: Annotated[
        bool, typer.Option("--compare", help="Count as torch, thop and fvcore do besides, and say why they differ.")
    ] = False,
    overrides: Overrides = None,
    logs: Logs = "logs",
    as_json: Json = False,
) -> None:
    """Exact MACs, parameters and activations of one architecture."""
    from genas.costing import cost as question
    from genas.costing import find_space
    from genas.words import costs

    space = find_space(source, overrides or [], logs)
    result = question(space, space.read(arch), compare)
    _answer(result, as_json, costs(result))


@app.command()
def latency(
    source: Annotated[
        str, typer.Argument(metavar="CONFIG|TABLE.jsonl", help="A recipe or run to time here, or a graph-table file.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.json", help="The file that a recipe names as latency:.")],
    metric: Annotated[
        str | None, typer.Option("--metric", help="Of a table: the measured latency in milliseconds.")
    ] = None,
    networks: Annotated[int, typer.Option(help="Networks that are timed.")] = 60,
    batch: Annotated[int, typer.Option(help="Images in a forward pass.")] = 1,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where: one thread of the CPU, or the GPU.")] = "cpu",
    overrides: Overrides = None,
    logs: Logs = "logs",
    as_json: Json = False,
) -> None:
    """What each operation takes, from timed networks: then limits.latency is in milliseconds."""
    from genas.display import Display
    from genas.timing import latency as question
    from genas.timing import table_latency
    from genas.words import timed
    from supernet import InputError, read_table

    if out.suffix != ".json":
        raise InputError(f"{out}: expected a name that ends with .json")
    if source.endswith(".jsonl"):
        if metric is None:
            raise typer.BadParameter("a table has several numbers: say which is the latency with --metric NAME")
        result = table_latency(read_table(Path(source)), metric, out)
    else:
        if metric is not None:
            raise typer.BadParameter("--metric is of a table; a recipe's networks are timed here")
        with Display(quiet=as_json) as display:
            loaded = _load(source, overrides, logs)
            result = question(loaded, out, networks, batch, device, display.counts("latency"))
    told = f"Saved in {out}. Next: --set latency={out} --set limits.latency=MILLISECONDS with generate and search"
    _answer(result, as_json, timed(result), told)


@space_app.command()
def lint(
    source: Annotated[str, typer.Argument(metavar="SPACE|CONFIG", help="A space, by name or file, or as for run.")],
    overrides: Overrides = None,
    logs: Logs = "logs",
    as_json: Json = False,
) -> None:
    """Size, costs, what the limits leave, hours of labels, and options that do nothing, before anything is trained."""
    from genas.config import load_space
    from genas.linting import exit_code, lint_run
    from genas.linting import lint as question
    from genas.space_files import is_space
    from genas.words import linted

    if is_space(source, logs):
        alone = load_space(source, overrides or [], ("space", "limits", "generate"))
        wanted = alone.generate.architectures if "architectures" in alone.generate.model_fields_set else None
        result = {**question(alone.space, alone.bounds, wanted), "space": Path(source).stem}
    else:
        result = lint_run(_load(source, overrides, logs))
    _answer(result, as_json, linted(result))
    code = exit_code(result)
    if code:
        raise typer.Exit(code)


@app.command()
def memory(
    source: Source,
    arch: Annotated[
        str | None, typer.Option("--arch", help="One architecture; three within the limits where left out.")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="What trainings would run on.")] = "auto",
    gigabytes: Annotated[
        float | None, typer.Option("--gigabytes", help="Memory of the device; this machine's where left out.")
    ] = None,
    overrides: Overrides = None,
    logs: Logs = "logs",
    as_json: Json = False,
) -> None:
    """What a training needs of the device's memory, the largest batch that fits, and how many fit side by side."""
    from genas.remembering import memory as question
    from genas.words import remembered

    result = question(_load(source, overrides, logs), arch, device, gigabytes)
    _answer(result, as_json, remembered(result))


@app.command()
def doctor(
    source: Annotated[
        str | None,
        typer.Argument(metavar="CONFIG", help="A recipe, run or bundled recipe whose images are checked too."),
    ] = None,
    overrides: Overrides = None,
    logs: Logs = "logs",
    as_json: Json = False,
) -> None:
    """Whether this machine, and a recipe's images, can do a run; what mends what is not right."""
    from genas.examining import doctor as question
    from genas.examining import exit_code, load
    from genas.words import examined

    if source is None:
        if overrides:
            raise typer.BadParameter("--set changes a recipe: name CONFIG as well")
        result = question(None, Path(logs))
    else:
        loaded, recipe = load(source, overrides or [], Path(logs))
        result = question(loaded, Path(logs), [recipe])
    _answer(result, as_json, examined(result))
    code = exit_code(result)
    if code:
        raise typer.Exit(code)


def main() -> None:
    """Entry point: words instead of tracebacks, and documented exit codes.

    0 fine, 2 usage or configuration, 3 environment, 4 partly failed, 130 and 143 interrupted.
    """
    # Commands make millions of small objects and hardly a cycle: to look for one every 700 costs a tenth of the time.
    gc.set_threshold(50_000)
    # Not KeyboardInterrupt: typer would swallow it, and the line to continue with would stay unsaid.
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    try:
        app(standalone_mode=True)
    except (ValueError, RuntimeError) as error:
        from supernet.settings import InputError, UnavailableError  # not before: --help needs no pydantic

        if not isinstance(error, InputError | UnavailableError):
            raise
        print(f"genas: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 3)
    except sqlite3.DatabaseError as error:
        print(f"genas: the run's store.db cannot be read, it may be damaged ({error})", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except _Stopped as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(f"\n{_stopped(sys.argv[1:])}", file=sys.stderr)
        sys.exit(128 + stop.number)


_QUESTIONS = ("bench", "cost", "doctor", "evaluate", "latency", "memory", "space")
"""Commands that only answer: an answer that was cut off leaves nothing."""


def _stopped(arguments: list[str]) -> str:
    """What is said of a command that was stopped."""
    if arguments and arguments[0] in _QUESTIONS:
        return "Stopped."
    again = shlex.join(["genas", *arguments])
    return f"Stopped. Everything finished is kept; the same line continues: {again}"


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM, by its number: 2 or 15."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, frame: object) -> None:
    raise _Stopped(number)


def _load(
    source: str, overrides: list[str] | None, logs: str, runner: str | None = None, address: str | None = None
) -> Run:
    from genas.config import load_run

    chosen = {"workers.runner": runner, "workers.address": address}
    also = [f"{key}={value}" for key, value in chosen.items() if value is not None]
    loaded = load_run(source, [*(overrides or []), *also], logs)
    if address is not None and loaded.settings.workers.runner == "local":
        raise typer.BadParameter("--address says where a cluster is: add --runner ray, or leave it out")
    return loaded


def _names(metrics: str | None) -> tuple[str, ...]:
    from genas.scoring import DEFAULT_METRICS

    return DEFAULT_METRICS if metrics is None else tuple(name.strip() for name in metrics.split(",") if name.strip())


def _active(run: Run) -> Run:
    """The run with active labelling as it comes."""
    from data_gen import ActiveSettings

    generate_settings = run.settings.generate.model_copy(update={"active": ActiveSettings()})
    return run.model_copy(update={"settings": run.settings.model_copy(update={"generate": generate_settings})})


def _with_keep(run: Run, count: int) -> Run:
    """The run with at least so many architectures in what a search returns."""
    settings = run.settings.search
    if settings.keep >= count:
        return run
    kept = settings.model_copy(update={"keep": count})
    return run.model_copy(update={"settings": run.settings.model_copy(update={"search": kept})})


def _with_metric(run: Run, metric: str) -> Run:
    """The run with this as ``fit.metric``."""
    settings = run.settings.fit.model_copy(update={"metric": metric})
    return run.model_copy(update={"settings": run.settings.model_copy(update={"fit": settings})})


def _with_features(loaded: Run, features: str) -> Run:
    """The run with these as ``fit.features``."""
    names = tuple(name.strip() for name in features.split(",") if name.strip())
    if not names:
        raise typer.BadParameter(f"--features {features!r}: expected names joined by commas, such as synflow,params")
    fit_settings = loaded.settings.fit.model_copy(update={"features": names})
    settings = loaded.settings.model_copy(update={"fit": fit_settings})
    return loaded.model_copy(update={"settings": settings})


def _refuse_if_driven(loaded: Run) -> None:
    """At once, before anything heavy is imported: a second driver is told who the first is."""
    from data_gen import refuse_if_driven

    refuse_if_driven(loaded.folder)


def _dry_run(loaded: Run, as_json: bool) -> None:
    from genas.overview import estimate
    from genas.stages import resolve
    from genas.words import planned, resolved

    loaded, _ = resolve(loaded)
    expected = estimate(loaded)
    if as_json:
        _print_json({"settings": loaded.settings.model_dump(mode="json"), **expected})
    else:
        _say(resolved(loaded.settings), planned(expected, loaded.folder))


def _answer(result: dict[str, Any], as_json: bool, *lines: str) -> None:
    if as_json:
        _print_json(result)
    else:
        _say(*lines)


def _print_json(result: dict[str, Any]) -> None:
    print(json.dumps(result, allow_nan=False))


def _say(*lines: str) -> None:
    for line in lines:
        print(line)


def _exit_if_failed(*counts: dict[str, Any]) -> None:
    if any(count.get("failed") for count in counts):
        raise typer.Exit(4)


if __name__ == "__main__":
    main()
