/** Tokens with their probabilities: a colour and an underline for how likely each was, alternatives on demand. */

import { element } from "./element.js";
import { percent, tokenCard, visible } from "./token_card.js";

const LEVELS = [
  { least: 0.9, words: "90 % and more" },
  { least: 0.7, words: "70 to 90 %" },
  { least: 0.4, words: "40 to 70 %" },
  { least: 0.1, words: "10 to 40 %" },
  { least: 0, words: "below 10 %" },
];
const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
const GAP = 6;
let numLists = 0;

export class TokenView {
  constructor() {
    this.id = `tokens-${(numLists += 1)}`;
    this.tokens = [];
    this.decoder = new TextDecoder();
    this.current = -1;
    this.card = element("div", { class: "token-card", hidden: true });
    this.list = element("div", {
      class: "token-list", role: "listbox", tabindex: "0",
      "aria-label": "Tokens with their probabilities; the arrow keys move between them",
      keydown: (event) => this.#move(event), focus: () => this.#point(Math.max(this.current, 0)),
      blur: () => this.#leave(), mouseover: (event) => this.#point(this.#indexOf(event.target)),
      click: (event) => this.#point(this.#indexOf(event.target)),
    });
    this.root = element("div", { class: "tokens", mouseleave: () => this.#leave() }, this.list, legend(), this.card);
  }

  /** Show tokens that have come since. */
  update(tokens) {
    for (const token of tokens.slice(this.tokens.length)) {
      this.list.append(this.#option(token));
      this.tokens.push(token);
    }
  }

  #option(token) {
    const raw = token.bytes ? this.decoder.decode(Uint8Array.from(token.bytes), { stream: true }) : token.token;
    return element("span", {
      class: "token", role: "option", id: `${this.id}-${this.tokens.length}`, "aria-selected": "false",
      "data-level": String(levelOf(token.logprob)), "aria-label": spoken(token),
    }, raw.replaceAll("\n", "↵\n") || "·");
  }

  #indexOf(node) {
    return [...this.list.children].indexOf(node.closest(".token"));
  }

  #move(event) {
    const ends = { Home: 0, End: this.tokens.length - 1 };
    const to = ends[event.key] ?? (STEPS[event.key] ? this.current + STEPS[event.key] : null);
    if (event.key === "Escape" && !this.card.hidden) {
      event.stopPropagation();
      this.card.hidden = true;
    }
    if (to === null) return;
    event.preventDefault();
    this.#point(Math.min(Math.max(to, 0), this.tokens.length - 1));
  }

  #point(index) {
    const option = this.list.children[index];
    if (!option) return;
    this.#mark(this.list.children[this.current], false);
    this.current = index;
    this.#mark(option, true);
    this.list.setAttribute("aria-activedescendant", option.id);
    this.card.replaceChildren(tokenCard(this.tokens[index]));
    this.#place(option);
  }

  #mark(option, isCurrent) {
    option?.classList.toggle("current", isCurrent);
    option?.setAttribute("aria-selected", String(isCurrent));
  }

  #place(option) {
    this.card.hidden = false;
    const most = this.root.clientWidth - this.card.offsetWidth;
    this.card.style.left = `${Math.max(0, Math.min(option.offsetLeft, most))}px`;
    if (document.activeElement === this.list) option.scrollIntoView({ block: "nearest" });
    const box = this.root.closest(".transcript").getBoundingClientRect();
    const isRoomBelow = box.bottom - option.getBoundingClientRect().bottom > this.card.offsetHeight + GAP;
    const below = option.offsetTop + option.offsetHeight + GAP;
    this.card.style.top = `${isRoomBelow ? below : option.offsetTop - this.card.offsetHeight - GAP}px`;
  }

  #leave() {
    if (document.activeElement === this.list) return;
    this.card.hidden = true;
    this.#mark(this.list.children[this.current], false);
  }
}

/** 0 for what was nearly certain, up to 4. */
export function levelOf(logprob) {
  return LEVELS.findIndex((each) => Math.exp(logprob) >= each.least);
}

/** What a screen reader says of a token: itself, its probability, the likeliest others. */
function spoken(token) {
  const others = (token.top_logprobs ?? []).filter((each) => each.token !== token.token).slice(0, 3);
  const words = others.map((each) => `${visible(each.token)} ${percent(each.logprob)}`);
  return `${visible(token.token)} ${percent(token.logprob)}${words.length ? `; else ${words.join(", ")}` : ""}`;
}

function legend() {
  const swatches = LEVELS.map((each, i) => element("span", { class: "swatch", "data-level": String(i) }, each.words));
  return element("p", { class: "legend" }, element("span", {}, "Probability:"), ...swatches);
}
