// Whether the relay is well: the strip on top of the overview, the title and the icon of the tab.

import { Keyed, find, make, mark, show, write } from "./dom.js";
import * as format from "./format.js";

/** The figures beside the verdict: words, and how the number is written. */
const FIGURES = {
  lag: ["loop lag", format.short],
  cpu: ["CPU", format.percent],
  memory: ["memory", format.bytes],
  skipped: ["skipped groups", format.count],
  refused: ["refused", format.count],
  descriptors: ["descriptors", format.count],
  udp_drops: ["UDP drops", format.count],
  certificate_days: ["certificate for", (days) => format.counted(Math.floor(days), "day")],
};

/** What a reason means and what to do, for people who see it for the first time. */
const EXPLANATIONS = {};

/** "docs/operations.md#loop-lag" as "docs/operations.md, Loop lag". */
function place(doc) {
  const [file, anchor = ""] = doc.split("#");
  const words = anchor.replaceAll("-", " ");
  return words ? `${file}, ${words[0].toUpperCase()}${words.slice(1)}` : file;
}

function reasonRow() {
  const text = make("summary");
  const explanation = make("p");
  const doc = make("code");
  const more = make("p", { class: "copying" }, "Documentation: ", doc,
    make("button", { type: "button", "data-copy": "doc", "aria-label": "Copy the name of the document" }, "Copy"));
  const element = make("li", {}, make("details", {}, text, explanation, more));
  return {
    element,
    update(reason) {
      mark(element, "data-reason", reason.kind);
      write(text, reason.text);
      write(explanation, EXPLANATIONS[reason.kind] ?? "");
      show(explanation, reason.kind in EXPLANATIONS);
      write(doc, reason.doc ? place(reason.doc) : "");
      show(more, Boolean(reason.doc));
    },
  };
}

export class Health {
  constructor() {
    this.section = find("#health");
    this.title = find("#health-title");
    this.figures = find("[data-health=figures]");
    this.list = find("[data-health=reasons]");
    this.rows = new Keyed(this.list, reasonRow);
  }

  /** `health` of /state, or null if it is not known. */
  update(health) {
    show(this.section, health !== null);
    if (health === null) return;
    const { well, reasons } = health;
    mark(this.section, "data-well", well);
    write(this.title, well ? "The relay is well" : `Look here: ${format.counted(reasons.length, "thing")} to see to`);
    this.rows.sync(reasons, ({ kind, text }) => `${kind} ${reasons.filter((each) => each.kind === kind).length > 1 ? text : ""}`);
    show(this.list, reasons.length > 0);
    const figures = Object.entries(FIGURES).filter(([name]) => typeof health.figures?.[name] === "number");
    write(this.figures, figures.map(([name, [words, text]]) => `${words} ${text(health.figures[name])}`).join(" \u00b7 "));
  }
}

// -- the tab

const SIZE = 64; // pixels of the icon
const DOTS = { well: "#22c55e", look: "#f59e0b", gone: "#ef4444", unknown: "#94a3b8" };

/** A hue for each name, so that the tabs of several relays differ. */
function hue(name) {
  let sum = 0;
  for (const character of name) sum = (sum * 31 + character.codePointAt(0)) % 360;
  return sum;
}

/** Title and icon of the tab, drawn again only if something has changed. */
export class TabIcon {
  constructor() {
    this.link = find("#icon");
    this.picture = new Image(SIZE, SIZE);
    this.picture.src = this.link.href;
    this.drawn = "";
    this.url = null;
  }

  /** `name` of the relay, `condition` a key of DOTS, `page` the title of a page or "". */
  show(name, condition, page) {
    const sign = { look: "(!) ", gone: "(\u00d7) " }[condition] ?? "";
    const title = `${sign}${page ? `${page} \u00b7 ` : ""}${name} \u00b7 moq-relay`;
    if (document.title !== title) document.title = title;
    const wanted = `${condition} ${name}`;
    if (wanted === this.drawn) return;
    this.drawn = wanted;
    mark(document.documentElement, "data-condition", condition);
    this.#draw(wanted, hue(name), DOTS[condition]);
  }

  async #draw(wanted, degrees, dot) {
    await this.picture.decode();
    const canvas = make("canvas", { width: SIZE, height: SIZE });
    const pen = canvas.getContext("2d");
    pen.drawImage(this.picture, 0, 0, SIZE, SIZE);
    pen.globalCompositeOperation = "hue"; // white stays white
    pen.fillStyle = `hsl(${degrees} 80% 50%)`;
    pen.fillRect(0, 0, SIZE, SIZE);
    pen.globalCompositeOperation = "destination-in";
    pen.drawImage(this.picture, 0, 0, SIZE, SIZE); // the corners are transparent again
    pen.globalCompositeOperation = "source-over";
    pen.beginPath();
    pen.arc(SIZE - 16, SIZE - 16, 16, 0, 2 * Math.PI);
    pen.fillStyle = "#fff";
    pen.fill();
    pen.beginPath();
    pen.arc(SIZE - 16, SIZE - 16, 12, 0, 2 * Math.PI);
    pen.fillStyle = dot;
    pen.fill();
    const blob = await new Promise((resolve) => canvas.toBlob(resolve));
    if (wanted !== this.drawn || !blob) return; // a newer one is being drawn
    const former = this.url;
    this.url = URL.createObjectURL(blob);
    mark(this.link, "type", "image/png");
    mark(this.link, "href", this.url);
    if (former) URL.revokeObjectURL(former);
  }
}
