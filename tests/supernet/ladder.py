"""A space with options that mean nothing in some rows, drawn otherwise than uniformly."""

from itertools import product
from typing import Literal

import numpy as np

from supernet import COST_NAMES, ArchGraph, Architecture, SearchSpace, graph_costs
from supernet.operations import operation

_KERNELS = (3, 5, 7)


class Ladder(SearchSpace):
    """How many rungs, and the kernel of each; the kernels of rungs that are not there mean nothing.

    ``sample`` draws networks with equal chance, so long ladders more often than short ones.
    """

    kind: Literal["ladder"] = "ladder"
    input_size: int = 4
    classes: int = 2
    rungs: int = 3
    width: int = 2

    @property
    def cardinalities(self):
        return (self.rungs, *(len(_KERNELS),) * self.rungs)

    @property
    def size(self):
        return sum(len(_KERNELS) ** (depth + 1) for depth in range(self.rungs))

    def canonical(self, choices):
        rows = choices.copy()
        rows[:, 1:][self._latent(choices)] = 0
        return rows

    def sample(self, count, random):
        chances = np.array([len(_KERNELS) ** (depth + 1) for depth in range(self.rungs)], float)
        depths = random.choice(self.rungs, size=(count, 1), p=chances / chances.sum())
        kernels = random.integers(len(_KERNELS), size=(count, self.rungs))
        return np.concatenate([depths, kernels], axis=1).astype(np.int8)

    def log_density(self, choices):
        return choices[:, 0] * np.log(len(_KERNELS))

    def disguise(self, choices, random):
        rows, latent = choices.copy(), self._latent(choices)
        rows[:, 1:][latent] = random.integers(len(_KERNELS), size=int(latent.sum()))
        return rows

    def format(self, architecture):
        return "".join(str(_KERNELS[kernel]) for kernel in architecture.choices[1 : architecture.choices[0] + 2])

    def parse(self, text):
        kernels = [_KERNELS.index(int(digit)) for digit in text.strip()]
        rest = [0] * (self.rungs - len(kernels))
        return Architecture(self.name, (len(kernels) - 1, *kernels, *rest))

    def costs(self, choices):
        """As the default has them, from what each kernel adds."""
        short = [graph_costs(self.graph(Architecture(self.name, (0, option, *(0,) * (self.rungs - 1)))))
                 for option in range(len(_KERNELS))]  # fmt: skip
        rung = [graph_costs(ArchGraph((self._rung(0, option),), ())) for option in range(len(_KERNELS))]
        fixed = np.subtract(short[0], rung[0])
        totals = fixed + np.where(self._latent(choices)[:, :, None], 0, np.array(rung)[choices[:, 1:]]).sum(axis=1)
        return {name: totals[:, column].astype(np.int64) for column, name in enumerate(COST_NAMES)}

    def graph(self, architecture):
        self.check(architecture)
        depth, *kernels = architecture.choices
        wide, side = self.width, self.input_size
        nodes = [
            operation("input", "input", out=self.input_channels, resolution=side),
            operation("conv_bn_relu", "stem", in_=self.input_channels, out=wide, kernel=3, stride=1, resolution=side),
            *(self._rung(number, kernel) for number, kernel in enumerate(kernels[: depth + 1], 1)),
            operation("global_mean", "mean", in_=wide, out=wide, resolution=1),
            operation("linear", "classifier", in_=wide, out=self.classes, resolution=1),
        ]
        return ArchGraph(tuple(nodes), tuple((at, at + 1) for at in range(len(nodes) - 1)))

    def _rung(self, number, option):
        wide, side = self.width, self.input_size
        kernel = _KERNELS[option]
        return operation("sep_conv", f"rung{number}", in_=wide, out=wide, kernel=kernel, stride=1, resolution=side)

    def _latent(self, choices):
        """Which rungs are not there, shape (architectures, rungs)."""
        return np.arange(self.rungs) > choices[:, :1]


def every_row(space):
    """All valid rows of a small space."""
    rows = np.array(list(product(*map(range, space.cardinalities))), np.int8)
    return rows[space.is_valid(rows)]
