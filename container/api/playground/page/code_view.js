/** The request as curl and as Python, made again whenever something changes while it is shown. */

import { copy } from "./clipboard.js";
import { byId } from "./element.js";
import { curlText, pythonText } from "./request_text.js";

export class CodeView {
  /** `body()` is the request that would be sent now. */
  constructor(connection, body) {
    this.connection = connection;
    this.body = body;
    byId("with-key").addEventListener("change", () => this.update());
    byId("copy-curl").addEventListener("click", () => copy(byId("curl").textContent));
    byId("copy-python").addEventListener("click", () => copy(byId("python").textContent));
  }

  update() {
    if (byId("code").hidden) return;
    const body = this.body();
    byId("curl").textContent = curlText(this.connection.url("v1/chat/completions"), body, this.#key());
    byId("python").textContent = pythonText(this.connection.url("v1"), body, this.#key());
  }

  /** The key itself only if asked for, else the name of a variable; "" without a key. */
  #key() {
    const { key } = this.connection;
    return key && !byId("with-key").checked ? "$API_KEY" : key;
  }
}
