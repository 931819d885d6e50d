/** One number of the sampling settings: empty means that the server decides. */

import { byId, element } from "./element.js";

export class NumberField {
  /** `least` and `most` are allowed too; `isWhole` refuses fractions. */
  constructor({ name, label, least, most, isWhole = false, isAboveLeast = false }) {
    Object.assign(this, { name, label, least, most, isWhole, isAboveLeast });
    const attributes = { id: name, type: "text", autocomplete: "off", placeholder: "Default" };
    const describedBy = { "aria-describedby": `${name}-fault`, inputmode: isWhole && least >= 0 ? "numeric" : "text" };
    this.input = element("input", { ...attributes, ...describedBy, input: () => this.check() });
    this.place = element("p", { id: `${name}-fault`, class: "fault", role: "alert" });
    byId("sampling").append(
      element("div", { class: "field" }, element("label", { for: name }, label), this.input, this.place),
    );
  }

  /** The number; undefined if there is none that may be sent. */
  get value() {
    const text = this.input.value.trim();
    return text && !this.#told() ? Number(text) : undefined;
  }

  /** Show what is wrong; whether nothing is. */
  check() {
    const told = this.#told();
    if (this.place.textContent !== told) this.place.textContent = told;
    this.input.setAttribute("aria-invalid", String(told !== ""));
    return told === "";
  }

  #told() {
    const text = this.input.value.trim();
    const number = Number(text);
    const isLow = number < this.least || (this.isAboveLeast && number === this.least);
    const fits = Number.isFinite(number) && !isLow && number <= this.most;
    if (!text || (fits && (!this.isWhole || Number.isInteger(number)))) return "";
    const from = this.isAboveLeast ? `above ${this.least}, at most` : `from ${this.least} to`;
    return `${this.isWhole ? "A whole number" : "A number"} ${from} ${this.most}.`;
  }
}
