// The worker as the page sees it: promises in place of messages.

export class Engine {
  #worker;
  #waiting = new Map();
  #lastId = 0;

  /**
   * Start the worker and load the model.
   *
   * @param {object} manifest web.json
   * @param {(share: number) => void} onProgress
   * @returns {Promise<Engine>} `backend` and `threads` say what it runs on
   */
  static open(manifest, onProgress) {
    const engine = new Engine();
    return new Promise((resolve, reject) => {
      engine.#worker = new Worker(new URL('worker.js', import.meta.url), { type: 'module' });
      engine.#worker.onerror = (event) => {
        event.preventDefault();
        engine.#fail(new Error(`The worker does not run: ${event.message || 'its script could not be loaded'}. Reload the page.`), reject);
      };
      engine.#worker.onmessage = ({ data }) => {
        if (data.type === 'progress') onProgress(data.share);
        else if (data.type === 'ready') resolve(Object.assign(engine, { backend: data.backend, threads: data.threads }));
        else if (data.type === 'failed' && data.id === null) reject(new Error(data.text));
        else engine.#settle(data);
      };
      engine.#worker.postMessage({ type: 'load', manifest });
    });
  }

  /**
   * Run the chain on a picture and draw a view of it.
   *
   * @param {ImageBitmap} bitmap is handed over
   * @param {{view: string, share: number, shown_px: number, network_px: number, wantsMaps?: boolean}} options
   *   `share`: see depth-range.js; the longest sides of what is shown and of what the graph gets
   * @returns {Promise<{bitmap: ImageBitmap, range: object, inference_ms: number, mask?: object, depth?: object}>}
   */
  predict(bitmap, options) {
    return this.#ask({ type: 'picture', bitmap, ...options }, [bitmap]);
  }

  /** Draw another view of the last picture. */
  draw(view) {
    return this.#ask({ type: 'view', view }, []);
  }

  #ask(message, handedOver) {
    this.#lastId += 1;
    const id = this.#lastId;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ ...message, id }, handedOver);
    });
  }

  #settle(data) {
    const { resolve, reject } = this.#waiting.get(data.id);
    this.#waiting.delete(data.id);
    if (data.type === 'failed') reject(new Error(data.text));
    else resolve(data);
  }

  #fail(error, reject) {
    reject(error);
    for (const waiting of this.#waiting.values()) waiting.reject(error);
    this.#waiting.clear();
  }
}
