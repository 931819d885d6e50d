/** The tabs of the panel, by pointer and by arrow keys; on a narrow screen the panel instead of the chat. */

import { byId } from "./element.js";

const tabs = [...document.querySelectorAll('[role="tab"]')];
const STEPS = { ArrowRight: 1, ArrowLeft: -1 };

/** `onShow` is told the id of the panel that is shown. */
export function startTabs(onShow) {
  for (const tab of tabs) {
    tab.addEventListener("click", () => select(tab, onShow));
    tab.addEventListener("keydown", (event) => move(event, tab, onShow));
  }
  byId("show-panel").addEventListener("click", () => showPanel(!isPanelShown()));
}

/** Show the settings, wherever the page is, and put the focus on one of them. */
export function showSetting(input) {
  byId("tab-settings").click();
  showPanel(true);
  input.focus();
}

export function showPanel(isShown) {
  document.body.dataset.shows = isShown ? "panel" : "chat";
  const button = byId("show-panel");
  button.setAttribute("aria-expanded", String(isShown));
}

function isPanelShown() {
  return document.body.dataset.shows === "panel";
}

function select(chosen, onShow) {
  for (const tab of tabs) {
    const isChosen = tab === chosen;
    tab.setAttribute("aria-selected", String(isChosen));
    tab.tabIndex = isChosen ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !isChosen;
  }
  onShow(chosen.getAttribute("aria-controls"));
}

function move(event, tab, onShow) {
  const step = STEPS[event.key];
  if (!step) return;
  event.preventDefault();
  const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
  select(next, onShow);
  next.focus();
}
