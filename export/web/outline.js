// The mask's outline at one half, by marching squares: lines between the centres of its samples.

/**
 * @param {{data: Float32Array, height: number, width: number}} mask
 * @returns {Path2D} in samples of the mask; scale it to the picture
 */
export function outline({ data, height, width }) {
  const path = new Path2D();
  for (let y = 0; y + 1 < height; y += 1) {
    for (let x = 0; x + 1 < width; x += 1) {
      const at = y * width + x;
      const isHeld = data[at] >= 0.5;
      const isCrossed = data[at + 1] >= 0.5 !== isHeld
        || data[at + width + 1] >= 0.5 !== isHeld
        || data[at + width] >= 0.5 !== isHeld;
      if (!isCrossed) continue;
      const corners = [data[at], data[at + 1], data[at + width + 1], data[at + width]];
      const held = corners.map((value) => value >= 0.5);
      const crossings = [];
      for (let side = 0; side < 4; side += 1) {
        const next = (side + 1) % 4;
        if (held[side] === held[next]) continue;
        const share = (0.5 - corners[side]) / (corners[next] - corners[side]);
        crossings.push([
          x + 0.5 + CORNER_X[side] + share * (CORNER_X[next] - CORNER_X[side]),
          y + 0.5 + CORNER_Y[side] + share * (CORNER_Y[next] - CORNER_Y[side]),
        ]);
      }
      for (let k = 0; k < crossings.length; k += 2) {
        path.moveTo(...crossings[k]);
        path.lineTo(...crossings[k + 1]);
      }
    }
  }
  return path;
}

// Clockwise from the upper left.
const CORNER_X = [0, 1, 1, 0];
const CORNER_Y = [0, 0, 1, 1];
