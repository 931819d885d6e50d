/** A text area that holds JSON or nothing, and says below what is wrong with it. */

import { byId } from "./element.js";

export class JsonBox {
  /** `fault` of a value is a sentence, "" if the value may be sent. */
  constructor(id, fault) {
    this.area = byId(id);
    this.place = byId(`${id}-fault`);
    this.fault = fault;
    this.area.addEventListener("input", () => this.check());
  }

  /** The value; undefined for an empty box and for one that cannot be sent. */
  get value() {
    if (!this.area.value.trim()) return undefined;
    try {
      const value = JSON.parse(this.area.value);
      return this.fault(value) ? undefined : value;
    } catch {
      return undefined;
    }
  }

  /** Show what is wrong; whether nothing is. */
  check() {
    const told = this.#told();
    if (this.place.textContent !== told) this.place.textContent = told;
    this.area.setAttribute("aria-invalid", String(told !== ""));
    return told === "";
  }

  /** Put an example in, if the box is empty. */
  fill(value) {
    if (!this.area.value.trim()) this.area.value = JSON.stringify(value, null, 2);
    this.area.dispatchEvent(new Event("input", { bubbles: true }));
    this.area.focus();
  }

  #told() {
    if (!this.area.value.trim()) return "";
    try {
      return this.fault(JSON.parse(this.area.value));
    } catch (cause) {
      return `This is not JSON: ${cause.message}`;
    }
  }
}
