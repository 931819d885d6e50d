/** Says something to screen readers, once, without moving the focus. */

import { byId } from "./element.js";

const LONGEST = 1000;

export function announce(text) {
  const place = byId("announcer");
  place.textContent = "";
  // A change that follows in the same task may go unheard.
  setTimeout(() => { place.textContent = text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text; }, 50);
}
