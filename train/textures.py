"""Textures of rendered scenes: photographs and patterns, as pyramids for lookup without aliasing.

A texture is a (256,256,3) uint8 RGB tile that repeats. N: points to look up, T: textures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]

TILE_PX = 256
_LEVELS = 9  # 256, 128, ... 1
_WIDTHS = np.array([TILE_PX >> level for level in range(_LEVELS)], np.int32)
_OFFSETS = np.concatenate([[0], np.cumsum(_WIDTHS**2)]).astype(np.int32)


class Atlas:
    """Textures with all their levels, each half as wide as the one before."""

    def __init__(self, tiles: Sequence[UInt8Array]) -> None:
        texels = [level.reshape(-1, 3) for tile in tiles for level in _pyramid(tile)]
        self._texels_X3 = np.concatenate(texels)

    def look_up(
        self,
        texture_N: npt.NDArray[np.int32],
        uv_N2: FloatArray,
        texels_per_pixel_N: FloatArray,
    ) -> FloatArray:
        """Colours (N,3) in 0..255: bilinear, from the level whose texels are about a pixel wide.

        `uv_N2` counts tiles, `texels_per_pixel_N` texels of the largest level.
        """
        level_N = np.log2(np.maximum(texels_per_pixel_N, 1.0)) + 0.3
        level_N = np.minimum(level_N, _LEVELS - 1).astype(np.int32)
        width_N = _WIDTHS[level_N]
        start_N = texture_N * _OFFSETS[-1] + _OFFSETS[level_N]
        at_N2 = uv_N2 * width_N[:, None].astype(np.float32) - np.float32(0.5)
        floor_N2 = np.floor(at_N2)
        weight_N2 = at_N2 - floor_N2
        low_N2 = floor_N2.astype(np.int32) & (width_N - 1)[:, None]
        high_N2 = (low_N2 + 1) & (width_N - 1)[:, None]

        def row(v_N: npt.NDArray[np.int32]) -> FloatArray:
            base_N = start_N + v_N * width_N
            left_N3 = self._texels_X3[base_N + low_N2[:, 0]].astype(np.float32)
            right_N3 = self._texels_X3[base_N + high_N2[:, 0]].astype(np.float32)
            return np.asarray(left_N3 + (right_N3 - left_N3) * weight_N2[:, :1], np.float32)

        upper_N3 = row(low_N2[:, 1])
        colours_N3 = upper_N3 + (row(high_N2[:, 1]) - upper_N3) * weight_N2[:, 1:]
        return np.asarray(colours_N3, np.float32)


def random_tile(photos: Sequence[UInt8Array], rng: np.random.Generator) -> UInt8Array:
    """A photograph's part, mirrored so that it repeats without a seam, or a pattern."""
    if photos and rng.random() < 0.15:
        return _mirrored(random_crop(photos, rng, TILE_PX // 2, TILE_PX // 2))
    return _PATTERNS[rng.integers(len(_PATTERNS))](rng)


def ground_tile(photos: Sequence[UInt8Array], rng: np.random.Generator) -> UInt8Array:
    """Earth, grass or paving, in muted colours, or a photograph's lower part."""
    if photos and rng.random() < 0.4:
        return _mirrored(random_crop(photos, rng, TILE_PX // 2, TILE_PX // 2, lower=True))
    tile = (_grain, _grain, _tiles, _bricks)[rng.integers(4)](rng)
    grey = cv2.cvtColor(cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(tile, 0.5, grey, 0.5, 0), np.uint8)


def plain_tile(
    rng: np.random.Generator, *, muted: bool = False, lightest: bool = False
) -> UInt8Array:
    """Paint or plaster: one colour, hardly uneven; `lightest` as ceilings are."""
    colour = _colour(rng)
    if lightest or muted:
        share = 0.2 if lightest else rng.uniform(0.15, 0.7)
        colour = colour.mean() + (colour - colour.mean()) * np.float32(share)
    if lightest:
        colour = 255 - 0.3 * (255 - colour)
    return _paint(_noise(rng, 8, rng.uniform(0, 6)), colour)


def random_crop(
    photos: Sequence[UInt8Array],
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    lower: bool = False,
) -> UInt8Array:
    """A random part of a random photograph, resized; `lower` reaches down to its lower border."""
    photo_HW3 = photos[int(rng.integers(len(photos)))]
    share = rng.uniform(0.2, 0.4) if lower else rng.uniform(0.35, 1.0)
    rows, columns = (min(side, max(2, int(side * share))) for side in photo_HW3.shape[:2])
    lowest = photo_HW3.shape[0] - rows
    top = lowest if lower else int(rng.integers(lowest + 1))
    left = int(rng.integers(photo_HW3.shape[1] - columns + 1))
    part = photo_HW3[top : top + rows, left : left + columns]
    return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _mirrored(part: UInt8Array) -> UInt8Array:
    """Twice as large, and repeating without a seam."""
    upper = np.concatenate([part, part[:, ::-1]], axis=1)
    return np.concatenate([upper, upper[::-1]], axis=0)


def _pyramid(tile: UInt8Array) -> list[UInt8Array]:
    levels = [tile]
    for width in _WIDTHS[1:]:
        size = (int(width), int(width))
        smaller = cv2.resize(levels[-1], size, interpolation=cv2.INTER_AREA)
        levels.append(np.asarray(smaller, np.uint8))
    return levels


def _colour(rng: np.random.Generator) -> FloatArray:
    """Mostly muted, as things in rooms are; sometimes strong."""
    hue, value = rng.uniform(0, 180), rng.uniform(60, 245)
    saturation = rng.uniform(110, 220) if rng.random() < 0.15 else rng.uniform(0, 90)
    hsv = np.array([[[hue, saturation, value]]], np.uint8)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0], np.float32)


def _noise(rng: np.random.Generator, cells: int, amplitude: float, stretch: int = 1) -> FloatArray:
    """Smooth noise (256,256) that repeats; `stretch` times as many cells across as along."""
    grid = rng.standard_normal((cells, cells * stretch)).astype(np.float32)
    wrapped = np.pad(grid * np.float32(amplitude), ((0, 1), (0, 1)), mode="wrap")
    scale = np.array([[cells * stretch / TILE_PX, 0, 0], [0, cells / TILE_PX, 0]], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    smooth = cv2.warpAffine(wrapped, scale, (TILE_PX, TILE_PX), flags=flags)
    return np.asarray(smooth, np.float32)


def _paint(values: FloatArray, first: FloatArray, second: FloatArray | None = None) -> UInt8Array:
    """Colours of (256,256) or (256,) or (256,1) values: -128..127 goes from first to second.

    Without a second colour the values are added to the first one.
    """
    levels = np.arange(256, dtype=np.float32)[:, None]
    shifted = first + levels - 128
    table = shifted if second is None else first + (second - first) * levels / 255
    full = np.broadcast_to(values, (TILE_PX, TILE_PX))
    index = (full + np.float32(128)).clip(0, 255).astype(np.uint8)
    painted = cv2.LUT(cv2.merge([index] * 3), table.clip(0, 255).astype(np.uint8)[None])
    return np.asarray(painted, np.uint8)


def _grain(rng: np.random.Generator) -> UInt8Array:
    """Stone, carpet, earth: noise of several widths."""
    amplitude = rng.uniform(3, 22)
    values = sum(_noise(rng, cells, amplitude) for cells in (4, 16, 64))
    speck = rng.standard_normal((TILE_PX, TILE_PX), np.float32) * np.float32(rng.uniform(0, 12))
    return _paint(values + speck, _colour(rng))


def _wood(rng: np.random.Generator) -> UInt8Array:
    """Boards with grain along them."""
    red = rng.uniform(90, 210)
    green = red * rng.uniform(0.62, 0.85)
    brown = np.array([red, green, green * rng.uniform(0.55, 0.85)], np.float32)
    boards = int(rng.integers(2, 7))
    board_W = np.arange(TILE_PX) * boards // TILE_PX
    shade_W = rng.normal(0, 11, boards)[board_W].astype(np.float32)
    shade_W[np.flatnonzero(np.diff(board_W, prepend=-1))] -= 50
    grain = _noise(rng, 4, rng.uniform(4, 14), 16) + _noise(rng, 8, rng.uniform(0, 8), 8)
    return _paint(grain + shade_W, brown)


def _tiles(rng: np.random.Generator) -> UInt8Array:
    """Squares of one or two colours with joints between them."""
    count = int(rng.choice([2, 4]))
    cell = np.arange(TILE_PX) * count // TILE_PX
    checker = ((cell[:, None] + cell[None]) % 2).astype(np.float32)
    first = _colour(rng)
    second = _colour(rng) if rng.random() < 0.4 else first * np.float32(rng.uniform(0.85, 1.0))
    uneven = _noise(rng, 16, rng.uniform(0, 16))
    tile = _paint(220 * checker - 110 + uneven, first, second)
    joint = np.flatnonzero(np.arange(TILE_PX) % (TILE_PX // count) < int(rng.integers(2, 6)))
    grout = _colour(rng).astype(np.uint8)
    tile[joint] = grout
    tile[:, joint] = grout
    return tile


def _bricks(rng: np.random.Generator) -> UInt8Array:
    """Rows of bricks, every other one shifted by half."""
    rows, columns = 8, 4
    ys, xs = np.arange(TILE_PX)[:, None], np.arange(TILE_PX)[None]
    row = ys * rows // TILE_PX
    shifted = (xs + (row % 2) * TILE_PX // (2 * columns)) % TILE_PX
    shade = rng.normal(0, 12, (rows, columns)).astype(np.float32)[row, shifted * columns // TILE_PX]
    tile = _paint(shade + _noise(rng, 64, rng.uniform(2, 10)), _colour(rng))
    joint = (ys % (TILE_PX // rows) < 4) | (shifted % (TILE_PX // columns) < 4)
    tile[joint] = _colour(rng).astype(np.uint8)
    return tile


def _stripes(rng: np.random.Generator) -> UInt8Array:
    """Wallpaper or cloth: soft or hard stripes of two colours."""
    wave = np.sin(np.arange(TILE_PX) * 2 * np.pi * int(rng.integers(2, 12)) / TILE_PX)
    values_W = (100 * (wave if rng.random() < 0.5 else np.sign(wave))).astype(np.float32)
    tile = _paint(values_W + _noise(rng, 16, rng.uniform(0, 12)), _colour(rng), _colour(rng))
    return tile if rng.random() < 0.7 else np.ascontiguousarray(tile.transpose(1, 0, 2))


def _gradient(rng: np.random.Generator) -> UInt8Array:
    """From one colour to another and back, along one side."""
    values = -110 * np.cos(np.arange(TILE_PX) * 2 * np.pi / TILE_PX).astype(np.float32)[:, None]
    return _paint(values + _noise(rng, 8, rng.uniform(0, 8)), _colour(rng), _colour(rng))


_PATTERNS: tuple[Callable[[np.random.Generator], UInt8Array], ...] = (
    plain_tile,
    plain_tile,
    _grain,
    _grain,
    _wood,
    _wood,
    _tiles,
    _bricks,
    _stripes,
    _gradient,
)
