/** Dark and light: the system's choice until the switch is used. */

import { byId } from "./element.js";

const DARK = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;

export function startTheme() {
  show();
  DARK.addEventListener("change", show);
  byId("theme").addEventListener("click", () => choose(isDark() ? "light" : "dark"));
}

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : DARK.matches;
}

function choose(theme) {
  root.dataset.theme = theme;
  try {
    localStorage.setItem("playground-theme", theme);
  } catch {
    // Storage is switched off: the choice holds until the page is closed.
  }
  show();
}

function show() {
  byId("theme").setAttribute("aria-pressed", String(isDark()));
}
