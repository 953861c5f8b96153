// Which depths the ends of the colour scale stand for; as depthmask/video/depth_range.py.

const LOWER = 0.02;
const UPPER = 0.98;
const MOST_SAMPLES = 16384;

/**
 * The range for a frame, given the one before it.
 *
 * @param {{near: number, far: number} | null} previous
 * @param {number} share 1 takes the frame's own range (photographs); a small one holds a video's colours steady
 */
export function nextRange(previous, mask, depth, kind, share) {
  const counted = kind === 'foreground' ? inside(mask, depth) : depth.data;
  const measured = rangeOf(counted);
  if (measured === null) return previous ?? rangeOf(depth.data) ?? { near: 0, far: 1 };
  if (previous === null) return measured;
  return {
    near: previous.near + share * (measured.near - previous.near),
    far: previous.far + share * (measured.far - previous.far),
  };
}

function inside(mask, depth) {
  return depth.data.filter((_, i) => {
    const y = Math.floor(((Math.floor(i / depth.width) + 0.5) * mask.height) / depth.height);
    const x = Math.floor((((i % depth.width) + 0.5) * mask.width) / depth.width);
    return mask.data[y * mask.width + x] >= 0.5;
  });
}

function rangeOf(values) {
  if (!values.length) return null;
  const step = Math.ceil(values.length / MOST_SAMPLES);
  const sorted = (step > 1 ? values.filter((_, i) => i % step === 0) : values.slice()).sort();
  const near = percentile(sorted, LOWER);
  const far = percentile(sorted, UPPER);
  // A flat surface would otherwise show its noise in full contrast.
  const margin = Math.max(0, 0.05 * Math.max(Math.abs(near), Math.abs(far), 1e-3) - (far - near)) / 2;
  return { near: near - margin, far: far + margin };
}

function percentile(sorted, share) {
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}
