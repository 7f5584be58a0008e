"""A model's folder: what is in it beyond the weights, names, half precision, the hub."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from air import AIR, AIRConfig
from air.images import Preparation
from air.weights import find_folder
from tests.small import small_images, small_model


@pytest.fixture
def model():
    model = small_model()
    model.preparation = Preparation(background=(0.9,), contrast=2.0, scale=0.5)
    return model


def test_the_hubs_layout(model, tmp_path):
    model.save_pretrained(tmp_path / "m", card="Trained on squares.")
    names = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == names
    card = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: air\n")
    assert "Trained on squares." in card
    assert "up to 3 objects" in card


def test_the_preparation_comes_back(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    loaded = AIR.from_pretrained(tmp_path / "m")
    assert loaded.preparation == model.preparation
    images = small_images()
    assert torch.equal(loaded.predict(images).counts, model.eval().predict(images).counts)


@pytest.mark.parametrize("content", ["{", "[]", '{"contrast": -1}', '{"zoom": 1}', "[" * 100_000])
def test_a_damaged_preparation_is_refused(model, tmp_path, content):
    model.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "preprocessor_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"preprocessor_config\.json does not say"):
        AIR.from_pretrained(tmp_path / "m")


def test_a_model_of_a_version_with_fewer_settings_is_read(model, tmp_path, monkeypatch):
    to_json = AIRConfig.to_json

    def fewer(config):
        fields = json.loads(to_json(config))
        del fields["num_candidates"]
        return json.dumps(fields, indent=2)

    with monkeypatch.context() as patch:
        patch.setattr(AIRConfig, "to_json", fewer)
        model.save_pretrained(tmp_path / "m")
    assert AIR.from_pretrained(tmp_path / "m").config == model.config


def test_another_preparation_is_another_model(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"contrast": 3.0}))
    with pytest.raises(ValueError, match="checksum"):
        AIR.from_pretrained(tmp_path / "m")
    path.unlink()
    with pytest.raises(ValueError, match="checksum"):
        AIR.from_pretrained(tmp_path / "m")


def test_half_precision_halves_the_file_and_little_else(model, tmp_path):
    model.save_pretrained(tmp_path / "half", half=True)
    model.save_pretrained(tmp_path / "whole")
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("half", "whole")]
    assert sizes[0] < 0.7 * sizes[1]
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    loaded = AIR.from_pretrained(tmp_path / "half")
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    difference = loaded.infer(small_images()).count_probs - model.infer(small_images()).count_probs
    assert 0 < difference.abs().max() < 0.01


def test_what_half_precision_cannot_hold_is_refused(model, tmp_path):
    with torch.no_grad():
        model.generative.decoder.mlp[0].weight[0, 0] = 1e5
    with pytest.raises(ValueError, match="half precision has not, up to 100000"):
        model.save_pretrained(tmp_path / "m", half=True)
    assert not list((tmp_path / "m").iterdir())


def test_a_readme_of_somebody_is_not_overwritten(model, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(FileExistsError):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_folder_comes_before_a_name(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("multi-mnist")
    assert AIR.from_pretrained("multi-mnist").config == model.config


@pytest.mark.parametrize("name", ["nothing", "", "../multi-mnist", "a/b/c", "/nowhere", "a/..b/c"])
def test_unknown_names_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "..")
    if name == "":
        name = "nothing here"
    with pytest.raises(FileNotFoundError, match=r"come with the package are: .*multi-mnist"):
        find_folder(name)


def test_without_the_hubs_package_it_is_said_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"attend-infer-repeat\[hub\]"):
        AIR.from_pretrained("somebody/something")
    with pytest.raises(ImportError, match=r"attend-infer-repeat\[hub\]"):
        model.push_to_hub("somebody/something")
    with pytest.raises(ValueError, match="owner/model"):
        model.push_to_hub("something")


def test_the_hub_is_asked_for_what_a_model_needs(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "m")
    calls = []

    class HfApi:
        def create_repo(self, **options):
            calls.append(("create", options))

        def upload_folder(self, **options):
            calls.append(("upload", options["repo_id"]))
            assert AIR.from_pretrained(options["folder_path"]).config == model.config
            return "https://hub/somebody/something"

    def snapshot_download(repo_id, allow_patterns):
        calls.append(("download", repo_id, sorted(allow_patterns)))
        return str(tmp_path / "m")

    hub = SimpleNamespace(HfApi=HfApi, snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert AIR.from_pretrained("somebody/something").config == model.config
    assert model.push_to_hub("somebody/something", private=True).endswith("something")
    assert calls == [
        (
            "download",
            "somebody/something",
            ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"],
        ),
        ("create", {"repo_id": "somebody/something", "private": True, "exist_ok": True}),
        ("upload", "somebody/something"),
    ]
