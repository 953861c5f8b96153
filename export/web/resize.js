// The triangle filter of depthmask.frames.resize_weights: half-pixel centres, as wide as the scale.

/**
 * Resize interleaved samples.
 *
 * @param {ArrayLike<number>} samples (height, width, channels)
 * @returns {Float32Array} (toHeight, toWidth, channels)
 */
export function resized(samples, height, width, channels, toHeight, toWidth) {
  const columns = weights(width, toWidth);
  const wide = new Float32Array(height * toWidth * channels);
  for (let y = 0, to = 0; y < height; y += 1) {
    for (const { first, shares } of columns) {
      for (let c = 0; c < channels; c += 1, to += 1) {
        let sum = 0;
        let at = (y * width + first) * channels + c;
        for (const share of shares) {
          sum += share * samples[at];
          at += channels;
        }
        wide[to] = sum;
      }
    }
  }
  const stride = toWidth * channels;
  const result = new Float32Array(toHeight * stride);
  weights(height, toHeight).forEach(({ first, shares }, y) => {
    shares.forEach((share, k) => {
      const from = (first + k) * stride;
      for (let i = 0; i < stride; i += 1) result[y * stride + i] += share * wide[from + i];
    });
  });
  return result;
}

function weights(sizeIn, sizeOut) {
  const scale = sizeIn / sizeOut;
  const reach = Math.max(scale, 1);
  return Array.from({ length: sizeOut }, (_, i) => {
    const centre = (i + 0.5) * scale - 0.5;
    const first = Math.max(0, Math.floor(centre - reach) + 1);
    const last = Math.min(sizeIn - 1, Math.ceil(centre + reach) - 1);
    const raw = Array.from({ length: last - first + 1 }, (_, k) => 1 - Math.abs(first + k - centre) / reach);
    const sum = raw.reduce((a, b) => a + b, 0);
    return { first, shares: raw.map((value) => value / sum) };
  });
}
