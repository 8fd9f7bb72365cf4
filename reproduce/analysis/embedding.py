"""Features of lesion and of normal tissue in two views of a case: for t-SNE, and as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from data.dataset import sample_seed, target_mask
from data.intensity import PAD_HU, window_hu
from data.prepare.prepared_case import PreparedCase
from data.roi import network_input
from data.targets.anchors import anchor_masks
from data.views import ViewSettings, random_views
from engine.crops import input_box
from engine.inference import Predictor
from models.capture import captured
from utils.device import autocast

LAYERS = ("projection", "deep")  # Eq. 8's projection; stage 4's output, which every model has
VIEWS = ("phi", "psi")  # Eq. 1
VOXELS_PER_CASE = 8  # of each class at most, so that no large lesion outweighs the others
PERPLEXITY = 30.0  # the usual one
MIN_POINTS = 12  # t-SNE of fewer shows nothing
DRAW_VOXELS, DRAW_VIEWS = 101, 102  # purposes of `sample_seed`: what they draw is independent


class NothingToShowError(ValueError):
    """The points of a model on a center give no picture; the message says why."""


@dataclass(frozen=True)
class Points:
    """Features of n points: of each voxel (a cell of stride 8) one point in each view.

    `features`: layer -> float32 (n, channels), of unit length, or zero where all channels are.
    `is_lesion` bool (n,), `view` (n,) index of `VIEWS`, `voxel` (n,) the same number in both
    views, `case_ids` (n,).
    """

    features: Mapping[str, np.ndarray]
    is_lesion: np.ndarray
    view: np.ndarray
    voxel: np.ndarray
    case_ids: np.ndarray


@dataclass(frozen=True)
class Measures:
    """Numbers behind a picture; distances between features of unit length (0 same, 2 opposite).

    `silhouette`: lesion against normal, in [-1, 1], over all points; then over those of one view.
    `view_distance`: mean between the two views of a voxel. `class_distance`: mean between a lesion
    and a normal point. `view_over_class`: the one in units of the other; the lower, the stabler.
    `dead`: points whose features are all zero.
    """

    lesion: int
    normal: int
    silhouette: float
    silhouette_phi: float
    silhouette_psi: float
    view_distance: float
    class_distance: float
    view_over_class: float
    dead: int


def layer_features(network: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Each of `LAYERS` that the network has, (b, channels, z/8, y/8, x/8), for an image.

    The network returns its projection, but not stage 4's output, which only its own heads need; a
    hook reads it from outside, so that no training carries it along for the sake of a picture.
    Raises ValueError for a network without a stage 4.
    """
    stage4 = getattr(network, "stage4", None)
    if not isinstance(stage4, nn.Module):
        raise ValueError(f"{type(network).__name__} has no stage4 to read deep features from")
    with captured(stage4) as calls:
        outputs = network(image)
    layers = {"deep": calls[stage4].output}
    if outputs.features is not None:
        layers["projection"] = outputs.features
    return layers


@torch.inference_mode()
def case_points(
    model: Predictor,
    item: PreparedCase,
    index: int,
    *,
    views: ViewSettings,
    seed: int,
    per_case: int = VOXELS_PER_CASE,
) -> Points | None:
    """The points of one case in the crop that the stage sees around the label; None: no lesion.

    Voxels are those of Eq. 8 (`anchor_masks`), up to `per_case` of each class. They and the two
    views (Eq. 1, drawn as `views` says) depend on `seed` and `index`, not on the model, so that
    every model can be asked about the same ones.
    """
    stage = model.stage
    box = item.boxes.get("tumor")
    if item.label is None or box is None:
        return None
    label_box = item.boxes[stage.roi] if stage.roi != "volume" else None
    around = input_box(stage, item.shape, label_box, item.spacing)
    image_hu, _ = network_input(item.image_hu, around, stage.stride, value=PAD_HU)
    label, _ = network_input(item.label, around, stage.stride)
    mask = torch.from_numpy(target_mask(label, "tumor"))[None, None]
    cells = _choose_cells(
        mask, np.random.default_rng(sample_seed(seed, index, DRAW_VOXELS)), per_case
    )
    if not cells[True].size:
        return None
    image = window_hu(torch.from_numpy(image_hu))[None, None]
    generator = torch.Generator().manual_seed(sample_seed(seed, index, DRAW_VIEWS))
    chosen = np.concatenate([cells[True], cells[False]])
    per_view: list[dict[str, np.ndarray]] = []
    for view in random_views(image, generator, views, count=len(VIEWS)):
        with autocast(model.device, model.precision):
            layers = layer_features(model.method.network, view.to(model.device))
        per_view.append({name: _at_cells(values, chosen) for name, values in layers.items()})
    count = len(chosen)
    return Points(
        {name: np.concatenate([view[name] for view in per_view]) for name in per_view[0]},
        np.tile(np.arange(count) < len(cells[True]), len(VIEWS)),
        np.repeat(np.arange(len(VIEWS)), count),
        np.tile(np.arange(count), len(VIEWS)),
        np.full(count * len(VIEWS), item.case_id),
    )


def _choose_cells(mask: Tensor, rng: np.random.Generator, per_case: int) -> dict[bool, np.ndarray]:
    """Flat indices of cells, True: lesion, False: normal tissue around it; sorted."""
    chosen = {}
    for is_lesion, found in zip((True, False), anchor_masks(mask), strict=True):
        cells = np.flatnonzero(found.numpy())
        chosen[is_lesion] = np.sort(rng.permutation(cells)[:per_case])
    return chosen


def _at_cells(features: Tensor, cells: np.ndarray) -> np.ndarray:
    """Features (1, c, z, y, x) at flat indices of cells -> float32 (cells, c) of unit length."""
    values = features.float()[0].flatten(1).T.cpu().numpy()[cells]
    return to_unit_length(values)


def to_unit_length(features: np.ndarray) -> np.ndarray:
    """Rows of unit length, as Eq. 9's cosine sees them; a row of zeros stays."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.divide(features, length, out=np.zeros_like(features), where=length > 0)


def join_points(parts: Sequence[Points]) -> Points:
    """The points of several cases; voxels get numbers of their own.

    Raises NothingToShowError where there is none.
    """
    if not parts:
        raise NothingToShowError("no case has a lesion")
    first, offsets = parts[0], np.cumsum([0, *(int(p.voxel.max()) + 1 for p in parts[:-1])])
    return Points(
        {name: np.concatenate([p.features[name] for p in parts]) for name in first.features},
        np.concatenate([p.is_lesion for p in parts]),
        np.concatenate([p.view for p in parts]),
        np.concatenate([p.voxel + offset for p, offset in zip(parts, offsets, strict=True)]),
        np.concatenate([p.case_ids for p in parts]),
    )


def measure_points(points: Points, layer: str) -> Measures:
    """The numbers of one layer.

    Raises NothingToShowError where a class has fewer than two points in a view.
    """
    from sklearn.metrics import (
        pairwise_distances,
        silhouette_score,
    )

    features, is_lesion = points.features[layer], points.is_lesion
    by_view = [points.view == number for number in range(len(VIEWS))]
    fewest = min(np.bincount(is_lesion[of], minlength=2).min() for of in by_view)
    if fewest < 2:
        raise NothingToShowError(
            "a silhouette needs two voxels of lesion and two of normal tissue at least; "
            f"there are {len(is_lesion)} points, of the rarer class {fewest} in a view"
        )
    phi, psi = (np.flatnonzero(of)[np.argsort(points.voxel[of])] for of in by_view)
    between_views = np.linalg.norm(features[phi] - features[psi], axis=1)
    between_classes = pairwise_distances(features[is_lesion], features[~is_lesion])
    class_distance = float(between_classes.mean())
    of_all, of_phi, of_psi = (
        float(silhouette_score(features[of], is_lesion[of]))
        for of in (np.ones(len(features), bool), *by_view)
    )
    return Measures(
        lesion=int(is_lesion.sum()),
        normal=int((~is_lesion).sum()),
        silhouette=of_all,
        silhouette_phi=of_phi,
        silhouette_psi=of_psi,
        view_distance=float(between_views.mean()),
        class_distance=class_distance,
        view_over_class=float(between_views.mean()) / class_distance if class_distance else np.nan,
        dead=int((~features.any(axis=1)).sum()),
    )


def embed(
    features: np.ndarray, seed: int, perplexity: float = PERPLEXITY
) -> tuple[np.ndarray, float]:
    """t-SNE of (n, channels) -> (n, 2), and the perplexity that was used; repeatable.

    A perplexity counts neighbors: with few points it is lowered to a third of the others. Raises
    NothingToShowError for fewer than 12 points, or where they do not differ.
    """
    from sklearn.manifold import TSNE

    count = len(features)
    if count < MIN_POINTS:
        raise NothingToShowError(f"t-SNE of {count} points shows nothing; {MIN_POINTS} are needed")
    if np.allclose(features, features[0]):
        raise NothingToShowError("all features are the same")
    used = min(perplexity, (count - 1) / 3)
    tsne = TSNE(perplexity=used, init="pca", random_state=seed)
    with threadpool_limits(1):  # a sum over several threads differs in its last bit
        return tsne.fit_transform(features.astype(np.float32)), used
