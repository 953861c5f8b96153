// The camera, and what to say where there is none.

const WANTED = { width: { ideal: 640 }, height: { ideal: 480 } };
const REASONS = {
  NotAllowedError:
    'The camera was denied. Allow it for this page in the browser\'s address bar, then start it again; or open a picture.',
  NotFoundError: 'No camera was found. Connect one and start it again; or open a picture.',
  NotReadableError: 'The camera is used by another program. Close that and start it again; or open a picture.',
};

/**
 * Open a camera.
 *
 * @param {'user' | 'environment'} facing which one a phone should take
 * @returns {Promise<MediaStream>}
 */
export async function openCamera(facing) {
  if (!navigator.mediaDevices) {
    throw new Error(
      'Browsers give the camera only to pages by https:// or from localhost, but this one came by'
      + ` ${location.protocol}//${location.host}. Open it by https, or open a picture.`,
    );
  }
  try {
    return await navigator.mediaDevices.getUserMedia({ video: { ...WANTED, facingMode: facing }, audio: false });
  } catch (error) {
    throw new Error(REASONS[error.name] ?? `The camera cannot be started: ${error.message || error.name}.`);
  }
}

/** Whether there is another camera to turn to. */
export async function hasSeveralCameras() {
  const devices = await navigator.mediaDevices.enumerateDevices();
  return devices.filter(({ kind }) => kind === 'videoinput').length > 1;
}
