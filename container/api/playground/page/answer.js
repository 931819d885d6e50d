/** One answer of the model, put together from the chunks of its stream. */

/** A call's arguments, or null while they are no JSON object. */
export function argumentsOf(call) {
  try {
    const value = JSON.parse(call.arguments);
    return typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

export class Answer {
  constructor() {
    this.content = "";
    this.thoughts = "";
    this.calls = [];
    /** Log-probabilities: {token, logprob, bytes, top_logprobs} each, thoughts and calls included. */
    this.tokens = [];
    this.usage = null;
    this.finish = null;
    this.fault = null;
    this.isStopped = false;
    this.startedAt = performance.now();
    this.firstAt = null;
    this.lastAt = null;
  }

  /** Whether the model is still at it. */
  get isOpen() {
    return this.finish === null && this.fault === null && !this.isStopped;
  }

  /** The calls that were written to their end: templates refuse arguments that are no JSON object. */
  get wholeCalls() {
    return this.calls.filter((call) => argumentsOf(call) !== null);
  }

  add(chunk) {
    if (chunk.usage) this.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (!choice) return;
    const delta = choice.delta ?? {};
    this.content += delta.content ?? "";
    this.thoughts += delta.reasoning_content ?? "";
    for (const part of delta.tool_calls ?? []) this.#addCall(part);
    this.tokens.push(...(choice.logprobs?.content ?? []));
    if (choice.finish_reason) this.finish = choice.finish_reason;
    if (delta.content || delta.reasoning_content || delta.tool_calls) this.#note(performance.now());
  }

  #addCall(part) {
    const call = (this.calls[part.index] ??= { id: "", name: "", arguments: "" });
    call.id ||= part.id ?? "";
    call.name += part.function?.name ?? "";
    call.arguments += part.function?.arguments ?? "";
  }

  #note(now) {
    this.firstAt ??= now;
    this.lastAt = now;
  }

  /** Seconds from the request to the first of the text; null before it. */
  get secondsToFirst() {
    return this.firstAt === null ? null : (this.firstAt - this.startedAt) / 1000;
  }

  /** Tokens a second after the first; null until two have come apart in time. */
  get tokensPerSecond() {
    const after = (this.usage?.completion_tokens ?? 0) - 1;
    const seconds = (this.lastAt - this.firstAt) / 1000;
    return after > 0 && seconds > 0 ? after / seconds : null;
  }
}
