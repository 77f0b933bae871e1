"""Graphs too large for one file: written, hashed, installed, linted and served all the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cytoserve.files import file_sha256
from cytoserve.model_config import MANIFEST_FILE
from export.graphs import files as graph_files
from export.graphs.files import DATA_HASH, DATA_SUFFIX, open_graph, open_session, save_graph
from export.repository.install import MODEL_FILE, Staging

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


def product(scale: float) -> onnx.ModelProto:
    """A matrix product with weights of 4,800 bytes."""
    weights = np.full((3, 400), scale, np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 400])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def _small_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_files, "MAX_MESSAGE_BYTES", 4000)


def test_a_small_graph_is_one_file(tmp_path: Path) -> None:
    save_graph(product(2), tmp_path / MODEL_FILE)
    assert [path.name for path in tmp_path.iterdir()] == [MODEL_FILE]
    assert onnx.load(tmp_path / MODEL_FILE) == product(2)


@pytest.mark.usefixtures("_small_messages")
def test_weights_move_beside_a_large_graph(tmp_path: Path) -> None:
    graph = product(2)
    save_graph(graph, tmp_path / MODEL_FILE)
    assert graph == product(2)  # it can be used on
    data = tmp_path / (MODEL_FILE + DATA_SUFFIX)
    assert data.stat().st_size >= 4800
    assert data.stat().st_mode == (tmp_path / MODEL_FILE).stat().st_mode
    assert (tmp_path / MODEL_FILE).stat().st_size < 1000
    [answer] = open_session(tmp_path / MODEL_FILE, 1).run(None, {"x": ROWS})
    np.testing.assert_allclose(answer[:, 0], 2 * ROWS.sum(axis=1))
    [answer] = open_graph(graph, 1).run(None, {"x": ROWS})
    np.testing.assert_allclose(answer[:, 0], 2 * ROWS.sum(axis=1))


@pytest.mark.usefixtures("_small_messages")
def test_the_graphs_own_hash_tells_weights_apart(tmp_path: Path) -> None:
    for name, scale in (("a", 2), ("b", 3), ("c", 2)):
        (tmp_path / name).mkdir()
        save_graph(product(scale), tmp_path / name / MODEL_FILE)
    first, second, third = (file_sha256(tmp_path / name / MODEL_FILE) for name in "abc")
    assert first == third != second
    stored = onnx.load(tmp_path / "a" / MODEL_FILE, load_external_data=False)
    assert {p.key: p.value for p in stored.metadata_props} == {
        DATA_HASH: file_sha256(tmp_path / "a" / (MODEL_FILE + DATA_SUFFIX))
    }


@pytest.mark.usefixtures("_small_messages")
def test_both_files_are_installed_and_hashed(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    names = {MODEL_FILE, MODEL_FILE + DATA_SUFFIX}
    for expected in ("1", "1"):  # the same files are no new version
        with Staging(tmp_path) as staging:
            [version] = staging.install([staging.add_graph("model", product(2), {})])
        assert version.name == expected
    manifest = json.loads((version / MANIFEST_FILE).read_text())
    assert manifest["sha256"] == {name: file_sha256(version / name) for name in names}
    (version / (MODEL_FILE + DATA_SUFFIX)).write_bytes(b"damaged")
    with Staging(tmp_path) as staging:
        [version] = staging.install([staging.add_graph("model", product(2), {})])
    assert version.name == "2"


@pytest.mark.usefixtures("_small_messages")
def test_a_graph_that_cannot_be_written_stays_whole(tmp_path: Path) -> None:
    graph = product(2)
    (tmp_path / MODEL_FILE).mkdir()
    with pytest.raises(IsADirectoryError):
        save_graph(graph, tmp_path / MODEL_FILE)
    assert graph == product(2)
