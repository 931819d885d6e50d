/** Puts the page together. */

import { Chat } from "./chat.js";
import { CodeView } from "./code_view.js";
import { Connection } from "./connection.js";
import { byId } from "./element.js";
import { Metrics } from "./metrics.js";
import { ServerView } from "./server_view.js";
import { Settings } from "./settings.js";
import { showPanel, showSetting, startTabs } from "./tabs.js";
import { startTheme } from "./theme.js";

const UNAUTHORIZED = 401;
const connection = new Connection();
const settings = new Settings();
const prompt = byId("prompt");
const chat = new Chat(connection, settings, { mayAsk, onState: showState, onFault: showFault });
const codeView = new CodeView(connection, () => chat.body(prompt.value.trim()));
const serverView = new ServerView();

function showState(isBusy) {
  const hadFocus = [byId("send"), byId("stop")].includes(document.activeElement);
  byId("send").hidden = isBusy;
  byId("stop").hidden = !isBusy;
  if (hadFocus) prompt.focus();
  codeView.update();
}

function showFault(error) {
  if (error.status === UNAUTHORIZED) byId("key").setAttribute("aria-invalid", "true");
}

/** Whether the settings can be sent; the first that cannot is shown. */
function mayAsk() {
  const wrong = settings.firstFault();
  if (wrong) showSetting(wrong);
  return !wrong;
}

function submit() {
  const text = prompt.value.trim();
  if (text && chat.send(text)) prompt.value = "";
}

function startComposer() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  byId("stop").addEventListener("click", () => chat.stop());
  prompt.addEventListener("input", () => codeView.update());
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && chat.isBusy) chat.stop();
  });
}

function startKey() {
  const input = byId("key");
  input.value = connection.key;
  input.addEventListener("input", () => {
    connection.keep(input.value.trim());
    input.removeAttribute("aria-invalid");
  });
}

function startButtons() {
  byId("new-chat").addEventListener("click", () => {
    chat.clear();
    showPanel(false);
    prompt.focus();
  });
  for (const starter of byId("starters").querySelectorAll("button")) {
    starter.addEventListener("click", () => {
      prompt.value = starter.textContent;
      prompt.focus();
      submit();
    });
  }
}

startTheme();
startTabs(() => codeView.update());
startComposer();
startKey();
startButtons();
new Metrics(connection, (sample) => serverView.show(sample)).start();
