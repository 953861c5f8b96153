// The page: controls, and what is shown. The work is in worker.js.

import { hasSeveralCameras, openCamera } from './camera.js';
import { Engine } from './engine.js';
import { Feed } from './feed.js';
import { kindOf, playFile, readPicture } from './files.js';

const LONGEST_LIVE_PX = 640;
const LONGEST_PICTURE_PX = 1280;
const PICTURE = { share: 1, shown_px: LONGEST_PICTURE_PX, network_px: LONGEST_PICTURE_PX };
// The graph's own resize from 640 px would take a quarter of its time; the browser's, before it, takes none.
const LIVE_NETWORK_SHARE = 1.5;
const STEADY_SHARE = 0.05; // as dmx run: a video's colours move slowly
const FIGURES_EVERY_MS = 500;

const $ = (id) => document.getElementById(id);
const video = Object.assign(document.createElement('video'), { muted: true, playsInline: true });
const shown = $('canvas').getContext('bitmaprenderer');
const feed = new Feed(video, showLive);

let engine = null;
let manifest = null;
let facing = 'user';
let isLive = false;
let isFirst = true;
let times = { since_ms: 0, count: 0, age_ms: 0 };

/**
 * For pages that embed this one, and for tests: `await depthmask.ready`, then
 * `await depthmask.predict(blob)` gives {mask, depth, inference_ms}; a map is {data: Float32Array, height, width}
 * as its network gives it.
 */
window.depthmask = { ready: start(), predict };

async function start() {
  try {
    manifest = await loadManifest();
    describe();
    engine = await Engine.open(manifest, (share) => { $('loading').value = share; });
  } catch (error) {
    $('empty-title').textContent = 'The model is not loaded';
    $('loading').hidden = true;
    say(error);
    return false;
  }
  $('backend').textContent = engine.backend;
  $('threads').textContent = engine.threads;
  $('empty-title').textContent = 'Ready';
  $('loading').hidden = true;
  $('camera').disabled = false;
  $('choose').disabled = false;
  return true;
}

async function loadManifest() {
  const response = await fetch('web.json', { cache: 'no-cache' }).catch(() => null);
  if (!response?.ok) throw new Error('web.json could not be loaded. Copy the whole folder, and open it by http(s), not as a file.');
  return response.json();
}

function describe() {
  const { height, width } = manifest.resolution;
  $('chain').textContent = `${manifest.chain}: mask and depth, on this device`;
  $('network').textContent = `${width} × ${height}, ${manifest.precision}`;
  $('model').textContent = `${(manifest.files[manifest.model].size_bytes / 1e6).toFixed(1)} MB`;
  if (self.crossOriginIsolated) return;
  $('note').hidden = false;
  $('note').textContent = self.isSecureContext
    ? 'One thread only: the server does not send the headers Cross-Origin-Opener-Policy: same-origin and'
      + ' Cross-Origin-Embedder-Policy: require-corp. With them it runs on several, and faster.'
    : 'One thread only, and no camera: browsers give both only to pages by https:// or from localhost.';
}

async function predict(blob) {
  return engine.predict(await readPicture(blob), { view: view(), ...PICTURE, wantsMaps: true });
}

function view() {
  return document.querySelector('[name=view]:checked').value;
}

function show({ bitmap, range }) {
  const canvas = $('canvas');
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  shown.transferFromImageBitmap(bitmap);
  canvas.hidden = false;
  canvas.setAttribute('aria-label', `${view()} of the ${isLive ? 'video' : 'picture'}`);
  $('empty').hidden = true;
  $('stage').style.setProperty('--ratio', canvas.width / canvas.height);
  $('legend').hidden = !['overlay', 'depth'].includes(view());
  const unit = manifest.depth_unit === 'm' ? ' m' : '';
  $('near').textContent = `${unit ? '' : 'near '}${range.near.toPrecision(3)}${unit}`;
  $('far').textContent = `${range.far.toPrecision(3)}${unit}${unit ? '' : ' far'}`;
}

async function showLive(bitmap, shot_ms) {
  const share = isFirst ? 1 : STEADY_SHARE;
  const { height, width } = manifest.resolution;
  const network_px = Math.round(LIVE_NETWORK_SHARE * Math.max(height, width));
  const options = { view: view(), share, shown_px: LONGEST_LIVE_PX, network_px };
  const result = await engine.predict(bitmap, options);
  if (!isLive) return;
  isFirst = false;
  show(result);
  count(performance.now() - shot_ms);
}

function count(age_ms) {
  const now_ms = performance.now();
  times.count += 1;
  times.age_ms += age_ms;
  const span_ms = now_ms - times.since_ms;
  if (span_ms < FIGURES_EVERY_MS) return;
  $('fps').textContent = ((1000 * times.count) / span_ms).toFixed(1);
  $('age').textContent = `${Math.round(times.age_ms / times.count)} ms`;
  times = { since_ms: now_ms, count: 0, age_ms: 0 };
}

async function follow() {
  isLive = true;
  isFirst = true;
  times = { since_ms: performance.now(), count: 0, age_ms: 0 };
  try {
    await feed.start();
  } catch (error) {
    stop();
    say(error);
  }
}

function stop() {
  feed.stop();
  isLive = false;
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.pause();
  video.srcObject = null;
  if (video.src) {
    URL.revokeObjectURL(video.src);
    video.onerror = null;
    video.removeAttribute('src');
    video.load();
  }
  $('camera').textContent = 'Start camera';
  $('turn').hidden = true;
  $('fps').textContent = '–';
  $('age').textContent = '–';
}

async function startCamera() {
  stop();
  say(null);
  const stream = await openCamera(facing);
  stream.getVideoTracks()[0].onended = () => {
    stop();
    say(new Error('The camera was lost: it was unplugged, or another program took it. Start it again.'));
  };
  video.srcObject = stream;
  await video.play();
  $('camera').textContent = 'Stop camera';
  $('turn').hidden = !(await hasSeveralCameras());
  follow();
}

async function open(file) {
  stop();
  say(null);
  if (kindOf(file) === 'video') {
    await playFile(video, file);
    follow();
    return;
  }
  show(await engine.predict(await readPicture(file), { view: view(), ...PICTURE }));
}

function say(error) {
  $('message').hidden = error === null;
  $('message').textContent = error?.message ?? '';
}

/** One request of the user at a time; what fails is said. */
let isBusy = false;
async function handle(action) {
  if (isBusy || engine === null) return;
  isBusy = true;
  try {
    await action();
  } catch (error) {
    say(error);
  } finally {
    isBusy = false;
  }
}

$('camera').onclick = () => handle(video.srcObject ? async () => stop() : startCamera);
$('turn').onclick = () => handle(() => {
  facing = facing === 'user' ? 'environment' : 'user';
  return startCamera();
});
$('choose').onclick = () => $('file').click();
$('file').onchange = ({ target }) => {
  const [file] = target.files;
  if (file) handle(() => open(file));
  target.value = ''; // the same file may be chosen again
};
$('views').onchange = () => {
  if (!isLive && !$('canvas').hidden) handle(async () => show(await engine.draw(view())));
};

for (const name of ['dragenter', 'dragover']) {
  addEventListener(name, (event) => {
    event.preventDefault();
    $('stage').classList.add('dropping');
  });
}
for (const name of ['dragleave', 'drop']) {
  addEventListener(name, () => $('stage').classList.remove('dropping'));
}
addEventListener('drop', (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) handle(() => open(file));
});
