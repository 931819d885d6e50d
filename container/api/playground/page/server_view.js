/** The server's state: a dot and a name in the bar, four curves and some facts in the panel. */

import { byId, element } from "./element.js";
import { Sparkline } from "./sparkline.js";

const NUM_SAMPLES = 60;
const CARDS = [
  { name: "Running", of: (now) => now.running, shown: String, least: 4 },
  { name: "Waiting", of: (now) => now.waiting, shown: String, least: 4 },
  { name: "KV memory", of: (now) => now.kv * 100, shown: (value) => `${value.toFixed(1)} %`, least: 10 },
  { name: "Tokens a second", of: rate, shown: (value) => value.toFixed(1), least: 10 },
];
const STATES = { gone: "The server cannot be reached", ready: "Ready", waiting: "The model is not ready yet" };
const FACTS = [
  ["model", "Model"], ["dtype", "Type"], ["device", "Device"], ["quantize", "Weights"], ["runner", "Runner"],
  ["version", "Version"],
];

export class ServerView {
  constructor() {
    this.before = null;
    this.cards = CARDS.map((card) => new Card(card));
    byId("cards").append(...this.cards.map((card) => card.root));
  }

  /** A sample of `Metrics`; null: the server did not answer. */
  show(now) {
    const state = now === null ? "gone" : now.isReady ? "ready" : "waiting";
    const words = STATES[state];
    byId("state-dot").dataset.state = state;
    write("server-state", words);
    write("model", state === "ready" ? shortName(now.build.model ?? "Ready") : words);
    if (now === null) return;
    for (const card of this.cards) card.add(now, this.before);
    this.before = now;
    const facts = FACTS.filter(([name]) => now.build[name]);
    const rows = facts.flatMap(([name, title]) => [element("dt", {}, title), element("dd", {}, now.build[name])]);
    byId("facts").replaceChildren(...rows);
  }
}

class Card {
  constructor({ name, of, shown, least }) {
    Object.assign(this, { of, shown });
    this.curve = new Sparkline(NUM_SAMPLES, least);
    this.number = element("p", { class: "number" }, "–");
    this.most = element("p", { class: "most" }, "");
    this.root = element("section", { class: "card", "aria-label": name },
      element("h3", {}, name), this.number, this.curve.root, this.most);
  }

  add(now, before) {
    const value = this.of(now, before);
    this.curve.add(value);
    this.number.textContent = this.shown(value);
    this.most.textContent = `most: ${this.shown(this.curve.most)}`;
  }
}

/** Tokens a second since the sample before. A counter that fell was started anew. */
function rate(now, before) {
  if (before === null || now.generated < before.generated) return 0;
  return ((now.generated - before.generated) / (now.at - before.at)) * 1000;
}

/** The last part of a path or of a name of the hub; the panel has the whole of it. */
function shortName(model) {
  return model.split("/").filter(Boolean).at(-1) ?? model;
}

/** Text that has not changed is left alone. */
function write(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}
