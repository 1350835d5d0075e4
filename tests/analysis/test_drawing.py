import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import draw_graph
from supernet import ArchGraph, Architecture, DavidNet, Node, OpSubset, architectures

SVG = "{http://www.w3.org/2000/svg}"
SPACE = OpSubset()


def boxes(svg):
    """(left, top, right, bottom, texts) of each node."""
    found = []
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        if group.get("class") == "node":
            rect = group.find(f"{SVG}rect")
            x, y, width, height = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
            found.append((x, y, x + width, y + height, [text.text for text in group.iter(f"{SVG}text")]))
    return found


def paths(svg, kind):
    (path,) = [path for path in ET.fromstring(svg).iter(f"{SVG}path") if path.get("class") == kind]
    return path.get("d")


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 14))
    pairs = [(start, end) for end in range(count) for start in range(end)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=30)) if pairs else []
    ops = draw(st.lists(st.text(min_size=1, max_size=40), min_size=count, max_size=count))
    attributes = draw(
        st.lists(
            st.dictionaries(st.sampled_from(["in", "out", "kernel", "stride", "macs"]), st.integers(0, 10**7)),
            min_size=count, max_size=count,
        )
    )  # fmt: skip
    nodes = tuple(Node(op, tuple(values.items())) for op, values in zip(ops, attributes, strict=True))
    return ArchGraph(nodes, tuple(edges))


@given(graphs())
@settings(max_examples=60, deadline=None)
def test_any_graph_is_drawn_whole_without_overlap_and_downwards(graph):
    svg = draw_graph(graph)
    found = boxes(svg)
    assert len(found) == len(graph.nodes)
    assert paths(svg, "heads").count("z") == len(graph.edges)
    for start, end in graph.edges:
        assert found[start][3] < found[end][1]
    root = ET.fromstring(svg)
    width, height = float(root.get("width")), float(root.get("height"))
    for number, (left, top, right, bottom, _) in enumerate(found):
        assert 0 <= left < right <= width + 1
        assert 0 <= top < bottom <= height + 1
        for other in found[:number]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_edges_join_the_boxes_that_the_graph_names():
    graph = ArchGraph(tuple(Node("conv", (("out", number + 1),)) for number in range(3)), ((0, 1), (1, 2)))
    found = boxes(draw_graph(graph))
    starts = re.findall(r"M(\S+) (\S+)C\S+ \S+ \S+ \S+ (\S+) ([\d.]+)", paths(draw_graph(graph), "edges"))
    centre = [(box[0] + box[2]) / 2 for box in found]
    ends = [(centre[0], found[0][3], centre[1], found[1][1]), (centre[1], found[1][3], centre[2], found[2][1])]
    np.testing.assert_allclose(np.array(starts, float), ends, atol=0.2)


def test_an_edge_past_other_layers_goes_around_their_boxes():
    graph = ArchGraph(tuple(Node("conv") for _ in range(3)), ((0, 1), (1, 2), (0, 2)))
    svg = draw_graph(graph)
    middle = boxes(svg)[1]
    passing = re.findall(r" ([\d.]+) [\d.]+v[\d.]+", paths(svg, "edges"))
    assert len(passing) == 1
    assert not middle[0] <= float(passing[0]) <= middle[2]


def test_nodes_say_operation_kernel_channels_stride_and_new_resolution():
    architecture = SPACE.parse("100000 001000 000010 100000 000001")
    found = [texts for *_, texts in boxes(draw_graph(SPACE.graph(architecture)))]
    assert ["input", "3 channels", "32×32 pixels"] in found
    assert ["conv bn relu6 3×3", "3 → 16"] in found
    assert ["sep conv 5×5", "16 → 32, stride 2", "16×16 pixels"] in found
    assert ["dil conv 3×3", "32 → 40, stride 2", "dilation 2", "8×8 pixels"] in found
    assert ["sum"] in found
    assert ["linear", "1280 → 100"] in found


def test_an_inverted_residual_says_what_is_inside():
    attributes = {"in": 16, "out": 24, "kernel": 5, "stride": 2, "expansion": 6, "se": 1, "hswish": 1}
    node = Node("mbconv", tuple(attributes.items()))
    (found,) = [texts for *_, texts in boxes(draw_graph(ArchGraph((node,), ())))]
    assert found == ["mbconv 5×5", "16 → 24, stride 2", "expansion 6", "squeeze-excitation", "hard swish"]


def test_legend_names_each_kind_once_and_kinds_keep_their_colour():
    def legend(svg):
        group = next(group for group in ET.fromstring(svg).iter(f"{SVG}g") if group.get("class") == "legend")
        colours = [rect.get("fill") for rect in group.iter(f"{SVG}rect")]
        return dict(zip([text.text for text in group.iter(f"{SVG}text")], colours, strict=True))

    several = architectures(SPACE, SPACE.sample(6, np.random.default_rng(0)))
    seen = {}
    for architecture in [*several, Architecture(SPACE.name, (1,) * 30)]:
        graph = SPACE.graph(architecture)
        entries = legend(draw_graph(graph))
        assert set(entries) == {node.op for node in graph.nodes}
        assert len(set(entries.values())) == len(entries)
        assert all(seen.setdefault(op, fill) == fill for op, fill in entries.items())


@pytest.mark.parametrize("activation", ["relu", "celu"])
def test_kinds_of_one_drawing_differ_in_colour(activation):
    space = DavidNet(activation=activation)
    svg = draw_graph(space.graph(space.parse("128r-max 256-average 512r-max")))
    group = next(group for group in ET.fromstring(svg).iter(f"{SVG}g") if group.get("class") == "legend")
    colours = [rect.get("fill") for rect in group.iter(f"{SVG}rect")]
    assert len(colours) == len(set(colours)) == 10


def test_names_from_elsewhere_are_text():
    graph = ArchGraph((Node("<script>alert(1)</script>\x00"), Node('"&x' * 20)), ((0, 1),))
    svg = draw_graph(graph)
    assert "<script" not in svg
    (first,), (second,) = (box[4] for box in boxes(svg))
    assert first == "<script>alert(1)</script>\N{REPLACEMENT CHARACTER}"
    assert second.startswith('"&x')
    assert len(second) == 26
