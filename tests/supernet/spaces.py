"""Random spaces and architectures."""

from hypothesis import strategies as st

from supernet import Architecture, OpSubset
from supernet.op_subset import LayerSettings

OPERATION_NAMES = ("skip", "sep_conv_3", "sep_conv_5", "sep_conv_7", "dil_conv_3", "dil_conv_5")


@st.composite
def spaces(draw):
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


@st.composite
def spaces_with_architecture(draw):
    """A space and one valid architecture of it."""
    space = draw(spaces())
    width = len(space.operations)
    layer = st.lists(st.integers(0, 1), min_size=width, max_size=width).filter(any)
    choices = [bit for _ in space.layers for bit in draw(layer)]
    return space, Architecture(space.name, tuple(choices))
