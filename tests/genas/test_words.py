import pytest

from genas.config import RunSettings
from genas.costing import CONVENTION, cost
from genas.words import (
    compared,
    costs,
    duration,
    evaluated,
    fitted,
    found,
    generated,
    picked,
    planned,
    resolved,
    retrained,
    standing,
)
from genas.yaml_reader import read_yaml
from supernet import OpSubset


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (8.04, "8.0 s"),
        (12.4, "12 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (360_000, "100 h 0 min"),
    ],
)
def test_duration(seconds, words):
    assert duration(seconds) == words


def test_resolved_is_the_configuration_with_every_difference_marked():
    # 512 is the default of another batch size at the same depth, 60 of another number of epochs.
    settings = RunSettings.model_validate(
        {
            "limits": {"macs": 5_000_000},
            "generate": {"recipe": {"epochs": 61}},
            "fit": {"predictor": {"batch_size": 512}},
            "space": {"layers": [{"channels": 8}]},
        }
    )
    text = resolved(settings)
    assert read_yaml(text, "text").value == settings.model_dump(mode="json")
    marked = [line.split("  #")[0].strip() for line in text.splitlines() if line.endswith("  # set")]
    assert marked == ["layers:", "macs: 5000000", "epochs: 61", "batch_size: 512"]
    assert "# set" not in resolved(RunSettings())


def test_generated():
    result = {"planned": 60, "found": 37, "trained": 21, "failed": 2, "best": 0.5, "seconds": 200}
    assert generated(result) == (
        "generate: 60 trainings planned, 37 found, 21 trained, 2 failed (see the report) in 3 min 20 s; "
        "best validation accuracy 50.00%"
    )
    assert "best" not in generated({**result, "best": None})
    assert "failed" not in generated({**result, "failed": 0})


def test_fitted():
    model = {"tau": 0.7, "tau_ci95": [0.61, 0.79], "tau_splits": 0.68}
    trust = {
        "verdict": "It ranks.", "precision_top5": 0.5, "tau_top10": 0.3, "tau_same_macs": None,
        "coverage": {"80%": 0.78},
        "learning_curve": {"labels": [60, 120, 250], "tau": [0.5, 0.6, 0.68], "gain": 0.05, "more_labels": 130},
    }  # fmt: skip
    result = {
        "test_size": 50, "train_size": 250, "seconds": 4, "models": {"hybrid": model, "macs": model}, "model": "hybrid",
        "splits": 3, "label_noise": None, "trust": trust,
    }  # fmt: skip
    lines = fitted(result).splitlines()
    assert lines[0].endswith("its mean over 3 splits")
    assert lines[1:] == [
        "  hybrid  0.700  [0.610, 0.790]   0.680  searches",
        "  macs    0.700  [0.610, 0.790]   0.680",
        "  It ranks.",
        "  50% of its best 5 % are in the measured best 5 %, 0.30 in the measured best tenth",
        "  of the held-out labels, 80% intervals held 78%",
        "  tau 0.50 after 60, 0.60 after 120, 0.68 after 250: about 130 more labels for +0.05",
    ]
    once = {**result, "splits": 1}
    once["trust"] = {**trust, "learning_curve": {**trust["learning_curve"], "more_labels": None}}
    assert fitted(once).splitlines()[1] == "  hybrid  0.700  [0.610, 0.790]  searches"
    assert "how many more labels would give +0.05 does not show" in fitted(once)
    weak = {**result, "models": {"hybrid": {"tau": 0.1, "tau_ci95": [-0.2, 0.4], "tau_splits": 0.1}}, "proxy": {}}
    assert "better than chance; score more" in fitted(weak)
    assert "It ranks." not in fitted(weak)
    noise = {"architectures": 30, "tau": 0.9, "ceiling": 0.93, "standard_deviation": 0.01}
    assert "tau 0.900 (30 trained twice; one label varies by 1.00%)" in fitted({**result, "label_noise": noise})


def searched(metric="accuracy", limits=None):
    best = {"architecture": "1 1", "predicted": 0.25, "macs": 1_500_000, "params": 1234}
    evolution = {"best": [best], "queries": 1000, "exhausted": False}
    return {"metric": metric, "limits": limits or {}, "evolution": evolution, "evolution_seconds": 1.0,
            "random": {"best": [{**best, "predicted": 0.125}]},
            "trust": {"level": 0.8, "interval": [0.2, 0.3], "distance": 1.26}}  # fmt: skip


def test_found():
    text = found(searched(limits={"macs": 2_000_000}))
    assert "1,000 architectures scored in 1.0 s under macs <= 2,000,000" in text
    assert "winner 1 1: predicted 25.00%, 1.500 M MACs, 1,234 parameters" in text
    assert "random search with as many queries: predicted 12.50%" in text
    assert "no limit" in found(searched())
    assert "would lie between 20.00% and 30.00% (80% interval)" in text
    assert "1.3 times as far from them" in text
    assert "predicted loss 0.25," in found(searched("loss"))


def test_retrained():
    role = {
        "macs": 1_500_000,
        "conv_macs": 1_400_000,
        "mean": 0.5,
        "standard_deviation": 0.01,
        "test_accuracies": [0.49, 0.51],
    }
    failed = {**role, "mean": None, "standard_deviation": None, "test_accuracies": []}
    once = {**role, "standard_deviation": None, "test_accuracies": [0.5]}
    text = retrained(
        {
            "test_images": 360,
            "limits": {"conv_macs": 1_400_000},
            "roles": {"winner": role, "best_generated": failed, "random_same_macs": once},
            "gains": {"random_same_macs": {"difference": 0.1, "ci95": None},
                      "best_generated": {"difference": -0.02, "ci95": [-0.03, -0.01]}},
            "model": {"largest_difference": 2e-7},
        }
    )  # fmt: skip
    assert "winner            50.00% +- 1.00% (2 seeds), 1.500 M MACs, conv_macs 1,400,000" in text
    assert "best generated    failed" in text
    assert "random same macs  50.00% (1 seed)" in text
    assert "gain over random same macs: +10.00 points (one seed: no interval)" in text
    assert "gain over best generated: -2.00 points [-3.00, -1.00] (95 % interval over seeds)" in text
    assert text.endswith("model.py agrees with the trained network to 2.0e-07")


def test_evaluated():
    model = {
        "tau": 0.71, "tau_std": 0.03, "tau_ci95": [0.69, 0.73], "fit_seconds": 4.1, "scored_per_second": 9000.0,
        "precision_top5": 0.4, "coverage": {"80%": 0.78},
    }  # fmt: skip
    result = {"models": {"graph": model}, "train_size": 250, "test_size": 50, "trials": 20, "features": []}
    text = evaluated(result)
    assert text.splitlines()[0].startswith("Kendall tau on 50 held-out architectures after 250, 20 random splits")
    assert text.splitlines()[2].split() == [
        "graph",
        "0.710",
        "0.030",
        "[0.690,",
        "0.730]",
        "4.1",
        "s",
        "9,000",
        "40%",
        "78%",
    ]
    assert "with the features synflow" in evaluated({**result, "features": ["synflow"]})


def test_costs():
    space = OpSubset()
    result = cost(space, space.cheapest("macs"))
    text = costs(result)
    assert f"macs        {result['macs']:>12,}" in text
    assert CONVENTION in text
    other = {"macs": 1010, "params": 7, "differences": {"norms": 1000}, "unexplained": 0}
    lines = costs({**result, "compare": {"other": other}}).splitlines()
    assert "  other                  1,010              7  +1,000 norms" in lines
    assert lines[7].split() == ["genas", f"{result['macs']:,}", f"{result['params']:,}"]
    assert "+1,000 norms; -3 unexplained" in costs({**result, "compare": {"other": other | {"unexplained": -3}}})


def test_planned():
    result = {"images": {"train": 1200, "test": 30}, "classes": 10, "workers": 2, "device": "cpu", "trainings": 24,
              "seconds_each": 5.0, "generate_seconds": 60.0, "retrainings": 6, "study": 0,
        "study_seconds": 0.0,
        "retrain_seconds": 15.0,
              "notes": ["26 validation images make coarse labels"]}  # fmt: skip
    text = planned(result, "logs/quickstart")
    assert "1,200 train, 30 test images of 10 classes, 2 workers (first on cpu), folder logs/quickstart" in text
    assert "24 trainings of about 5.0 s, about 1 min 0 s in all" in text
    assert "6 trainings, about 15 s in all" in text
    assert "note: 26 validation images make coarse labels" in text


def test_standing_of_a_run_that_has_just_begun():
    nothing = {"planned": 0, "done": 0, "failed": 0, "running": 0, "failures": []}
    result = {
        "run": "tiny", "folder": "logs/tiny", "stages": {"generate": "begun", "fit": "waiting"},
        "seconds": {"generate": 3.0},
        "generate": {"planned": 14, "done": 3, "failed": 1, "running": 2,
                     "failures": [{"key": "a-1", "seed": 0, "kind": "oom"}]},
        "retrain": nothing, "best": None, "tau": None, "winner": None, "test": None,
    }  # fmt: skip
    assert standing(result).splitlines() == [
        "tiny in logs/tiny",
        "  generate  begun, 3.0 s",
        "  fit       waiting",
        "  generate: 3 of 14 trained, 2 running, 1 failed",
        "    a-1, seed 0: oom",
    ]


def test_standing_names_a_few_of_very_many_failures():
    nothing = {"planned": 0, "done": 0, "failed": 0, "running": 0, "failures": []}
    failures = [{"key": f"a-{number}", "seed": 0, "kind": "diverged"} for number in range(1000)]
    result = {
        "run": "tiny", "folder": "logs/tiny", "stages": {}, "seconds": {},
        "generate": {"planned": 2000, "done": 1000, "failed": 1000, "running": 0, "failures": failures},
        "retrain": nothing, "best": None, "tau": None, "winner": None, "test": None,
    }  # fmt: skip
    lines = standing(result).splitlines()
    assert len(lines) == 13
    assert lines[-2:] == ["    a-9, seed 0: diverged", "    and 990 more; --json and the report list them all"]


def test_standing_names_the_winner_as_cost_takes_it():
    space = OpSubset()
    nothing = {"planned": 0, "done": 0, "failed": 0, "running": 0, "failures": []}
    winner = cost(space, space.cheapest("macs"))
    result = {
        "run": "tiny", "folder": "logs/tiny", "stages": {}, "seconds": {}, "generate": nothing, "retrain": nothing,
        "best": {"key": "k", "accuracy": 0.5}, "tau": {"tau": 0.5}, "winner": winner,
        "predictor": {"metric": "accuracy", "proxy": False},
        "test": {"winner": {"mean": 0.25}},
    }  # fmt: skip
    text = standing(result)
    assert f"winner {winner['architecture']}, " in text
    assert "best validation accuracy 50.00% (k)" in text
    assert "predictor: Kendall tau 0.500 with accuracy" in text
    proxy = {"metric": "zero_cost_proxy", "proxy": True}
    assert "0.500 with the proxy zero_cost_proxy, not accuracy" in standing({**result, "predictor": proxy})
    assert "winner: test accuracy 25.00%" in text


COUNTS = [
    {"name": "", "done": 3, "failed": {}, "interrupted": 1, "seconds": 30.0},
    {"name": "host-a", "done": 1204, "failed": {"crash": 1, "oom": 2}, "interrupted": 4, "seconds": 7500.0},
    {"name": "host-b", "done": 0, "failed": {"killed": 1}, "interrupted": 0, "seconds": 0.0},
]
STATE = {
    "name": "host-a", "device": "cuda", "places": 8, "workers": 8, "running": 7,
    "gpus": [{"use": 0.934, "memory": 0.4}, {"use": 0.1, "memory": 0.4}], "lost": False, "why": "",
}  # fmt: skip


def on_nodes(states, counts, waiting=12, asked=0):
    """What standing says of nodes; None for states: nobody trains."""
    nothing = {"planned": 0, "done": 0, "failed": 0, "running": 0, "failures": []}
    now = {"time": 0.0, "stage": "generate", "runner": "ray", "waiting": waiting, "asked": asked, "nodes": states}
    result = {
        "run": "tiny", "folder": "logs/tiny", "stages": {}, "seconds": {}, "generate": nothing, "retrain": nothing,
        "nodes": {"now": None if states is None else now, "trained": counts},
        "best": None, "tau": None, "winner": None, "test": None,
    }  # fmt: skip
    return standing(result).splitlines()[1:]


def test_standing_tells_how_the_nodes_of_a_driven_run_stand():
    one_gpu = {**STATE, "name": "host-c", "places": 1, "workers": 1, "running": 0, "gpus": STATE["gpus"][:1]}
    states = [
        STATE,
        {**STATE, "name": "host-b", "workers": 0, "running": 0, "gpus": [], "lost": True},
        {**STATE, "name": "host-e", "workers": 0, "running": 0, "gpus": [], "why": "a full disk"},
        one_gpu,
        {**STATE, "name": "host-d", "device": "cpu", "places": 4, "workers": 2, "running": 2, "gpus": []},
    ]
    assert on_nodes(states, COUNTS, waiting=1200, asked=2) == [
        "  5 nodes, 1,200 jobs waiting, 2 workers asked for and not placed",
        "    host-a: cuda, 7 of 8 workers running, GPUs 93%, 10% busy; 1,204 done, 2 h 5 min of training, "
        "3 attempts failed (crash 1, oom 2)",
        "    host-b: lost; 0 done, 1 attempt failed (killed 1)",
        "    host-e: not used: a full disk; 0 done",
        "    host-c: cuda, 0 of 1 worker running, GPU 93% busy; 0 done",
        "    host-d: cpu, 2 of 2 workers running, 4 places; 0 done",
    ]
    assert on_nodes([], [], 3, 1) == ["  0 nodes, 3 jobs waiting, 1 worker asked for and not placed"]


def test_standing_tells_of_a_single_node_in_one_line():
    state = {**STATE, "device": "cpu", "places": 2, "workers": 2, "running": 2, "gpus": []}
    assert on_nodes([state], [{**COUNTS[0], "name": "host-a"}], waiting=1) == [
        "  node host-a: cpu, 2 of 2 workers running; 3 done, 30 s of training; 1 job waiting"
    ]
    assert on_nodes(None, [{**COUNTS[0], "name": "host-a"}]) == ["  node host-a: 3 done, 30 s of training"]


def test_standing_tells_where_a_run_was_trained_if_that_is_known():
    assert on_nodes(None, []) == []
    assert on_nodes(None, COUNTS[:1]) == []
    assert on_nodes(None, COUNTS[:2]) == [
        "  2 nodes",
        "    not known: 3 done, 30 s of training",
        "    host-a: 1,204 done, 2 h 5 min of training, 3 attempts failed (crash 1, oom 2)",
    ]


def measured(**changes):
    def ranked(tau, low, high):
        return {"tau": tau, "tau_ci95": [low, high]}

    half = {"validation": ranked(0.8, 0.65, 0.9), "train": ranked(0.85, 0.72, 0.9), "tse": ranked(-0.1, -0.4, 0.2)}
    short = {"validation": ranked(0.6, 0.4, 0.8), "train": ranked(0.72, 0.5, 0.9), "tse": ranked(0.7, 0.5, 0.8)}
    return {
        "architectures": 24, "threshold": 0.7, "label_noise": None, "macs": ranked(0.4, 0.1, 0.6),
        "full": {"epochs": 12, "train_images": 4000, "input_size": 16},
        "settings": {
            "short": {"cost": 0.125, "seconds_share": 0.2, "architectures": 23, "labels": short},
            "half": {"cost": 0.5, "seconds_share": 0.51, "architectures": 24, "labels": half},
        },
        "pick": {"setting": "short", "label": "train", "cost": 0.125, **short["train"]},
        **changes,
    }  # fmt: skip


def test_compared():
    lines = compared(measured()).splitlines()
    assert lines[0].endswith("the full recipe's (12 epochs, 4,000 images of 16x16) on 24 architectures")
    assert lines[4].split() == [
        "short", "12.5%", "20.0%", "0.600", "[", "0.40,", "0.80]", "0.720", "[", "0.50,", "0.90]",
        "0.700", "[", "0.50,", "0.80]", "(23", "only)",
    ]  # fmt: skip
    assert lines[5].endswith("-0.100 [-0.40,  0.20]")
    assert "MACs alone, no training" in lines[6]
    assert "0.400" in lines[6]
    assert lines[7] == (
        "  pick: short, train: tau 0.720 at 12.5% of the cost, the cheapest of 6 labels with at least 0.7"
    )
    noise = {"architectures": 6, "tau": 0.9, "ceiling": 0.93, "standard_deviation": 0.01}
    assert "two full trainings agree with tau 0.900 (6 trained twice)" in compared(measured(label_noise=noise))


def test_a_pick_claims_no_more_than_its_interval():
    weak = picked(measured())
    assert len(weak) == 2
    assert "reaches down to 0.500: 24 architectures do not show that tau is 0.7 or more" in weak[1]
    sure = {"setting": "half", "label": "train", "cost": 0.5, "tau": 0.85, "tau_ci95": [0.72, 0.9]}
    assert len(picked(measured(pick=sure))) == 1
    alone = {"tau": 0.9, "tau_ci95": [0.8, 0.95]}
    assert picked(measured(pick=sure, macs=alone))[1] == "MACs alone rank as well, and cost nothing"


def test_no_pick_names_what_came_nearest():
    assert picked(measured(threshold=0.95, pick=None)) == [
        "no pick: none of 6 labels reaches tau 0.95; the nearest is half, train, with 0.850 at 50.0% of the cost"
    ]
    nothing = measured(pick=None, macs=None, settings={"short": {**measured()["settings"]["short"], "labels": {}}})
    assert picked(nothing) == ["no pick: too few architectures have a full and a cheap label"]
    assert "too few  (23 only)" in compared(nothing)


def test_standing_tells_of_cheap_trainings():
    nothing = {"planned": 0, "done": 0, "failed": 0, "running": 0, "failures": []}
    cheap = {**nothing, "planned": 48, "done": 20, "measured": None}
    result = {
        "run": "tiny", "folder": "logs/tiny", "stages": {}, "seconds": {}, "generate": nothing, "retrain": nothing,
        "fidelity": cheap, "best": None, "tau": None, "winner": None, "test": None,
    }  # fmt: skip
    assert standing(result).splitlines()[1:] == ["  fidelity: 20 of 48 trained, 0 running, 0 failed"]
    assert "  fidelity: pick: short, train" in standing({**result, "fidelity": {**cheap, "measured": measured()}})
