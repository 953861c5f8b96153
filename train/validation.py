"""Metrics of a chain on the samples that are held out, at the size that it trains at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from depthmask.chain import MaskDepthChain
from depthmask.frames import FloatArray, Normalisation, UInt8Array
from depthmask.metrics import DepthAccumulator, MaskAccumulator, binary, median_scaled
from depthmask.presets import ChainSpec
from depthmask.train.config import TrainingConfig
from depthmask.train.dataset import Batch, MixedDataset
from depthmask.train.modes import depth_scale_m
from depthmask.train.schedule import Draw, Plan
from depthmask.train.sources import Source

_BATCH = 16
_PICTURES = 6


@dataclass(frozen=True)
class Row:
    """A sample for the eye: image (H,W,3) uint8, maps (H,W); None or NaN where there is no label."""

    image_HW3: UInt8Array
    mask_HW: FloatArray
    true_mask_HW: FloatArray | None
    depth_m_HW: FloatArray
    true_depth_HW: FloatArray


@dataclass(frozen=True)
class Measured:
    """Metrics by name, some rows to look at, and the one number that the best is chosen by."""

    metrics: dict[str, float]
    rows: tuple[Row, ...]
    score: float | None


class Validation:
    """The held-out samples of a training."""

    def __init__(self, config: TrainingConfig, sources: Sequence[Source], plan: Plan) -> None:
        self._config, self._sources, self._plan = config, sources, plan

    def measure(self, chain: MaskDepthChain, resolution_px: int) -> Measured:
        """Predict the held-out samples; `chain` is in evaluation mode.

        Depth is measured inside the true mask and over the whole frame, in metres where the labels
        are (`unaligned`), and with each image's median made right (`scaled`).

        Raises:
            CheckFailedError: a prediction is not finite.
        """
        draws = self._plan.validation(resolution_px)
        spec = chain.spec
        dataset = MixedDataset(self._sources, Normalisation(spec.mean, spec.std))
        tally = _Tally()
        rows: list[Row] = []
        for start in range(0, len(draws), _BATCH):
            batch = _batch(dataset, draws[start : start + _BATCH])
            masks, depths = self._predict(chain, batch)
            for number in range(len(masks)):
                row = _row(batch, number, masks[number], depths[number], spec)
                tally.add(row, bool(batch.metric_B[number]))
                if len(rows) < _PICTURES:
                    rows.append(row)
        metrics = tally.metrics()
        return Measured(metrics, tuple(rows), self._score(metrics, spec))

    def _predict(self, chain: MaskDepthChain, batch: Batch) -> tuple[FloatArray, FloatArray]:
        moved = batch.to(next(chain.parameters()).device)
        with torch.inference_mode():
            mask_B1HW, depth_B1hw = chain(moved.image_B3HW)
            size = moved.image_B3HW.shape[2:]
            depth_B1HW = functional.interpolate(depth_B1hw, size=size, mode="bilinear")
        depth_m_B1HW = depth_B1HW * depth_scale_m(chain.spec, self._config)
        return mask_B1HW[:, 0].cpu().numpy(), depth_m_B1HW[:, 0].cpu().numpy()

    def _score(self, metrics: dict[str, float], spec: ChainSpec) -> float | None:
        """Mean of the delta1 that the chain is judged by and, for a mask that labels teach, its IoU.

        In mode `relevance` it is the share of the frame that the mask closes in the place of IoU.
        """
        region = "in_mask" if spec.kind == "foreground" else "frame"
        how = "unaligned" if spec.depth_unit == "m" else "scaled"
        names = [f"depth_{region}_{how}_delta1"]
        if spec.kind == "foreground":
            names.append("mask_iou")
        if self._config.mode == "relevance":
            names.append("mask_closed_share")
        found = [metrics[name] for name in names if name in metrics]
        return sum(found) / len(found) if found else None


class _Tally:
    def __init__(self) -> None:
        self._masks = MaskAccumulator()
        self._share_sum = 0.0
        self._count = 0
        self._depths = {
            f"depth_{region}_{how}": DepthAccumulator()
            for region in ("in_mask", "frame")
            for how in ("unaligned", "scaled")
        }

    def add(self, row: Row, metric: bool) -> None:
        self._count += 1
        self._share_sum += float(row.mask_HW.mean())
        regions = {"frame": np.ones(row.mask_HW.shape, bool)}
        if row.true_mask_HW is not None:
            self._masks.add(row.mask_HW, row.true_mask_HW)
            regions["in_mask"] = binary(row.true_mask_HW)
        for region, pixels_HW in regions.items():
            true_HW = row.true_depth_HW
            scaled_HW = median_scaled(row.depth_m_HW, true_HW, pixels_HW)
            self._depths[f"depth_{region}_scaled"].add(scaled_HW, true_HW, pixels_HW)
            if metric:
                self._depths[f"depth_{region}_unaligned"].add(row.depth_m_HW, true_HW, pixels_HW)

    def metrics(self) -> dict[str, float]:
        found: dict[str, float] = {}
        if self._count:
            share = self._share_sum / self._count
            found |= {"mask_share": share, "mask_closed_share": 1 - share}
        results = {"mask": self._masks.result()} | {
            name: depths.result() for name, depths in self._depths.items()
        }
        for prefix, result in results.items():
            if result is not None:
                found |= {f"{prefix}_{name}": value for name, value in vars(result).items()}
        return found


def _batch(dataset: MixedDataset, draws: Sequence[Draw]) -> Batch:
    samples = [dataset[draw] for draw in draws]
    return Batch(*(torch.stack(parts) for parts in zip(*samples, strict=True)))


def _row(
    batch: Batch, number: int, mask_HW: FloatArray, depth_m_HW: FloatArray, spec: ChainSpec
) -> Row:
    image_HW3 = batch.image_B3HW[number].permute(1, 2, 0).numpy()
    shown_HW3 = np.clip((image_HW3 * np.asarray(spec.std) + np.asarray(spec.mean)) * 255, 0, 255)
    known = bool(batch.mask_known_B[number])
    return Row(
        shown_HW3.astype(np.uint8),
        mask_HW,
        batch.mask_B1HW[number, 0].numpy() if known else None,
        depth_m_HW,
        batch.depth_B1HW[number, 0].numpy(),
    )
