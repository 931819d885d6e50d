/** The way to the server this page came from, whatever path a proxy has put before it. */

import { eventsOf } from "./event_stream.js";
import { ServerError, errorOfBreak, errorOfConnection, errorOfResponse } from "./server_error.js";

const PLACE = "playground-key";

export class Connection {
  constructor() {
    this.root = new URL(".", location.href);
    this.key = stored();
  }

  /** The address of a route. */
  url(path) {
    return new URL(path, this.root).href;
  }

  /** Keep the key in this tab: a reload may find it, and so may a copy of the tab; a new tab does not. */
  keep(key) {
    this.key = key;
    try {
      if (key) sessionStorage.setItem(PLACE, key);
      else sessionStorage.removeItem(PLACE);
    } catch {
      // Storage is switched off: memory is enough.
    }
  }

  /** The chunks of a streamed chat. Throws ServerError, or AbortError once `signal` says so. */
  async* chunks(body, signal) {
    const response = await this.post("v1/chat/completions", body, signal);
    for await (const data of eventsOf(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServerError(chunk.error.message ?? "The answer failed.");
      yield chunk;
    }
    throw errorOfBreak();
  }

  async post(path, body, signal) {
    const headers = { "Content-Type": "application/json" };
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    const response = await reached(this.url(path), { method: "POST", headers, body: JSON.stringify(body), signal });
    if (!response.ok) throw await errorOfResponse(response);
    return response;
  }

  /** The text of /metrics. Throws ServerError. */
  async metrics() {
    const response = await reached(this.url("metrics"), { cache: "no-store" });
    if (!response.ok) throw await errorOfResponse(response);
    return response.text();
  }
}

async function reached(url, options) {
  try {
    return await fetch(url, options);
  } catch (cause) {
    throw cause.name === "AbortError" ? cause : errorOfConnection(cause);
  }
}

function stored() {
  try {
    return sessionStorage.getItem(PLACE) ?? "";
  } catch {
    return "";
  }
}
