"""What a foreign network takes and gives, from and to what the chain has.

Shapes: B batch, H and W the network's input size, h and w its output size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthmask.presets import StageInput, StageSpec


class StageImage(nn.Module):
    """image (B,3,H,W) in [0, 1], RGB -> what a network takes, but for its layout."""

    def __init__(self, stage_input: StageInput) -> None:
        super().__init__()
        black, white = stage_input.black_and_white
        mean_3, std_3 = torch.tensor(stage_input.mean), torch.tensor(stage_input.std)
        self.swaps = stage_input.order == "bgr"
        self.scale_311: Tensor
        self.shift_311: Tensor
        scale_3, shift_3 = (white - black) / std_3, (black - mean_3) / std_3
        self.register_buffer("scale_311", scale_3[:, None, None], persistent=False)
        self.register_buffer("shift_311", shift_3[:, None, None], persistent=False)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Reorder and normalise."""
        if self.swaps:
            image_B3HW = image_B3HW[:, [2, 1, 0]]
        return image_B3HW * self.scale_311 + self.shift_311


def stage_image(stage_input: StageInput | None) -> nn.Module:
    """What makes a stage's image of the chain's."""
    return nn.Identity() if stage_input is None else StageImage(stage_input)


def run_stage(network: nn.Module, stage: StageSpec, image_B3HW: Tensor) -> Tensor:
    """Run a network in its own layout, and activate: (B,1,h,w)."""
    if stage.input is None or stage.input.layout == "nchw":
        output: Tensor = network(image_B3HW)
    else:
        output = network(image_B3HW.permute(0, 2, 3, 1))
        if output.ndim == 4 and output.shape[3] == 1:
            output = output.permute(0, 3, 1, 2)
    return torch.sigmoid(output) if stage.activation == "sigmoid" else output
