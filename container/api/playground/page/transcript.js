/** The conversation on the page. It follows the newest text while the reader is at the end. */

import { AnswerView } from "./answer_view.js";
import { byId } from "./element.js";
import { UserView } from "./user_view.js";

const NEAR_END = 60;

export class Transcript {
  /** `actions` of the turns: regenerate, sendResults, resend, remove. */
  constructor(conversation, actions) {
    this.conversation = conversation;
    this.actions = actions;
    this.box = byId("transcript");
    this.views = new Map();
    this.isBusy = false;
    this.isDue = false;
  }

  /** Make the page show the turns there are. */
  show() {
    const { turns } = this.conversation;
    for (const [turn, view] of this.views) {
      if (turns.includes(turn)) continue;
      view.root.remove();
      this.views.delete(turn);
    }
    for (const turn of turns) {
      if (!this.views.has(turn)) this.#add(turn);
    }
    byId("empty").hidden = turns.length > 0;
  }

  /** While an answer is written, no button asks for another. */
  setBusy(isBusy) {
    this.isBusy = isBusy;
    for (const view of this.views.values()) view.setBusy(isBusy);
  }

  /** The button that had the focus goes away: keep the place for those who use the keyboard. */
  focus() {
    this.box.focus({ preventScroll: true });
  }

  #add(turn) {
    const View = turn.role === "user" ? UserView : AnswerView;
    const view = new View(turn, this.actions);
    this.views.set(turn, view);
    view.setBusy(this.isBusy);
    byId("turns").append(view.root);
    this.box.scrollTop = this.box.scrollHeight;
  }

  /** Show a turn's newest text with the next frame; a page in the background has none until it comes back. */
  updateSoon(turn) {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => {
      this.isDue = false;
      this.update(turn);
    });
  }

  update(turn) {
    const isAtEnd = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < NEAR_END;
    this.views.get(turn)?.update();
    if (isAtEnd) this.box.scrollTop = this.box.scrollHeight;
  }
}
