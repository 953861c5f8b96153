// The bundle's graph on onnxruntime-web: pixels in, the networks' maps out.

import { fetchChecked } from './checked.js';
import { resized } from './resize.js';

const MOST_THREADS = 4;

/** A map as a network gives it. @typedef {{data: Float32Array, height: number, width: number}} DepthmaskMap */

export class Session {
  /**
   * Load the runtime and the model that web.json names.
   *
   * @param {object} manifest web.json
   * @param {(share: number) => void} onProgress told of the loaded share, 0 to 1
   * @returns {Promise<Session>}
   */
  static async open(manifest, onProgress) {
    const gpu = manifest.runtime.webgpu ? await gpuAdapterName() : null;
    const runtime = gpu === null ? manifest.runtime.wasm : manifest.runtime.webgpu;
    const names = [runtime.wasm, manifest.model];
    const totalBytes = names.reduce((sum, name) => sum + manifest.files[name].size_bytes, 0);
    const loaded = new Map();
    const load = (name) => fetchChecked(name, manifest.files[name], (bytes) => {
      loaded.set(name, bytes);
      onProgress([...loaded.values()].reduce((a, b) => a + b, 0) / totalBytes);
    });
    const [ort, wasm, model] = await Promise.all([import(`./${runtime.module}`), ...names.map(load)]);
    const threads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS) : 1;
    ort.env.logLevel = 'error';
    ort.env.wasm.wasmPaths = new URL('ort/', import.meta.url).href;
    ort.env.wasm.wasmBinary = wasm;
    ort.env.wasm.numThreads = threads;
    const session = await ort.InferenceSession.create(model, {
      executionProviders: [gpu === null ? 'wasm' : 'webgpu'],
      graphOptimizationLevel: 'all',
      // WebAssembly's int8 kernels are slower than its float ones: weights become float32 once, when loading.
      extra: { session: { disable_quant_qdq: '1' } },
    });
    const backend = gpu === null ? 'WebAssembly SIMD' : `WebGPU${gpu && ` (${gpu})`}`;
    return new Session(ort, session, manifest, backend, threads);
  }

  constructor(ort, session, manifest, backend, threads) {
    this.ort = ort;
    this.session = session;
    this.manifest = manifest;
    this.backend = backend;
    this.threads = threads;
  }

  /**
   * Run the chain on a picture.
   *
   * @param {ImageData} pixels RGBA, opaque
   * @returns {Promise<{mask: DepthmaskMap, depth: DepthmaskMap}>} each at its own network's output size
   */
  async run(pixels) {
    const input = this.manifest.input === 'frame' ? this.#frame(pixels) : this.#image(pixels);
    const outputs = await this.session.run({ [this.manifest.input]: input });
    return { mask: checkedMap(outputs, 'mask'), depth: checkedMap(outputs, 'depth') };
  }

  #frame({ data, height, width }) {
    return new this.ort.Tensor('uint8', rgb(data), [1, height, width, 3]);
  }

  #image({ data, height, width }) {
    const [toHeight, toWidth] = [this.manifest.resolution.height, this.manifest.resolution.width];
    const { mean, std } = this.manifest.normalisation;
    const image_HW3 = resized(rgb(data), height, width, 3, toHeight, toWidth);
    const size = toHeight * toWidth;
    const image_3HW = new Float32Array(3 * size);
    for (let c = 0; c < 3; c += 1) {
      for (let i = 0; i < size; i += 1) {
        image_3HW[c * size + i] = (image_HW3[3 * i + c] / 255 - mean[c]) / std[c];
      }
    }
    return new this.ort.Tensor('float32', image_3HW, [1, 3, toHeight, toWidth]);
  }
}

function rgb(rgba) {
  const bytes = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    bytes[to] = rgba[from];
    bytes[to + 1] = rgba[from + 1];
    bytes[to + 2] = rgba[from + 2];
  }
  return bytes;
}

function checkedMap(outputs, name) {
  const { data, dims } = outputs[name];
  if (!data.every(Number.isFinite)) {
    throw new Error(`The ${name} must be finite, but the network gave NaN or infinity. Export in fp32.`);
  }
  const [height, width] = dims.slice(-2);
  return { data, height, width };
}

async function gpuAdapterName() {
  const adapter = await navigator.gpu?.requestAdapter();
  return adapter ? [adapter.info?.vendor, adapter.info?.architecture].filter(Boolean).join(' ') : null;
}
