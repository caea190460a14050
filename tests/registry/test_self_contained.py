"""No graph reaches outside of its own file, wherever in it a tensor lies."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from steel_batch.errors import EngineError
from steel_batch.registry.graph import open_session
from steel_batch.registry.self_contained import check_self_contained
from steel_batch.registry.versions import load_engine

MARKER = "marker.bin"


def tensor(name: str = "w") -> TensorProto:
    return numpy_helper.from_array(np.arange(4, dtype=np.float32), name)


def external(name: str = "w", *, location: bool = True, entries: bool = True) -> TensorProto:
    """A tensor whose values would be read from another file."""
    made = tensor(name)
    made.ClearField("raw_data")
    if location:
        made.data_location = TensorProto.EXTERNAL
    if entries:
        entry = made.external_data.add()
        entry.key, entry.value = "location", MARKER
    return made


def graph_of(nodes: list[onnx.NodeProto], initializers: list[TensorProto]) -> onnx.GraphProto:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    return helper.make_graph(nodes, "g", [], [value], initializers)


def constant(value: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["y"], value=value)


def branch(value: TensorProto) -> onnx.NodeProto:
    inner = graph_of([helper.make_node("Identity", ["w"], ["y"])], [value])
    return helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)


def sparse(value: TensorProto) -> onnx.SparseTensorProto:
    indices = numpy_helper.from_array(np.arange(4, dtype=np.int64), "i")
    return helper.make_sparse_tensor(value, indices, [8])


def of_graph(value: TensorProto) -> onnx.ModelProto:
    return helper.make_model(graph_of([helper.make_node("Identity", ["w"], ["y"])], [value]))


def of_constant(value: TensorProto) -> onnx.ModelProto:
    return helper.make_model(graph_of([constant(value)], []))


def of_branch(value: TensorProto) -> onnx.ModelProto:
    return helper.make_model(graph_of([branch(value)], []))


def of_nested_branches(value: TensorProto) -> onnx.ModelProto:
    inner = graph_of([branch(value)], [])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    return helper.make_model(graph_of([node], []))


def of_sparse(value: TensorProto) -> onnx.ModelProto:
    model = of_constant(tensor())
    model.graph.sparse_initializer.append(sparse(value))
    return model


def of_function(value: TensorProto) -> onnx.ModelProto:
    opset = [helper.make_opsetid("", 17)]
    function = helper.make_function("d", "f", [], ["y"], [constant(value)], opset)
    return helper.make_model(graph_of([], []), functions=[function])


def of_training(value: TensorProto) -> onnx.ModelProto:
    model = of_constant(tensor())
    model.training_info.add().algorithm.CopyFrom(graph_of([], [value]))
    return model


PLACES = [
    of_graph, of_constant, of_branch, of_nested_branches, of_sparse, of_function, of_training,
]  # fmt: skip
Model = Callable[[TensorProto], onnx.ModelProto]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "where", [{}, {"entries": False}, {"location": False}], ids=["both", "location", "entries"]
)
def test_a_tensor_in_another_file_is_refused_wherever_it_lies(
    place: Model, where: dict[str, Any]
) -> None:
    with pytest.raises(EngineError, match=r"the graph stores values .* in another file"):
        check_self_contained(place(external(**where)).SerializeToString(), name="the graph")


@pytest.mark.parametrize("place", PLACES)
def test_the_same_graph_with_its_values_inside_is_taken(place: Model) -> None:
    inside = tensor()
    inside.data_location = TensorProto.DEFAULT
    check_self_contained(place(inside).SerializeToString(), name="the graph")


def test_the_engine_that_ships_is_one_file() -> None:
    engine = load_engine("demo", store=None)
    for graph in engine.card.graphs:
        check_self_contained(engine.read_graph(graph.precision), name=graph.file)


@pytest.mark.parametrize("data", [b"\xff" * 16, b"\x3a\x10ab", b"\x0b", b"\x3a"])
def test_what_is_no_onnx_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(EngineError, match=r"^model\.onnx is not an ONNX file: "):
        check_self_contained(data, name="model.onnx")


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(EngineError):
        check_self_contained(data, name="g")


def test_no_runtime_is_given_a_graph_that_names_another_file() -> None:
    engine = load_engine("demo", store=None)
    model = onnx.load_from_string(engine.read_graph("fp32"))
    model.graph.initializer[0].CopyFrom(external(model.graph.initializer[0].name))
    with pytest.raises(EngineError, match=r"the fp32 graph of engine demo-\w+ stores values"):
        open_session(model.SerializeToString(), engine.card, precision="fp32")
