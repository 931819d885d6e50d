/** An answer of the model: thoughts, text or tokens, calls, numbers, and what can be done with it. */

import { CallView } from "./call_view.js";
import { copy } from "./clipboard.js";
import { element, iconButton } from "./element.js";
import { statistics } from "./statistics.js";
import { TextView } from "./text_view.js";
import { TokenView } from "./token_view.js";

export class AnswerView {
  /** `actions`: regenerate, sendResults and remove, each called with the turn. */
  constructor(turn, actions) {
    this.turn = turn;
    this.actions = actions;
    this.text = new TextView();
    this.text.root.dataset.part = "text";
    this.thoughts = new TextView();
    this.tokens = new TokenView();
    this.calls = [];
    this.showsTokens = true;
    this.swap = element("button", { type: "button", class: "link", click: () => this.#swap() });
    this.thoughtBox = element("details", { class: "thoughts", open: true, hidden: true },
      element("summary", {}, "Thoughts"), this.thoughts.root);
    this.callBox = element("div", { class: "calls text-view", hidden: true });
    this.sendResults = element("button", {
      type: "button", class: "solid send-results", hidden: true, click: () => actions.sendResults(turn),
    }, "Send the results");
    this.fault = element("p", { class: "notice", role: "alert", hidden: true });
    this.stats = element("p", { class: "stats", "data-part": "numbers" });
    this.again = iconButton("again", "Answer again", () => actions.regenerate(turn));
    this.buttons = this.#buttons();
    this.root = element("article", { class: "turn", "data-role": "assistant", "aria-label": "Answer of the model" },
      element("p", { class: "turn-role" }, "Model"), this.thoughtBox, this.text.root, this.tokens.root, this.callBox,
      this.sendResults, this.fault,
      element("div", { class: "turn-foot" }, element("div", { class: "stats" }, this.stats, this.swap), this.buttons));
    this.update();
  }

  /** Show what the answer holds now. */
  update() {
    const { answer } = this.turn;
    this.root.classList.toggle("writing", answer.isOpen);
    this.root.setAttribute("aria-busy", String(answer.isOpen));
    this.thoughtBox.hidden = !answer.thoughts;
    this.thoughts.update(answer.thoughts);
    this.#choose(answer.tokens.length > 0);
    this.tokens.update(answer.tokens);
    this.text.update(answer.content);
    this.#updateCalls(answer);
    this.fault.hidden = answer.fault === null;
    if (this.fault.textContent !== (answer.fault ?? "")) this.fault.textContent = answer.fault ?? "";
    this.stats.replaceChildren(...statistics(answer).map((each) => element("span", {}, each)));
    this.buttons.hidden = answer.isOpen;
  }

  setBusy(isBusy) {
    this.again.disabled = this.sendResults.disabled = isBusy;
  }

  /** The text or its tokens, if the answer has their probabilities. */
  #choose(hasTokens) {
    this.text.root.hidden = hasTokens && this.showsTokens;
    this.tokens.root.hidden = !(hasTokens && this.showsTokens);
    this.swap.hidden = !hasTokens;
    const words = this.showsTokens ? "Show as text" : "Show probabilities";
    if (this.swap.textContent !== words) this.swap.textContent = words;
  }

  #swap() {
    this.showsTokens = !this.showsTokens;
    this.update();
  }

  #updateCalls(answer) {
    answer.calls.forEach((call, i) => {
      if (!this.calls[i]) {
        this.calls[i] = new CallView((text) => { this.turn.results[call.id] = text; });
        this.callBox.append(this.calls[i].root);
      }
      this.calls[i].update(call, answer.isOpen);
    });
    this.callBox.hidden = !answer.calls.length;
    this.sendResults.hidden = answer.isOpen || !answer.wholeCalls.length;
  }

  #buttons() {
    const { turn, actions } = this;
    return element("div", { class: "turn-actions" },
      iconButton("copy", "Copy answer", () => copy(turn.answer.content)),
      this.again, iconButton("delete", "Delete answer", () => actions.remove(turn)));
  }
}
