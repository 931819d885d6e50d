/** The form of the settings, and the fields of a request that it means. */

import { byId } from "./element.js";
import { SCHEMA_EXAMPLE, TOOLS_EXAMPLE } from "./examples.js";
import { JsonBox } from "./json_box.js";
import { NumberField } from "./number_field.js";

const MOST = 2 ** 31 - 1;
const NUMBERS = [
  { name: "temperature", label: "Temperature", least: 0, most: 100 },
  { name: "max_tokens", label: "Max tokens", least: 1, most: MOST, isWhole: true },
  { name: "top_p", label: "Top p", least: 0, most: 1 },
  { name: "top_k", label: "Top k", least: -1, most: MOST, isWhole: true },
  { name: "frequency_penalty", label: "Frequency penalty", least: -2, most: 2 },
  { name: "presence_penalty", label: "Presence penalty", least: -2, most: 2 },
  { name: "repetition_penalty", label: "Repetition penalty", least: 0, most: 100, isAboveLeast: true },
  { name: "seed", label: "Seed", least: 0, most: Number.MAX_SAFE_INTEGER, isWhole: true },
];
const ALTERNATIVES = 5;
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

export class Settings {
  constructor() {
    this.numbers = NUMBERS.map((each) => new NumberField(each));
    this.schema = new JsonBox("schema", (value) => (isObject(value) ? "" : "A schema is an object: {…}."));
    this.tools = new JsonBox("tools", toolsFault);
    byId("schema-example").addEventListener("click", () => this.schema.fill(SCHEMA_EXAMPLE));
    byId("tools-example").addEventListener("click", () => this.tools.fill(TOOLS_EXAMPLE));
  }

  get system() {
    return byId("system").value;
  }

  /** The first input that cannot be sent, with its fault shown; null if there is none. */
  firstFault() {
    const inputs = [...this.numbers, this.schema, this.tools];
    const wrong = inputs.filter((each) => !each.check())[0];
    return wrong ? (wrong.input ?? wrong.area) : null;
  }

  /** The fields of a request beside model, messages and stream. */
  fields() {
    const found = Object.fromEntries(this.numbers.map((each) => [each.name, each.value]));
    const stop = byId("stop-strings").value.split("\n").filter((line) => line !== "");
    if (stop.length) found.stop = stop;
    for (const name of ["reasoning_effort", "tool_choice"]) found[name] = byId(name).value || undefined;
    if (byId("logprobs").checked) Object.assign(found, { logprobs: true, top_logprobs: ALTERNATIVES });
    found.response_format = formatOf(this.schema.value);
    found.tools = this.tools.value?.map(toolOf);
    return Object.fromEntries(Object.entries(found).filter(([, value]) => value !== undefined));
  }
}

/** A schema as it stands, or the whole of a `response_format`. */
function formatOf(schema) {
  if (schema === undefined || isObject(schema.json_schema)) return schema;
  return { type: "json_schema", json_schema: { name: "answer", schema, strict: true } };
}

/** A tool in OpenAI's form, also where only the function is given. */
function toolOf(tool) {
  return isObject(tool.function) ? tool : { type: "function", function: tool };
}

function toolsFault(value) {
  if (!Array.isArray(value) || !value.length) return "Tools are a list: [{…}].";
  const isTool = (tool) => isObject(tool) && typeof (tool.function ?? tool)?.name === "string";
  return value.every(isTool) ? "" : "Each tool needs the name of a function.";
}
