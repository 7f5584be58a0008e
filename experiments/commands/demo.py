"""``demo``: a page on this machine where one drags digits about and sees AIR look."""

import argparse
import webbrowser

from experiments.models import add_model_arguments, load_model, use_device

DESCRIPTION = """\
Open a page where you drag digits onto a canvas, draw your own or drop an image, and see AIR look:
boxes, glimpses, the canvas step by step, the probability of each count, the ELBO. It is served to
this machine alone, and asks no other for anything. Ctrl-C ends it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``demo``."""
    # For one small image more threads wait for each other longer than they help.
    add_model_arguments(parser, default="multi-mnist", threads=1)
    parser.add_argument(
        "--port",
        metavar="N",
        type=int,
        default=7860,
        help="where to listen, 0 for any port that is free (default: %(default)s)",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="print the page's address, open no browser"
    )


def run(args: argparse.Namespace) -> int:
    """Serve the page until it is interrupted; returns the exit status."""
    try:
        # Here: the other commands do without it.
        from experiments.demo.server import HOST, DemoApp, make_local_server
    except ModuleNotFoundError as error:
        if error.name != "werkzeug":
            raise
        raise ImportError(
            "the demo needs Werkzeug: pip install 'attend-infer-repeat[demo]', or pip install "
            "werkzeug."
        ) from error
    model = load_model(args.load, args.output_root, use_device(args)).air
    server = make_local_server(DemoApp(model, args.load), args.port)
    try:
        address = f"http://{HOST}:{server.port}/"
        print(f"AIR looks at what you show it at {address} (Ctrl-C ends it)", flush=True)
        if not args.no_browser:
            webbrowser.open(address)
        server.serve_forever()
    except KeyboardInterrupt:
        pass  # the way to end it
    finally:
        server.server_close()
    return 0
