/** A message of the user, which can be edited in place. */

import { copy } from "./clipboard.js";
import { element, iconButton } from "./element.js";
import { TextView } from "./text_view.js";

export class UserView {
  /** `actions`: resend and remove, each called with the turn. */
  constructor(turn, actions) {
    this.turn = turn;
    this.actions = actions;
    this.text = new TextView();
    this.edit = iconButton("edit", "Edit message", () => this.#open());
    this.buttons = element("div", { class: "turn-actions" },
      iconButton("copy", "Copy message", () => copy(turn.text)), this.edit,
      iconButton("delete", "Delete message", () => actions.remove(turn)));
    this.root = element("article", { class: "turn", "data-role": "user", "aria-label": "Your message" },
      element("p", { class: "turn-role" }, "You"), this.text.root, this.buttons);
    this.update();
  }

  update() {
    this.text.update(this.turn.text);
  }

  #open() {
    const onKey = (event) => this.#onKey(event);
    const area = element("textarea", { rows: "2", "aria-label": "Edit message", keydown: onKey });
    area.value = this.turn.text;
    const button = (words, kind, act) => element("button", { type: "button", class: kind, click: act }, words);
    this.form = element("div", { class: "edit" }, area, element("div", { class: "edit-actions" },
      button("Cancel", "quiet", () => this.#close()),
      button("Save", "quiet", () => this.#save(area.value)),
      button("Save and send", "solid", () => this.#send(area.value))));
    this.text.root.hidden = this.buttons.hidden = true;
    this.root.append(this.form);
    area.focus();
  }

  #close() {
    this.form.remove();
    this.text.root.hidden = this.buttons.hidden = false;
    this.edit.focus();
  }

  #save(text) {
    if (text.trim()) this.turn.text = text;
    this.update();
    this.#close();
  }

  #send(text) {
    this.#save(text);
    this.actions.resend(this.turn);
  }

  #onKey(event) {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    this.#close();
  }
}
