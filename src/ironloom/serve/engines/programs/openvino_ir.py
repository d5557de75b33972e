"""OpenVINO's IR as a graph of nodes: read from a folder with openvino_model.xml and .bin, written into another.

Only what a rewrite of a decoder needs: layers, their attributes, the edges, constants. Weights are never copied in
memory: a constant is a view of the mapped .bin file, and goes out in parts.
Format: docs.openvino.ai, "OpenVINO IR format" (net, layers, edges; a Const's data stands in .bin at offset and size).
"""

from __future__ import annotations

import mmap
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from xml.sax.saxutils import quoteattr

XML = "openvino_model.xml"
BIN = "openvino_model.bin"
_ALIGN_BYTES = 64
_SHARED_BYTES = 256
"""Constants up to this size are written once, however often they are used."""
_PRECISION = {"f32": "FP32", "f16": "FP16", "i64": "I64", "i32": "I32", "u8": "U8", "u4": "U4"}

Parts = Sequence[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class Node:
    """One layer. `inputs` are the ids of the layers it reads, in order; each has one output, see Graph."""

    id: str
    type: str
    name: str
    attributes: dict[str, str]
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Constant:
    """A Const's value."""

    element: str
    """f32, f16, i64, i32, u8, u4, …"""
    shape: tuple[int, ...]
    data: memoryview


class Graph:
    """An IR that was read. Raises ValueError for a file that is none."""

    def __init__(self, folder: Path) -> None:
        try:
            root = ET.parse(folder / XML).getroot()
        except ET.ParseError as error:
            raise ValueError(f"{folder / XML} is not XML: {error}") from error
        inputs: dict[str, dict[int, str]] = {}
        self._ports: dict[str, set[str]] = {}
        for edge in root.iterfind("edges/edge"):
            source, port = edge.get("from-layer", ""), edge.get("from-port", "")
            inputs.setdefault(edge.get("to-layer", ""), {})[int(edge.get("to-port", "0"))] = source
            self._ports.setdefault(source, set()).add(port)
        self.nodes: dict[str, Node] = {}
        for layer in root.iterfind("layers/layer"):
            found = layer.find("data")
            read = inputs.get(layer.get("id", ""), {})
            node = Node(
                layer.get("id", ""),
                layer.get("type", ""),
                layer.get("name", ""),
                dict(found.attrib) if found is not None else {},
                tuple(read[port] for port in sorted(read)),
            )
            self.nodes[node.id] = node
        if not self.nodes:
            raise ValueError(f"{folder / XML} has no layers")
        info = root.find("rt_info")
        self.rt_info = ET.tostring(info, encoding="unicode") if info is not None else ""
        with (folder / BIN).open("rb") as file:
            self._bin = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def input(self, node: Node, index: int) -> Node:
        """The node that this input reads. Raises ValueError when there is none, or it has several outputs in use."""
        if index >= len(node.inputs):
            raise ValueError(f"{node.name} ({node.type}) has no input {index}")
        found = self.nodes.get(node.inputs[index])
        if found is None or len(self._ports[found.id]) != 1:
            raise ValueError(f"input {index} of {node.name} ({node.type}) is not one output of one layer")
        return found

    def of_type(self, kind: str) -> list[Node]:
        """All layers of a type, in the file's order."""
        return [node for node in self.nodes.values() if node.type == kind]

    def constant(self, node: Node) -> Constant:
        """A Const's value. Raises ValueError when it is none, or lies outside of the file."""
        if node.type != "Const":
            raise ValueError(f"{node.name} is a {node.type}, not a Const")
        text = node.attributes.get("shape", "")
        shape = tuple(int(size) for size in text.split(",")) if text else ()
        offset, size = int(node.attributes["offset"]), int(node.attributes["size"])
        if offset + size > len(self._bin):
            raise ValueError(f"the value of {node.name} lies outside of {BIN}")
        return Constant(node.attributes["element_type"], shape, self._bin[offset : offset + size])


@dataclass(frozen=True, slots=True)
class Port:
    """An output of a layer that was written."""

    layer: int
    port: int
    element: str
    shape: tuple[int, ...]
    """-1 is any size."""


class Writer:
    """Writes an IR into a folder. Layers come in an order in which each one's inputs are there before it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._layers: list[str] = []
        self._edges: list[str] = []
        self._shared: dict[tuple[str, tuple[int, ...], bytes], Port] = {}
        self._file: BinaryIO = (folder / BIN).open("wb")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def num_layers(self) -> int:
        """How many were written."""
        return len(self._layers)

    def constant(self, element: str, shape: Sequence[int], parts: Parts) -> Port:
        """A Const whose value is these parts, one after the other."""
        size = sum(len(part) for part in parts)
        key = (element, tuple(shape), b"".join(parts)) if size <= _SHARED_BYTES else None
        if key is not None and key in self._shared:
            return self._shared[key]
        self._file.write(bytes(-self._file.tell() % _ALIGN_BYTES))
        offset = self._file.tell()
        for part in parts:
            self._file.write(part)
        attributes = {
            "element_type": element,
            "shape": ", ".join(map(str, shape)),
            "offset": offset,
            "size": size,
        }
        port = self.layer("Const", (), attributes, shape=shape, element=element)
        if key is not None:
            self._shared[key] = port
        return port

    def integers(self, *values: int) -> Port:
        """A vector of i64."""
        return self.constant("i64", (len(values),), [b"".join(v.to_bytes(8, "little", signed=True) for v in values)])

    def scalar(self, value: int, element: str = "i64") -> Port:
        """An i64 or i32."""
        return self.constant(element, (), [value.to_bytes(8 if element == "i64" else 4, "little", signed=True)])

    def layer(
        self,
        kind: str,
        inputs: Iterable[Port],
        attributes: dict[str, Any] | None = None,
        *,
        shape: Sequence[int],
        element: str = "f32",
        version: str = "opset1",
        name: str = "",
    ) -> Port:
        """A layer with one output, which `name` names for those who look for it."""
        return self._add(kind, tuple(inputs), attributes or {}, [tuple(shape)], element, version, name)[0]

    def split(self, value: Port, sizes: Sequence[int]) -> list[Port]:
        """The last axis cut into pieces of these sizes."""
        rest, axis = value.shape[:-1], len(value.shape) - 1
        inputs = (value, self.scalar(axis), self.integers(*sizes))
        shapes = [(*rest, size) for size in sizes]
        return self._add("VariadicSplit", inputs, {}, shapes, value.element, "opset1", "")

    def sink(self, kind: str, value: Port, attributes: dict[str, Any], *, version: str = "opset1") -> None:
        """A layer whose output nobody reads (Assign)."""
        self._add(kind, (value,), attributes, [value.shape], value.element, version, "")

    def result(self, value: Port) -> None:
        """The model's output."""
        self._add("Result", (value,), {}, [], value.element, "opset1", "")

    def finish(self, rt_info: str) -> None:
        """Write the XML. `rt_info` is the element of the source: the runtime's own hints."""
        self._file.close()
        lines = ['<?xml version="1.0"?>', '<net name="lean" version="11">', "<layers>", *self._layers, "</layers>"]
        lines += ["<edges>", *self._edges, "</edges>", rt_info, "</net>", ""]
        (self._folder / XML).write_text("\n".join(lines))

    def _add(
        self,
        kind: str,
        inputs: tuple[Port, ...],
        attributes: dict[str, Any],
        shapes: Sequence[tuple[int, ...]],
        element: str,
        version: str,
        name: str,
    ) -> list[Port]:
        layer = len(self._layers)
        text = f'<layer id="{layer}" name={quoteattr(name or f"{kind}_{layer}")} type="{kind}" version="{version}">'
        if attributes:
            text += "<data " + " ".join(f"{key}={quoteattr(str(value))}" for key, value in attributes.items()) + "/>"
        if inputs:
            text += "<input>" + "".join(_port(at, port) for at, port in enumerate(inputs)) + "</input>"
        for at, port in enumerate(inputs):
            ends = f'from-layer="{port.layer}" from-port="{port.port}" to-layer="{layer}" to-port="{at}"'
            self._edges.append(f"<edge {ends}/>")
        outputs = [Port(layer, len(inputs) + at, element, shape) for at, shape in enumerate(shapes)]
        if outputs:
            text += "<output>" + "".join(_port(port.port, port, name) for port in outputs) + "</output>"
        self._layers.append(text + "</layer>")
        return outputs


def _port(number: int, port: Port, name: str = "") -> str:
    names = f" names={quoteattr(name)}" if name else ""
    sizes = "".join(f"<dim>{size}</dim>" for size in port.shape)
    return f'<port id="{number}" precision="{_PRECISION[port.element]}"{names}>{sizes}</port>'
