"""A run folder as the stages write it, without training anything."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_gen.store import open_store
from supernet import OpSubset, architectures, sample_distinct
from supernet.files import write_proved_text
from supernet.graph import graph_to_json

SPACE = OpSubset(input_size=8, classes=10)
LIMITS = {"macs": 750_000}
STAGES = ("generate", "fit", "search", "retrain")


def costs_of(architecture):
    return {name: int(values[0]) for name, values in SPACE.costs(architecture.row()).items()}


def entry(architecture, **more):
    return {"key": architecture.key, "architecture": SPACE.format(architecture), **more, **costs_of(architecture)}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


class FakeRun:
    """Builds a folder stage by stage; accuracies are made up, costs and graphs are real."""

    def __init__(self, folder, architectures_=24, source="digits"):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True)
        self.random = np.random.default_rng(0)
        rows = sample_distinct(SPACE, architectures_ + 2, self.random, LIMITS)
        *self.sampled, self.winner, self.control = architectures(SPACE, rows)
        self.accuracy = {}
        self.config = {
            "seed": 0,
            "data": {"source": source},
            "space": SPACE.model_dump(mode="json"),
            "limits": LIMITS,
            "workers": {"retries": 1},
        }
        write_proved_text(self.folder / "config.yml", "a test", yaml.safe_dump(self.config))
        write(
            self.folder / "meta.json",
            {
                "command": ["genas", "run", "quick start.yml"],
                "seed": 0,
                "python": "3.11.9",
                "packages": {"genas": "0.1.0", "torch": "2.11.0", "scipy": None},
                "platform": "Linux",
                "processor": "a processor",
                "gpus": [],
                "git_commit": None,
            },
        )

    def upto(self, stage):
        for name in STAGES[: STAGES.index(stage) + 1]:
            getattr(self, name)()
        return self

    def _train(self, stage, planned, ended=None, message="RuntimeError: no", failing=(), nodes=("",)):
        store = open_store(self.folder / "store.db")
        costs = {architecture.key: costs_of(architecture) for architecture, _, _ in planned}
        jobs = store.add_jobs(stage, planned, costs)
        store.event("start", stage)
        for number, job in enumerate(jobs[:ended]):
            attempt = store.start(job, 1, nodes[number % len(nodes)])
            if number in failing:
                store.fail(attempt, failing[number], message)
                continue
            epochs = 15
            level = float(np.clip(0.9 + 0.03 * self.random.normal(), 0, 1))
            rise = level * (1 - np.exp(-np.arange(1, epochs + 1) / 4))
            watched = [] if stage == "retrain" else [5, 10, 15]
            self.accuracy.setdefault(job.architecture.key, []).append(level)
            store.commit(
                job,
                attempt,
                {
                    "accuracy": level,
                    "loss": 0.4,
                    "epochs": epochs,
                    "pieces": 1,
                    "seconds": 3.5,
                    "peak_memory": 500 * 2**20,
                    "images_per_second": 900.0,
                    "curves": {
                        "train_loss": (2 - rise).tolist(),
                        "train_accuracy": rise.tolist(),
                        "validation_epochs": watched,
                        "validation_loss": [1.0] * len(watched),
                        "validation_accuracy": [float(rise[epoch - 1] * 0.97) for epoch in watched],
                    },
                },
            )
        store.event("seconds", json.dumps({"stage": stage, "seconds": 61.0}))
        store.close()

    def generate(self, **options):
        planned = [(architecture, 0, "sample") for architecture in self.sampled]
        self._train("generate", planned + [(architecture, 1, "repeat") for architecture in self.sampled[:4]], **options)

    def fit(self):
        held = self.sampled[-6:]
        models = {
            "hybrid": (0.73, 0.2, 1.0), "graph": (0.7, 0.2, 1.0), "gp": (0.7, 0.2, 1.0), "trees": (0.6, 0.2, 1.0),
            "ridge": (0.6, 0.0, 1.0), "mlp": (0.47, -0.2, 1), "macs": (0.2, -0.6, 0.8),
        }  # fmt: skip
        self.evaluation = {
            "metric": "accuracy",
            "model": "hybrid",
            "splits": 3,
            "rows": len(self.sampled),
            "train_size": len(self.sampled) - 6,
            "test_size": 6,
            "seed": 0,
            "models": {
                name: {"tau": tau, "tau_ci95": [low, high], "tau_splits": tau - 0.01}
                for name, (tau, low, high) in models.items()
            },
            "trust": {
                "verdict": "The predictor names the better of two in 87% of pairs.",
                "precision_top5": 0.5,
                "tau_top10": None,
                "tau_same_macs": 0.66,
                "coverage": {"50%": 0.5, "80%": 0.83, "95%": 1.0},
                "learning_curve": {"labels": [9, 18], "tau": [0.5, 0.72], "gain": 0.05, "more_labels": 40},
            },
            "label_noise": {"architectures": 4, "tau": 0.67, "ceiling": 0.76, "standard_deviation": 0.012},
            "held_out": [
                {"id": one.key, "measured": self.accuracy[one.key][0], "predicted": 0.88 + 0.01 * number}
                for number, one in enumerate(held)
            ],
            "seconds": 4.2,
            "made_from": "0",
        }
        write(self.folder / "predictor" / "evaluation.json", self.evaluation)

    def search(self):
        def searched(best, architecture):
            steps = np.arange(1, 51)
            history = [[int(100 * step), float(best - 0.04 / step)] for step in steps]
            history[-1][1] = best
            return {
                "queries": 5000,
                "exhausted": False,
                "history": history,
                "best": [entry(architecture, predicted=best)],
            }

        self.searched = {
            "made_from": "0",
            "metric": "accuracy",
            "limits": LIMITS,
            "evolution": searched(0.951, self.winner),
            "random": searched(0.943, self.control),
            "evolution_seconds": 1.0,
            "seconds": 1.9,
        }
        write(self.folder / "winner" / "search.json", self.searched)
        write(
            self.folder / "winner" / "architecture.json",
            {
                **entry(self.winner, predicted=0.951),
                "space": SPACE.model_dump(mode="json"),
                "choices": list(self.winner.choices),
                "graph": graph_to_json(SPACE.graph(self.winner)),
            },
        )

    def retrain(self):
        roles = {"winner": self.winner, "best_generated": self.sampled[0], "random_same_macs": self.control}
        self._train("retrain", [(one, seed, role) for seed in range(3) for role, one in roles.items()])
        values = {
            "winner": (0.96, 0.955, 0.965),
            "best_generated": (0.957, 0.95, 0.962),
            "random_same_macs": (0.9, 0.91, 0.905),
        }
        self.retrained = {
            "test_images": 360,
            "training_images": 400,
            "recipe": {},
            "predicted": 0.951,
            "roles": {
                role: entry(
                    one,
                    test_accuracies=list(values[role]),
                    mean=float(np.mean(values[role])),
                    standard_deviation=float(np.std(values[role], ddof=1)),
                )
                for role, one in roles.items()
            },
            "gains": {
                "best_generated": {"difference": 0.0037, "ci95": [-0.009, 0.0164]},
                "random_same_macs": {"difference": 0.055, "ci95": [0.0437, 0.0663]},
            },
            "model": {"seed": 0, "test_accuracy": 0.96, "largest_difference": 3.1e-7},
        }
        write(self.folder / "winner" / "retrain.json", self.retrained)


@pytest.fixture
def make_run(tmp_path):
    """Makes a run's folder under a name."""
    return lambda name="trial", **options: FakeRun(tmp_path / name, **options)


@pytest.fixture(scope="module")
def make_module_run(tmp_path_factory):
    """The same for tests that only look."""
    return lambda name="trial", **options: FakeRun(tmp_path_factory.mktemp("runs") / name, **options)
