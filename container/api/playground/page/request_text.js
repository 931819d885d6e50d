/** A request as text to copy: a curl command and a Python program. */

/** `key` is text for the header; "" leaves the header out. */
export function curlText(url, body, key) {
  const lines = [`curl -N ${quoted(url)}`, `  -H 'Content-Type: application/json'`];
  if (key === "$API_KEY") lines.push(`  -H "Authorization: Bearer $API_KEY"`);
  else if (key) lines.push(`  -H ${quoted(`Authorization: Bearer ${key}`)}`);
  return [...lines, `  -d ${quoted(JSON.stringify(body, null, 2))}`].join(" \\\n");
}

/** With OpenAI's client. Fields that it does not know go into `extra_body`. */
export function pythonText(baseUrl, body, key) {
  const entries = Object.entries(body);
  const own = entries.filter(([name]) => KNOWN.has(name));
  const extra = Object.fromEntries(entries.filter(([name]) => !KNOWN.has(name)));
  const given = Object.keys(extra).length ? [...own, ["extra_body", extra]] : own;
  const fromEnvironment = key === "$API_KEY";
  const shown = fromEnvironment ? 'os.environ["API_KEY"]' : pythonString(key || "-");
  return [
    ...(fromEnvironment ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${pythonString(baseUrl)}, api_key=${shown})`,
    "stream = client.chat.completions.create(",
    ...given.map(([name, value]) => `    ${name}=${python(value, "    ")},`),
    ")",
    "for chunk in stream:",
    "    for choice in chunk.choices:",
    '        print(choice.delta.content or "", end="", flush=True)',
    "        for call in choice.delta.tool_calls or []:",
    '            print(call.function.name or "", call.function.arguments or "", end="", flush=True)',
    "print()",
    "",
  ].join("\n");
}

const KNOWN = new Set([
  ...["model", "messages", "stream", "stream_options", "temperature", "top_p", "max_tokens", "seed", "stop"],
  ...["frequency_penalty", "presence_penalty", "logprobs", "top_logprobs", "response_format", "tools", "tool_choice"],
  "reasoning_effort",
]);

/** For a POSIX shell. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function python(value, indent) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "string") return pythonString(value);
  if (typeof value !== "object") return String(value);
  const deeper = `${indent}    `;
  const parts = Array.isArray(value)
    ? value.map((each) => python(each, deeper))
    : Object.entries(value).map(([name, each]) => `${pythonString(name)}: ${python(each, deeper)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (!parts.length) return open + close;
  return `${open}\n${parts.map((part) => `${deeper}${part},\n`).join("")}${indent}${close}`;
}

/** JSON's escapes are Python's too; half a surrogate pair is escaped by both. */
function pythonString(text) {
  return JSON.stringify(text).replaceAll("\u007f", "\\x7f");
}
