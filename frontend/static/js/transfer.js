/* Sends files in chunks that are checked one by one, from wherever the server says each of them ends: after a pause, a
   lost connection or a reload with the same files chosen again. */

const SMALLEST = 1 << 20;
const LARGEST = 16 << 20;
const LONGEST_WAIT_MS = 15000;

export class Refusal extends Error {
  constructor(status, body) {
    super(body.message ?? `status ${status}`);
    this.status = status;
    this.problems = body.problems ?? [];
  }
}

export async function ask(url, options = {}) {
  const headers = options.json ? { "content-type": "application/json" } : options.headers;
  const body = options.json ? JSON.stringify(options.json) : options.body;
  const answer = await fetch(url, { ...options, headers, body });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Refusal(answer.status, told), { offset: answer.headers.get("upload-offset") });
  return told;
}

export class Transfer {
  #stop = new AbortController();
  #chunk = SMALLEST;

  constructor(api, chosen, kind, { onprogress = () => {}, onlost = () => {} } = {}) {
    Object.assign(this, { api, chosen, kind, onprogress, onlost, isPaused: false });
  }

  /* Begins an upload, or goes on with one that broke off: of the same names and sizes and, of small files, contents. One
     of the same names that is all there was refused: these, corrected perhaps and of the same sizes, take its place. */
  async open() {
    const files = await Promise.all(this.chosen.map(async ({ name, file }) => ({ name, size: file.size, ...(await digest(file)) })));
    const has = (upload, isSame) => files.every((file) => upload.files.some((each) => each.name === file.name && isSame(each, file)));
    const isSame = (each, file) => each.size === file.size && (each.sha256 ?? null) === (file.sha256 ?? null);
    const open = (await ask(this.api)).filter((upload) =>
      upload.kind === this.kind && upload.state === "open" && upload.files.length === files.length && has(upload, () => true));
    const isRefused = (upload) => upload.files.every(({ size, offset }) => offset === size);
    for (const upload of open.filter(isRefused)) await ask(`${this.api}/${upload.id}`, { method: "DELETE" });
    const begun = open.find((upload) => !isRefused(upload) && has(upload, isSame));
    this.upload = begun ?? (await ask(this.api, { method: "POST", json: { kind: this.kind, files } }));
    this.url = `${this.api}/${this.upload.id}`;
  }

  /* Resolves when all bytes are there, rejects with a Refusal; false where it was paused. */
  async send() {
    this.isPaused = false;
    this.#stop = new AbortController();
    for (let wait = 1000; ; wait = Math.min(LONGEST_WAIT_MS, 2 * wait)) {
      try {
        await this.#sendAll(() => (wait = 1000));
        return true;
      } catch (error) {
        if (this.isPaused) return false;
        if (error instanceof Refusal && error.status < 500 && error.status !== 429) throw error;
        this.onlost();
        await new Promise((done) => setTimeout(done, wait));
        if (this.isPaused) return false;
      }
    }
  }

  pause() {
    this.isPaused = true;
    this.#stop.abort();
  }

  async #sendAll(onsuccess) {
    const { files } = await ask(this.url, { signal: this.#stop.signal });
    for (const { name, file } of this.chosen) {
      let { offset } = files.find((each) => each.name === name);
      this.onprogress(name, offset);
      while (offset < file.size) {
        offset = await this.#sendChunk(name, file, offset);
        this.onprogress(name, offset);
        onsuccess();
      }
    }
  }

  async #sendChunk(name, file, offset) {
    const bytes = await file.slice(offset, offset + this.#chunk).arrayBuffer();
    const headers = { "content-type": "application/octet-stream", "upload-offset": String(offset) };
    if (globalThis.crypto?.subtle) headers["upload-checksum"] = `sha256 ${hex(await crypto.subtle.digest("SHA-256", bytes))}`;
    const path = name.split("/").map(encodeURIComponent).join("/");
    const started = performance.now();
    try {
      const told = await ask(`${this.url}/files/${path}`, { method: "PATCH", headers, body: bytes, signal: this.#stop.signal });
      this.#chunk = performance.now() - started < 1000 ? Math.min(LARGEST, 2 * this.#chunk) : Math.max(SMALLEST, this.#chunk / 2);
      return told.offset;
    } catch (error) {
      if (error.status === 409 && error.offset !== null && Number(error.offset) !== offset) return Number(error.offset);
      if (error.status === 409) throw new Error("another request is still sending this file"); // an earlier one of ours
      throw error;
    }
  }
}

/* {sha256} of a file that is read in a moment; {} of larger ones, and where the browser has no sha256 (plain http). */
async function digest(file) {
  if (file.size > SMALLEST || !globalThis.crypto?.subtle) return {};
  return { sha256: hex(await crypto.subtle.digest("SHA-256", await file.arrayBuffer())) };
}

const hex = (buffer) => Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
