/** The table of a token and of what could have stood in its place. */

import { element } from "./element.js";

export function tokenCard(token) {
  const rows = [...(token.top_logprobs ?? [])];
  if (!rows.some((each) => each.token === token.token)) rows.push(token);
  rows.sort((one, other) => other.logprob - one.logprob);
  return element("table", {},
    element("caption", {}, rows.length > 1 ? "This token and its alternatives" : "This token"),
    element("tbody", {}, ...rows.map((each) => row(each, each.token === token.token))),
  );
}

/** A log-probability as a share of a hundred. */
export function percent(logprob) {
  const share = Math.exp(logprob) * 100;
  return share > 0 && share < 0.1 ? "< 0.1 %" : `${share.toFixed(1)} %`;
}

/** White space and control characters by their escapes; a space among letters stays one. */
export function visible(text) {
  const escaped = text.replace(/[\u0000-\u001f\u007f-\u009f]/g, (character) => JSON.stringify(character).slice(1, -1));
  return escaped.trim() === "" ? `“${escaped}”` : escaped;
}

function row(entry, isChosen) {
  const bar = element("span");
  bar.style.setProperty("--share", `${Math.exp(entry.logprob) * 100}%`);
  const mark = isChosen ? element("span", { class: "hidden" }, " (chosen)") : null;
  return element("tr", { class: isChosen ? "chosen" : null },
    element("th", { scope: "row" }, visible(entry.token), mark),
    element("td", { class: "share", "aria-hidden": "true" }, bar),
    element("td", {}, percent(entry.logprob)),
  );
}
