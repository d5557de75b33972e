"""The cut at a tokenizer's limit, taken out of its graph."""

from __future__ import annotations

import sys
import types
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from ironloom.serve.engines.programs.openvino_untruncated import load_tokenizer, without_limit

LAYERS = (("0", "Parameter"), ("1", "ShapeOf"), ("2", "Const"), ("3", "Minimum"), ("4", "Slice"), ("5", "Result"))
CUT = (("0", 0, "1", 0), ("1", 1, "3", 0), ("2", 0, "3", 1), ("0", 0, "4", 0), ("3", 2, "4", 1), ("4", 2, "5", 0))
"""Text → its length → Minimum(length, limit) → the slice that is kept."""


def ir(edges: tuple[tuple[str, int, str, int], ...], layers: tuple[tuple[str, str], ...] = LAYERS) -> str:
    """A graph in OpenVINO's form: `(from layer, port, to layer, port)`."""
    made = "".join(f'<layer id="{number}" type="{kind}"/>' for number, kind in layers)
    drawn = "".join(f'<edge from-layer="{a}" from-port="{p}" to-layer="{b}" to-port="{q}"/>' for a, p, b, q in edges)
    return f"<net><layers>{made}</layers><edges>{drawn}</edges></net>"


def edges_of(xml: str) -> set[tuple[str, ...]]:
    names = ("from-layer", "from-port", "to-layer", "to-port")
    return {tuple(edge.get(name, "") for name in names) for edge in ET.fromstring(xml).iterfind("edges/edge")}


def test_who_reads_the_smaller_of_length_and_limit_then_reads_the_length() -> None:
    changed = without_limit(ir(CUT))
    assert changed is not None
    assert ("1", "1", "4", "1") in edges_of(changed), "the slice ends at the text's length"
    assert not [edge for edge in edges_of(changed) if edge[0] == "3"], "nobody reads the minimum"
    assert edges_of(changed) - edges_of(ir(CUT)) == {("1", "1", "4", "1")}, "all else stays"


def test_the_limit_may_come_first() -> None:
    swapped = tuple((a, p, b, 1 - q if b == "3" else q) for a, p, b, q in CUT)
    changed = without_limit(ir(swapped))
    assert changed is not None
    assert ("1", "1", "4", "1") in edges_of(changed)


@pytest.mark.parametrize(
    "xml",
    [
        pytest.param(ir(CUT, tuple((n, "Add" if k == "Minimum" else k) for n, k in LAYERS)), id="no minimum"),
        pytest.param(ir(CUT, tuple((n, "ShapeOf" if k == "Const" else k) for n, k in LAYERS)), id="of two lengths"),
        pytest.param("<net/>", id="an empty graph"),
    ],
)
def test_a_graph_without_a_limit_stays_as_it_is(xml: str) -> None:
    assert without_limit(xml) is None


def test_what_is_no_xml_is_told() -> None:
    with pytest.raises(ValueError, match="not XML"):
        without_limit("<net>")


class _Loaded:
    """Stands for openvino_genai.Tokenizer: remembers what was in the folder that it was given."""

    fails_on_copies_of: Path | None = None

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        if self.fails_on_copies_of is not None and self.folder != self.fails_on_copies_of:
            raise RuntimeError("Unsupported op")
        self.files = {file.name: file.read_text() for file in self.folder.iterdir()}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> type[_Loaded]:
    monkeypatch.setitem(sys.modules, "openvino_genai", types.SimpleNamespace(Tokenizer=_Loaded))
    monkeypatch.setattr(_Loaded, "fails_on_copies_of", None)
    return _Loaded


def _folder(at: Path, xml: str) -> Path:
    at.mkdir()
    (at / "openvino_tokenizer.xml").write_text(xml)
    (at / "openvino_tokenizer.bin").write_text("weights")
    return at


def test_a_tokenizer_is_loaded_from_a_changed_graph_beside_its_own_weights(
    loaded: type[_Loaded], tmp_path: Path
) -> None:
    folder = _folder(tmp_path / "model", ir(CUT))
    found = load_tokenizer(folder)
    assert isinstance(found, loaded)
    assert found.files == {"openvino_tokenizer.xml": without_limit(ir(CUT)), "openvino_tokenizer.bin": "weights"}
    assert not found.folder.exists(), "the copy is gone once it is loaded"
    assert (folder / "openvino_tokenizer.xml").read_text() == ir(CUT)


@pytest.mark.parametrize("xml", ["<net/>", "no XML"])
def test_a_tokenizer_without_a_cut_is_loaded_where_it_is(xml: str, loaded: type[_Loaded], tmp_path: Path) -> None:
    folder = _folder(tmp_path / "model", xml)
    assert load_tokenizer(folder).folder == folder
    assert loaded.fails_on_copies_of is None


def test_one_that_cannot_be_loaded_without_its_cut_is_loaded_with_it_and_says_so(
    loaded: type[_Loaded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = _folder(tmp_path / "model", ir(CUT))
    monkeypatch.setattr(loaded, "fails_on_copies_of", folder)
    assert load_tokenizer(folder).folder == folder
    assert "cuts long texts, and that cannot be taken out: Unsupported op" in caplog.text
