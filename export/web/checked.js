// Files that web.json lists, whole or not at all.

/**
 * Fetch a file of this folder and check its size and sha256.
 *
 * @param {string} name as in web.json
 * @param {{size_bytes: number, sha256: string}} record what it must be
 * @param {(bytes: number) => void} onBytes told of what has arrived so far
 * @returns {Promise<Uint8Array>}
 */
export async function fetchChecked(name, record, onBytes = () => {}) {
  const bytes = await fetched(`${name}?v=${record.sha256.slice(0, 12)}`, name, record.size_bytes, onBytes);
  if (bytes.length !== record.size_bytes) {
    throw new Error(
      `${name} must have ${record.size_bytes} bytes, but ${bytes.length} arrived: it is cut short or was replaced.`
      + ' Reload the page; if that does not help, copy the folder to the server again.',
    );
  }
  // Only pages that came by https or from this machine have it.
  if (crypto.subtle && (await sha256(bytes)) !== record.sha256) {
    throw new Error(
      `${name} must be what was exported, but its sha256 differs. Copy the folder to the server again.`,
    );
  }
  return bytes;
}

async function fetched(url, name, expectedBytes, onBytes) {
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw new Error(`${name} could not be loaded: the server does not answer. Reload the page.`);
  }
  if (!response.ok) {
    throw new Error(`${name} could not be loaded: the server answers ${response.status}. Copy the whole folder.`);
  }
  const bytes = new Uint8Array(expectedBytes);
  let count = 0;
  try {
    for (const reader = response.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) return bytes.subarray(0, count);
      if (count + value.length > expectedBytes) return new Uint8Array(count + value.length);
      bytes.set(value, count);
      count += value.length;
      onBytes(count);
    }
  } catch {
    throw new Error(`${name} could not be loaded whole: ${count} of ${expectedBytes} bytes arrived. Reload the page.`);
  }
}

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
