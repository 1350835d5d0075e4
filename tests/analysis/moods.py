"""A small study in the form of MOOD-NAS, whose numbers agree unless a test changes them."""

import csv
import json

from analysis.mood import AUXILIARY_PARAMS
from supernet import Darts, graph_costs
from supernet.genotypes import genotype_graph, parse_genotype

WIDE = 576


def genotype(first="sep_conv_3x3", second="skip_connect"):
    pairs = [[first, 0], [second, 1]] * 4
    return {"normal": pairs, "normal_concat": [2, 3, 4, 5], "reduce": pairs, "reduce_concat": [2, 3, 4, 5]}


GENOTYPES = {
    "l1_loss_2e04_l2_3e04": genotype(),
    "l1_loss_1e03_l2_3e04": genotype("dil_conv_5x5"),
    "l2_loss_7e03": genotype("max_pool_3x3"),
    "l1_loss_3e05_l2_3e04_cifar100": genotype("sep_conv_5x5"),
    "another": genotype("avg_pool_3x3"),
}


def costs(name):
    """Parameters and MACs with ten classes."""
    found = graph_costs(genotype_graph(parse_genotype(GENOTYPES[name]), Darts()))
    return found.params, found.macs


def trained(name, test=95.0, search=80.0, **more):
    params, macs = costs(name)
    return {
        "Model name": name, "weight": 0.002, "Size": round(params / 1e6, 2), "train_loss": 0.5, "train_acc": 90.0,
        "valid_loss": 0.3, "valid_acc": test + 1, "test_loss": 0.25, "test_acc": test, "search_criterion_loss": 0.5,
        "search_reg_loss": 7.0, "Search accuracy": search, "Parameters": params + AUXILIARY_PARAMS, "FLOPs": macs,
        "Latency GPU": 10.0, "Latency CPU": 60.0,
    } | more  # fmt: skip


def hundred(name, **more):
    params, _ = costs(name)
    row = trained(name) | {"Params": round((params + 90 * (WIDE + 1)) / 1e6, 2), "Search acc": 55.0}
    row |= {"Search crit loss": 1.5, "Search reg loss": 9.0}
    for column in ("Size", "valid_loss", "valid_acc", "Search accuracy", "search_criterion_loss", "search_reg_loss"):
        row.pop(column)
    return row | more


def searched(name, search=80.0, **more):
    params, macs = costs(name)
    return {
        "Model name": name.removesuffix("_l2_3e04").replace("l1", "L1"), "Weight": 0.0021, "Params": params / 1e6,
        "Search train acc": 70.0, "Search valid acc": search, "Search crit loss": 0.5, "Search reg loss": 7.0,
        "Parameters": params, "FLOPs": macs, "Latency GPU": 11.0, "Latency CPU": 66.0,
    } | more  # fmt: skip


MEMORY = [
    {"model size": millions, "batch size": batch, "GPU mb": 500 + 200 * millions + 40 * batch + 15 * millions * batch}
    for millions in (1.5, 3.0, 4.25)
    for batch in (32, 64, 100)
]


def study():
    """Rows by file."""
    return {
        "trained_cifar10.csv": [
            trained("l1_loss_2e04_l2_3e04"),
            trained("l1_loss_1e03_l2_3e04", 94.0, 70.0),
            trained("l2_loss_7e03", 90.0, 60.0),
        ],
        "trained_cifar100.csv": [hundred("l1_loss_3e05_l2_3e04_cifar100")],
        "searched_cifar10.csv": [searched("l1_loss_2e04_l2_3e04"), searched("l1_loss_1e03_l2_3e04", 70.0)],
        "memory.csv": [dict(row) for row in MEMORY],
    }


def write(folder, tables, genotypes=GENOTYPES):
    folder.mkdir(exist_ok=True)
    (folder / "genotypes.json").write_text(genotypes if isinstance(genotypes, str) else json.dumps(genotypes))
    for name, rows in tables.items():
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return folder
