"""AIR: the model that joins the two halves."""

import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from air.config import AIRConfig, check_images
from air.detections import Predictions
from air.distributions import NumSteps
from air.elbo import (
    count_posterior,
    count_tensors,
    elbo_parts,
    importance_bound,
    log_weights_by_count,
)
from air.generative import Canvas, GenerativeModel, make_likelihood
from air.images import Preparation
from air.inference import InferenceNetwork, PaperInference
from air.memory import check_memory
from air.networks import GlimpseDecoder, GlimpseEncoder, ImageLSTM, StepPredictor
from air.prediction import predict
from air.priors import Prior, PriorNetwork
from air.residual_inference import ResidualInference
from air.shifts import move_back, move_images
from air.spatial_transformer import boxes_in_pixels
from air.types import AIROutput, CountPosterior, ImportanceBound, Inference, Rollout, Sample
from air.weights import SavedModel, find_folder, load_folder, push_folder, save_folder

__all__ = ["AIR"]


class AIR(nn.Module):
    """Attend, Infer, Repeat (Eslami et al., 2016).

    Finds, without labels, how many objects an image holds, where each is and what each looks
    like. To train it, give it to an estimator (:mod:`air.estimators`).

    Args:
        config: sizes and settings.

    Attributes:
        validate_args: whether images are checked for shape, range and NaN at each call. A
            training loop that has checked its data once may turn it off.
        preparation: what :meth:`predict` does to images first; nothing by default. All other
            methods take images as the model reads them.

    Example:
        >>> model = AIR(AIRConfig(canvas_size=(32, 40), glimpse_size=(16, 16)))
        >>> images = torch.rand(8, 1, 32, 40)
        >>> model(images).elbo.shape
        torch.Size([1, 8])
        >>> model.infer(images).boxes.shape
        torch.Size([8, 3, 4])
    """

    def __init__(self, config: AIRConfig | None = None) -> None:
        super().__init__()
        config = AIRConfig() if config is None else config
        self.config = config
        self.validate_args = True
        self.preparation = Preparation()
        self.inference = _make_inference(config)
        self.generative = GenerativeModel(
            prior=PriorNetwork(
                max_objects=config.max_objects,
                z_what_size=config.z_what_size,
                continue_prob=config.continue_prob,
                learn_continue_prob=config.learn_continue_prob,
                z_where_mean=config.z_where_mean,
                z_where_sd=config.z_where_sd,
            ),
            decoder=GlimpseDecoder(
                config.z_what_size,
                config.decoder_hidden,
                config.glimpse_shape,
                config.decoder_bias,
            ),
            likelihood=make_likelihood(config),
            canvas_size=config.canvas_size,
        )

    def prior(
        self,
        continue_prob: float | Tensor | None = None,
        max_objects: int | None = None,
        limit: float | Tensor | None = None,
    ) -> Prior:
        """The prior, with another probability of one more object, or another T, where given.

        Args:
            continue_prob: such as a schedule's value at this step; default: the model's own.
            max_objects: T; default: the model's own. No weight depends on it: a model may look
                for more objects than it was trained with.
            limit: most objects that q(n) may find, if fewer: see :attr:`air.priors.Prior.limit`.

        Raises:
            ValueError: if ``continue_prob`` is outside (0, 1], or ``max_objects`` below 1.
        """
        if max_objects is not None and max_objects < 1:
            raise ValueError(f"max_objects must be at least 1, got {max_objects}.")
        return self.generative.prior(continue_prob, max_objects, limit)

    def forward(
        self,
        images: Tensor,
        prior: Prior | None = None,
        *,
        num_samples: int = 1,
        likelihood_sd: float | Tensor | None = None,
        detach_samples: bool = False,
        shifts: Tensor | None = None,
    ) -> AIROutput:
        """Unroll once, as if every step were present, and evaluate every count.

        Args:
            images: ``(B, C, H, W)``, float in [0, 1] or uint8 (0 to 255).
            prior: default: the model's own.
            num_samples: K, independent rollouts of each image.
            likelihood_sd: another standard deviation of a pixel than the model's.
            detach_samples: let no gradient pass through the latents' draws.
            shifts: infer each image from a view moved by so many pixels, ``(down, right)``, int64
                ``(B, 2)``; see :mod:`air.shifts`. Everything is of the images themselves still.

        Raises:
            ValueError: if the images or the shifts do not fit, or ``num_samples`` is below 1.
        """
        images = self.as_input(images)
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
        if shifts is not None and (shifts.shape != (len(images), 2) or shifts.is_floating_point()):
            raise ValueError(
                f"shifts must be integer, one (down, right) an image: {(len(images), 2)}, "
                f"got {shifts.dtype} {tuple(shifts.shape)}."
            )
        if self.validate_args:
            check_memory(
                self.config,
                num_samples * len(images),
                images.device,
                gradients=torch.is_grad_enabled(),
                advice="Give fewer images or samples at a time.",
            )
        prior = self.prior() if prior is None else prior
        rollout, objects = self._unroll(
            images, prior, num_samples, shifts, detach_samples=detach_samples
        )
        log_likelihood = self.generative.log_likelihood(images, objects, likelihood_sd)
        counts = count_tensors(rollout, log_likelihood, prior)
        return AIROutput(
            rollout=rollout, counts=counts, elbo_parts=elbo_parts(counts), objects=objects
        )

    @torch.no_grad()
    def sample(
        self,
        num_images: int,
        prior: Prior | None = None,
        *,
        num_objects: int | Tensor | None = None,
    ) -> Sample:
        """Draw scenes from the generative model.

        Args:
            num_images: N.
            prior: default: the model's own, under which most scenes are empty.
            num_objects: how many objects each scene shall have, one number or int64 ``(N,)``.

        Raises:
            ValueError: if a number of objects is below 0 or above ``max_objects``.
        """
        prior = self.prior() if prior is None else prior
        if num_objects is not None:
            device = prior.z_where.loc.device
            num_objects = torch.as_tensor(num_objects, device=device).expand(num_images)
            if num_images and not 0 <= num_objects.min() <= num_objects.max() <= self.max_objects:
                raise ValueError(
                    f"num_objects must lie between 0 and max_objects = {self.max_objects}, "
                    f"got {num_objects.tolist()}."
                )
        return self.generative.sample(num_images, prior, num_objects)

    @torch.no_grad()
    def infer(
        self,
        images: Tensor,
        *,
        max_objects: int | None = None,
        shifts: Tensor | None = None,
        batch_size: int = 500,
    ) -> Inference:
        """Read images: counts, boxes, appearances and reconstruction. Deterministic.

        Latents are taken at their means, the count at its most probable value.

        Args:
            images: ``(B, C, H, W)``, float in [0, 1] or uint8 (0 to 255).
            max_objects: T; default: the model's own. May be higher than in training.
            shifts: ``(down, right)`` in pixels, int64 ``(S, 2)``, such as
                :func:`air.shifts.shift_grid` makes. Each image is then read from each of these
                views, and the reading of the highest ELBO is kept: fewer errors, S + 1 times the
                work.
            batch_size: how many images are in work at a time; bounds the memory.

        Raises:
            ValueError: if the images do not fit the model, or ``shifts`` are no list of shifts.
        """
        if shifts is not None and (
            shifts.dim() != 2
            or shifts.shape[1] != 2
            or not len(shifts)
            or shifts.is_floating_point()
        ):
            raise ValueError(
                "shifts must be integer, (down, right) each: (S, 2) with S of at least 1, "
                f"got {shifts.dtype} {tuple(shifts.shape)}."
            )
        prior = self.prior(max_objects=max_objects)
        chunks = _chunks(images, batch_size)
        check_memory(
            self.config,
            len(chunks[0]) if images.dim() else 0,
            self.device,
            kept=len(images) if images.dim() else 0,
            max_objects=max_objects,
            advice="Lower batch_size, or read fewer images at a time: their placed objects are "
            "kept. predict keeps none.",
        )
        whole: dict[str, Tensor] = {}
        start = 0
        for chunk in chunks:
            part = vars(self.read(self.as_input(chunk), shifts, prior))
            if len(chunks) == 1:
                return Inference(**part)
            for name, value in part.items():
                # Into its place: a list of parts would be in memory twice when it is joined.
                if name not in whole:
                    whole[name] = value.new_empty(len(images), *value.shape[1:])
                whole[name][start : start + len(chunk)] = value
            start += len(chunk)
        return Inference(**whole)

    def predict(
        self,
        images: Any,
        *,
        max_objects: int | None = None,
        max_shift: int = 0,
        batch_size: int = 100,
        tight_boxes: bool = True,
        on_batch: Callable[[int], object] | None = None,
        recursive: bool = False,
        skip_damaged: bool = False,
    ) -> Predictions:
        """Find the objects of images of any size, in the images' own pixels. Deterministic.

        Images are prepared as :attr:`preparation` says. With a model made by :func:`air.fit`
        an image larger than the canvas is read in overlapping tiles, at the scale of training.

        Args:
            images: what :class:`air.images.Pictures` takes: a folder, files, patterns, arrays,
                tensors, Pillow's images, a data set or a loader. Each page of a stack is an image.
            max_objects: T; default: the model's own. May be higher than in training.
            max_shift: each image is read from 25 views, moved by up to so many pixels of the
                canvas, and the reading of the highest ELBO is kept (:mod:`air.shifts`): fewer
                errors, 26 times the work. 0: one view.
            batch_size: how many images are in work at a time; bounds the memory. Files are read
                when it is their turn, and not kept.
            tight_boxes: boxes around what each object lights; else the boxes of
                :meth:`infer`, which are some larger.
            on_batch: called with the number of images done, after each batch.
            recursive: whether to search folders inside folders, too.
            skip_damaged: whether to leave out files that cannot be read, and list them in
                ``skipped`` of what is returned. Otherwise they are an error.

        Returns:
            A sequence with one :class:`air.detections.Detections` an image.

        Warns:
            UserWarning: of images that differ from those the model was trained on.

        Raises:
            ValueError: if something is no image, ``max_objects`` is below 1 or ``max_shift``
                negative.
            FileNotFoundError: if a file or folder does not exist.
        """
        return predict(
            self,
            images,
            max_objects=max_objects,
            max_shift=max_shift,
            batch_size=batch_size,
            tight_boxes=tight_boxes,
            on_batch=on_batch,
            recursive=recursive,
            skip_damaged=skip_damaged,
        )

    @classmethod
    def from_pretrained(cls, name_or_folder: str | os.PathLike[str]) -> Self:
        """Load a trained model, on the CPU and in evaluation mode.

        Args:
            name_or_folder: a folder made by :meth:`save_pretrained`; the name of a model that
                comes with the package (:func:`air.weights.shipped_models`); or ``owner/model`` on
                the Hugging Face hub, with the extra ``hub`` installed.

        Raises:
            FileNotFoundError: if there is no such model, or one of its files is missing.
            ValueError: if its files cannot be read, or do not fit each other.
            ImportError: if the hub is needed and ``huggingface_hub`` is not installed.

        Example:
            >>> AIR.from_pretrained("multi-mnist").config.canvas_size
            (50, 50)
        """

        def shapes_of(config: AIRConfig) -> dict[str, tuple[int, ...]]:
            with torch.device("meta"):  # without making them
                state = cls(config).state_dict()
            return {name: tuple(tensor.shape) for name, tensor in state.items()}

        saved = load_folder(find_folder(name_or_folder), shapes_of)
        check_memory(saved.config, 1, torch.device("cpu"), advice="This model cannot be used here.")
        model = cls(saved.config)
        model.load_state_dict(saved.tensors)
        model.preparation = saved.preparation
        return model.eval()

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        card: str = "",
        half: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Save configuration, preparation and weights, in the layout of the Hugging Face hub.

        Each file is written under another name first, then renamed: a crash leaves no half file.

        Args:
            folder: made if it does not exist.
            card: notes for the model's card, Markdown: what it was trained on, how good it is.
            half: save the weights in half precision, in half the space. They are float32 again
                when loaded.
            overwrite: whether a model that is there already may be replaced.

        Raises:
            FileExistsError: if the folder holds a model and ``overwrite`` is not given.
            ValueError: if a weight is too large for half precision.
        """
        saved = SavedModel(
            config=self.config, preparation=self.preparation, tensors=self.state_dict()
        )
        save_folder(saved, folder, card=card, half=half, overwrite=overwrite)

    def push_to_hub(self, name: str, *, card: str = "", private: bool = False) -> str:
        """Upload to the Hugging Face hub, with the extra ``hub`` installed and logged in there.

        Args:
            name: ``owner/model``.
            card: notes for the model's card.
            private: whether a repository that is made anew shall be private.

        Returns:
            The address of the upload.

        Raises:
            ImportError: if ``huggingface_hub`` is not installed.
            ValueError: if the name is none of the hub's.
        """
        with tempfile.TemporaryDirectory() as temporary:
            self.save_pretrained(temporary, card=card, overwrite=True)
            return push_folder(Path(temporary), name, private=private)

    @torch.no_grad()
    def log_likelihood(
        self,
        images: Tensor,
        num_samples: int = 100,
        prior: Prior | None = None,
        *,
        samples_at_once: int = 10,
        likelihood_sd: float | Tensor | None = None,
        shifts: Tensor | None = None,
    ) -> ImportanceBound:
        """A lower bound of log p(x), importance-weighted, with n summed out exactly.

        Burda et al. (2016), from *sampled* log weights; grows towards log p(x) with K.

        Args:
            images: ``(B, C, H, W)``, float in [0, 1] or uint8 (0 to 255).
            num_samples: K.
            prior: default: the model's own.
            samples_at_once: how many rollouts of each image are in memory at a time.
            likelihood_sd: another standard deviation of a pixel than the model's.
            shifts: propose from a moved view of each image, as in :meth:`forward`.

        Raises:
            ValueError: if the images do not fit the model, or ``num_samples`` is below 1.
        """
        weights, _ = self._weigh(
            images, num_samples, prior, samples_at_once, likelihood_sd=likelihood_sd, shifts=shifts
        )
        return importance_bound(weights.logsumexp(dim=-1))

    @torch.no_grad()
    def count_posterior(
        self,
        images: Tensor,
        num_samples: int = 100,
        prior: Prior | None = None,
        *,
        samples_at_once: int = 10,
        likelihood_sd: float | Tensor | None = None,
        shifts: Tensor | None = None,
    ) -> CountPosterior:
        """p(n | x) of the model, by importance weighting, beside the network's q(n | x).

        The same rollouts and weights as :meth:`log_likelihood`, with n kept. Consistent: the
        estimate is p(n | x) as K grows, for any q. Where ``ess`` is near 1, K is too small.

        Args:
            images: ``(B, C, H, W)``, float in [0, 1] or uint8 (0 to 255).
            num_samples: K.
            prior: default: the model's own.
            samples_at_once: how many rollouts of each image are in memory at a time.
            likelihood_sd: another standard deviation of a pixel than the model's.
            shifts: propose from a moved view of each image, as in :meth:`forward`.

        Raises:
            ValueError: if the images do not fit the model, or ``num_samples`` is below 1.
        """
        return count_posterior(
            *self._weigh(
                images,
                num_samples,
                prior,
                samples_at_once,
                likelihood_sd=likelihood_sd,
                shifts=shifts,
            )
        )

    def _weigh(
        self,
        images: Tensor,
        num_samples: int,
        prior: Prior | None,
        samples_at_once: int,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """Log weights and log q(n), by count, of K rollouts: ``(K, B, T + 1)`` each."""
        images = self.as_input(images)
        if num_samples < 1 or samples_at_once < 1:
            raise ValueError(
                "num_samples and samples_at_once must be at least 1, "
                f"got {num_samples} and {samples_at_once}."
            )
        prior = self.prior() if prior is None else prior
        weights, log_q = [], []
        for start in range(0, num_samples, samples_at_once):
            chunk = min(samples_at_once, num_samples - start)
            output = self(images, prior, num_samples=chunk, **options)
            weights.append(log_weights_by_count(output.rollout, output.counts, prior))
            log_q.append(output.counts.log_q)
        return torch.cat(weights), torch.cat(log_q)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.generative.prior.z_where_mean.device

    @property
    def max_objects(self) -> int:
        """T, the most objects that can be found."""
        return self.config.max_objects

    def _unroll(
        self,
        images: Tensor,
        prior: Prior,
        num_samples: int = 1,
        shifts: Tensor | None = None,
        **options: bool,
    ) -> tuple[Rollout, Tensor]:
        """The rollout, and its objects ``(K, B, T, C, H, W)``."""
        seen = images if shifts is None else move_images(images, shifts)
        canvas = Canvas(self.generative)
        rollout = self.inference(seen, prior, num_samples, renderer=canvas, **options)
        if prior.limit is not None:
            rollout = _limit_count(rollout, prior.limit)
        if self.inference.draws_canvas and shifts is None:
            return rollout, canvas.objects
        if shifts is not None:
            rollout = move_back(rollout, shifts, self.config.canvas_size)
        return rollout, self.generative.render(rollout.z_where, rollout.z_what)

    def _best_shifts(self, images: Tensor, prior: Prior, shifts: Tensor) -> Tensor:
        """Of S shifts the one of the highest ELBO at the means, for each image: ``(B, 2)``.

        The means and no draw, so that the choice depends on the image alone: only then is the
        posterior that it makes one.
        """
        best = images.new_full((len(images),), float("-inf"))
        chosen = shifts[:1].expand(len(images), 2)
        for shift in shifts:
            rollout, objects = self._unroll(
                images, prior, shifts=shift.expand(len(images), 2), use_means=True
            )
            counts = count_tensors(rollout, self.generative.log_likelihood(images, objects), prior)
            elbo = elbo_parts(counts).elbo[0]
            chosen = torch.where((elbo > best)[:, None], shift, chosen)
            best = torch.maximum(elbo, best)
        return chosen

    def read(
        self, images: Tensor, shifts: Tensor | None = None, prior: Prior | None = None
    ) -> Inference:
        """:meth:`infer` of one batch as it is: nothing checked, nothing converted.

        Args:
            images: ``(B, C, H, W)``, float in [0, 1], of the weights' type.
            shifts: as in :meth:`infer`.
            prior: default: the model's own.
        """
        prior = self.prior() if prior is None else prior
        if shifts is not None:
            shifts = self._best_shifts(images, prior, shifts.to(images.device))
        rollout, objects = self._unroll(images, prior, shifts=shifts, use_means=True)
        objects = objects[0]
        num_steps = NumSteps(rollout.continue_logits[0], validate_args=False)
        z_where, z_what = rollout.z_where[0], rollout.z_what[0]
        counts = num_steps.mode
        rows = torch.arange(images.shape[0], device=images.device)  # not len: it exports
        present = torch.arange(z_where.shape[1], device=images.device) < counts[:, None]
        absent = ~present.unsqueeze(-1)
        return Inference(
            counts=counts,
            count_probs=num_steps.probs,
            boxes=boxes_in_pixels(z_where, self.config.canvas_size).masked_fill(
                absent, float("nan")
            ),
            z_where=z_where.masked_fill(absent, float("nan")),
            z_what=z_what.masked_fill(absent, float("nan")),
            canvas=self.generative.canvases(objects)[rows, counts],
            objects=objects * present[:, :, None, None, None],
            shifts=counts.new_zeros(images.shape[0], 2) if shifts is None else shifts,
        )

    def as_input(self, images: Tensor) -> Tensor:
        """Images as the model reads them: float in [0, 1], of the weights' type.

        uint8 is divided by 255, and other floating-point types are converted. Nothing else is
        guessed.

        Raises:
            ValueError: if they do not fit the model; the message says what to do.
        """
        if self.validate_args:
            check_images(images, self.config)
        if images.dtype == torch.uint8:
            return images.to(self._dtype) / 255
        return images.to(self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return self.generative.prior.z_where_mean.dtype


def _limit_count(rollout: Rollout, limit: float | Tensor) -> Rollout:
    """The rollout with no objects beyond a number: a probability of 1e-13 is none to float32."""
    logits = rollout.continue_logits
    reached = torch.arange(logits.shape[-1], device=logits.device) < limit
    return dataclasses.replace(rollout, continue_logits=logits.where(reached, -30.0))


def _make_inference(config: AIRConfig) -> InferenceNetwork:
    """The inference network that a model's settings ask for."""
    sizes: dict[str, Any] = {
        "z_what_size": config.z_what_size,
        "glimpse_size": config.glimpse_size,
    }
    encoder = (config.glimpse_shape, config.encoder_hidden, config.z_what_size)
    if config.inference == "residual":
        return ResidualInference(
            image_shape=config.image_shape,
            z_where_mean=config.z_where_mean,
            z_where_sd=config.z_where_sd,
            num_candidates=config.num_candidates,
            encoder=GlimpseEncoder(*encoder),
            train_candidates=config.train_candidates,
            **sizes,
        )
    channels, height, width = config.image_shape
    return PaperInference(
        lstm=ImageLSTM(channels * height * width, 3 + config.z_what_size, config.lstm_size),
        predictor=StepPredictor(config.lstm_size, config.predictor_hidden),
        encoder=GlimpseEncoder(*encoder),
        **sizes,
    )


def _chunks(images: Tensor, size: int) -> list[Tensor]:
    """Split along the batch; an empty batch stays one chunk, for the checks to refuse."""
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, got {size}.")
    return list(images.split(size)) if images.dim() and len(images) else [images]
