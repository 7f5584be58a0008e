"""The flags of a training run: what they are, and what they may be."""

import argparse
import math
from itertools import accumulate
from pathlib import Path

from air import AIRConfig
from air.estimators import ESTIMATORS
from air.recipe import continue_prob_points, recipe_for
from air.schedules import Constant, parse_schedule
from experiments.cpu import check_threads
from experiments.datasets.sources import absolute_name, check_dataset, describe_names
from experiments.files import is_number
from experiments.guard import parse_on_nan
from experiments.objective import PRECISIONS

_MOST = {"num_samples": 10_000, "loglikelihood_samples": 100_000, "test_batch_size": 100_000}
"""What the size of a checkpoint does not bound, but the memory."""
_LARGEST = 2**53
"""Of any whole number: up to here floats hold them all."""
_MOST_SEED = 2**32
"""numpy takes no larger one."""


def add_own_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags but boilr's own."""
    defaults = AIRConfig()
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset",
        metavar="NAME",
        default="multi-mnist",
        help=f"one of: {describe_names()} (default: %(default)s)",
    )
    add_data_arguments(data)
    data.add_argument(
        "--translate",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="move the content of each training scene to a random place where it fits (black "
        "backgrounds only)",
    )
    model = parser.add_argument_group("model and objective")
    model.add_argument(
        "--estimator",
        metavar="NAME",
        default="enumerate",
        help=f"way through the discrete count, one of: "
        f"{', '.join(sorted(ESTIMATORS))} (default: %(default)s)",
    )
    model.add_argument(
        "--num-samples",
        metavar="K",
        type=int,
        default=1,
        help="rollouts of each image (default: %(default)s)",
    )
    model.add_argument(
        "--max-objects",
        metavar="T",
        type=int,
        default=defaults.max_objects,
        help="most objects that can be found (default: %(default)s)",
    )
    model.add_argument(
        "--inference",
        metavar="NETWORK",
        default=defaults.inference,
        help="residual, which looks where the image is not explained yet, or paper, an LSTM over "
        "all pixels (default: %(default)s)",
    )
    model.add_argument(
        "--num-candidates",
        metavar="M",
        type=int,
        default=defaults.num_candidates,
        help="places that the residual network compares at each step (default: %(default)s)",
    )
    model.add_argument(
        "--z-what-size",
        metavar="D",
        type=int,
        default=defaults.z_what_size,
        help="dimensions of an object's appearance (default: %(default)s)",
    )
    scale = model.add_mutually_exclusive_group()
    scale.add_argument(
        "--z-where-mean",
        metavar="S,X,Y",
        help="prior mean of an object's scale and place; the scale is some 0.9 times canvas over "
        "object size (default: what the data set comes with, or estimated from the images)",
    )
    scale.add_argument(
        "--object-size",
        metavar="PIXELS",
        type=float,
        help="longer side of a typical object, after images were made smaller: says the scale",
    )
    model.add_argument(
        "--z-where-sd",
        metavar="S,X,Y",
        help="prior standard deviations of an object's scale and place "
        "(default: what the data set comes with, or estimated, else 0.2,1,1)",
    )
    for half in ("encoder", "decoder"):
        model.add_argument(
            f"--{half}-hidden",
            metavar="SIZES",
            default=",".join(map(str, getattr(defaults, f"{half}_hidden"))),
            help=f"hidden layers of the glimpse {half}, separated by commas (default: %(default)s)",
        )
    model.add_argument(
        "--likelihood",
        metavar="NAME",
        default=defaults.likelihood,
        help="normal (grey values) or bernoulli (binary images) (default: %(default)s)",
    )
    model.add_argument(
        "--overlap",
        metavar="WHAT",
        default=defaults.overlap,
        help="what objects that overlap show, with a normal likelihood: their sum, or their "
        "union, which stays inside [0, 1]: for scenes whose sum is clipped (default: %(default)s)",
    )
    model.add_argument(
        "--likelihood-sd",
        metavar="SD",
        help="standard deviation of a pixel: a number or a schedule (default: 0.3 in grey, 0.52 "
        "in RGB)",
    )
    model.add_argument(
        "--continue-prob",
        metavar="P",
        help="prior probability of one more object: a number, or a schedule "
        "KIND:START:END:STEPS or KIND:VALUE@0,VALUE@STEP,... with KIND linear, exponential or "
        "cosine (default: of air.recipe)",
    )
    model.add_argument(
        "--alone-until",
        metavar="STEP",
        type=int,
        help="until this step find at most one object in an image (default: what air.recipe says)",
    )
    model.add_argument(
        "--learn-continue-prob-from",
        metavar="STEP",
        type=int,
        help="from this step on learn that probability, instead of following --continue-prob; it "
        "starts where --continue-prob ends (default: never)",
    )
    model.add_argument(
        "--baseline-lr",
        metavar="LR",
        type=float,
        default=1e-3,
        help="learning rate of an estimator's own parameters (default: %(default)s)",
    )
    run = parser.add_argument_group("run")
    run.add_argument(
        "--run-name",
        metavar="NAME",
        help="name of the run's folder (default: date, time and settings)",
    )
    run.add_argument(
        "--output",
        metavar="DIR",
        default="output",
        help="folder of all runs (default: %(default)s)",
    )
    run.add_argument(
        "--threads", metavar="N", type=int, help="CPU threads (default: PyTorch's choice)"
    )
    run.add_argument(
        "--on-nan",
        metavar="WHAT",
        default="stop",
        help="what to do where a loss or gradient is not finite: stop, or skip:N to leave out "
        "at most N steps (default: %(default)s)",
    )
    run.add_argument(
        "--deterministic",
        action="store_true",
        help="deterministic algorithms only, so that a GPU gives the same bits too",
    )
    run.add_argument(
        "--precision",
        metavar="TYPE",
        default="float32",
        help=f"of the matrix products, one of: {', '.join(PRECISIONS)} (default: %(default)s)",
    )
    run.add_argument(
        "--compile",
        action="store_true",
        help="compile the model first: pays in runs of more than some 10 000 steps",
    )
    run.add_argument(
        "--num-seeds",
        metavar="N",
        type=int,
        default=1,
        help="train seeds SEED to SEED + N - 1 at once, in one process (default: %(default)s)",
    )
    run.add_argument(
        "--cuda-graph",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="on a GPU: record the step once as a CUDA graph and replay it",
    )


def parse_three(name: str, text: str) -> tuple[float, float, float]:
    """Three numbers with commas between them.

    Raises:
        ValueError: if it is anything else.
    """
    try:
        s, x, y = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{name} must be three numbers, such as 3,0,0; got {text!r}.") from error
    if not all(map(math.isfinite, (s, x, y))):
        raise ValueError(f"{name} must be finite, got {text!r}.")
    return s, x, y


def add_data_arguments(parser: argparse._ActionsContainer) -> None:
    """Add the flags that say where data is found and kept."""
    parser.add_argument(
        "--data-root", metavar="DIR", help="where made data sets are kept (default: a cache folder)"
    )
    parser.add_argument(
        "--mnist-root",
        metavar="DIR",
        help="where the full MNIST lies, in torchvision's layout or plain IDX",
    )


def parse_sizes(text: str) -> tuple[int, ...]:
    """Sizes of layers from the command line; none where the text is empty, or says so.

    >>> parse_sizes("512,256"), parse_sizes("none")
    ((512, 256), ())

    Raises:
        ValueError: if it holds anything else than numbers.
    """
    try:
        return () if text.strip() in ("", "none") else tuple(map(int, text.split(",")))
    except ValueError as error:
        raise ValueError(
            f"cannot read the sizes {text!r}. Expected whole numbers, such as 512,512."
        ) from error


def check_numbers(args: argparse.Namespace) -> None:
    """Check what boilr's own checks divide by, and what it does not check.

    Raises:
        ValueError: if a number is out of its range.
    """
    for name, value in vars(args).items():
        if type(value) is float and not is_number(value):
            raise ValueError(f"{name} must be a finite number, got {value}.")
        if type(value) is int and abs(value) > _LARGEST:
            raise ValueError(f"{name} must be at most {_LARGEST}, got {value!r:.40}.")
    for name in (
        *("num_samples", "max_objects", "z_what_size", "batch_size", "test_batch_size"),
        "train_log_every",
        "test_log_every",
        "loglikelihood_every",
        "checkpoint_every",
        "max_steps",
        "max_epochs",
        "num_seeds",
    ):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(args, name)}.")
    check_threads(args.threads)
    if not 0 <= args.seed <= _MOST_SEED - args.num_seeds:
        raise ValueError(
            f"seed must lie between 0 and {_MOST_SEED - args.num_seeds}, got {args.seed}."
        )
    if args.loglikelihood_samples < 0:
        raise ValueError(
            f"loglikelihood_samples must be at least 0, got {args.loglikelihood_samples}."
        )
    for name in ("test_imgs_every",):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(args, name)}.")
    if args.max_grad_norm is not None and not args.max_grad_norm > 0:
        raise ValueError(f"max_grad_norm must be above 0, got {args.max_grad_norm}.")


def check_arguments(args: argparse.Namespace) -> None:
    """Check all other settings.

    Raises:
        ValueError: if one is unknown or out of its range, or two do not go together.
    """
    if args.resume and args.dry_run:
        raise ValueError("--dry-run saves nothing, so it cannot go with --resume.")
    parse_on_nan(args.on_nan)
    for sizes in ("encoder_hidden", "decoder_hidden"):
        parse_sizes(getattr(args, sizes))
    for name, most in _MOST.items():
        if getattr(args, name) > most:
            raise ValueError(f"{name} must be at most {most}, got {getattr(args, name)}.")
    if args.num_seeds > 1:
        _check_together(args)
    make_absolute(args)
    check_dataset(args.dataset)
    if args.estimator not in ESTIMATORS:
        raise ValueError(
            f"unknown estimator {args.estimator!r}. "
            f"Expected one of: {', '.join(sorted(ESTIMATORS))}."
        )
    if args.precision not in PRECISIONS:
        raise ValueError(
            f"unknown precision {args.precision!r}. Expected one of: {', '.join(PRECISIONS)}."
        )
    AIRConfig(
        likelihood=args.likelihood,
        overlap=args.overlap,
        inference=args.inference,
        num_candidates=args.num_candidates,
    )
    for name in ("lr", "baseline_lr"):
        if not getattr(args, name) > 0:
            raise ValueError(f"{name} must be above 0, got {getattr(args, name)}.")
    if args.checkpoint_every % args.test_log_every:
        raise ValueError(
            "'checkpoint_every' must be a multiple of 'test_log_every', but current values "
            f"are {args.checkpoint_every} and {args.test_log_every}."
        )
    for name in ("z_where_mean", "z_where_sd"):
        if (text := getattr(args, name)) is not None:
            parse_three(name, text)
    if args.object_size is not None and args.object_size < 1:
        raise ValueError(f"object_size must be at least 1 pixel, got {args.object_size:g}.")
    AIRConfig(max_objects=args.max_objects, z_what_size=args.z_what_size)
    if args.alone_until < 0:
        raise ValueError(f"alone_until must be at least 0, got {args.alone_until}.")
    if args.learn_continue_prob_from is not None and args.learn_continue_prob_from < 0:
        raise ValueError(
            f"learn_continue_prob_from must be at least 0, got {args.learn_continue_prob_from}."
        )
    continue_prob = parse_schedule(args.continue_prob)
    for step in (*_bends(continue_prob), args.max_steps):
        if not 0 < continue_prob(step) < 1:
            raise ValueError(
                "--continue-prob must stay between 0 and 1, both excluded, "
                f"got {continue_prob(step)} at step {step}."
            )
    if args.likelihood_sd is None:
        return
    likelihood_sd = parse_schedule(args.likelihood_sd)
    for step in (*_bends(likelihood_sd), args.max_steps):
        if not 0 < likelihood_sd(step) < math.inf:
            raise ValueError(
                f"--likelihood-sd must stay above 0, got {likelihood_sd(step)} at step {step}."
            )
    if args.likelihood == "bernoulli" and not isinstance(likelihood_sd, Constant):
        raise ValueError(
            "--likelihood bernoulli has no standard deviation: --likelihood-sd must be a number."
        )


def complete_recipe(args: argparse.Namespace) -> None:
    """Set --lr, --continue-prob and --alone-until where they are not given: as the recipe has them.

    Plain values: whoever reads the settings of a run need not know the recipe.

    Raises:
        ValueError: if there is no such inference network.
    """
    config = AIRConfig(inference=args.inference)
    recipe = recipe_for(config, args.max_steps)
    if args.lr is None:
        args.lr = recipe.learning_rate
    if args.alone_until is None:
        args.alone_until = recipe.alone_until
    if args.continue_prob is None:
        points = continue_prob_points(config, args.max_steps)
        args.continue_prob = "exponential:" + ",".join(
            f"{value:g}@{step}" for value, step in points
        )


def make_absolute(args: argparse.Namespace) -> None:
    """Make relative paths among the settings absolute: a run is continued from anywhere."""
    args.dataset = absolute_name(args.dataset)
    for name in ("data_root", "mnist_root"):
        if (path := getattr(args, name)) is not None:
            setattr(args, name, str(Path(path).expanduser().absolute()))


def _bends(schedule: object) -> list[int]:
    """The steps from 0 on at which a schedule has its extremes, but for the last."""
    lengths = [ramp.num_steps for ramp in getattr(schedule, "ramps", ())]
    return list(accumulate(lengths, initial=0))


def _check_together(args: argparse.Namespace) -> None:
    """Refuse what does not work for seeds that train together, before it is silently left out."""
    for flag, given in (
        ("--compile", args.compile),
        ("--resume", args.resume),
        ("--on-nan skip:N", args.on_nan != "stop"),
        ("a data set of shards", args.dataset.startswith("shards:")),
    ):
        if given:
            raise ValueError(f"{flag} does not work with --num-seeds. Leave one of them out.")


def complete_help(group: argparse._ArgumentGroup) -> None:
    """Show the defaults of boilr's flags, and say what ours makes of them."""
    for action in group._group_actions:
        if "--resume" in action.option_strings:
            action.metavar = "RUN"
            action.help = (
                "continue this run ('latest': the one started last), with its own settings but for "
                "the flags given"
            )
        elif "--lr" in action.option_strings:
            action.help = "learning rate (default: of air.recipe)"
        elif action.help and action.default not in (None, "") and action.nargs != 0:
            action.help += " (default: %(default)s)"
