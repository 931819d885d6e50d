/** Copying, also on plain HTTP, where browsers have no clipboard object. */

import { announce } from "./announcer.js";
import { element } from "./element.js";

export async function copy(text) {
  const copied = (await copiedByObject(text)) || copiedBySelection(text);
  announce(copied ? "Copied" : "The browser does not allow copying");
}

async function copiedByObject(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

function copiedBySelection(text) {
  const before = document.activeElement;
  const area = element("textarea", { class: "hidden", "aria-hidden": "true", tabindex: "-1" });
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  before?.focus();
  return copied;
}
