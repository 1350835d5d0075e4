"""Random spaces and architectures."""

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from pydantic import ValidationError

from supernet import Darts, DavidNet, Families, HandMade, NasBench201, OpSubset, UnionSpace, architectures
from supernet.op_subset import LayerSettings
from supernet.stages import Stages

OPERATION_NAMES = ("skip", "sep_conv_3", "sep_conv_5", "sep_conv_7", "dil_conv_3", "dil_conv_5")


@st.composite
def op_subset_spaces(draw):
    """Small ``op_subset`` spaces of all shapes, odd input sizes among them."""
    layers = st.builds(LayerSettings, channels=st.integers(2, 20), stride=st.sampled_from((1, 2)))
    side = draw(st.sampled_from((1, 2, 5, 7, 8, 12, 33)))
    most = (side - 1).bit_length()  # halvings
    return OpSubset(
        layers=draw(
            st.lists(layers, min_size=1, max_size=4).filter(lambda some: sum(one.stride == 2 for one in some) <= most)
        ),
        operations=draw(st.lists(st.sampled_from(OPERATION_NAMES), min_size=1, unique=True)),
        stem_channels=draw(st.integers(1, 12)),
        head_channels=draw(st.integers(1, 24)),
        input_size=side,
        input_channels=draw(st.integers(1, 4)),
        classes=draw(st.integers(2, 12)),
    )


def some(*options):
    """Options of a choice, in any order."""
    return st.lists(st.sampled_from(options), min_size=1, unique=True)


@st.composite
def davidnet_spaces(draw):
    """Thin ``davidnet`` spaces with all their options, odd input sizes among them."""
    return DavidNet(
        input_size=draw(st.sampled_from((8, 9, 15, 16, 18))),
        input_channels=draw(st.integers(1, 4)),
        classes=draw(st.integers(2, 12)),
        stem_channels=draw(st.integers(1, 12)),
        widths=draw(some(0.05, 0.125, 0.2, 0.3)),
        residuals=draw(some(0, 1)),
        poolings=draw(some("max", "average")),
        activation=draw(st.sampled_from(("relu", "celu"))),
        celu_alpha=draw(st.sampled_from((0.075, 0.3))),
        ghost_images=draw(st.sampled_from((0, 2, 32))),
        pool_before_norm=draw(st.booleans()),
        whitening_stem=draw(st.booleans()),
        output_scale=draw(st.sampled_from((0.125, 1.0))),
    )


CANDIDATES = (
    "skip", "sep_conv_3", "dil_conv_3", "mbconv_3_e1", "mbconv_5_e2_se", "mbconv_3_e2_hswish", "conv_bn_relu_3",
    "conv_bn_1", "relu_conv_bn_3", "max_pool_same_3", "avg_pool_same_3",
)  # fmt: skip


@st.composite
def stage_settings(draw):
    """One stage; the first candidate can make any number of channels."""
    candidates = draw(st.permutations(CANDIDATES))[: draw(st.integers(1, 4))]
    if draw(st.booleans()):
        candidates = ["shortcut" if one == "skip" else one for one in candidates]
    return {
        "channels": draw(st.sampled_from((8, 12))),
        "stride": draw(st.sampled_from((1, 1, 2))),
        "depth": draw(st.sampled_from((1, 2, 3, (1, 2), (1, 3), (2, 4)))),
        "widths": draw(st.sampled_from(((1.0,), (1.0,), (1.0, 2.5), (2.0, 4.0, 6.0)))),
        "operations": ["conv_bn_3" if all("pool" in one for one in candidates) else candidates[0], *candidates[1:]],
        "apply": draw(st.sampled_from(("one", "any"))),
        "share": draw(st.booleans()),
        "residual": draw(st.sampled_from((False, True, "projected"))),
    }


@st.composite
def stages_spaces(draw, most=2):
    """Small spaces with every option: one stage or ``most`` such, and a last one that is the same in all."""
    settings = {
        "input_size": draw(st.sampled_from((8, 9, 13))),
        "input_channels": draw(st.integers(1, 3)),
        "classes": draw(st.integers(2, 5)),
        "resolutions": draw(st.sampled_from(((1.0,), (1.0,), (0.75, 1.0)))),
        "stem": {"op": draw(st.sampled_from(("conv_bn", "conv_bn_hswish"))), "channels": draw(st.integers(1, 9))},
        "stages": [
            *draw(st.lists(stage_settings(), min_size=1, max_size=most)),
            {"channels": 4, "operations": ["conv_bn_3", "sep_conv_3"]},  # something to choose
        ],
        "head": draw(st.sampled_from((None, {"channels": 8}))),
    }
    try:
        return Stages.model_validate(settings)
    except ValidationError as error:  # pools that no layer can apply
        assume("no layer can apply" not in str(error))
        raise


@st.composite
def families_spaces(draw):
    """Short and thin ``families`` spaces of the three families, odd input sizes among them."""
    family = draw(st.sampled_from(("vgg", "resnet", "densenet")))
    return Families(
        family=family,
        input_size=draw(st.sampled_from((8, 9, 15))),
        input_channels=draw(st.integers(1, 4)),
        classes=draw(st.integers(2, 12)),
        depth=sorted(draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))),
        channels=draw(some(2, 3, 4)),
        kernels=draw(some(1, 3, 5)),
        growths=draw(some(1, 2, 3)),
        layers=draw(some(1, 2, 3)),
        max_pools=draw(st.integers(0, 3)),
        stem=draw(st.sampled_from(("small", "large") if family == "densenet" else ("none", "small"))),
        stem_channels=draw(st.integers(1, 4)),
    )


@st.composite
def darts_spaces(draw):
    """Thin ``darts`` spaces of few cells and pixels, odd input sizes among them."""
    return Darts(
        input_size=draw(st.sampled_from((4, 5, 8))),
        input_channels=draw(st.integers(1, 4)),
        classes=draw(st.integers(2, 12)),
        cells=draw(st.sampled_from((3, 4))),
        channels=draw(st.integers(2, 4)),
        stem_multiplier=draw(st.integers(1, 3)),
        nodes=draw(st.sampled_from((1, 2, 4))),
        operations=draw(some("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5",
                             "sep_conv_7x7", "dil_conv_3x3", "dil_conv_5x5")),
    )  # fmt: skip


@st.composite
def nasbench201_spaces(draw):
    """Thin ``nasbench201`` spaces of few cells."""
    return NasBench201(
        input_size=draw(st.sampled_from((4, 8, 12))),
        input_channels=draw(st.integers(1, 4)),
        classes=draw(st.integers(2, 12)),
        channels=draw(st.integers(1, 4)),
        cells=draw(st.integers(1, 2)),
    )


def handmade_spaces():
    """``handmade`` spaces of few pixels, or of so many that the stem halves them."""
    return st.builds(
        HandMade,
        input_size=st.sampled_from((1, 4, 7, 9, 16, 130)),
        input_channels=st.integers(1, 4),
        classes=st.integers(2, 12),
    )


def single_spaces():
    """Small spaces of every kind but unions."""
    return st.one_of(
        op_subset_spaces(), davidnet_spaces(), nasbench201_spaces(), darts_spaces(), families_spaces(),
        handmade_spaces(), stages_spaces(),
    )  # fmt: skip


SHARED = {"input_size", "input_channels", "classes"}


@st.composite
def union_spaces(draw):
    """Unions of one to three small spaces of any kinds, on the smallest pictures that all of them were made for."""
    members = draw(st.lists(single_spaces(), min_size=1, max_size=3))
    try:
        return UnionSpace(
            input_size=max(member.input_size for member in members),
            input_channels=draw(st.integers(1, 3)),
            classes=draw(st.integers(2, 5)),
            members={f"m{number}": one.model_dump(exclude=SHARED) for number, one in enumerate(members)},
        )
    except ValidationError as error:  # such as a stem whose strides another size does not take
        assume("input_size" not in str(error))
        raise


def spaces():
    """Small spaces of every kind."""
    return st.one_of(single_spaces(), union_spaces())


@st.composite
def with_architecture(draw, some_spaces):
    """One of the spaces and one valid architecture of it."""
    space = draw(some_spaces)
    row = space.sample(1, np.random.default_rng(draw(st.integers(0, 2**32))))
    return space, architectures(space, row)[0]


def spaces_with_architecture():
    """A space of any kind and one valid architecture of it."""
    return with_architecture(spaces())
