// Pictures and videos that the user gives; what cannot be used is said in one line.

const MOST_MEGAPIXELS = 64;

/**
 * What a file holds.
 *
 * @param {File} file
 * @returns {'picture' | 'video'}
 */
export function kindOf(file) {
  if (file.type.startsWith('image/')) return 'picture';
  if (file.type.startsWith('video/')) return 'video';
  throw new Error(
    `${file.name || 'The file'} must be a picture or a video, but is ${file.type || 'of an unknown type'}.`
    + ' Try a JPEG, PNG, WebP, MP4 or WebM.',
  );
}

/**
 * Decode a picture, upright; a damaged or huge one is refused before it takes memory.
 *
 * @param {Blob} file
 * @returns {Promise<ImageBitmap>}
 */
export async function readPicture(file) {
  const name = file.name || 'The picture';
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (!bytes.length) throw new Error(`${name} is empty. Choose another picture.`);
  const view = new DataView(bytes.buffer);
  if (isCutShort(bytes, view)) {
    throw new Error(`${name} is cut short: its end is missing. Copy or download it again.`);
  }
  const size = sizeOf(bytes, view);
  if (size && size.width * size.height > MOST_MEGAPIXELS * 1e6) {
    const megapixels = Math.round((size.width * size.height) / 1e6);
    throw new Error(
      `${name} has ${size.width} x ${size.height} pixels (${megapixels} megapixels); ${MOST_MEGAPIXELS} are the most.`
      + ' Make it smaller first.',
    );
  }
  try {
    return await createImageBitmap(new Blob([bytes], { type: file.type }));
  } catch {
    throw new Error(`${name} cannot be decoded as a picture: it is damaged, or of a kind that this browser does not read.`);
  }
}

/**
 * Load a video so that it plays, silent and in a loop.
 *
 * @param {HTMLVideoElement} video
 * @param {File} file
 */
export async function playFile(video, file) {
  const url = URL.createObjectURL(file);
  const failure = new Promise((_, reject) => {
    video.onerror = () => reject(
      new Error(`${file.name} cannot be played: it is damaged, or of a kind that this browser does not read. Try an MP4 (H.264) or WebM.`),
    );
  });
  Object.assign(video, { src: url, loop: true });
  try {
    await Promise.race([video.play(), failure]);
    if (!video.videoWidth) throw new Error(`${file.name} has no picture, only sound. Choose another video.`);
  } catch (error) {
    URL.revokeObjectURL(url);
    video.removeAttribute('src');
    // What play() says is for programmers; the reason is what onerror says, a moment later.
    throw error instanceof DOMException ? await failure.catch((reason) => reason) : error;
  }
}

const isPng = (view) => view.byteLength > 24 && view.getUint32(0) === 0x89504e47;
const isJpeg = (view) => view.byteLength > 4 && view.getUint16(0) === 0xffd8;
const isRiff = (view) => view.byteLength > 30 && view.getUint32(0) === 0x52494646;

/** Browsers fill in what a short file lacks; we refuse it, as depthmask.frames does. */
function isCutShort(bytes, view) {
  if (isPng(view)) return !holds(bytes, Math.max(0, bytes.length - 4096), [0x49, 0x45, 0x4e, 0x44]);
  if (isRiff(view)) return bytes.length < view.getUint32(4, true) + 8;
  if (!isJpeg(view)) return false;
  const scan = findSegment(view, (marker) => marker === 0xda);
  return scan === null || !holds(bytes, scan, [0xff, 0xd9]);
}

/** Width and height from the header; null where it is none that we know. */
function sizeOf(bytes, view) {
  if (isPng(view)) return { width: view.getUint32(16), height: view.getUint32(20) };
  if (isJpeg(view)) {
    // Start of frame: C0 to CF without the tables C4, C8 and CC (ITU T.81, table B.1).
    const at = findSegment(view, (marker) => (marker & 0xf0) === 0xc0 && ![0xc4, 0xc8, 0xcc].includes(marker));
    if (at === null || at + 9 > bytes.length) return null;
    return { width: view.getUint16(at + 7), height: view.getUint16(at + 5) };
  }
  if (!isRiff(view)) return null;
  const chunk = String.fromCharCode(...bytes.subarray(12, 16));
  if (chunk === 'VP8X') return { width: 1 + uint24(bytes, 24), height: 1 + uint24(bytes, 27) };
  return null; // the other kinds of WebP have at most 16384 x 16384, which the decoder refuses where it must
}

/** Where a JPEG's first segment of a kind begins; null: the file ends before. */
function findSegment(view, isWanted) {
  let at = 2;
  while (at + 4 <= view.byteLength && view.getUint8(at) === 0xff) {
    const marker = view.getUint8(at + 1);
    if (isWanted(marker)) return at;
    if (marker === 0xff) at += 1;
    else if (marker >= 0xd0 && marker <= 0xd7) at += 2;
    else at += 2 + view.getUint16(at + 2);
  }
  return null;
}

function holds(bytes, from, wanted) {
  for (let at = bytes.length - wanted.length; at >= from; at -= 1) {
    if (wanted.every((byte, k) => bytes[at + k] === byte)) return true;
  }
  return false;
}

function uint24(bytes, at) {
  return bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16);
}
