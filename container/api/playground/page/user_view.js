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
    this.sendAgain = formButton("Save and send", "solid", () => this.#send());
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

  setBusy(isBusy) {
    this.sendAgain.disabled = isBusy;
  }

  #open() {
    const onKey = (event) => this.#onKey(event);
    this.area = element("textarea", { rows: "2", "aria-label": "Edit message", keydown: onKey });
    this.area.value = this.turn.text;
    this.form = element("div", { class: "edit" }, this.area, element("div", { class: "edit-actions" },
      formButton("Cancel", "quiet", () => this.#close()),
      formButton("Save", "quiet", () => this.#save()),
      this.sendAgain));
    this.text.root.hidden = this.buttons.hidden = true;
    this.root.append(this.form);
    this.area.focus();
  }

  #close() {
    this.form.remove();
    this.text.root.hidden = this.buttons.hidden = false;
    this.edit.focus();
  }

  #save() {
    if (this.area.value.trim()) this.turn.text = this.area.value;
    this.update();
    this.#close();
  }

  #send() {
    this.#save();
    this.actions.resend(this.turn);
  }

  #onKey(event) {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    this.#close();
  }
}

function formButton(words, kind, act) {
  return element("button", { type: "button", class: kind, click: act }, words);
}
