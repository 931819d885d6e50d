/** A small curve of the newest values. The numbers stand beside it as text, so it is no picture to read out. */

import { drawing } from "./element.js";

const WIDTH = 100;
const HEIGHT = 40;

export class Sparkline {
  /** `length`: how many values it holds; `least`: what the top of the curve stands for at least. */
  constructor(length, least) {
    Object.assign(this, { length, least, values: [] });
    this.area = drawing("path", { class: "area" });
    this.curve = drawing("path", { class: "curve" });
    const box = { viewBox: `0 -2 ${WIDTH} ${HEIGHT + 4}`, preserveAspectRatio: "none" };
    this.root = drawing("svg", { class: "sparkline", ...box, "aria-hidden": "true", focusable: "false" },
      drawing("path", { class: "ground", d: `M0,${HEIGHT}H${WIDTH}` }), this.area, this.curve);
  }

  add(value) {
    this.values = [...this.values, value].slice(-this.length);
    const points = this.#points();
    this.curve.setAttribute("d", `M${points.join("L")}`);
    this.area.setAttribute("d", `M${points.join("L")}V${HEIGHT}H${this.#left()}Z`);
  }

  /** The largest of the values. */
  get most() {
    return Math.max(0, ...this.values);
  }

  #left() {
    return WIDTH - ((this.values.length - 1) / (this.length - 1)) * WIDTH;
  }

  #points() {
    const top = Math.max(this.most, this.least);
    const step = WIDTH / (this.length - 1);
    const x = (i) => (this.#left() + i * step).toFixed(2);
    const y = (value) => (HEIGHT * (1 - value / top)).toFixed(2);
    return this.values.map((value, i) => `${x(i)},${y(value)}`);
  }
}
