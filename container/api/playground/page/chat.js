/** The chat: it asks the model, shows the answer while it comes, and stops it. */

import { announce } from "./announcer.js";
import { Answer } from "./answer.js";
import { Conversation } from "./conversation.js";
import { Transcript } from "./transcript.js";

export class Chat {
  /**
   * `mayAsk()` says before every request whether the settings can be sent. `onState(isBusy)` is told when an answer
   * begins and ends, `onFault(error)` why one could not.
   */
  constructor(connection, settings, { mayAsk, onState, onFault }) {
    Object.assign(this, { connection, settings, mayAsk, onState, onFault });
    this.conversation = new Conversation();
    this.stopper = null;
    this.transcript = new Transcript(this.conversation, {
      regenerate: (turn) => this.#afterCut(turn, () => this.conversation.cutAt(turn)),
      resend: (turn) => this.#afterCut(turn, () => this.conversation.cutAfter(turn)),
      sendResults: (turn) => this.#afterCut(turn, () => this.conversation.cutAfter(turn)),
      remove: (turn) => this.#remove(turn),
    });
  }

  get isBusy() {
    return this.stopper !== null;
  }

  /** The body of the request for the turns there are and, if given, one more message. */
  body(text = "") {
    return {
      model: "tgi",
      messages: this.conversation.messages(this.settings.system, text),
      ...this.settings.fields(),
      stream: true,
      stream_options: { include_usage: true, continuous_usage_stats: true },
    };
  }

  /** Whether the message is on its way. */
  send(text) {
    if (this.isBusy || !this.mayAsk()) return false;
    this.conversation.addUser(text);
    this.#ask();
    return true;
  }

  stop() {
    this.stopper?.abort();
  }

  clear() {
    this.stop();
    this.conversation.clear();
    this.transcript.show();
  }

  #afterCut(turn, cut) {
    if (this.isBusy || !this.mayAsk()) return;
    cut();
    this.transcript.focus();
    this.#ask();
  }

  #remove(turn) {
    if (turn.answer?.isOpen) this.stop();
    this.conversation.delete(turn);
    this.transcript.focus();
    this.transcript.show();
  }

  async #ask() {
    const body = this.body();
    const stopper = (this.stopper = new AbortController());
    const answer = new Answer();
    this.conversation.addAnswer(answer);
    const turn = this.conversation.turns.at(-1);
    this.transcript.show();
    this.#tellState();
    announce("The model answers");
    await this.#read(turn, body, stopper.signal);
    this.transcript.update(turn);
    if (this.stopper === stopper) this.stopper = null;
    this.#tellState();
    announce(spoken(answer));
  }

  #tellState() {
    this.transcript.setBusy(this.isBusy);
    this.onState(this.isBusy);
  }

  /** Until the end of the answer, whatever ends it. */
  async #read(turn, body, signal) {
    const { answer } = turn;
    try {
      for await (const chunk of this.connection.chunks(body, signal)) {
        answer.add(chunk);
        this.transcript.updateSoon(turn);
      }
      answer.finish ??= "stop";
    } catch (error) {
      if (error.name === "AbortError") answer.isStopped = true;
      else answer.fault = error.message;
      if (!answer.isStopped) this.onFault(error);
    }
  }
}

/** What a screen reader hears at the end. */
function spoken(answer) {
  if (answer.fault) return "";
  const calls = answer.calls.map((call) => `The model calls the tool ${call.name}.`);
  return [answer.isStopped ? "Stopped." : "", answer.content, ...calls].filter(Boolean).join(" ");
}
