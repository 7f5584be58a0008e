"""What is behind the demo's page: looking, digits, images, answers. No browser."""

import base64
import io
import json
import socket
import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from werkzeug.serving import BaseWSGIServer
from werkzeug.test import Client

from air.images import Preparation
from air.shifts import shift_grid
from experiments.cli import main
from experiments.datasets import Digits
from experiments.demo import server
from experiments.demo.images import choose_sprites, prepare_image, read_bytes
from experiments.demo.looking import look
from experiments.demo.server import DemoApp, make_local_server
from experiments.demo.timing import measure
from tests.small import INFERENCE, small_images, small_model


def seeing_model(**changes):
    """A small model that mostly finds one object or two."""
    model = small_model(**changes)
    with torch.no_grad():
        inference = model.inference
        paper = model.config.inference == "paper"
        (inference.predictor.mlp if paper else inference.presence)[-1].bias[0] = 1.0
    return model.eval()


def make_digits():
    images = np.zeros((20, 28, 28), np.uint8)
    images[:, 4:24, 10:18] = 200
    return Digits(images=images, labels=np.arange(20) % 10)


@pytest.fixture
def client():
    return Client(DemoApp(seeing_model(), "small", make_digits()))


# strangers


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Origin": "https://localhost"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/look", "/image", "/nowhere"])
def test_no_post_of_another_page_is_answered(client, path, headers):
    answer = client.post(path, data=bytes(14 * 12), headers=headers)
    assert answer.status_code == 403
    own = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/look", data=bytes(14 * 12), headers=own).status_code == 200


def test_a_small_file_of_many_pixels_is_refused_before_it_is_unpacked(client, monkeypatch):
    file = io.BytesIO()
    Image.new("L", (4001, 4000)).save(file, format="PNG")
    assert len(file.getvalue()) < 100_000
    monkeypatch.setattr("experiments.demo.images.read_image", lambda path: pytest.fail("unpacked"))
    answer = client.post("/image", data=file.getvalue())
    assert answer.status_code == 400
    assert "4001 x 4000 pixels, more than the 16 million" in answer.json["error"]


def test_images_are_unpacked_one_at_a_time_and_nobody_waits_for_ever(monkeypatch):
    monkeypatch.setattr("experiments.demo.server.LONGEST_WAIT_S", 0.05)
    app = DemoApp(seeing_model(), "small", make_digits())
    file = io.BytesIO()
    Image.new("L", (20, 20)).save(file, format="PNG")
    with app._lock:
        for path, data in (("/image", file.getvalue()), ("/look", bytes(14 * 12))):
            answer = Client(app).post(path, data=data)
            assert answer.status_code == 503
            assert "still at work" in answer.json["error"]
    assert Client(app).post("/image", data=file.getvalue()).status_code == 200


# looking


@pytest.mark.parametrize("inference", INFERENCE)
@pytest.mark.parametrize("views", [False, True])
def test_a_look_is_what_infer_reads(inference, views):
    model = seeing_model(inference=inference, dtype=torch.float64)
    shifts = shift_grid(2) if views else None
    images = small_images(6, dtype=torch.float64)
    reading = model.infer(images, shifts=shifts)
    assert reading.counts.max() > 0
    for image, row in zip(images, range(6), strict=True):
        seen = look(model, image, shifts)
        count = int(reading.counts[row])
        assert seen.count == count
        assert list(seen.shift) == reading.shifts[row].tolist()
        torch.testing.assert_close(seen.count_probs, reading.count_probs[row])
        torch.testing.assert_close(seen.boxes[:count], reading.boxes[row, :count])
        torch.testing.assert_close(seen.canvases[count], reading.canvas[row])
        total = seen.log_likelihood - seen.kl_num_steps - seen.kl_z_where - seen.kl_z_what
        assert seen.elbo == pytest.approx(total)


def test_the_view_kept_has_the_highest_elbo():
    model, image = seeing_model(), small_images(1)[0]
    shifts = shift_grid(2)
    alone = [look(model, image, shift[None]).elbo for shift in shifts]
    assert look(model, image, shifts).elbo == pytest.approx(max(alone), rel=1e-5)
    assert look(model, image).elbo == pytest.approx(alone[0], rel=1e-5)


def test_glimpses_and_what_is_decoded_of_them_have_the_models_sizes():
    seen = look(seeing_model(), small_images(1)[0])
    assert seen.glimpses.shape == seen.decoded_glimpses.shape == (3, 1, 6, 5)
    assert seen.canvases.shape == (4, 1, 14, 12)
    assert not seen.canvases[0].any()


# digits


def test_sprites_are_one_of_each_kind_and_fit_the_model():
    config = small_model(canvas_size=(50, 60)).config
    sprites = choose_sprites(make_digits(), config, seed=0)
    assert [sprite.label for sprite in sprites] == list(range(10))
    sides = [sprite.pixels.shape[0] for sprite in sprites]
    assert np.mean(sides) == pytest.approx(21, abs=2)  # as in multi-mnist
    assert all(
        sprite.pixels.shape == (side, side) for sprite, side in zip(sprites, sides, strict=True)
    )
    again = choose_sprites(make_digits(), config, seed=0)
    assert all((a.pixels == b.pixels).all() for a, b in zip(sprites, again, strict=True))
    others = choose_sprites(make_digits(), config, seed=1)
    assert [sprite.pixels.shape for sprite in others] != [sprite.pixels.shape for sprite in sprites]


def test_sprites_are_never_larger_than_the_canvas():
    config = small_model(z_where_mean=(0.2, 0.0, 0.0)).config
    for sprite in choose_sprites(make_digits(), config, seed=0):
        assert sprite.pixels.shape == (12, 12)


# images


def to_png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


def test_ink_on_paper_becomes_bright_on_black():
    page = np.full((14, 12), 230, np.uint8)
    page[3:7, 2:6] = 10
    prepared = prepare_image(read_bytes(to_png(page)), small_model().config, Preparation())
    assert prepared.pixels.shape == (1, 14, 12)
    assert prepared.pixels[0, 3:7, 2:6].min() > 200
    assert prepared.pixels[0, 8:].max() == 0
    assert "background" in prepared.notice


def test_bright_on_black_is_left_as_it_is():
    page = np.zeros((14, 12), np.uint8)
    page[3:7, 2:6] = 90
    prepared = prepare_image(read_bytes(to_png(page)), small_model().config, Preparation())
    np.testing.assert_array_equal(prepared.pixels[0].numpy(), page)
    assert prepared.notice == ""


def test_a_models_own_preparation_is_used():
    page = np.full((14, 12), 51, np.uint8)
    page[3:7, 2:6] = 102
    own = Preparation(background=(0.2,), contrast=2.0)
    prepared = prepare_image(read_bytes(to_png(page)), small_model().config, own)
    assert prepared.pixels[0, 4, 4] == 102
    assert prepared.pixels[0, 0, 0] == 0
    assert prepared.notice == ""


def test_color_and_size_are_made_to_fit():
    page = np.zeros((28, 48, 4), np.uint8)
    page[..., 3] = 255
    page[5:20, 10:30, 0] = 255
    grey, color = small_model().config, small_model(channels=3).config
    prepared = prepare_image(read_bytes(to_png(page)), color, Preparation())
    assert prepared.pixels.shape == (3, 14, 12)
    assert prepared.pixels[0].max() > 250
    assert prepared.pixels[1:].max() == 0
    assert "48 x 28 to 12 x 7" in prepared.notice
    assert prepare_image(read_bytes(to_png(page)), grey, Preparation()).pixels.shape == (1, 14, 12)


PNG = to_png(np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"hello", "no image of a kind"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image of a kind"),
        (PNG[: len(PNG) // 2], "cannot be read"),
        (PNG[:30], "."),
        (PNG[:16] + (200_000).to_bytes(4, "big") * 2 + PNG[24:], "."),
        (b"GIF89a" + bytes(range(60)), "."),
        (b"II*\0" + bytes(40), "."),
    ],
)
def test_a_broken_file_is_a_message_without_a_path(content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_bytes(content)
    assert "/" not in str(caught.value)


def test_a_plain_page_is_refused_but_a_black_one_is_not():
    config = small_model().config
    with pytest.raises(ValueError, match="one plain colour"):
        prepare_image(torch.full((1, 9, 9), 200, dtype=torch.uint8), config, Preparation())
    black = prepare_image(torch.zeros(1, 14, 12, dtype=torch.uint8), config, Preparation())
    assert not black.pixels.any()


# answers


def pixels_of(picture):
    shape = picture["height"], picture["width"], picture["channels"]
    return np.frombuffer(base64.b64decode(picture["data"]), np.uint8).reshape(shape)


def test_the_page_is_served_and_may_ask_no_other_host(client):
    for path, kind in (("/", "html"), ("/demo.js", "javascript"), ("/demo.css", "css")):
        answer = client.get(path)
        assert answer.status_code == 200
        assert kind in answer.mimetype
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert "http" not in policy
    assert client.head("/").status_code == 200


def test_setup_tells_the_models_sizes(client):
    setup = client.get("/setup").json
    assert (setup["height"], setup["width"], setup["channels"]) == (14, 12, 1)
    assert (setup["max_objects"], setup["model"], setup["views"]) == (3, "small", 9)


def test_a_tiny_canvas_has_one_view():
    client = Client(DemoApp(seeing_model(canvas_size=(7, 6)), "small", make_digits()))
    assert client.get("/setup").json["views"] == 0
    assert client.post("/look?views=1", data=bytes(42)).json["shift"] == [0, 0]


def test_digits_are_the_same_for_the_same_seed(client):
    digits = client.get("/digits?seed=3").json["digits"]
    assert [digit["label"] for digit in digits] == list(range(10))
    assert pixels_of(digits[0]["picture"]).max() == 200
    assert client.get("/digits?seed=3").json["digits"] == digits
    assert client.get("/digits?seed=none").status_code == 200


@pytest.mark.parametrize("channels", [1, 3])
def test_an_answer_is_the_look_at_the_bytes(channels):
    model = seeing_model(channels=channels)
    client = Client(DemoApp(model, "small", make_digits()))
    image = (small_images(1, config=model.config)[0] * 255).to(torch.uint8)
    for query, views in (("", None), ("?views=1", shift_grid(1))):
        answer = client.post(f"/look{query}", data=image.permute(1, 2, 0).numpy().tobytes()).json
        seen = look(model, image, views)
        assert answer["count"] == seen.count
        assert answer["elbo"] == pytest.approx(seen.elbo)
        assert answer["shift"] == list(seen.shift)
        assert len(answer["steps"]) == 3
        for t, step in enumerate(answer["steps"]):
            assert step["box"] == pytest.approx(seen.boxes[t].tolist())
            assert step["continue_prob"] == pytest.approx(seen.continue_probs[t].item())
            canvas = (seen.canvases[t + 1].clamp(0, 1) * 255).round().permute(1, 2, 0)
            np.testing.assert_array_equal(pixels_of(step["canvas"]), canvas.numpy())
        assert answer["model_ms"] > 0


def test_an_image_comes_back_as_the_model_sees_it(client):
    page = np.zeros((14, 12), np.uint8)
    page[3:7, 2:6] = 90
    answer = client.post("/image", data=to_png(page), content_type="image/png").json
    np.testing.assert_array_equal(pixels_of(answer["picture"])[..., 0], page)


def refused(answer, status, *parts):
    assert answer.status_code == status
    for part in parts:
        assert part in answer.json["error"]


def test_what_cannot_be_answered_gets_a_message(client, monkeypatch, capsys):
    refused(client.post("/look", data=b"abc"), 400, "14 x 12 x 1 bytes, got 3")
    refused(client.post("/image", data=b"abc"), 400, "no image")
    refused(client.get("/../../etc/passwd"), 404, "There is no GET")
    refused(client.get("/look"), 404)
    refused(client.post("/setup"), 404)
    monkeypatch.setattr(server._Request, "max_content_length", 10)
    refused(client.post("/image", data=bytes(11)), 413, "larger than 32 MB")
    monkeypatch.undo()
    refused(client.get("/", headers={"Host": "example.org"}), 400, "example.org")
    assert client.get("/", headers={"Host": "localhost:7860"}).status_code == 200

    def fail(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(server, "look", fail)
    refused(client.post("/look", data=bytes(168)), 500, "broken")
    assert "RuntimeError: broken" in capsys.readouterr().err
    monkeypatch.undo()
    assert client.post("/look", data=bytes(168)).status_code == 200


def test_a_diverged_models_numbers_are_null(client):
    with torch.no_grad():
        client.application.model.generative.decoder.mlp[-1].bias.fill_(float("nan"))
    answer = client.post("/look", data=bytes(168))
    assert answer.status_code == 200
    assert json.loads(answer.get_data())["elbo"] is None


def test_times_are_of_both_ways_to_look():
    times = measure(DemoApp(seeing_model(), "small", make_digits()), repeats=3)
    assert list(times) == ["one view", "9 views"]
    for row in times.values():
        assert 0 < row["model"] < row["answer"] <= row["slowest"]


# server and command


def test_the_server_listens_to_this_machine_alone():
    local = make_local_server(DemoApp(seeing_model(), "small", make_digits()), 0)
    try:
        assert local.socket.getsockname() == ("127.0.0.1", local.port)
        with pytest.raises(OSError, match="cannot listen at port"):
            make_local_server(local.app, local.port)
    finally:
        local.server_close()
    with pytest.raises(ValueError, match="port must lie between"):
        make_local_server(local.app, 70000)


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_model().save_pretrained("model")
    return ["demo", "--load", "model", "--nocuda", "--threads", "1", "--port", "0"]


@pytest.mark.parametrize("flags", [[], ["--no-browser"]])
def test_the_command_serves_until_it_is_interrupted(saved, flags, monkeypatch, capsys):
    opened, answers = [], []

    def serve_and_interrupt(self, *_):
        thread = threading.Thread(target=self.handle_request)
        thread.start()
        with socket.create_connection(("127.0.0.1", self.port)) as line:
            line.sendall(b"GET /setup HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answers.append(line.makefile("rb").read())
        thread.join()
        raise KeyboardInterrupt

    monkeypatch.setattr(BaseWSGIServer, "serve_forever", serve_and_interrupt)
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert main(saved + flags) == 0
    out, err = capsys.readouterr()
    assert "http://127.0.0.1:" in out
    assert err == ""
    assert b'"max_objects": 3' in answers[0]
    assert [address in out for address in opened] == ([] if flags else [True])


def test_the_command_says_what_is_wrong(saved, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main([*saved[:-1], port]) == 2
    assert f"cannot listen at port {port}" in capsys.readouterr().err
    assert main(["demo", "--load", "nowhere", "--no-browser"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_without_werkzeug_the_command_says_what_to_install(saved, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "werkzeug"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "experiments.demo.server")
    monkeypatch.setattr(sys, "meta_path", [_Without("werkzeug"), *sys.meta_path])
    assert main(saved) == 2
    assert "attend-infer-repeat[demo]" in capsys.readouterr().err


class _Without:
    """Finds nothing, and one package not even elsewhere."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, *_):
        if name.split(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=self.package)
