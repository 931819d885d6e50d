/** The turns of a chat: {role: "user", text}, or {role: "assistant", answer, results} with results by call id. */

export class Conversation {
  constructor() {
    this.turns = [];
  }

  addUser(text) {
    this.turns.push({ role: "user", text });
  }

  addAnswer(answer) {
    this.turns.push({ role: "assistant", answer, results: {} });
  }

  delete(turn) {
    this.turns = this.turns.filter((each) => each !== turn);
  }

  /** Forget `turn` and what follows it. */
  cutAt(turn) {
    this.turns = this.turns.slice(0, this.turns.indexOf(turn));
  }

  /** Forget what follows `turn`. */
  cutAfter(turn) {
    this.turns = this.turns.slice(0, this.turns.indexOf(turn) + 1);
  }

  clear() {
    this.turns = [];
  }

  /** The messages of a request, with one more of the user if `text` is given. */
  messages(system, text = "") {
    const head = system ? [{ role: "system", content: system }] : [];
    const turns = text ? [...this.turns, { role: "user", text }] : this.turns;
    return [...head, ...joined(turns.flatMap(messagesOf))];
  }
}

/** Neighbours of one role as one message: many templates want user and assistant in turn. */
function joined(messages) {
  const found = [];
  for (const message of messages) {
    const before = found.at(-1);
    if (before?.role !== message.role || message.role === "tool") found.push(message);
    else found[found.length - 1] = { ...before, ...message, content: bothTexts(before, message) };
  }
  return found;
}

function bothTexts(...messages) {
  return messages.map((each) => each.content).filter(Boolean).join("\n\n");
}

function messagesOf(turn) {
  if (turn.role === "user") return [{ role: "user", content: turn.text }];
  const { answer, results } = turn;
  const calls = answer.wholeCalls;
  if (!answer.content && !calls.length) return [];
  const message = { role: "assistant", content: answer.content || null };
  if (answer.thoughts) message.reasoning_content = answer.thoughts;
  if (calls.length) message.tool_calls = calls.map(called);
  return [message, ...calls.map((call) => resultOf(call, results))];
}

function called(call) {
  return { id: call.id, type: "function", function: { name: call.name, arguments: call.arguments } };
}

function resultOf(call, results) {
  return { role: "tool", tool_call_id: call.id, content: results[call.id] ?? "" };
}
