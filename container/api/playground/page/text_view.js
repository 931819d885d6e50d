/** A text of the model or of a person, as text: fenced code in <pre>, nothing else is interpreted. */

import { copy } from "./clipboard.js";
import { element } from "./element.js";

export class TextView {
  constructor() {
    this.root = element("div", { class: "text-view" });
    this.shown = [];
    this.text = "";
  }

  /** Show `text`; parts that stay the same keep their nodes, and so does a selection in them. */
  update(text) {
    if (text === this.text) return;
    // A text that has only grown is read on from the block before the last: the last may begin with half a line.
    const first = text.startsWith(this.text) ? Math.max(this.shown.length - 2, 0) : 0;
    const blocks = blocksOf(text, first && this.shown[first].start);
    this.text = text;
    blocks.forEach((block, i) => this.#show(block, first + i));
    for (const { node } of this.shown.splice(first + blocks.length)) node.remove();
  }

  #show(block, i) {
    const before = this.shown[i];
    if (before && before.isCode === block.isCode && before.language === block.language) {
      before.start = block.start;
      fill(before.place, block.text);
      return;
    }
    const made = { ...block, ...(block.isCode ? codeBlock(block.language) : paragraph()) };
    fill(made.place, block.text);
    if (before) before.node.replaceWith(made.node);
    else this.root.append(made.node);
    this.shown[i] = made;
  }
}

/** What has been added is appended: a selection in the text stays. */
function fill(place, text) {
  const node = place.firstChild;
  if (node && text.startsWith(node.data)) node.appendData(text.slice(node.data.length));
  else place.textContent = text;
}

const MARK = /^ {0,3}(`{3,}|~{3,})/;

/** {mark, language, isBare} of a line that is a fence, else null. Linear in the line: the marks alone are matched. */
function fenceOf(line) {
  const found = MARK.exec(line);
  if (!found) return null;
  const info = line.slice(found[0].length).trim();
  return info.includes("`") ? null : { mark: found[1], language: /^[\w+#.-]*/.exec(info)[0], isBare: !info };
}

/** {start, isCode, language, text} for each run of prose or of fenced code from `start`; a fence may still be open. */
export function blocksOf(text, start = 0) {
  const blocks = [];
  let open = { start, fence: null, lines: [] };
  let place = start;
  const begin = (next) => {
    blocks.push(...closed(open));
    open = next;
  };
  for (const line of text.slice(start).split("\n")) {
    const after = place + line.length + 1;
    const found = fenceOf(line);
    if (found && !open.fence) begin({ start: place, fence: found, lines: [] });
    else if (found?.isBare && found.mark.startsWith(open.fence.mark)) begin({ start: after, fence: null, lines: [] });
    else open.lines.push(line);
    place = after;
  }
  return [...blocks, ...closed(open)];
}

/** The block that `open` has become; none for prose without text. */
function closed({ start, fence, lines }) {
  if (fence) return [{ start, isCode: true, language: fence.language, text: lines.join("\n") }];
  const from = lines.findIndex((line) => line !== "");
  const to = lines.findLastIndex((line) => line !== "");
  return to < 0 ? [] : [{ start, isCode: false, language: "", text: lines.slice(from, to + 1).join("\n") }];
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
