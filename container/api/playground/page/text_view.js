/** A text of the model or of a person, as text: fenced code in <pre>, nothing else is interpreted. */

import { copy } from "./clipboard.js";
import { element } from "./element.js";

export class TextView {
  constructor() {
    this.root = element("div", { class: "text-view" });
    this.shown = [];
  }

  /** Show `text`; parts that stay the same keep their nodes, and so does a selection in them. */
  update(text) {
    const blocks = blocksOf(text);
    blocks.forEach((block, i) => this.#show(block, i));
    for (const { node } of this.shown.splice(blocks.length)) node.remove();
  }

  #show(block, i) {
    const before = this.shown[i];
    if (before && before.isCode === block.isCode && before.language === block.language) {
      if (before.place.textContent !== block.text) before.place.textContent = block.text;
      return;
    }
    const made = { ...block, ...(block.isCode ? codeBlock(block.language) : paragraph()) };
    made.place.textContent = block.text;
    if (before) before.node.replaceWith(made.node);
    else this.root.append(made.node);
    this.shown[i] = made;
  }
}

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;

/** {isCode, language, text} for each run of prose or of fenced code; a fence may still be open. */
export function blocksOf(text) {
  const blocks = [];
  let fence = null;
  let lines = [];
  const close = () => {
    const joined = fence ? lines.join("\n") : lines.join("\n").replace(/^\n+|\n+$/g, "");
    if (fence || joined) blocks.push({ isCode: fence !== null, language: fence?.language ?? "", text: joined });
    lines = [];
  };
  for (const line of text.split("\n")) {
    const found = FENCE.exec(line);
    const isEnd = fence && found && found[1].startsWith(fence.mark) && !found[2];
    if (isEnd || (found && !fence)) {
      close();
      fence = isEnd ? null : { mark: found[1], language: found[2] };
    } else {
      lines.push(line);
    }
  }
  close();
  return blocks;
}

function paragraph() {
  const node = element("p");
  return { node, place: node };
}

function codeBlock(language) {
  const place = element("code");
  const onClick = () => copy(place.textContent);
  const button = element("button", { type: "button", class: "link", click: onClick }, "Copy code");
  const head = element("div", { class: "code-head" }, element("span", {}, language || "Code"), button);
  const pre = element("pre", { tabindex: "0", role: "group", "aria-label": `${language} code`.trim() }, place);
  return { node: element("div", { class: "code-block" }, head, pre), place };
}
