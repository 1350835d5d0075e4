"""Random spaces and architectures."""

from hypothesis import strategies as st

from supernet import Architecture, DavidNet, NasBench201, OpSubset
from supernet.op_subset import LayerSettings

OPERATION_NAMES = ("skip", "sep_conv_3", "sep_conv_5", "sep_conv_7", "dil_conv_3", "dil_conv_5")


@st.composite
def op_subset_spaces(draw):
    """Small ``op_subset`` spaces of all shapes, odd input sizes among them."""
    return OpSubset(
        layers=draw(
            st.lists(
                st.builds(LayerSettings, channels=st.integers(2, 20), stride=st.sampled_from((1, 2))),
                min_size=1,
                max_size=4,
            )
        ),
        operations=draw(st.lists(st.sampled_from(OPERATION_NAMES), min_size=1, unique=True)),
        stem_channels=draw(st.integers(1, 12)),
        head_channels=draw(st.integers(1, 24)),
        input_size=draw(st.sampled_from((1, 2, 5, 7, 8, 12, 33))),
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


def spaces():
    """Small spaces of every kind."""
    return st.one_of(op_subset_spaces(), davidnet_spaces(), nasbench201_spaces())


@st.composite
def with_architecture(draw, some_spaces):
    """One of the spaces and one valid architecture of it."""
    space = draw(some_spaces)
    if isinstance(space, OpSubset):
        width = len(space.operations)
        layer = st.lists(st.integers(0, 1), min_size=width, max_size=width).filter(any)
        choices = [bit for _ in space.layers for bit in draw(layer)]
    else:
        choices = [draw(st.integers(0, count - 1)) for count in space.cardinalities]
    return space, Architecture(space.name, tuple(choices))


def spaces_with_architecture():
    """A space of any kind and one valid architecture of it."""
    return with_architecture(spaces())
