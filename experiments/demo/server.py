"""Answers the browser's requests: a WSGI application, and a server for this machine alone."""

import base64
import json
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, ServiceUnavailable
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from air import AIR
from air.prediction import views_of
from experiments.datasets import Digits, embedded_digits
from experiments.datasets.multi_mnist import split_digits
from experiments.demo.images import choose_sprites, prepare_image, read_bytes
from experiments.demo.looking import Look, look

__all__ = ["HOST", "DemoApp", "make_local_server"]

HOST = "127.0.0.1"
"""This machine alone can reach it."""

MOST_BYTES = 32 << 20
"""Of an image's file."""

LONGEST_WAIT_S = 20.0
"""Of a request for those before it."""

_PAGE = {
    "/": ("index.html", "text/html"),
    "/demo.css": ("demo.css", "text/css"),
    "/demo.js": ("demo.js", "text/javascript"),
    "/scene.js": ("scene.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The browser itself sees to it that the page asks no other host for anything."""


class _Request(Request):
    # A page elsewhere whose name resolves to this machine gets no answer.
    trusted_hosts = [HOST, "localhost"]  # noqa: RUF012
    max_content_length = MOST_BYTES


class DemoApp:
    """The demonstration as a WSGI application.

    Args:
        model: to look with.
        name: of the model, as the page shows it.
        digits: to drag; default: shipped ones that ``multi-mnist`` holds out.
    """

    def __init__(self, model: AIR, name: str, digits: Digits | None = None) -> None:
        self.model = model
        self.name = name
        self.digits = split_digits(embedded_digits())[1] if digits is None else digits
        self.views = views_of(model.config)
        # One at a time: several would only slow each other down.
        self._lock = threading.Lock()
        folder = resources.files("experiments.demo") / "page"
        self._files = {
            path: (folder.joinpath(file).read_bytes(), kind) for path, (file, kind) in _PAGE.items()
        }
        self._routes: dict[tuple[str, str], Callable[[Request], dict[str, Any]]] = {
            ("GET", "/setup"): self._setup,
            ("GET", "/digits"): self._digits,
            ("POST", "/look"): self._look,
            ("POST", "/image"): self._image,
        }

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request; what goes wrong is an answer too."""
        request = _Request(environ)
        try:
            response = self._answer(request)
        except ValueError as error:
            response = _json({"error": str(error)}, 400)
        except RequestEntityTooLarge:
            response = _json({"error": f"The file is larger than {MOST_BYTES >> 20} MB."}, 413)
        except HTTPException as error:
            response = _json({"error": error.description or error.name}, error.code or 500)
        except Exception as error:  # a fault of ours: say so, and go on
            traceback.print_exc(file=sys.stderr)
            response = _json({"error": f"Something went wrong here: {error}"}, 500)
        response.headers["Cache-Control"] = "no-store"
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        host = request.host  # refuses names that are not this machine's
        # Any page may send a POST here, though it cannot read the answer; a browser says which.
        origin = request.headers.get("Origin", f"http://{host}")
        site = request.headers.get("Sec-Fetch-Site", "same-origin")
        if request.method == "POST" and (origin != f"http://{host}" or site != "same-origin"):
            return _json({"error": "Another page's requests are not answered."}, 403)
        if request.method in ("GET", "HEAD") and request.path in self._files:
            content, kind = self._files[request.path]
            return Response(content, mimetype=kind)
        route = self._routes.get((request.method, request.path))
        if route is None:
            return _json({"error": f"There is no {request.method} {request.path} here."}, 404)
        return _json(route(request), 200)

    def _setup(self, _: Request) -> dict[str, Any]:
        config = self.model.config
        height, width = config.canvas_size
        return {
            "model": self.name,
            "width": width,
            "height": height,
            "channels": config.channels,
            "max_objects": config.max_objects,
            "views": 0 if self.views is None else len(self.views),
            "typical_size": round(min(config.canvas_size) / config.z_where_mean[0]),
        }

    def _digits(self, request: Request) -> dict[str, Any]:
        seed = request.args.get("seed", default=-1, type=int)
        seed = secrets.randbits(32) if seed < 0 else seed
        sprites = choose_sprites(self.digits, self.model.config, seed)
        return {
            "digits": [
                {"label": sprite.label, "picture": _picture(sprite.pixels[..., None])}
                for sprite in sprites
            ]
        }

    def _look(self, request: Request) -> dict[str, Any]:
        channels, height, width = self.model.config.image_shape
        content = request.get_data()
        if len(content) != channels * height * width:
            raise ValueError(
                f"A scene must have {height} x {width} x {channels} bytes, got {len(content)}."
            )
        pixels = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        image = pixels.view(height, width, channels).permute(2, 0, 1)
        views = self.views if request.args.get("views") == "1" else None
        with self._turn():
            start = time.perf_counter()
            seen = look(self.model, image.to(self.model.device), views)
            middle = time.perf_counter()
            answer = _describe(seen)
            end = time.perf_counter()
        answer["model_ms"] = 1000 * (middle - start)
        answer["pictures_ms"] = 1000 * (end - middle)
        return answer

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until nobody else computes, and not for ever."""
        if not self._lock.acquire(timeout=LONGEST_WAIT_S):
            raise ServiceUnavailable("Others are still at work here. Try again.")
        try:
            yield
        finally:
            self._lock.release()

    def _image(self, request: Request) -> dict[str, Any]:
        content = request.get_data()
        with self._turn():
            image = read_bytes(content)
            prepared = prepare_image(image, self.model.config, self.model.preparation)
        pixels = prepared.pixels.permute(1, 2, 0).numpy()
        return {"picture": _picture(pixels), "notice": prepared.notice}


def make_local_server(app: DemoApp, port: int) -> BaseWSGIServer:
    """A server that only this machine reaches, at its attribute ``port``.

    Args:
        app: what it serves.
        port: to listen at; 0 for any that is free.

    Raises:
        ValueError: if there is no such port.
        OSError: if something else listens there.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port must lie between 0 and 65535, got {port}.")
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise OSError(
            f"cannot listen at port {port} ({error.strerror}). Give another --port, or 0 for any "
            "that is free."
        ) from error
    with listening:  # the server has a copy of it
        port = listening.getsockname()[1]
        server = make_server(
            HOST, port, app, threaded=True, request_handler=_QuietHandler, fd=listening.fileno()
        )
    server.daemon_threads = True  # type: ignore[attr-defined]
    return server


class _QuietHandler(WSGIRequestHandler):
    def log_request(self, *_: object) -> None:
        """A line for each move of the pointer would bury all else."""


def _describe(seen: Look) -> dict[str, Any]:
    """A look as plain data, with its pictures."""
    steps = zip(
        seen.continue_probs.tolist(),
        seen.boxes.tolist(),
        _bytes_of(seen.glimpses),
        _bytes_of(seen.decoded_glimpses),
        _bytes_of(seen.canvases[1:]),
        strict=True,
    )
    return {
        "count": seen.count,
        "count_probs": seen.count_probs.tolist(),
        "elbo": seen.elbo,
        "log_likelihood": seen.log_likelihood,
        "kl_num_steps": seen.kl_num_steps,
        "kl_z_where": seen.kl_z_where,
        "kl_z_what": seen.kl_z_what,
        "shift": list(seen.shift),
        "steps": [
            {
                "continue_prob": prob,
                "box": box,
                "glimpse": _picture(glimpse),
                "decoded_glimpse": _picture(decoded),
                "canvas": _picture(canvas),
            }
            for prob, box, glimpse, decoded, canvas in steps
        ],
    }


def _bytes_of(images: Tensor) -> NDArray[np.uint8]:
    """``(N, H, W, C)`` of 0 to 255, from ``(N, C, H, W)`` in about [0, 1]."""
    pixels = (images.float().nan_to_num(nan=0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def _picture(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Pixels ``(H, W, C)`` for the page, which draws them itself: no codec at either end."""
    height, width, channels = pixels.shape
    data = base64.b64encode(pixels.tobytes()).decode("ascii")
    return {"height": height, "width": width, "channels": channels, "data": data}


def _json(value: dict[str, Any], status: int) -> Response:
    # Not-a-number, of a model that diverged, is no JSON: the page shows a dash for null.
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), allow_nan=False)
    return Response(text, status=status, mimetype="application/json")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
