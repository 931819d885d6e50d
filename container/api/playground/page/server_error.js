/** An error of the server or of the way to it, in words. */

export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const LEADS = {
  401: "The server wants an API key, or another one: enter it under Settings.",
  404: "The server does not have this route.",
  413: "The request is too long.",
  429: "The server is busy.",
  503: "The model is not ready.",
  504: "The answer took too long.",
};

/** What an answer with an error status says. */
export async function errorOfResponse(response) {
  const told = sentence(await response.text());
  const wait = response.headers.get("Retry-After");
  const parts = [LEADS[response.status], told, wait && `Try again in ${wait} s.`];
  const text = parts.filter(Boolean).join(" ");
  return new ServerError(text || `The server answered with status ${response.status}.`, response.status);
}

/** What a failed connection says. */
export function errorOfConnection(cause) {
  return new ServerError(`The server cannot be reached. ${cause.message ?? ""}`.trim());
}

/** What an answer without an end says. */
export function errorOfBreak() {
  return new ServerError("The connection ended before the answer did.");
}

/** The message of an error in JSON, in any dialect; other text as it is, but no markup of a proxy. */
export function sentence(text) {
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    return /^\s*</.test(text) ? "" : text.trim().slice(0, 500);
  }
  const found = body?.error?.message ?? body?.detail ?? body?.error ?? body?.message ?? "";
  const said = typeof found === "string" ? found : JSON.stringify(found);
  return said && !/[.!?…]$/.test(said) ? `${said}.` : said;
}
