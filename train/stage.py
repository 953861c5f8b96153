"""The stage: a ground plane and a back wall of known depth, seen by a level camera.

Foregrounds stand on the plane, so that every pixel of a composite has an exact depth. The camera
looks level with a shifted principal point (its horizon need not be the middle row), hence the
planar depth of the ground at row v is z = f * h / (v - v_horizon), in metres, with the focal length
f in rows and the camera's height h in metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from depthmask.frames import FloatArray, UInt8Array


@dataclass(frozen=True)
class Stage:
    """Camera and room; lengths in metres, image positions in shares of the canvas height."""

    camera_height_m: float
    focal: float
    horizon: float
    wall_depth_m: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Stage:
        """A hand-held camera in a room or a street."""
        return cls(
            camera_height_m=rng.uniform(1.2, 1.7),
            focal=rng.uniform(0.9, 1.2),
            horizon=rng.uniform(0.32, 0.5),
            wall_depth_m=float(np.exp(rng.uniform(np.log(4.0), np.log(15.0)))),
        )

    def depth_m_HW(self, height: int, width: int) -> FloatArray:
        """Depth of the empty stage, (height, width) in metres."""
        below_horizon = (np.arange(height) + 0.5) / height - self.horizon
        with np.errstate(divide="ignore"):
            ground_m = self.focal * self.camera_height_m / below_horizon
        depth_m_H = np.where(below_horizon > 0, ground_m, np.inf).clip(max=self.wall_depth_m)
        return np.repeat(depth_m_H.astype(np.float32)[:, None], width, axis=1)

    def foot_row(self, depth_m: float) -> float:
        """Where an object at `depth_m` touches the ground, as a share of the canvas height."""
        return self.horizon + self.focal * self.camera_height_m / depth_m


def relief_HW(alpha_HW: UInt8Array) -> FloatArray:
    """How far a cut-out bulges towards the camera: 0 at its outline, 1 at its thickest part."""
    distance_HW = cv2.distanceTransform((alpha_HW >= 128).astype(np.uint8), cv2.DIST_L2, 3)
    share_HW: FloatArray = distance_HW.astype(np.float32) / max(float(distance_HW.max()), 1.0)
    return np.sqrt(share_HW)
