// Elements and rows that are updated in place. Untrusted text never becomes markup.

export const find = (selector, root = document) => root.querySelector(selector);
export const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];

/** An element with attributes and children; a string becomes a text node. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Set text if it differs: an unchanged node costs no layout. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** The same for an attribute; null removes it. */
export function mark(element, name, value) {
  if (value === null) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) {
    element.setAttribute(name, value);
  }
}

export function show(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

/** Text that may be truncated, complete in its tooltip. */
export function writeLong(element, text) {
  write(element, text);
  mark(element, "title", text || null);
}

/** Children of an element, kept in step with a list by key. */
export class Keyed {
  /** `create(item)` gives {element, update(item)}; `after` is the child before them, if any. */
  constructor(parent, create, { after = null } = {}) {
    this.parent = parent;
    this.create = create;
    this.after = after;
    this.rows = new Map();
  }

  sync(items, keyOf) {
    const wanted = new Map(items.map((item) => [keyOf(item), item]));
    for (const [key, row] of this.rows) {
      if (!wanted.has(key)) {
        row.element.remove();
        this.rows.delete(key);
      }
    }
    const focused = this.parent.contains(document.activeElement) ? document.activeElement : null;
    let next = this.after ? this.after.nextSibling : this.parent.firstChild;
    for (const [key, item] of wanted) {
      let row = this.rows.get(key);
      if (!row) this.rows.set(key, (row = this.create(item)));
      row.update(item);
      if (row.element === next) next = next.nextSibling;
      else this.parent.insertBefore(row.element, next);
    }
    if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true }); // it was moved
  }
}

/** A cell with its column name, for the card layout. */
export function cell(label, attributes = {}, ...children) {
  return make("td", { role: "cell", "data-label": label, ...attributes }, ...children);
}

/** Two lines in a cell: the value and its explanation. */
export function pair() {
  const main = make("span", { class: "line" });
  const aside = make("span", { class: "line quiet" });
  return { main, aside };
}

/** Copy text, and confirm it on the button. */
export async function copy(button, text) {
  let done = false;
  try {
    await navigator.clipboard.writeText(text);
    done = true;
  } catch {
    done = copyOldWay(text); // no clipboard outside of secure contexts: http:// to another machine
  }
  write(button, done ? "Copied" : "Failed");
  setTimeout(() => write(button, "Copy"), 2000);
  button.focus();
}

function copyOldWay(text) {
  const field = make("textarea", { class: "unseen", readonly: "" });
  field.value = text;
  document.body.append(field);
  field.select();
  try {
    return document.execCommand("copy");
  } finally {
    field.remove();
  }
}

/** The address of a page of the dashboard: `{session: 7}` gives "#session=7". */
export const pageLink = (query) => `#${new URLSearchParams(query)}`;
