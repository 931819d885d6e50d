/** A call of a tool: its name, its arguments, and a place for what the tool gives back. */

import { argumentsOf } from "./answer.js";
import { element, icon } from "./element.js";

let numCalls = 0;

export class CallView {
  /** `onResult(text)` is told what is typed as the result. */
  constructor(onResult) {
    const id = `result-${(numCalls += 1)}`;
    this.name = element("code");
    this.place = element("div");
    this.result = element("textarea", { id, rows: "2", class: "code", input: () => onResult(this.result.value) });
    this.label = element("label", { for: id }, "Result of the tool");
    const head = element("p", { class: "call-head" }, icon("tool"), element("span", {}, "Tool call"), this.name);
    this.root = element("section", { class: "call" }, head, this.place, this.label, this.result);
  }

  /** `isOpen`: the model still writes the call. */
  update(call, isOpen) {
    this.name.textContent = call.name;
    this.root.setAttribute("aria-label", `Tool call ${call.name}`);
    this.label.hidden = this.result.hidden = isOpen || argumentsOf(call) === null;
    if (this.place.textContent !== call.arguments || !isOpen) this.place.replaceChildren(argumentsNode(call));
  }
}

/** One row for each argument; the text as it is while it is no JSON object. */
function argumentsNode(call) {
  const entries = Object.entries(argumentsOf(call) ?? {});
  if (!entries.length) return element("pre", {}, call.arguments);
  const rows = entries.flatMap(([name, each]) => [
    element("dt", {}, name),
    element("dd", {}, typeof each === "string" ? each : JSON.stringify(each)),
  ]);
  return element("dl", { class: "call-list" }, ...rows);
}
