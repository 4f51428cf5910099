// Whether the relay is well: the strip on top of the overview, the title and the icon of the tab.

import { Keyed, find, make, mark, show, write } from "./dom.js";
import * as format from "./format.js";

const share = (value, limit, text) => (limit ? `${text(value)} of ${text(limit)}` : text(value));

/** The figures beside the verdict, of the last minute; null where the relay does not know. */
const FIGURES = [
  ["lag", ({ lag }) => `loop lag ${format.short(lag)}`],
  ["cpu", ({ cpu }) => `CPU ${format.percent(cpu)}`],
  ["memory", ({ memory, memory_limit: limit }) => `memory ${share(memory, limit, format.bytes)}`],
  ["skipped", ({ skipped }) => `skipped groups ${format.often(skipped)}`],
  ["refused", ({ refused }) => `refused ${format.count(Object.values(refused).reduce((a, b) => a + b, 0))}`],
  ["descriptors", ({ descriptors, descriptors_limit: limit }) => `descriptors ${share(descriptors, limit, format.count)}`],
  ["udp_drops", ({ udp_drops: drops }) => `dropped datagrams ${format.count(drops)}`],
  ["certificate_days", ({ certificate_days: days }) => `certificate for ${format.counted(Math.max(0, Math.floor(days)), "day")}`],
];

/** What a reason means and what to do, for people who see it for the first time. */
const EXPLANATIONS = {
  lag: "All sessions share one event loop, and it stood still for that long: viewers see a stall. If the CPU is high, the relay has too many sessions for its core; else other programs or a lack of memory pause it.",
  cpu: "The relay works on one core, and that core is full. Soon slow viewers lose groups. Spread the sessions over several relays of a cluster.",
  memory: "At the limit the system ends the process, and with it all sessions. Lower [limits] cache, or give the relay more memory.",
  skipped: "Groups that viewers were too slow for. Sort the sessions by what was skipped for them: if it is one or two, their own network is slow. If it is nearly all, it is the network or the processor of this machine.",
  refused: "Clients ask for more than limits or their rights allow, again and again. The page of events says who, and why.",
  descriptors: "When none is left, no TCP connection is accepted: no web page, and no viewer over WebSocket. Raise LimitNOFILE (ulimit -n) and restart.",
  udp_drops: "Packets came faster than the relay read them, and the system dropped some. They are sent again, late. If neither CPU nor loop lag is high, raise net.core.rmem_max and [server.quic] socket_buffer.",
  certificate: "Clients do not connect once it has ended. Renew it, and send SIGHUP to the relay, which interrupts no session.",
  draining: "Somebody stopped it. It serves its present clients until they have left, for [limits] drain seconds at most. There is nothing to do.",
  peers_down: "Broadcasts that only these relays have do not come here. The page of the cluster shows the last error: 401 is a wrong token, a timeout is a firewall or a relay that does not run.",
};

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
    const figures = FIGURES.filter(([name]) => (health.figures?.[name] ?? null) !== null);
    write(this.figures, figures.map(([, text]) => text(health.figures)).join(" \u00b7 "));
  }
}

// -- the tab

const SIZE = 64; // pixels of the icon
const DOTS = { well: "#22c55e", look: "#f59e0b", gone: "#ef4444", unknown: "#94a3b8" };

const HUES = [175, 205, 228, 265, 295, 328]; // degrees; not those of the dots

/** A hue by name, so that the tabs of several relays differ. */
function hue(name) {
  let hash = 0;
  for (const character of name) hash = (Math.imul(hash, 31) + character.codePointAt(0)) >>> 0;
  return HUES[((hash ^ (hash >>> 7)) >>> 0) % HUES.length];
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
