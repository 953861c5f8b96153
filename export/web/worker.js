// The worker: loads the model, runs it on pictures and draws the view, so that the page never waits.
//
// In: {type: 'load', manifest}, {type: 'picture', id, bitmap, view, share, shown_px, network_px, wantsMaps},
// {type: 'view', id, view}. Out: {type: 'progress', share}, {type: 'ready', ...}, {type: 'result', id, ...},
// {type: 'failed', id, text}; the id is null where loading failed.

import { nextRange } from './depth-range.js';
import { Session } from './session.js';
import { Views } from './views.js';

const picture = new OffscreenCanvas(1, 1);
const input = new OffscreenCanvas(1, 1);
const views = new Views();
let session = null;
let prediction = null;

const handlers = {
  async load({ manifest }) {
    session = await Session.open(manifest, (share) => postMessage({ type: 'progress', share }));
    const { backend, threads } = session;
    postMessage({ type: 'ready', backend, threads });
  },

  async picture({ id, bitmap, view, share, shown_px, network_px, wantsMaps }) {
    draw(bitmap, picture, shown_px);
    const pixels = draw(bitmap, input, network_px, { willReadFrequently: true })
      .getImageData(0, 0, input.width, input.height);
    bitmap.close();
    const started = performance.now();
    const { mask, depth } = await session.run(pixels);
    const inference_ms = performance.now() - started;
    const previous = share < 1 ? prediction?.range ?? null : null;
    const range = nextRange(previous, mask, depth, session.manifest.kind, share);
    prediction = { mask, depth, range };
    post(id, view, { inference_ms, ...(wantsMaps ? { mask, depth } : {}) });
  },

  async view({ id, view }) {
    post(id, view, {});
  },
};

function post(id, view, more) {
  const bitmap = views.render(view, picture, prediction, session.manifest);
  postMessage({ type: 'result', id, bitmap, range: prediction.range, ...more }, [bitmap]);
}

/** Draw what has come on white, no side longer than `longest_px`. */
function draw(bitmap, canvas, longest_px, options = {}) {
  const scale = Math.min(1, longest_px / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext('2d', options);
  context.fillStyle = '#fff';
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = 'high';
  context.drawImage(bitmap, 0, 0, width, height);
  return context;
}

// One after another: a picture must not change under the view that is being drawn of it.
let last = Promise.resolve();
self.onmessage = ({ data }) => {
  last = last.then(async () => {
    try {
      await handlers[data.type](data);
    } catch (error) {
      postMessage({ type: 'failed', id: data.id ?? null, text: error.message ?? String(error) });
    }
  });
};
