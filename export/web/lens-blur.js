// The background out of focus, as depthmask/video/lens_blur.py makes it (its theory is there).
// Shapes: h and w a fraction of the picture's size, on which the blur is made.

import { resized } from './resize.js';

const RADIUS_PER_DIAGONAL = 0.025;
const SMALL_RADIUS_PX = 4; // of the widest disc, where the blur is made
const REACH_PX = 24;
const STEPS = [0.3, 0.6, 1]; // radii between which is interpolated, as shares of the widest one
const LEAST_BEHIND = 0.4;
const LEAST_WEIGHT = 1e-3;
const CHANNELS = 4; // light, red to blue, times the weight; then the weight

/** The size on which a picture's blur is made. */
export function blurSize(height, width) {
  const shrink = Math.max(1, (RADIUS_PER_DIAGONAL * Math.hypot(height, width)) / SMALL_RADIUS_PX);
  return { height: Math.max(1, Math.round(height / shrink)), width: Math.max(1, Math.round(width / shrink)) };
}

/**
 * The background without the subject, blurred; and where the subject is.
 *
 * @param {ImageData} small the picture, of `blurSize`
 * @param {{near: number, far: number}} range in focus
 * @param {string} kind of the chain; where it is no foreground chain, what is near is the subject
 * @returns {{behind: ImageData, subject: Float32Array}} both of the size of `small`
 */
export function blurredBackground(small, mask, depth, range, kind, unit) {
  const { height, width } = small;
  const size = height * width;
  const depth_hw = resized(depth.data, depth.height, depth.width, 1, height, width);
  let radius_hw = depth_hw.map((z) => outOfFocus(z, range, unit));
  let subject_hw;
  if (kind === 'foreground') {
    subject_hw = resized(mask.data, mask.height, mask.width, 1, height, width);
    radius_hw = radius_hw.map((radius) => LEAST_BEHIND + (1 - LEAST_BEHIND) * radius);
  } else {
    subject_hw = radius_hw.map((radius) => 1 - Math.min(radius / STEPS[0], 1));
  }
  // Where the mask is not sure, the pixel may be the subject's: better without it.
  const held_hw = dilated(subject_hw.map((share) => Math.min(Math.max(2 * share, 0), 1)), height, width);
  // Light adds up, and not the levels on a screen, which are about its square root.
  const weighted = new Float32Array(CHANNELS * size);
  for (let i = 0; i < size; i += 1) {
    const weight = 1 - held_hw[i];
    for (let c = 0; c < 3; c += 1) weighted[CHANNELS * i + c] = weight * small.data[4 * i + c] ** 2;
    weighted[CHANNELS * i + 3] = weight;
  }
  let beyond = averageWithin(small, weighted, height, width);
  const discs = [];
  for (const step of [...STEPS].reverse()) {
    beyond = filled(discBlurred(weighted, height, width, step * SMALL_RADIUS_PX), beyond);
    discs.unshift(beyond);
  }
  return { behind: mixed(discs, radius_hw, height, width), subject: subject_hw };
}

function outOfFocus(z, { near, far }, unit) {
  const beyond = Math.max(z - far, 0) + Math.max(near - z, 0);
  const scale = unit === 'm' ? Math.max(Math.min(z, far), 1e-3) : far - near;
  return beyond / (beyond + scale);
}

function mixed(discs, radius_hw, height, width) {
  const behind = new ImageData(width, height);
  radius_hw.forEach((radius, i) => {
    for (let c = 0; c < 3; c += 1) {
      let light = discs[0][3 * i + c];
      for (let k = 0; k + 1 < STEPS.length; k += 1) {
        const share = Math.min(Math.max((radius - STEPS[k]) / (STEPS[k + 1] - STEPS[k]), 0), 1);
        light += share * (discs[k + 1][3 * i + c] - light);
      }
      behind.data[4 * i + c] = Math.sqrt(light) + 0.5;
    }
    behind.data[4 * i + 3] = 255;
  });
  return behind;
}

/** Light divided by its weight; where there is none in reach, `beyond` shows. */
function filled(blurred, beyond) {
  return beyond.map((light, at) => {
    const i = Math.floor(at / 3);
    const reached = blurred[CHANNELS * i + 3];
    return (blurred[CHANNELS * i + (at % 3)] + LEAST_WEIGHT * light) / (reached + LEAST_WEIGHT);
  });
}

/** What shows where no background is in a disc's reach: its mean in a wide square, else of the picture. */
function averageWithin(small, weighted, height, width) {
  const size = height * width;
  let values = weighted;
  if (!weighted.some((value, at) => at % CHANNELS === 3 && value > 0)) {
    values = Float32Array.from(weighted, (_, at) => (at % 4 === 3 ? 1 : small.data[at] ** 2));
  }
  const sums = [0, 0, 0, 0];
  for (let at = 0; at < values.length; at += 1) sums[at % CHANNELS] += values[at];
  const mean = Float32Array.from({ length: 3 * size }, (_, at) => sums[at % 3] / sums[3]);
  const across = boxBlurred(values, height, width, CHANNELS, width * CHANNELS);
  return filled(boxBlurred(across, width, height, width * CHANNELS, CHANNELS), mean);
}

/** The mean over 2 * REACH_PX + 1 samples along one axis of `length` samples, mirrored at its ends. */
function boxBlurred(values, lines, length, step, lineStep) {
  const result = new Float32Array(values.length);
  const taps = 2 * REACH_PX + 1;
  for (let line = 0; line < lines; line += 1) {
    for (let c = 0; c < CHANNELS; c += 1) {
      const start = line * lineStep + c;
      let sum = 0;
      for (let k = -REACH_PX; k <= REACH_PX; k += 1) sum += values[start + mirrored(k, length) * step];
      for (let i = 0; i < length; i += 1) {
        result[start + i * step] = Math.max(sum, 0) / taps;
        sum += values[start + mirrored(i + REACH_PX + 1, length) * step];
        sum -= values[start + mirrored(i - REACH_PX, length) * step];
      }
    }
  }
  return result;
}

function discBlurred(values, height, width, radius_px) {
  const reach = Math.ceil(radius_px);
  const [tall, wide] = [height + 2 * reach, width + 2 * reach];
  const padded = new Float32Array(tall * wide * CHANNELS);
  for (let y = 0, to = 0; y < tall; y += 1) {
    const row = mirrored(y - reach, height) * width;
    for (let x = 0; x < wide; x += 1) {
      const from = (row + mirrored(x - reach, width)) * CHANNELS;
      for (let c = 0; c < CHANNELS; c += 1, to += 1) padded[to] = values[from + c];
    }
  }
  const result = new Float32Array(values.length);
  for (const { dy, dx, share } of disc(radius_px, reach)) {
    for (let y = 0, to = 0; y < height; y += 1) {
      let from = ((y + reach + dy) * wide + reach + dx) * CHANNELS;
      for (const end = to + width * CHANNELS; to < end; to += 1, from += 1) result[to] += share * padded[from];
    }
  }
  return result;
}

/** A round kernel with a soft edge that sums to 1. */
function disc(radius_px, reach) {
  const points = [];
  for (let dy = -reach; dy <= reach; dy += 1) {
    for (let dx = -reach; dx <= reach; dx += 1) {
      const share = Math.min(Math.max(radius_px + 0.5 - Math.hypot(dy, dx), 0), 1);
      if (share > 0) points.push({ dy, dx, share });
    }
  }
  const sum = points.reduce((total, { share }) => total + share, 0);
  return points.map(({ dy, dx, share }) => ({ dy, dx, share: share / sum }));
}

function dilated(shares, height, width) {
  return shares.map((_, i) => {
    const [y, x] = [Math.floor(i / width), i % width];
    let most = 0;
    for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, height - 1); v += 1) {
      for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, width - 1); u += 1) {
        most = Math.max(most, shares[v * width + u]);
      }
    }
    return most;
  });
}

/** An index beyond either end, mirrored about the end sample. */
function mirrored(index, length) {
  if (length === 1) return 0;
  const period = 2 * (length - 1);
  const within = ((index % period) + period) % period;
  return within < length ? within : period - within;
}
