"""In how many directions the features of a trained network vary, layer by layer.

The eigenvalues of the covariance of a layer's channels, over images and positions, and what is read from them. Every
measure is a number of directions; more of them is neither better nor worse.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from scipy.special import stdtrit
from torch import Tensor, nn

from supernet.network import Network
from supernet.settings import InputError, nearest

MEASURES = (
    "participation_ratio", "effective_rank", "rankme", "stable_rank", "directions_90", "directions_95", "directions_99",
)  # fmt: skip

_SHARES = {"directions_90": 0.90, "directions_95": 0.95, "directions_99": 0.99}
_EPSILON = 1e-7
"""Added to the singular values' shares by RankMe."""
_ROUNDING = 1e-12
"""By so much of the variance a share may be missed: nine of ten equal directions hold 90 %."""


@dataclass
class Covariance:
    """The covariance of channels over samples that come in pieces; its memory does not grow with their number.

    Count, mean and scatter matrix in float64, combined by the pairwise update of Chan, Golub and LeVeque (1979). All
    is measured from the first sample, so that a channel that never changes has a variance of exactly 0, and one whose
    mean is large loses no digits.

    Attributes:
        count: samples so far: images times positions.
    """

    count: int = 0
    _origin: Tensor = field(default_factory=partial(torch.zeros, 0, dtype=torch.float64), repr=False)
    _mean: Tensor = field(default_factory=partial(torch.zeros, 0, dtype=torch.float64), repr=False)
    _scatter: Tensor = field(default_factory=partial(torch.zeros, 0, 0, dtype=torch.float64), repr=False)

    def add(self, features: Tensor) -> None:
        """Take in the features of some images, (batch, channels, height, width) or (batch, channels).

        Raises:
            InputError: another shape, or other channels than before.
        """
        if features.ndim not in (2, 4):
            shape = tuple(features.shape)
            raise InputError(f"features: expected (batch, channels) or (batch, channels, height, width), got {shape}")
        rows = features.detach()
        rows = rows.cpu() if rows.device.type == "mps" else rows  # which knows no float64
        rows = rows.to(torch.float64).movedim(1, -1).flatten(0, -2)
        if len(rows) == 0:
            return
        if self.count == 0:
            channels = rows.shape[1]
            self._origin, self._mean = rows[0].clone(), rows.new_zeros(channels)
            self._scatter = rows.new_zeros(channels, channels)
        if rows.shape[1] != len(self._mean):
            raise InputError(f"features: expected {len(self._mean)} channels as before, got {rows.shape[1]}")
        rows = rows - self._origin
        mean = rows.mean(dim=0)
        rows -= mean
        step, total = mean - self._mean, self.count + len(rows)
        self._scatter += rows.T @ rows + torch.outer(step, step) * (self.count * len(rows) / total)
        self._mean += step * (len(rows) / total)
        self.count = total

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The unbiased covariance, (channels, channels), as ``numpy.cov`` has it.

        Raises:
            InputError: fewer than two samples, or features that are not finite.
        """
        if self.count < 2:
            raise InputError(f"a covariance needs at least 2 samples (images x positions), got {self.count}")
        matrix: NDArray[np.float64] = self._scatter.cpu().numpy() / (self.count - 1)
        if not np.isfinite(matrix).all():
            raise InputError("features are not finite")
        return (matrix + matrix.T) / 2

    @property
    def eigenvalues(self) -> NDArray[np.float64]:
        """Of the matrix, (channels,), descending, never negative: those lost in rounding are 0. Raises as it does."""
        values = np.linalg.eigvalsh(self.matrix)[::-1]
        least = values[0] * len(values) * np.finfo(np.float64).eps
        return np.where(values > least, values, 0.0)


def measures(eigenvalues: NDArray[np.float64]) -> dict[str, float]:
    """What eigenvalues say about the number of directions, by the names in :data:`MEASURES`.

    Each is between 1 and the number of eigenvalues, and 0 where all eigenvalues are 0. With the eigenvalues l of the
    covariance and their shares p = l / sum(l):

    - ``participation_ratio``: sum(l)^2 / sum(l^2).
    - ``effective_rank``: exp of the entropy of p (Roy and Vetterli 2007). They take the singular values of the matrix
      in question; that is here the covariance, whose singular values are its eigenvalues.
    - ``rankme``: exp of the entropy of the singular values' shares (Garrido et al. 2023). The same, but of the matrix
      of features, whose singular values are the square roots of l times a constant (of the number of samples, which
      the shares do not see). So it is no less than ``effective_rank``: weak directions count for more. As theirs,
      it adds 1e-7 to each share, which moves it by as little; other than theirs, it centres the features.
    - ``stable_rank``: sum(l) / max(l), that is ||X||_F^2 / ||X||_2^2 of the centred features X.
    - ``directions_90``, ``_95``, ``_99``: the fewest eigenvalues that hold so many per cent of the variance.

    Args:
        eigenvalues: (channels,), of a covariance, in any order.

    Raises:
        InputError: no eigenvalues, or some that are negative or not finite.
    """
    values = np.sort(np.asarray(eigenvalues, np.float64))[::-1] if np.ndim(eigenvalues) == 1 else np.empty(0)
    if not len(values) or not np.isfinite(values).all() or values[-1] < 0:
        raise InputError("eigenvalues: expected a row of finite numbers, none of them negative")
    if values[0] == 0:
        return dict.fromkeys(MEASURES, 0.0)
    values = values / values[0]  # squares neither overflow nor vanish
    shares, roots = values / values.sum(), np.sqrt(values)
    held = np.cumsum(shares)
    found = {
        "participation_ratio": values.sum() ** 2 / (values**2).sum(),
        "effective_rank": _entropic(shares),
        "rankme": _entropic(roots / roots.sum() + _EPSILON),
        "stable_rank": values.sum(),
        **{name: np.searchsorted(held, share - _ROUNDING) + 1 for name, share in _SHARES.items()},
    }
    return {name: min(max(float(value), 1.0), float(len(values))) for name, value in found.items()}


def _entropic(shares: NDArray[np.float64]) -> float:
    """Exp of the entropy; what has no share adds nothing."""
    some = shares[shares > 0]
    return float(np.exp(-(some * np.log(some)).sum()))


@dataclass(frozen=True)
class LayerSpectrum:
    """How the features of one layer vary.

    Attributes:
        layer: its name in ``named_modules``.
        operation: that of the node, such as ``sep_conv``; in another module its class, such as ``Conv2d``.
        place: its depth among the recorded layers, in the order in which they run: 0 is the first, 1 the last, and
            one layer alone is at 0.
        channels: of its output.
        samples: images times drawn positions, the same for all layers.
        distinct: different samples among them. Where they are few times the channels, the measures are
            bounded by them.
        eigenvalues: of the covariance, (channels,), descending, never negative.
    """

    layer: str
    operation: str
    place: float
    channels: int
    samples: int
    distinct: int
    eigenvalues: tuple[float, ...]

    @cached_property
    def measures(self) -> dict[str, float]:
        """What :func:`measures` reads from the eigenvalues."""
        return measures(np.array(self.eigenvalues))

    @property
    def relative(self) -> dict[str, float]:
        """Each measure over the number of channels, between 0 and 1."""
        return {name: value / self.channels for name, value in self.measures.items()}


def feature_spectra(
    network: nn.Module,
    batches: Iterable[Tensor],
    layers: Sequence[str] | None = None,
    positions: int = 64,
    seed: int = 0,
) -> tuple[LayerSpectrum, ...]:
    """The spectra of a network's layers in evaluation, in the order in which the layers run.

    All measures grow with the number of samples, so every layer has the same: of each image ``positions`` places are
    drawn, uniformly and independently, and every layer is read where these fall on its own grid. The draw goes by the
    seed and the image's number alone: it is the same for every layer, network, condition and batch size. A layer of
    few pixels is read more than once at some of them. That is deliberate: its pixels are all there are of an image, so
    draws with repetition are independent samples of the same kind in a layer of 32x32 as in one of 4x4, and the error
    from drawing is the same function of their number. Distinct pixels, on the other hand, would leave out nothing of
    the small layer and nearly all of the large one, or allow only as many as the smallest layer of all networks has.
    What no draw mends: positions of one image are alike, so take many more images than a layer has channels.

    Without ``layers`` these are the module's children that hold a convolution; of a network of
    :func:`supernet.network.build_network` therefore the nodes that do, with their norm and activation where these
    belong to the node. Sums, concatenations, pools and the head are no depth of their own. Of a residual
    block it is what the block adds, of a dense layer the channels it adds. Nodes beside each other, as in
    ``op_subset``, come one after the other. A layer that gives vectors (batch, channels), such as the mean over the
    picture, is recorded if it is named, as a picture of one pixel.

    Args:
        network: any module; its training mode, module by module, is what it was afterwards, whatever happens.
        batches: images (batch, channels, height, width); moved to the device of the network. For conditions that are
            to be compared: the same images in the same order.
        layers: names in ``named_modules``, in any order. Of one that runs several times a batch the last run counts.
        positions: drawn in each image.
        seed: of the draw.

    Raises:
        InputError: a layer that is unknown, named twice, does not run, or gives neither pictures nor vectors; no
            layer with a convolution; no images; fewer than two samples; features that are not finite.
    """
    if positions < 1:
        raise InputError(f"positions: expected at least 1, got {positions}")
    modules = dict(network.named_modules())
    names = _chosen(network, modules, layers)
    weight = next(network.parameters(), None)
    draw = _Draw(np.random.default_rng(seed), positions)
    found: dict[str, Covariance] = {}
    distinct = dict.fromkeys(names, 0)
    modes = {module: module.training for module in modules.values()}
    hooks = [
        modules[name].register_forward_hook(lambda module, inputs, output, name=name: draw.take(name, output))
        for name in names
    ]
    try:
        network.eval()
        with torch.no_grad():
            for images in batches:
                if not isinstance(images, Tensor):
                    raise InputError(f"batches: expected tensors of images, got {type(images).__name__}")
                draw.begin(len(images))
                network(images if weight is None else images.to(weight.device))
                silent = next((name for name in names if name not in draw.taken), None)
                if silent is not None:
                    raise InputError(f"layer {silent!r} does not run when the network does")
                for name, (features, different) in draw.taken.items():
                    found.setdefault(name, Covariance()).add(features)
                    distinct[name] += different
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    if not draw.images:
        raise InputError("spectra: expected at least one image, got none")
    operations = network.operations if isinstance(network, Network) else {}
    spectra = []
    for number, (name, covariance) in enumerate(found.items()):
        try:
            values = covariance.eigenvalues
        except InputError as error:
            raise InputError(f"layer {name!r}: {error}") from error
        operation = operations.get(name, type(modules[name]).__name__)
        place = number / max(1, len(found) - 1)
        spectra.append(LayerSpectrum(
            name, operation, place, len(values), covariance.count, distinct[name], tuple(values.tolist())
        ))  # fmt: skip
    return tuple(spectra)


def _chosen(network: nn.Module, modules: Mapping[str, nn.Module], layers: Sequence[str] | None) -> list[str]:
    """The names of the layers to record. Raises InputError for none, an unknown one, or one named twice."""
    if layers is None:
        names = [
            name
            for name, child in network.named_children()
            if any(isinstance(module, nn.Conv2d) for module in child.modules())
        ]
        if not names:
            raise InputError("spectra: no child of the network holds a convolution; name the layers")
        return names
    known = [name for name in modules if name]
    for at, name in enumerate(layers):
        if name not in known:
            raise InputError(f"layer {name!r:.80} is unknown; {nearest(name, known)}")
        if name in layers[:at]:
            raise InputError(f"layer {name!r} is named twice")
    if not layers:
        raise InputError("layers: expected at least one name, got none")
    return list(layers)


@dataclass
class _Draw:
    """Reads every layer of a batch at the same places of the pictures.

    Attributes:
        images: so far.
        places: of this batch, (batch, positions, 2): row and column as shares of the side.
        taken: what each layer gave there, (batch, positions, channels) with the first two as one, and how many of
            these samples are different, in the order in which the layers ran.
    """

    random: np.random.Generator
    positions: int
    images: int = 0
    places: Tensor = field(default_factory=partial(torch.zeros, 0))
    taken: dict[str, tuple[Tensor, int]] = field(default_factory=dict)

    def begin(self, images: int) -> None:
        """Draw for the next images."""
        self.images += images
        self.places = torch.from_numpy(self.random.random((images, self.positions, 2)))
        self.taken = {}

    def take(self, name: str, output: object) -> None:
        """Read a layer's output. It is copied at once: a later layer may write in place."""
        if not isinstance(output, Tensor) or output.ndim not in (2, 4) or len(output) != len(self.places):
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(
                f"layer {name!r}: expected (batch, channels) or (batch, channels, height, width) "
                f"for {len(self.places)} images, got {got}"
            )
        picture = output if output.ndim == 4 else output[:, :, None, None]
        height, width = picture.shape[2:]
        rows, columns = (self.places * torch.tensor([height, width])).long().unbind(dim=-1)
        cells = (rows * width + columns).sort(dim=1).values
        different = len(cells) + int((cells.diff(dim=1) != 0).sum())
        image = torch.arange(len(rows), device=picture.device)[:, None]
        values = picture[image, :, rows.to(picture.device), columns.to(picture.device)]
        self.taken[name] = values.flatten(0, 1), different


class DepthCurve(NamedTuple):
    """A measure over depth, each (points,): places from 0 to 1, the mean over networks and its 95 % interval."""

    places: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def average_by_depth(
    spectra: Sequence[Sequence[LayerSpectrum]], measure: str, points: int = 21, relative: bool = True
) -> DepthCurve:
    """The mean over networks of a measure, at each normalised depth.

    Each network's curve is interpolated linearly between its layers; one layer alone holds everywhere. The interval
    is Student's t of the networks at that depth, which are taken for a sample of their family; it may reach beyond
    the range of the measure. Of one network there is none: NaN.

    Args:
        spectra: those of each network.
        measure: one of :data:`MEASURES`.
        points: depths, evenly from 0 to 1.
        relative: the measure over the number of channels.

    Raises:
        InputError: an unknown measure, no networks, a network without layers, fewer than 2 points.
    """
    if measure not in MEASURES:
        raise InputError(f"measure {measure!r:.80} is unknown; {nearest(measure, MEASURES)}")
    if points < 2:
        raise InputError(f"points: expected at least 2, got {points}")
    if not spectra or not all(spectra):
        raise InputError("spectra: expected at least one network, and of each at least one layer")
    places = np.linspace(0, 1, points)
    curves = []
    for network in spectra:
        ordered = sorted(network, key=lambda layer: layer.place)
        values = [(layer.relative if relative else layer.measures)[measure] for layer in ordered]
        curves.append(np.interp(places, [layer.place for layer in ordered], values))
    heights = np.array(curves)
    mean, half = heights.mean(axis=0), np.full(points, np.nan)
    if len(heights) > 1:
        half = stdtrit(len(heights) - 1, 0.975) * heights.std(axis=0, ddof=1) / np.sqrt(len(heights))
    return DepthCurve(places, mean, mean - half, mean + half)


def spectrum_rows(
    spectra: Sequence[LayerSpectrum], network: str, family: str, condition: str
) -> list[dict[str, str | int | float]]:
    """A row of a table for each layer of one network: what it is, and every measure.

    Args:
        network: its key or name.
        family: such as ``vgg``.
        condition: what the images went through, such as ``clean``.
    """
    return [
        {
            "network": network,
            "family": family,
            "condition": condition,
            "layer": layer.layer,
            "operation": layer.operation,
            "place": layer.place,
            "channels": layer.channels,
            "samples": layer.samples,
            "distinct": layer.distinct,
            **layer.measures,
        }
        for layer in spectra
    ]


def spectrum_to_json(spectrum: LayerSpectrum) -> dict[str, Any]:
    """A spectrum as JSON; its eigenvalues have 6 significant digits."""
    return {**asdict(spectrum), "eigenvalues": [float(f"{value:.6g}") for value in spectrum.eigenvalues]}


class _Written(BaseModel):
    """A spectrum in a file."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    layer: str
    operation: str
    place: Annotated[float, Field(ge=0, le=1)]
    channels: Annotated[int, Field(ge=1)]
    samples: Annotated[int, Field(ge=2)]
    distinct: Annotated[int, Field(ge=1)]
    eigenvalues: list[Annotated[float, Field(ge=0)]]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if len(self.eigenvalues) != self.channels:
            raise ValueError(f"{len(self.eigenvalues)} eigenvalues of {self.channels} channels")
        if sorted(self.eigenvalues, reverse=True) != self.eigenvalues:
            raise ValueError("eigenvalues do not descend")
        if self.distinct > self.samples:
            raise ValueError(f"{self.distinct} of {self.samples} samples are distinct")
        return self


def spectrum_from_json(content: Mapping[str, Any]) -> LayerSpectrum:
    """The inverse of :func:`spectrum_to_json`. Raises InputError saying what is wrong."""
    try:
        read = _Written.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"spectrum: {where + ': ' if where else ''}{first['msg']}") from error
    return LayerSpectrum(**{**read.model_dump(), "eigenvalues": tuple(read.eigenvalues)})
