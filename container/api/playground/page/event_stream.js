/** Server-sent events: bytes in, the data of each event out. */

import { errorOfBreak } from "./server_error.js";

/**
 * The data of every event of a response's body. Comments, names and ids are passed over. Throws ServerError where the
 * connection breaks, AbortError where the request is stopped.
 */
export async function* eventsOf(body) {
  let data = [];
  for await (const line of linesOf(body)) {
    if (line === "") {
      if (data.length) yield data.join("\n");
      data = [];
    } else if (line.startsWith("data:")) {
      data.push(line.slice(line[5] === " " ? 6 : 5));
    }
  }
}

async function* linesOf(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch(throwBreak);
    rest += decoder.decode(value, { stream: !done });
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    yield* lines;
    if (done) return;
  }
}

function throwBreak(cause) {
  throw cause.name === "AbortError" ? cause : errorOfBreak();
}
