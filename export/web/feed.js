// From a playing video to shown results: always the newest frame, never a queue.

export class Feed {
  #video;
  #onFrame;
  #run = 0;
  #newest_ms = null;
  #wake = () => {};

  /**
   * @param {HTMLVideoElement} video
   * @param {(bitmap: ImageBitmap, shot_ms: number) => Promise<void>} onFrame shows a frame; the next one comes when it is done
   */
  constructor(video, onFrame) {
    this.#video = video;
    this.#onFrame = onFrame;
  }

  /** Follow the video until `stop`; a failure of `onFrame` ends it. */
  async start() {
    this.#run += 1;
    const run = this.#run;
    this.#newest_ms = null;
    this.#watch(run);
    while (run === this.#run) {
      if (this.#newest_ms === null) {
        await new Promise((resolve) => { this.#wake = resolve; });
        continue;
      }
      const shot_ms = this.#newest_ms;
      this.#newest_ms = null;
      const bitmap = await createImageBitmap(this.#video);
      if (run === this.#run) await this.#onFrame(bitmap, shot_ms);
      else bitmap.close();
    }
  }

  stop() {
    this.#run += 1;
    this.#wake();
  }

  /** Note when the newest frame was shot, or where that is not known, presented. */
  #watch(run) {
    const noted = (now_ms, metadata) => {
      if (run !== this.#run) return;
      this.#newest_ms = metadata?.captureTime ?? now_ms;
      this.#wake();
      this.#watch(run);
    };
    if (this.#video.requestVideoFrameCallback) this.#video.requestVideoFrameCallback(noted);
    else requestAnimationFrame((now_ms) => noted(now_ms));
  }
}
