"""The exported model says what the model says."""

import sys

import pytest
import torch

from air.export import OUTPUTS, export_onnx, export_program
from tests.small import INFERENCE, small_images, small_model


def assert_same(outputs, reading):
    for name, output in zip(OUTPUTS, outputs, strict=True):
        output, expected = torch.as_tensor(output), getattr(reading, name)
        assert output.dtype == expected.dtype, name
        assert torch.allclose(output.float(), expected.float(), atol=1e-5, equal_nan=True), name


# The second is large enough for oneDNN's linear layer, which other runtimes do not know.
MODELS = [
    {"inference": "paper"},
    {"inference": "paper", "lstm_size": 64, "canvas_size": (20, 24)},
    {},
    {"channels": 3, "canvas_size": (20, 24)},
    {"overlap": "union", "num_candidates": 1},
]


@pytest.mark.parametrize("changes", MODELS, ids=str)
def test_the_program_is_equal_at_any_batch_size(changes):
    model = small_model(**changes)
    program = export_program(model)
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [name for name in operators if name.startswith(("air.", "mkldnn."))]
    for number in (1, 2, 5):
        images = small_images(number, config=model.config)
        assert_same(program.module()(images), model.infer(images))


@pytest.mark.filterwarnings("ignore")  # of PyTorch's exporter and the runtime, not ours
@pytest.mark.parametrize("inference", INFERENCE)
def test_onnx_is_equal_at_any_batch_size(inference, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = small_model(lstm_size=64, inference=inference)
    path = export_onnx(model, tmp_path / "model.onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    session = runtime.InferenceSession(path)
    assert [output.name for output in session.get_outputs()] == list(OUTPUTS)
    for number in (1, 2, 5):
        images = small_images(number, config=model.config)
        assert_same(session.run(None, {"images": images.numpy()}), model.infer(images))


def test_a_file_is_not_overwritten_and_the_name_is_checked(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        export_onnx(small_model(), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"must end in \.onnx"):
        export_onnx(small_model(), tmp_path / "a.pb")
    assert (tmp_path / "a.onnx").read_bytes() == b"mine"


def test_without_the_extra_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"attend-infer-repeat\[onnx\]"):
        export_onnx(small_model(), tmp_path / "a.onnx")
