// The latest events of the relay, and the page that lists them.

import * as api from "./api.js";
import { Keyed, cell, find, make, mark, pageLink, show, write, writeLong } from "./dom.js";
import * as format from "./format.js";
import { Listing, shownPath, watchLink } from "./tables.js";

const MOST = 200; // events kept

/** Of each kind a word, whole words, and whether it is good or bad news. */
const KINDS = {
  joined: ["joined", "session joined", "good"],
  left: ["left", "session left", "plain"],
  refused: ["refused", "session or request refused", "warn"],
  announced: ["announced", "broadcast announced", "good"],
  ended: ["ended", "broadcast ended", "plain"],
  peer_up: ["peer connected", "relay of the cluster connected", "good"],
  peer_down: ["peer lost", "relay of the cluster lost", "bad"],
  drain: ["drain", "drain: the relay is about to end", "warn"],
};

const kindOf = (kind) => KINDS[kind] ?? [kind, kind, "plain"];
const words = (kind) => kindOf(kind)[1];

/** The events that the relay has told so far. Events that are alike are one, with their `count`; the newest replaces
 * those with the same `first`. */
export class EventLog {
  constructor() {
    this.events = []; // oldest first
    this.available = true;
  }

  /** After a restart of the relay, which counts anew. */
  forget() {
    this.events = [];
    this.available = true;
  }

  /** Ask for new ones. */
  async refresh() {
    if (!this.available) return;
    const answer = await api.events(this.events.at(-1)?.number ?? 0);
    this.available = answer !== null;
    const last = this.events.at(-1)?.number ?? 0;
    const fresh = (answer?.events ?? []).filter(({ number }) => number > last);
    if (!fresh.length) return;
    const known = new Map([...this.events, ...fresh].map((event) => [event.first ?? event.number, event])); // see `count`
    this.events = [...known.values()].sort((a, b) => a.number - b.number).slice(-MOST);
  }

  get newestFirst() {
    return [...this.events].reverse();
  }
}

function eventRow() {
  const time = cell("Time", { class: "mono" });
  const kind = make("span", { class: "tag" });
  const session = make("a");
  const remote = make("span", { class: "line quiet" });
  const path = make("a", { class: "line" });
  const reason = make("span", { class: "line" });
  const element = make("tr", { role: "row" }, time, cell("Event", {}, kind), cell("Session", {}, session, remote),
    cell("Path", {}, path), cell("Reason", {}, reason));
  let filled = false;
  return {
    element,
    update(event) {
      if (filled) return; // an event does not change
      filled = true;
      mark(element, "data-event", event.number);
      write(time, format.clock(event.time * 1000));
      mark(time, "title", new Date(event.time * 1000).toLocaleString());
      const [word, whole, tone] = kindOf(event.kind);
      write(kind, event.count > 1 ? `${format.count(event.count)} \u00d7 ${word}` : word);
      mark(kind, "title", whole);
      mark(kind, "data-tone", tone);
      if (event.session !== null) {
        write(session, `session ${event.session}`);
        mark(session, "href", pageLink({ session: event.session }));
      }
      writeLong(remote, event.remote ?? "");
      if (event.path !== null) {
        writeLong(path, shownPath(event.path));
        if (["announced", "ended"].includes(event.kind)) mark(path, "href", watchLink(event.path));
      }
      writeLong(reason, event.reason ?? "");
    },
  };
}

const ORDER = [
  (event) => event.number,
  (event) => words(event.kind),
  (event) => event.session,
  (event) => event.path,
  (event) => event.reason || null,
];

/** A table of events in the section `#name`. */
export function eventListing(name, none) {
  return new Listing(name, new Keyed(find(`#${name} tbody`), eventRow), {
    key: (event) => event.number,
    text: (event) => [words(event.kind), `session ${event.session}`, event.remote, event.path, event.reason].join("\n"),
    none,
    size: (items) => (items.length === MOST ? `the latest ${MOST}` : format.count(items.length)),
    columns: ORDER,
  });
}

export class EventsPage {
  title = "Events";
  element = find("#events-page");

  constructor(log) {
    this.log = log;
    this.listing = eventListing("events", "Nothing has happened yet.");
    this.choice = find("[data-kind=events]");
    for (const [kind, [, label]] of Object.entries(KINDS)) this.choice.append(make("option", { value: kind }, label));
    this.choice.addEventListener("change", () => this.listing.redraw());
    this.listing.matches = (event) => !this.choice.value || event.kind === this.choice.value;
  }

  open() {
    find("#events-title").focus({ preventScroll: true });
  }

  close() {}

  async ask() {
    await this.log.refresh();
    show(find("#events-page > section"), this.log.available);
  }

  update() {
    this.listing.update(this.log.newestFirst);
  }
}
