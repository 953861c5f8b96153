// Views of a prediction, drawn as depthmask/video/overlay.py draws them.
// The maps are painted at their own size and scaled by the canvas, bilinearly.

import { COLOURS_RGB } from './colours.js';
import { blurSize, blurredBackground } from './lens-blur.js';
import { outline } from './outline.js';

const OUTSIDE_LIGHT = 0.35;
const TINT = 0.4;
const OUTSIDE_DEPTH_LIGHT = 0.2;
const OUTLINE_PER_SIDE = 1 / 350;

export class Views {
  #target = new OffscreenCanvas(1, 1);
  #layer = new OffscreenCanvas(1, 1);
  #small = new OffscreenCanvas(1, 1);

  /**
   * Draw a view of a prediction at the picture's size.
   *
   * @param {'overlay' | 'mask' | 'depth' | 'blur'} view
   * @param {OffscreenCanvas} picture
   * @param {{mask: object, depth: object, range: {near: number, far: number}}} prediction
   * @param {{kind: string, depth_unit: string}} chain
   * @returns {ImageBitmap}
   */
  render(view, picture, prediction, chain) {
    const { width, height } = picture;
    for (const canvas of [this.#target, this.#layer]) {
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    }
    const context = this.#target.getContext('2d');
    context.globalCompositeOperation = 'copy';
    this[view](context, picture, prediction, chain);
    context.globalCompositeOperation = 'source-over';
    return this.#target.transferToImageBitmap();
  }

  /** Outside the mask grey and dark, inside tinted by depth, with an outline. */
  overlay(context, picture, { mask, depth, range }) {
    const { width, height } = picture;
    context.drawImage(picture, 0, 0);
    fill(context, 'saturation', '#000');
    fill(context, 'multiply', grey(255 * OUTSIDE_LIGHT));
    const inside = this.#layer.getContext('2d');
    inside.globalCompositeOperation = 'copy';
    inside.drawImage(picture, 0, 0);
    inside.globalCompositeOperation = 'source-over';
    inside.globalAlpha = TINT;
    inside.drawImage(painted(depth, colours(range)), 0, 0, width, height);
    inside.globalAlpha = 1;
    inside.globalCompositeOperation = 'destination-in';
    inside.drawImage(painted(mask, asAlpha), 0, 0, width, height);
    context.globalCompositeOperation = 'source-over';
    context.drawImage(this.#layer, 0, 0);
    const line_px = Math.max(1, Math.round(Math.min(width, height) * OUTLINE_PER_SIDE));
    const path = new Path2D();
    path.addPath(outline(mask), new DOMMatrix([width / mask.width, 0, 0, height / mask.height, 0, 0]));
    Object.assign(context, { strokeStyle: '#fff', lineWidth: line_px, lineCap: 'round' });
    context.stroke(path);
  }

  /** The soft mask in grey. */
  mask(context, { width, height }, { mask }) {
    context.drawImage(painted(mask, asGrey), 0, 0, width, height);
  }

  /** Depth in colours; dark where it does not count, outside a foreground chain's mask. */
  depth(context, { width, height }, { mask, depth, range }, { kind }) {
    context.drawImage(painted(depth, colours(range)), 0, 0, width, height);
    if (kind !== 'foreground') return;
    context.globalCompositeOperation = 'multiply';
    context.drawImage(painted(mask, asLight), 0, 0, width, height);
  }

  /** The background out of focus. */
  blur(context, picture, { mask, depth, range }, { kind, depth_unit }) {
    const { width, height } = picture;
    const size = blurSize(height, width);
    Object.assign(this.#small, size);
    const small = this.#small.getContext('2d', { willReadFrequently: true });
    small.imageSmoothingQuality = 'high';
    small.drawImage(picture, 0, 0, size.width, size.height);
    const pixels = small.getImageData(0, 0, size.width, size.height);
    const { behind, subject } = blurredBackground(pixels, mask, depth, range, kind, depth_unit);
    small.putImageData(behind, 0, 0);
    context.drawImage(this.#small, 0, 0, width, height);
    const sharp = this.#layer.getContext('2d');
    sharp.globalCompositeOperation = 'copy';
    sharp.drawImage(picture, 0, 0);
    sharp.globalCompositeOperation = 'destination-in';
    const subjectMap = kind === 'foreground' ? mask : { data: subject, ...size };
    sharp.drawImage(painted(subjectMap, asAlpha), 0, 0, width, height);
    context.globalCompositeOperation = 'source-over';
    context.drawImage(this.#layer, 0, 0);
  }
}

/** A map as a canvas of its size; `paint` writes a value's RGBA. */
function painted({ data, height, width }, paint) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d');
  const pixels = context.createImageData(width, height);
  for (let i = 0; i < data.length; i += 1) paint(data[i], pixels.data, 4 * i);
  context.putImageData(pixels, 0, 0);
  return canvas;
}

// The pixels clamp and round what is written to them.
function asAlpha(share, rgba, at) {
  rgba[at + 3] = 255 * share;
}

function asGrey(share, rgba, at) {
  rgba[at] = 255 * share;
  rgba[at + 1] = 255 * share;
  rgba[at + 2] = 255 * share;
  rgba[at + 3] = 255;
}

function asLight(share, rgba, at) {
  asGrey(OUTSIDE_DEPTH_LIGHT + (1 - OUTSIDE_DEPTH_LIGHT) * Math.min(Math.max(share, 0), 1), rgba, at);
}

function colours({ near, far }) {
  const scale = 255 / (far - near);
  return (z, rgba, at) => {
    const from = 3 * Math.round(Math.min(Math.max(scale * (far - z), 0), 255));
    rgba[at] = COLOURS_RGB[from];
    rgba[at + 1] = COLOURS_RGB[from + 1];
    rgba[at + 2] = COLOURS_RGB[from + 2];
    rgba[at + 3] = 255;
  };
}

function grey(level) {
  return `rgb(${level} ${level} ${level})`;
}

function fill(context, operation, style) {
  context.globalCompositeOperation = operation;
  context.fillStyle = style;
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
}
