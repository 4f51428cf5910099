// The tables of broadcasts, cluster peers and sessions: one row for each, updated in place.

import { Sparkline } from "./charts.js";
import { Keyed, cell, find, findAll, make, mark, pageLink, pair, show, write, writeLong } from "./dom.js";
import * as format from "./format.js";
import { wall } from "./wall.js";

const FEW = 50; // rows shown before "Show all"
const CALM = 5000; // milliseconds between two sorts of rows whose values change

export const trackKey = (broadcast, track) => JSON.stringify([broadcast.path, broadcast.session, track.name]);
export const watchLink = (broadcast, track = "") => pageLink({ broadcast, track });
export const playLink = (broadcast) => pageLink({ broadcast });
export const shownPath = (path) => path || "(empty path)";

const collator = new Intl.Collator("en", { numeric: true });

/** Sorts by one column. Values that are unknown come last in either direction. */
function comparison(value, falling) {
  const missing = (found) => found === null || found === undefined;
  return (a, b) => {
    const [one, other] = [value(a), value(b)];
    if (missing(one) || missing(other)) return missing(one) - missing(other);
    const order = typeof one === "string" ? collator.compare(one, other) : one - other;
    return falling ? -order : order;
  };
}

/** A table with a filter, a limit, a text for an empty list, and headers that sort.
 *
 * `columns` has a function from item to value for each header, or null where there is no order. Without a choice
 * of the reader the items keep the order in which they are given.
 */
export class Listing {
  constructor(name, keyed, { key, text, none, size, columns, few = FEW }) {
    Object.assign(this, { name, keyed, key, text, none, size, columns, few });
    this.all = false;
    this.sorted = null; // {column, falling}
    this.due = 0; // when rows may move again
    this.filter = find(`[data-filter="${name}"]`);
    this.button = find(`[data-all="${name}"]`);
    this.message = find(`[data-empty="${name}"]`);
    this.shown = find(`[data-shown="${name}"]`);
    const section = find(`#${name}`);
    this.table = find("table", section);
    this.items = [];
    this.filter?.addEventListener("input", () => this.redraw());
    this.button.addEventListener("click", () => {
      this.all = true;
      this.redraw();
    });
    this.#headers(findAll("thead th", this.table), section);
  }

  /** A button in each header; and one list of them, where the headers are not shown. */
  #headers(headers, section) {
    this.headers = headers;
    const choice = make("select", {}, make("option", { value: "" }, "Usual order"));
    headers.forEach((header, column) => {
      if (!this.columns[column]) return;
      const label = header.textContent;
      const button = make("button", { type: "button", class: "sort" }, label);
      button.addEventListener("click", () => this.#sort(column));
      header.replaceChildren(button);
      choice.append(make("option", { value: column }, `By ${label.toLowerCase()}`));
    });
    choice.addEventListener("change", () => {
      this.sorted = choice.value === "" ? null : { column: Number(choice.value), falling: this.#usually(choice.value) };
      this.#mark();
    });
    this.choice = choice;
    this.sorting = make("label", { class: "sorting" }, make("span", { class: "unseen" }, `Order of the ${this.name}`), choice);
    const head = find(".head", section);
    if (head) head.append(this.sorting);
    else section.insertBefore(this.sorting, this.table);
  }

  #usually(column) {
    return this.headers[column].classList.contains("number");
  }

  #sort(column) {
    const again = this.sorted?.column === column;
    this.sorted = { column, falling: again ? !this.sorted.falling : this.#usually(column) };
    this.choice.value = column;
    this.#mark();
  }

  #mark() {
    this.headers.forEach((header, column) => {
      const order = this.sorted?.column === column ? (this.sorted.falling ? "descending" : "ascending") : null;
      mark(header, "aria-sort", order);
    });
    this.redraw();
  }

  redraw() {
    this.due = 0;
    this.update(this.items);
  }

  /** Rows that move with every answer cannot be clicked: they move only now and then. */
  #order(found) {
    const now = performance.now();
    if (now < this.due) {
      const place = (item) => this.places.get(this.key(item)) ?? found.length;
      found.sort((a, b) => place(a) - place(b));
      return;
    }
    this.due = now + CALM;
    found.sort(comparison(this.columns[this.sorted.column], this.sorted.falling));
    this.places = new Map(found.map((item, index) => [this.key(item), index]));
  }

  update(items) {
    this.items = items;
    const words = (this.filter?.value ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    let found = items.filter((item) => words.every((word) => this.text(item).toLowerCase().includes(word)));
    if (this.matches) found = found.filter(this.matches);
    if (this.sorted) this.#order(found);
    const visible = this.all ? found : found.slice(0, this.few);
    this.keyed.sync(visible, this.key);
    show(this.table, found.length > 0);
    show(this.sorting, items.length > 2);
    show(this.message, found.length === 0);
    write(this.message, items.length ? "Nothing matches the filter." : this.none);
    show(this.button, visible.length < found.length);
    write(this.button, `Show all ${format.count(found.length)}`);
    if (this.shown) write(this.shown, found.length < items.length ? `${found.length} of ${items.length}` : this.size(items));
  }
}

// -- broadcasts

function trackRow(histories, broadcast) {
  const link = make("a");
  const upstream = make("span", { class: "tag" });
  const viewers = cell("Viewers", { class: "number" });
  const latest = cell("Latest group", { class: "number" });
  const groups = cell("Groups", { class: "number" });
  const rate = cell("Rate", { class: "number" });
  const spark = new Sparkline();
  const cache = cell("Cached", { class: "number" });
  const name = make("th", { role: "rowheader", scope: "row" }, make("span", { class: "track" }, link, upstream));
  const element = make("tr", { role: "row" }, name, viewers, latest, groups, rate,
    cell("Last minutes", { class: "sparkcell" }, spark.element), cache);
  return {
    element,
    update({ track, now }) {
      const history = histories.of(trackKey(broadcast, track));
      writeLong(link, track.name || "(no name)");
      mark(link, "href", watchLink(broadcast.path, track.name));
      mark(element, "data-track", track.name);
      write(upstream, track.upstream ?? "");
      show(upstream, Boolean(track.upstream) && track.upstream !== "open");
      const newest = track.groups?.at(-1);
      write(viewers, format.count(track.viewers));
      mark(viewers, "title", track.relays ? `and ${format.counted(track.relays, "relay")} with viewers of their own` : null);
      write(latest, track.latest === null || track.latest === undefined ? format.NONE : format.count(track.latest));
      mark(latest, "title", newest ? `began ${format.short(newest.age)} ago` : null);
      write(groups, format.often(history.rate("groups")));
      write(rate, format.rate(history.rate("bytes", 3)));
      spark.draw(history.columns(now, ["bytes"]));
      write(cache, track.groups ? `${format.counted(track.groups.length, "group")}, ${format.bytes(track.cached_bytes)}` : format.NONE);
    },
  };
}

const body = (attribute) => document.body.hasAttribute(attribute);
const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);

/** Values to sort by: of a track with its history, and of a broadcast, by default the sum of its tracks. */
const TRACK_COLUMNS = [
  { track: (track) => track.name, broadcast: (broadcast) => broadcast.path },
  { track: (track) => track.viewers },
  { track: (track) => track.latest ?? null, whole: (values) => Math.max(...values.map((value) => value ?? -1), -1) },
  { track: (_, history) => history.rate("groups") },
  { track: (_, history) => history.rate("bytes", 3) },
  null,
  { track: (track) => track.cached_bytes },
];

function broadcastRows(histories, item) {
  const { broadcast } = item;
  const title = make("a", { class: "path" });
  const session = make("a");
  const about = make("span");
  const fallback = make("span", { class: "tag", title: "Used as soon as the first publisher of this path is lost" }, "fallback");
  const other = make("a", { class: "other" }, "Watch a track\u2026");
  const head = make(
    "tr",
    { role: "row", class: "broadcast" },
    make("th", { role: "rowheader", scope: "rowgroup", colspan: "7" },
      make("div", {}, ...(broadcast.serving ? [wall.thumbnail(broadcast.path, playLink(broadcast.path))] : []), title, fallback,
        make("span", { class: "quiet" }, session, about), other)),
  );
  const element = make("tbody", { role: "rowgroup" }, head);
  const tracks = new Keyed(element, () => trackRow(histories, broadcast), { after: head });
  let listed = new Set(); // names of tracks
  return {
    element,
    update({ broadcast: current, now, listing: { sorted } }) {
      mark(element, "data-broadcast", current.path);
      writeLong(title, shownPath(current.path));
      mark(title, "href", playLink(current.path));
      show(fallback, !current.serving);
      mark(other, "href", watchLink(current.path));
      mark(other, "aria-label", `Watch a track of ${shownPath(current.path)}`);
      write(session, `session ${current.session}`);
      mark(session, "href", body("data-announced") ? null : pageLink({ session: current.session }));
      const facts = [""];
      if (current.hops.length > 1) facts.push(`over ${current.hops.length} hops`);
      if (current.viewers !== undefined) facts.push(format.counted(current.viewers, "viewer"));
      // a track that is there for the thumbnail alone would come and go
      const known = current.tracks.filter(({ name }) => listed.has(name) || !wall.reads(current.path, name));
      listed = new Set(known.map(({ name }) => name));
      if (known.length === 0) facts.push("no track requested yet");
      write(about, facts.join(", "));
      mark(about, "title", current.hops.length ? `hops: ${current.hops.join(" \u2192 ")}` : null);
      const order = sorted && comparison((track) => TRACK_COLUMNS[sorted.column].track(track, histories.of(trackKey(current, track))), sorted.falling);
      const ordered = order ? [...known].sort(order) : known;
      tracks.sync(ordered.map((track) => ({ track, now })), ({ track }) => track.name);
    },
  };
}

export class BroadcastTable {
  constructor(histories) {
    const table = find("#broadcasts table");
    this.listing = new Listing(
      "broadcasts",
      new Keyed(table, (item) => broadcastRows(histories, item), { after: find("thead", table) }),
      {
        key: ({ broadcast }) => JSON.stringify([broadcast.path, broadcast.session]),
        text: ({ broadcast }) => [broadcast.path, ...broadcast.tracks.map((track) => track.name)].join("\n"),
        none: "No broadcast is announced.",
        size: (items) => {
          const paths = new Set(items.map(({ broadcast }) => broadcast.path)).size;
          const more = items.length - paths;
          return format.count(paths) + (more ? `, and ${format.counted(more, "fallback")}` : "");
        },
        columns: TRACK_COLUMNS.map((column) => column && (({ broadcast }) =>
          column.broadcast?.(broadcast) ??
          (column.whole ?? sum)(broadcast.tracks.map((track) => column.track(track, histories.of(trackKey(broadcast, track))))))),
      },
    );
  }

  update(broadcasts, now) {
    const order = (a, b) =>
      (a.path < b.path ? -1 : a.path > b.path ? 1 : 0) || b.serving - a.serving || a.session - b.session;
    const listing = this.listing;
    listing.update([...broadcasts].sort(order).map((broadcast) => ({ broadcast, now, listing })));
  }
}

// -- sessions

/** Paths that a permission covers, as text: "everything", "/demo, /private" or "nothing". */
export function rights(session, prefixes) {
  if (!prefixes.length) return "nothing";
  const paths = prefixes.map((prefix) => [session.path, prefix].filter(Boolean).join("/"));
  return paths.includes("") ? "everything" : paths.map((path) => `/${path}`).join(", ");
}

/** The larger of both rates, for a line that has room for one. */
function brief(history) {
  const received = history.rate("bytes_received", 3);
  const sent = history.rate("bytes_sent", 3);
  return sent !== null && sent >= received ? format.rate(sent) : format.rate(received);
}

function sessionRow(histories) {
  const remote = pair();
  const path = pair();
  const gives = pair();
  const takes = pair();
  const received = pair();
  const sent = pair();
  const link = make("a");
  const from = make("span", { class: "line" });
  const rate = make("span", { class: "rate" });
  const more = make("button", { type: "button", class: "more", "aria-expanded": "false" });
  const head = make("th", { role: "rowheader", scope: "row" }, link, make("span", { class: "brief", "aria-hidden": "true" }, from, rate), more);
  const skipped = cell("Skipped", { class: "number" });
  const rtt = cell("Round trip", { class: "number" });
  const age = cell("For", { class: "number" });
  const two = (label, { main, aside }, kind = "") => cell(label, kind ? { class: kind } : {}, main, aside);
  const element = make("tr", { role: "row" }, head, two("Remote", remote), two("Path", path), two("Publishes", gives),
    two("Watches", takes, "number"), skipped, rtt, two("Received", received, "number"), two("Sent", sent, "number"), age);
  const open = (wanted) => {
    element.classList.toggle("open", wanted);
    mark(more, "aria-expanded", wanted);
  };
  head.addEventListener("click", (event) => {
    if (!event.target.closest("a")) open(!element.classList.contains("open"));
  });
  return {
    element,
    update({ session, now }) {
      const history = histories.of(session.session);
      mark(element, "data-session", session.session);
      write(link, String(session.session));
      mark(link, "href", pageLink({ session: session.session }));
      mark(link, "aria-label", `Session ${session.session}`);
      mark(more, "aria-label", `Details of session ${session.session}`);
      write(from, session.remote);
      write(rate, brief(history));
      writeLong(remote.main, session.remote);
      writeLong(remote.aside, `${session.transport}, ${session.version ?? "no version yet"}`);
      writeLong(path.main, `/${session.path}`);
      writeLong(path.aside, `may publish ${rights(session, session.publish)}; watch ${rights(session, session.subscribe)}`);
      writeLong(gives.main, session.publishing.map(shownPath).join(", ") || format.NONE);
      write(gives.aside, session.upstreams ? `${format.counted(session.upstreams, "track")} received` : "");
      write(takes.main, session.subscriptions ? format.counted(session.subscriptions, "track") : format.NONE);
      write(takes.aside, format.counted(session.streams, "stream"));
      write(skipped, format.count(session.skipped));
      write(rtt, format.short(session.rtt));
      write(received.main, format.rate(history.rate("bytes_received", 3)));
      write(received.aside, format.bytes(session.bytes_received));
      write(sent.main, format.rate(history.rate("bytes_sent", 3)));
      write(sent.aside, format.bytes(session.bytes_sent));
      write(age, format.duration(now - session.since));
    },
  };
}

export class SessionTable {
  constructor(histories) {
    const rate = (name) => ({ session }) => histories.of(session.session).rate(name, 3);
    this.listing = new Listing("sessions", new Keyed(find("#sessions tbody"), () => sessionRow(histories)), {
      key: ({ session }) => session.session,
      text: ({ session }) =>
        [session.session, session.remote, session.transport, session.version, session.path, ...session.publishing].join("\n"),
      none: "No sessions.",
      size: (items) => format.count(items.length),
      columns: [
        ({ session }) => session.session,
        ({ session }) => session.remote,
        ({ session }) => session.path,
        ({ session }) => session.publishing.join() || null,
        ({ session }) => session.subscriptions,
        ({ session }) => session.skipped,
        ({ session }) => session.rtt,
        rate("bytes_received"),
        rate("bytes_sent"),
        ({ session, now }) => now - session.since,
      ],
    });
  }

  update(sessions, now) {
    this.listing.update([...sessions].sort((a, b) => a.session - b.session).map((session) => ({ session, now })));
  }
}
