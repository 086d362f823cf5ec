"""Features that are learned from patches without labels, and the classifier behind them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from bitwright.data.dataset import Dataset, Split
from bitwright.data.preprocess import Preprocess
from bitwright.errors import BitwrightError
from bitwright.models.patch_features import PatchFeatures
from bitwright.steps.preprocess import components, mixer
from bitwright.steps.step import Step
from bitwright.training.evaluate import as_tensor, evaluate
from bitwright.training.seeds import derive_seed
from bitwright.training.settings import Optimizer, TrainSettings

if TYPE_CHECKING:
    from bitwright.context import Context

Whitening = Literal["zca", "none"]
_SVM = TrainSettings(
    epochs=20,
    batch_size=1 << 30,
    optimizer=Optimizer("LBFGS", 1.0, {"max_iter": 20, "history_size": 20}),
    weight_decay=1e-3,
    loss="squared-hinge",
)
_PASSES = 10
_BATCH = 4096  # patches
_IMAGES = 100


@dataclass(frozen=True)
class KMeans(Step):
    """Learn the features of a `patch-features` model by k-means on random patches, then train what is behind them.

    1. `patches` random patches of the training images, each with its contrast normalised (`PatchFeatures`)
    2. ZCA whitening of these:  x = U (S + epsilon)^-1/2 U^T (q - mean),  U S U^T their covariance
    3. centroids: minibatch k-means (Sculley 2010), begun as k-means++
    4. mean and variance of each feature over the training images
    5. the classifier, on features that are computed once

    whitening      "zca", or "none": patches as step 1 leaves them
    epsilon        added to the variances before they divide (Coates' code: 0.1)
    retrain        of the classifier. The default is an L2-SVM, one against all, by L-BFGS on all images at once
    weight_decays  tried one after the other in place of that of `retrain`; the one with the least validation error
                   stays. Squared hinges are means over images and K classes, so Coates' C is 1 / (K weight_decay)
    mirror         train the classifier with the mirror image of each training image too (not Coates')

    Records: "kmeans" (patches, mean squared distance to the nearest centroid, validation error by weight decay).
    Raises BitwrightError for another model, for fewer patches than centroids, and for a `retrain` with augmentation or
    a teacher, who would see other images than those whose features are kept.
    """

    name: ClassVar[str] = "kmeans"
    keeps_zeros: ClassVar[bool] = False
    paper: ClassVar[str] = "Coates, Lee, Ng, AISTATS 2011"
    model: ClassVar[str] = "patch-features"

    patches: int = 400_000
    whitening: Whitening = "zca"
    epsilon: float = 0.1
    weight_decays: tuple[float, ...] = ()
    mirror: bool = False
    retrain: TrainSettings = _SVM

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.epsilon, bool) or not 0 < self.epsilon < 1e6:
            raise BitwrightError(
                f"kmeans: epsilon is {self.epsilon!r}; expected a number above 0: patches without their means have no "
                "variance in one direction",
                kind="setting",
            )
        if self.retrain.augment is not None or self.retrain.distill is not None:
            raise BitwrightError(
                "kmeans: retrain has augment or distill, but the classifier is trained on features that are computed "
                "once; leave both out",
                kind="setting",
            )

    def look_ahead(self, model: nn.Module, data: Dataset) -> None:
        """Refuse other models, and more centroids than patches."""
        features = _features_of(model)
        if self.patches < len(features.centroids):
            raise BitwrightError(
                f"kmeans: {len(features.centroids):,} centroids of {self.patches:,} patches; expected at least as many "
                "patches",
                kind="setting",
            )

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        self.look_ahead(model, context.data)
        features = _features_of(model)
        with torch.no_grad():
            distance = self._fit(features, context)
            task = _standardise(features, context.data, self.mirror)
        errors = self._train(model.get_submodule("classifier"), task, context)
        context.record("kmeans", {"patches": self.patches, "distance": distance, "validation_error": errors})
        return model

    def _fit(self, features: PatchFeatures, context: Context) -> float:
        """Whitening and centroids; gives the mean squared distance of a patch to its centroid."""
        from sklearn.cluster import MiniBatchKMeans

        seed = derive_seed(context.seed, context.label, "patches")
        patches = random_patches(context.data.train.images, features.patch, self.patches, seed)
        x = features.normalised(context.data.preprocess.torch(torch.from_numpy(patches))).flatten(1)
        if self.whitening == "zca":
            mean = x.double().mean(0)
            matrix = mixer(*components(x - mean.float()), "zca", self.epsilon)
            features.whitening.copy_(matrix[:, :, None, None])
            features.offset.copy_(-(matrix @ mean))
            x = x @ features.whitening.flatten(1).T + features.offset
        found = MiniBatchKMeans(
            len(features.centroids), batch_size=_BATCH, max_iter=_PASSES, n_init=1, random_state=seed % (1 << 32)
        ).fit(x.numpy())
        features.centroids.copy_(torch.from_numpy(found.cluster_centers_)[:, :, None, None])
        return float(found.inertia_) / len(x)

    def _train(self, classifier: nn.Module, task: Dataset, context: Context) -> dict[str, float]:
        """Leave the best classifier in place; gives the validation error in percent by weight decay."""
        errors: dict[str, float] = {}
        best = start = copy.deepcopy(classifier.state_dict())
        for decay in self.weight_decays or (self.retrain.weight_decay,):
            classifier.load_state_dict(start)
            context.train(classifier, replace(self.retrain, weight_decay=decay), task)
            error = evaluate(classifier, task.validation, task.preprocess).error
            if error < min(errors.values(), default=float("inf")):
                best = copy.deepcopy(classifier.state_dict())
            errors[f"{decay:g}"] = error
        classifier.load_state_dict(best)
        return errors


def random_patches(images: np.ndarray, size: int, count: int, seed: int) -> np.ndarray:
    """`count` squares (count, C, size, size) from anywhere in images (N, C, H, W), drawn with replacement."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(2, 3))
    random = np.random.default_rng(seed)
    n, i, j = (random.integers(windows.shape[axis], size=count) for axis in (0, 2, 3))
    return np.ascontiguousarray(windows[n, :, i, j])


def _features_of(model: nn.Module) -> PatchFeatures:
    features = getattr(model, "features", None)
    if not isinstance(features, PatchFeatures):
        raise BitwrightError(
            f"kmeans: {type(model).__name__} has no PatchFeatures; take model: patch-features", kind="model"
        )
    return features


def _standardise(features: PatchFeatures, data: Dataset, mirror: bool) -> Dataset:
    """Set mean and variance of the features; gives the task of the classifier, whose test part is empty."""
    seen = _with_mirrored(data.train) if mirror else data.train
    train, validation = (_pooled(features, split, data.preprocess) for split in (seen, data.validation))
    features.mean.copy_(train.mean(0))
    features.variance.copy_(train.var(0, correction=0))
    return replace(
        data,
        train=Split(features.standardised(train).numpy(), seen.labels),
        validation=Split(features.standardised(validation).numpy(), data.validation.labels),
        test=Split(data.test.images[:0], data.test.labels[:0]),
        preprocess=Preprocess((0.0,), (1.0,)),
    )


def _with_mirrored(split: Split) -> Split:
    images = np.concatenate([split.images, split.images[..., ::-1]])
    return Split(images, np.concatenate([split.labels, split.labels]))


def _pooled(features: PatchFeatures, split: Split, preprocess: Preprocess) -> Tensor:
    parts = as_tensor(split.images).split(_IMAGES)
    return torch.cat([features.pooled(preprocess.torch(images)) for images in parts])
