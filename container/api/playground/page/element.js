/** DOM nodes from data. Text becomes text nodes, never markup. */

const SVG = "http://www.w3.org/2000/svg";

/** The node of the page with this id. */
export const byId = (id) => document.getElementById(id);

/** A new element. `attributes` with a false or missing value are left out; functions are listeners, `true` is "". */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
export function drawing(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** One of the symbols that index.html holds. */
export function icon(name) {
  return drawing("svg", { "aria-hidden": "true", focusable: "false" }, drawing("use", { href: `#icon-${name}` }));
}

/** A button with an icon and a name for those who do not see it. */
export function iconButton(name, label, onClick) {
  return element("button", { type: "button", "aria-label": label, title: label, click: onClick }, icon(name));
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}
