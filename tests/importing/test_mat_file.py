"""MATLAB files of every kind that may come, and files that are none."""

import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from scipy.io.matlab import MatlabFunction, MatlabObject

from src.importing.mat_file import Layer, read_dag
from src.importing.recognize import recognize
from src.importing.weights import means
from src.utils.errors import UserError
from tests.importing.released_mat import Layer as WrittenLayer
from tests.importing.released_mat import Net, base_stream, cell


@pytest.mark.parametrize("compress", [True, False], ids=["v7", "v6"])
@pytest.mark.parametrize("form", ["net", "fields", "wrapped"])
def test_forms_of_the_struct(form: str, compress: bool, tmp_path: Path) -> None:
    net = base_stream(3, 26, losses=False)
    dag = read_dag(net.save(tmp_path / "net.mat", form, compress))
    assert [layer.name for layer in dag.layers] == [layer.name for layer in net.layers]
    for layer, written in zip(dag.layers, net.layers, strict=True):
        assert layer.type == written.type
        assert list(layer.inputs) == written.inputs
        assert list(layer.outputs) == written.outputs
        assert list(layer.params) == written.params
    assert dag.params.keys() == net.params.keys()
    assert all(np.array_equal(dag.params[name], net.params[name]) for name in net.params)
    assert dag.layers[0].numbers("stride", 2, 1) == (2, 2)
    assert dag.average_image is not None
    assert net.average_image is not None
    assert np.array_equal(dag.average_image, net.average_image)


def test_state_of_a_training_is_not_read(tmp_path: Path) -> None:
    net = base_stream(3, 26)
    state = {"layers": 1.0, "params": 2.0}
    scipy.io.savemat(tmp_path / "epoch.mat", {"state": state, "net": net.struct()})
    assert len(read_dag(tmp_path / "epoch.mat").layers) == len(net.layers)


def test_texts_beside_cells(tmp_path: Path) -> None:
    """Scripts write a text, or a cell within a cell, where a cell of texts should be."""
    content = base_stream(3, 26).struct()
    content["layers"][0, 0]["inputs"] = "input"
    content["layers"][0, 1]["inputs"] = cell([cell(["conv1"])])
    scipy.io.savemat(tmp_path / "net.mat", {"net": content})
    layers = read_dag(tmp_path / "net.mat").layers
    assert [layer.inputs for layer in layers[:2]] == [("input",), ("conv1",)]


def test_settings_as_matconvnet_fills_them_up() -> None:
    block = {"pad": (1.0, 2.0), "stride": (2.0,), "size": (7.0, 7.0)}
    layer = Layer("conv", "dagnn.Conv", (), (), (), block)
    assert layer.numbers("pad", 4, 0) == (1, 1, 2, 2)
    assert layer.numbers("stride", 2, 1) == (2, 2)
    assert layer.numbers("dilate", 2, 1) == (1, 1)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_files_of_other_formats(tmp_path: Path) -> None:
    hdf5 = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n"
    cut = base_stream(3, 26).save(tmp_path / "whole.mat").read_bytes()[:50_000]
    for name, content, reason in (
        ("new.mat", hdf5, r"version 7\.3.*-v7"),
        ("bare.mat", hdf5[512:], r"version 7\.3.*-v7"),
        ("weights.mat", b"PK\x03\x04" + bytes(500), "cannot be read as a MATLAB file"),
        ("text.mat", b"net = {}", "cannot be read as a MATLAB file"),
        ("empty.mat", b"", "cannot be read as a MATLAB file"),
        ("cut.mat", cut, "cannot be read as a MATLAB file"),
    ):
        with pytest.raises(UserError, match=reason) as error:
            read_dag(write(tmp_path / name, content))
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"gone\.mat does not exist"):
        read_dag(tmp_path / "gone.mat")


def test_matlab_files_without_a_dag(tmp_path: Path) -> None:
    path = tmp_path / "other.mat"
    scipy.io.savemat(path, {"x": np.ones((2, 2)), "s": {"layers": 3.0}})
    with pytest.raises(UserError, match="holds no DagNN"):
        read_dag(path)
    scipy.io.savemat(path, {"layers": cell([{"type": "conv", "weights": cell([np.ones((3, 3))])}])})
    with pytest.raises(UserError, match="SimpleNN"):
        read_dag(path)
    content = base_stream(3, 26).struct()
    content["params"][0, 3]["value"] = "gpuArray"
    scipy.io.savemat(path, {"net": content})
    with pytest.raises(UserError, match=r"bn_conv1_bias are not numbers"):
        read_dag(path)


def test_a_file_that_crashes_the_reader(tmp_path: Path) -> None:
    """SciPy looks its type of data up in a table that ends before it."""
    head = base_stream(3, 26).save(tmp_path / "net.mat").read_bytes()[:128]
    crashing = array(4, "layers", (1, 8), element(40_000, b"dagnn.Co"))
    with pytest.raises(UserError, match=r"net\.mat cannot be read as a MATLAB file: it crashes"):
        read_dag(write(tmp_path / "net.mat", head + crashing))


def test_average_image(tmp_path: Path) -> None:
    """Flow comes first; more than one position are averaged; a row of numbers will do."""
    written = [WrittenLayer("conv1", "dagnn.Conv", ["input"], ["conv1"], ["filter"])]
    net = Net(written, {"filter": np.ones((7, 7, 3, 2), dtype=np.float32)})
    path, image = tmp_path / "net.mat", np.arange(23, dtype=np.float32).reshape(1, 1, 23)
    larger = np.concatenate([image - 5, image + 5], axis=0).repeat(3, axis=1)
    for given in (image, larger, image[0], image[0].T):
        net.average_image = given
        flow, rgb = means(read_dag(net.save(path)), 20, 3)
        assert flow == list(range(20))
        assert rgb == [20, 21, 22]
    for wrong, reason in (
        (image[..., :20], "20 channels, not 23"),
        (None, "no meta.normalization.averageImage.*1 x 1 x 23"),
        (np.zeros((0, 0)), "no meta.normalization.averageImage"),
    ):
        net.average_image = wrong
        with pytest.raises(UserError, match=reason):
            means(read_dag(net.save(path)), 20, 3)


def test_a_function_handle_is_data(tmp_path: Path) -> None:
    """Written by hand, because scipy writes none."""
    text = array(4, "", (1, 8), element(4, "delete *".encode("utf-16-le")))
    handles = b"".join(array(16, name, (1, 1), text) for name in ("layers", "params"))
    scipy.io.savemat(tmp_path / "net.mat", {})
    head = (tmp_path / "net.mat").read_bytes()
    file = write(tmp_path / "net.mat", head + handles)
    assert isinstance(scipy.io.loadmat(file)["layers"], MatlabFunction)
    with pytest.raises(UserError, match=r"net\.mat is not one of the released models"):
        recognize(read_dag(file))


def array(kind: int, name: str, size: tuple[int, int], content: bytes) -> bytes:
    about = struct.pack("<4L", 6, 8, kind, 0) + struct.pack("<4L", 5, 8, *size)
    return element(14, about + element(1, name.encode()) + content)


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<2L", kind, len(content)) + content + bytes(-len(content) % 8)


def test_an_object_is_data(tmp_path: Path) -> None:
    content = base_stream(3, 26).struct()
    values = np.zeros((1, 1), [("handle", object)])
    content["params"][0, 0]["value"] = MatlabObject(values, "gpuArray")
    scipy.io.savemat(tmp_path / "net.mat", {"net": content})
    with pytest.raises(UserError, match="are not numbers"):
        read_dag(tmp_path / "net.mat")
