import json

import pytest
import torch
from safetensors.torch import save_file

from air.checkpoint import from_pretrained, save_pretrained
from tests.small import INFERENCE, small_images, small_model


@pytest.fixture
def saved(tmp_path):
    model = small_model(likelihood="bernoulli")
    save_pretrained(model, tmp_path / "model")
    return model, tmp_path / "model"


def test_round_trip(saved):
    model, folder = saved
    loaded = from_pretrained(folder)
    assert loaded.config == model.config
    assert not loaded.training
    images = small_images().round()
    assert loaded.infer(images).count_probs.equal(model.eval().infer(images).count_probs)
    names = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(path.name for path in folder.iterdir()) == names


def test_nothing_is_overwritten_unasked(saved):
    _, folder = saved
    other = small_model(seed=9, inference="paper", likelihood="bernoulli")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        save_pretrained(other, folder)
    save_pretrained(other, folder, overwrite=True)
    weight = from_pretrained(folder).state_dict()["inference.lstm.recurrence.weight"]
    assert weight.equal(other.state_dict()["inference.lstm.recurrence.weight"])


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file(saved, name):
    _, folder = saved
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        from_pretrained(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"n": 1}'])
def test_damaged_config(saved, content):
    _, folder = saved
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json is no configuration"):
        from_pretrained(folder)


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_damaged_weights(saved, keep):
    _, folder = saved
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="is damaged"):
        from_pretrained(folder)


def test_weights_of_another_model(saved):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    other = {"z_what_size": 9, "encoder_hidden": [8], "decoder_hidden": [8]}
    (folder / "config.json").write_text(json.dumps(config | other))
    with pytest.raises(ValueError, match=r"of another shape are .* and others"):
        from_pretrained(folder)


def test_a_pickle_is_never_run(saved, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "canary"), "w"))

    _, folder = saved
    torch.save(Bomb(), folder / "model.safetensors")
    with pytest.raises(ValueError, match="is damaged"):
        from_pretrained(folder)
    assert not (tmp_path / "canary").exists()


def flip(path, at, bit=1):
    content = bytearray(path.read_bytes())
    content[at] ^= bit
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_a_flipped_bit_anywhere_is_no_other_model(saved, file):
    model, folder = saved
    good = (folder / file).read_bytes()
    for at in range(0, len(good), max(1, len(good) // 150)):
        flip(folder / file, at, 1 << at % 8)
        try:
            loaded = from_pretrained(folder)
        except ValueError:
            pass
        else:  # such as a blank in the JSON
            assert loaded.config == model.config
            assert loaded.preparation == model.preparation
            for name, tensor in model.state_dict().items():
                assert torch.equal(tensor, loaded.state_dict()[name]), name
        (folder / file).write_bytes(good)


def test_a_model_without_a_checksum_is_read(saved):
    model, folder = saved
    save_file(dict(model.state_dict()), folder / "model.safetensors")
    assert from_pretrained(folder).config == model.config


@pytest.mark.parametrize("inference", INFERENCE)
@pytest.mark.parametrize(
    "fields", [{"encoder_hidden": [10**9]}, {"z_what_size": 10**9}, {"canvas_size": [10**9] * 2}]
)
def test_absurd_sizes_are_refused_before_anything_is_made(tmp_path, fields, inference):
    folder = tmp_path / "model"
    save_pretrained(small_model(inference=inference), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(ValueError, match=r"does not fit|makes no model|must be at most"):
        from_pretrained(folder)


def test_a_config_of_a_gigabyte_is_not_read(saved):
    _, folder = saved
    with open(folder / "config.json", "wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ValueError, match="1073741824 bytes, more than"):
        from_pretrained(folder)
