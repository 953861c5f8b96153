"""A chain with its preprocessing: what is exported for `frame` input, and what the torch runtime runs.

Shapes: N frames, height and width the frame's size, H and W the network's input size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthmask.chain import MaskDepthChain
from depthmask.frames import Normalisation, Resolution


class FrameToImage(nn.Module):
    """frames (N,height,width,3) uint8 RGB -> normalised image (N,3,H,W), stretched.

    The resize of `depthmask.frames.resize_weights` (triangle filter, no aliasing), as two matrix
    products whose matrices are made inside the graph from the frame's size: standard operators only, so
    that every runtime gives the same image, which none of their own antialiased resizes do.
    """

    def __init__(self, resolution: Resolution, normalisation: Normalisation) -> None:
        super().__init__()
        self.resolution = resolution
        std_3 = torch.tensor(normalisation.std)
        scale_3 = 1 / (255 * std_3)
        shift_3 = torch.tensor(normalisation.mean) / std_3
        self.scale_311: Tensor
        self.shift_311: Tensor
        self.register_buffer("scale_311", scale_3[:, None, None], persistent=False)
        self.register_buffer("shift_311", shift_3[:, None, None], persistent=False)

    def forward(self, frame_NHW3: Tensor) -> Tensor:
        """Resize and normalise."""
        batch, height, width, _ = frame_NHW3.shape
        device = frame_NHW3.device
        rows = _resize_weights(height, self.resolution.height, device)
        columns = _resize_weights(width, self.resolution.width, device)
        flat = frame_NHW3.to(torch.float32).reshape(batch, height, width * 3)
        # Rows first: one product serves all columns and channels.
        tall = torch.matmul(rows, flat).reshape(batch, self.resolution.height, width, 3)
        image_N3HW = torch.matmul(tall.permute(0, 3, 1, 2), columns.transpose(0, 1))
        return image_N3HW * self.scale_311 - self.shift_311


class FrameChain(nn.Module):
    """frames (N,height,width,3) uint8 -> mask (N,1,H,W), depth (N,1,h,w)."""

    def __init__(self, chain: MaskDepthChain, resolution: Resolution) -> None:
        super().__init__()
        normalisation = Normalisation(chain.spec.mean, chain.spec.std)
        self.preprocess = FrameToImage(resolution, normalisation)
        self.chain = chain

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Run the chain on raw frames."""
        mask_N1HW, depth_N1HW = self.chain(self.preprocess(frame))
        return mask_N1HW, depth_N1HW


def _resize_weights(size_in: int, size_out: int, device: torch.device) -> Tensor:
    """As `depthmask.frames.resize_weights`; written so that a symbolic `size_in` traces."""
    positions = torch.arange(size_in, dtype=torch.float32, device=device)
    scale = (torch.zeros(1, device=device) + size_in) / size_out
    outputs = torch.arange(size_out, dtype=torch.float32, device=device)
    centres = (outputs + 0.5) * scale - 0.5
    width = torch.maximum(scale, torch.ones(1, device=device))
    weights = torch.relu(1 - (positions[None] - centres[:, None]).abs() / width)
    return weights / weights.sum(1, keepdim=True)
