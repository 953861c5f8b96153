"""What a batch costs, by mode; shapes: B batch, H and W the network's size.

Losses are means over the batch's images (an image without a label costs zero), so that the mean over
parts of a batch, or over processes with equal parts, is the loss of the whole.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from msgspec import structs
from torch import Tensor, nn
from torch.nn import functional

from depthmask.chain import MaskDepthChain
from depthmask.errors import UsageError
from depthmask.presets import ChainSpec
from depthmask.train.config import TrainingConfig
from depthmask.train.dataset import Batch
from depthmask.train.losses import (
    mask_loss,
    metric_depth_loss,
    relative_depth_loss,
    valid_depth,
)
from depthmask.train.relevance_loss import mask_sparsity, relevance_terms

Terms = dict[str, Tensor]
"""Scalars by name, as the log has them; the loss is their sum."""

UNIT_RANGE_M = 20.0
"""Metres at 1, for a depth network whose output is in [0, 1]."""
_FOREGROUND_WEIGHT = 4.0  # of depth inside the mask, for a chain of kind foreground
_MASKED = 1  # a stream of random numbers


class Objective(nn.Module):
    """The chain with the loss of its mode: (batch) -> terms. `train()` leaves frozen parts frozen."""

    def __init__(
        self, config: TrainingConfig, chain: MaskDepthChain, teacher: MaskDepthChain | None = None
    ) -> None:
        """Freeze what does not learn.

        Raises:
            UsageError: mode `distill` without a teacher, or a teacher in another mode.
        """
        super().__init__()
        if (teacher is not None) != (config.mode == "distill"):
            raise UsageError(
                f"a teacher must be given in mode distill, and only there, but the mode is"
                f" {config.mode}. Try --teacher CHECKPOINT --mode distill"
            )
        self.config = config
        self.chain = chain
        self._frozen = _frozen_networks(config)
        for role in self._frozen:
            chain.get_submodule(role).requires_grad_(False)
        fixed = teacher
        if config.mode == "relevance" and config.adapt_depth:
            fixed = copy.deepcopy(chain)
        if fixed is not None:
            fixed = fixed.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # In a tuple, so that it is no part of what is trained, saved or sent to other processes.
        self._fixed: tuple[MaskDepthChain, ...] = () if fixed is None else (fixed,)

    def to_device(self, device: torch.device) -> Objective:
        """Move all of it, what is fixed too."""
        for module in (*self._fixed, self):
            module.to(device)
        return self

    def train(self, mode: bool = True) -> Objective:
        """Batch norm learns where the network does, and `freeze_batch_norm` is off."""
        super().train(mode)
        for role in self._frozen:
            self.chain.get_submodule(role).eval()
        if self.config.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, batch: Batch) -> Terms:
        """The terms of a batch."""
        if self.config.mode == "relevance":
            return self._relevance(batch)
        if self.config.mode == "distill":
            return self._distill(batch)
        return self._supervised(batch)

    def _supervised(self, batch: Batch) -> Terms:
        logits_B1HW, depth_m_B1HW = self._predict(batch)
        terms: Terms = {}
        if "mask" not in self._frozen and logits_B1HW is not None:
            loss_B = mask_loss(logits_B1HW, batch.mask_B1HW) * batch.mask_known_B
            terms["loss_mask"] = loss_B.mean()
        if depth_m_B1HW is not None:
            weight_B1HW = self._depth_weight(batch.mask_B1HW)
            loss_B = depth_loss(depth_m_B1HW, batch.depth_B1HW, weight_B1HW, batch.metric_B)
            terms["loss_depth"] = loss_B.mean()
        return terms

    def _distill(self, batch: Batch) -> Terms:
        """The teacher's mask and depth in the place of the labels, and the labels themselves."""
        (teacher,) = self._fixed
        with torch.no_grad(), self._autocast(batch):
            mask, depth = teacher(_renormalised(batch.image_B3HW, self.chain.spec, teacher.spec))
        taught = batch._replace(
            mask_B1HW=mask.float().clamp(0, 1),
            mask_known_B=torch.ones_like(batch.mask_known_B),
            depth_B1HW=_resized(depth, batch) * depth_scale_m(teacher.spec),
            metric_B=torch.full_like(batch.metric_B, teacher.spec.depth_unit == "m"),
        )
        logits_B1HW, depth_m_B1HW = self._predict(batch)
        terms: Terms = {}
        for name, labels, share in (
            ("labels", batch, 1 - self.config.distill_weight),
            ("teacher", taught, self.config.distill_weight),
        ):
            if "mask" not in self._frozen and logits_B1HW is not None:
                loss_B = mask_loss(logits_B1HW, labels.mask_B1HW) * labels.mask_known_B
                terms[f"loss_mask_{name}"] = share * loss_B.mean()
            if depth_m_B1HW is not None:
                weight_B1HW = self._depth_weight(labels.mask_B1HW)
                loss_B = depth_loss(depth_m_B1HW, labels.depth_B1HW, weight_B1HW, labels.metric_B)
                terms[f"loss_depth_{name}"] = share * loss_B.mean()
        return terms

    def _relevance(self, batch: Batch) -> Terms:
        """The ICCV 2019 loss: the depth from image * mask against that from the image."""
        reference = self._fixed[0] if self._fixed else self.chain
        scale_m = depth_scale_m(self.chain.spec, self.config)
        with self._autocast(batch):
            mask_B1HW = self.chain.predict_mask(batch.image_B3HW)
            output = self.chain.predict_depth(batch.image_B3HW * mask_B1HW)
            with torch.no_grad():
                whole = reference.predict_depth(batch.image_B3HW)
        target_B1HW = _resized(whole, batch) * scale_m
        if self.config.relevance_target == "labels":
            labelled = valid_depth(batch.depth_B1HW) & batch.metric_B[:, None, None, None]
            target_B1HW = torch.where(labelled, batch.depth_B1HW, target_B1HW)
        compared = relevance_terms(_resized(output, batch) * scale_m, target_B1HW)
        sparsity = mask_sparsity(mask_B1HW.float()).mean()
        return {
            "loss_depth": compared.depth_B.mean(),
            "loss_dx": compared.dx_B.mean(),
            "loss_dy": compared.dy_B.mean(),
            "loss_normal": compared.normal_B.mean(),
            "loss_mask": self.config.sparsity * sparsity,
        }

    def _predict(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Logits of the mask and depth in metres, each None where nothing needs it."""
        logits: Tensor | None = None
        depth: Tensor | None = None
        true_B = self._masked_by_truth(batch)
        with self._autocast(batch):
            if "mask" not in self._frozen or not bool(true_B.all()):
                with torch.set_grad_enabled(torch.is_grad_enabled() and "mask" not in self._frozen):
                    logits = mask_logits(self.chain, batch.image_B3HW)
            if "depth" not in self._frozen:
                used_B1HW = self._mask_for_depth(batch, logits, true_B)
                depth = self.chain.predict_depth(batch.image_B3HW * used_B1HW)
        if depth is not None:
            depth = _resized(depth, batch) * depth_scale_m(self.chain.spec, self.config)
        return None if logits is None else logits.float(), depth

    def _masked_by_truth(self, batch: Batch) -> Tensor:
        """Which samples' depth input is masked by the truth; a pure function of their numbers."""
        draws = [
            np.random.default_rng([self.config.seed, number, _MASKED]).random()
            for number in batch.number_B.tolist()
        ]
        chosen = np.asarray(draws) < self.config.true_mask_share
        true_B = torch.from_numpy(chosen).to(batch.mask_known_B.device)
        return true_B if self._whole_frame else true_B & batch.mask_known_B

    def _mask_for_depth(self, batch: Batch, logits: Tensor | None, true_B: Tensor) -> Tensor:
        """The depth network learns on the mask it will see, and on the true one for steadiness."""
        truth = torch.ones_like(batch.mask_B1HW) if self._whole_frame else batch.mask_B1HW
        if logits is None:
            return truth
        predicted_B1HW = torch.sigmoid(logits.detach().float())
        return torch.where(true_B[:, None, None, None], truth, predicted_B1HW)

    def _depth_weight(self, mask_B1HW: Tensor) -> Tensor:
        if self._whole_frame:
            return torch.ones_like(mask_B1HW)
        return 1 + (_FOREGROUND_WEIGHT - 1) * mask_B1HW

    @property
    def _whole_frame(self) -> bool:
        """A chain of kind relevance is judged by the whole frame."""
        return self.chain.spec.kind == "relevance"

    def _autocast(self, batch: Batch) -> torch.autocast:
        device = batch.image_B3HW.device.type
        return torch.autocast(device, torch.bfloat16, enabled=uses_bf16(self.config, device))


def depth_loss(
    depth_m_B1HW: Tensor, target_B1HW: Tensor, weight_B1HW: Tensor, metric_B: Tensor
) -> Tensor:
    """In metres where the target is, scale- and shift-invariant where its unit is unknown; (B,)."""
    if bool(metric_B.all()):
        return metric_depth_loss(depth_m_B1HW, target_B1HW, weight_B1HW)
    if not bool(metric_B.any()):
        return relative_depth_loss(depth_m_B1HW, target_B1HW)
    return torch.where(
        metric_B,
        metric_depth_loss(depth_m_B1HW, target_B1HW, weight_B1HW),
        relative_depth_loss(depth_m_B1HW, target_B1HW),
    )


def mask_logits(chain: MaskDepthChain, image_B3HW: Tensor) -> Tensor:
    """The mask before its sigmoid, at the image's size, from any mask network."""
    network: Any = chain.mask
    if hasattr(network, "logits"):
        logits_B1HW: Tensor = network.logits(image_B3HW)
        return logits_B1HW
    return torch.logit(chain.predict_mask(image_B3HW).float(), eps=1e-6)


def spec_after(config: TrainingConfig, spec: ChainSpec) -> ChainSpec:
    """What a chain is for once it is trained: a mask that labels taught is one of the foreground."""
    if config.mode == "relevance" or config.train == "depth":
        return spec
    return structs.replace(spec, kind="foreground")


def depth_scale_m(spec: ChainSpec, config: TrainingConfig | None = None) -> float:
    """Metres per unit of a chain's depth."""
    if config is not None and config.depth_scale_m is not None:
        return config.depth_scale_m
    ends_at_1 = spec.depth.network == "drn22_autoencoder" or spec.depth.activation == "sigmoid"
    return UNIT_RANGE_M if ends_at_1 else 1.0


def uses_bf16(config: TrainingConfig, device: str) -> bool:
    """Whether to train in bf16: `auto` where the processor has it."""
    if config.precision != "auto":
        return config.precision == "bf16"
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    cpu: Any = torch.cpu  # these two have no public name
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def _frozen_networks(config: TrainingConfig) -> tuple[str, ...]:
    if config.mode == "relevance":
        return () if config.adapt_depth else ("depth",)
    return {"both": (), "mask": ("depth",), "depth": ("mask",)}[config.train]


def _resized(map_B1hw: Tensor, batch: Batch) -> Tensor:
    return functional.interpolate(
        map_B1hw.float(), size=batch.image_B3HW.shape[2:], mode="bilinear"
    )


def _renormalised(image_B3HW: Tensor, from_: ChainSpec, to: ChainSpec) -> Tensor:
    """An image as another chain wants it."""
    mean, std, to_mean, to_std = (
        torch.tensor(values, dtype=image_B3HW.dtype, device=image_B3HW.device)[:, None, None]
        for values in (from_.mean, from_.std, to.mean, to.std)
    )
    return (image_B3HW * std + mean - to_mean) / to_std
