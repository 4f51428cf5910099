// The tables of broadcasts, cluster peers and sessions: one row for each, updated in place.

import { Sparkline } from "./charts.js";
import { Keyed, cell, find, make, mark, pair, show, write, writeLong } from "./dom.js";
import * as format from "./format.js";

const FEW = 50; // rows shown before "Show all"

export const trackKey = (broadcast, track) => JSON.stringify([broadcast.path, broadcast.session, track.name]);
export const watchLink = (broadcast, track = "") => `#${new URLSearchParams({ broadcast, track })}`;
export const playLink = (broadcast) => `#${new URLSearchParams({ broadcast })}`;
export const shownPath = (path) => path || "(empty path)";

/** A list with a filter, a limit and a text for an empty list. */
class Listing {
  constructor(name, keyed, { key, text, none, size }) {
    Object.assign(this, { name, keyed, key, text, none, size });
    this.all = false;
    this.filter = find(`[data-filter="${name}"]`);
    this.button = find(`[data-all="${name}"]`);
    this.message = find(`[data-empty="${name}"]`);
    this.shown = find(`[data-shown="${name}"]`);
    this.table = find("table", find(`#${name}`));
    this.items = [];
    this.filter.addEventListener("input", () => this.update(this.items));
    this.button.addEventListener("click", () => {
      this.all = true;
      this.update(this.items);
    });
  }

  update(items) {
    this.items = items;
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = words.length
      ? items.filter((item) => words.every((word) => this.text(item).toLowerCase().includes(word)))
      : items;
    const visible = this.all ? found : found.slice(0, FEW);
    this.keyed.sync(visible, this.key);
    show(this.table, found.length > 0);
    show(this.message, found.length === 0);
    write(this.message, items.length ? "Nothing matches the filter." : this.none);
    show(this.button, visible.length < found.length);
    write(this.button, `Show all ${format.count(found.length)}`);
    write(this.shown, found.length < items.length ? `${found.length} of ${items.length}` : this.size(items));
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

function broadcastRows(histories, item) {
  const { broadcast } = item;
  const title = make("a", { class: "path" });
  const about = make("span", { class: "quiet" });
  const fallback = make("span", { class: "tag" }, "fallback");
  const other = make("a", { class: "other" }, "Watch a track\u2026");
  const head = make(
    "tr",
    { role: "row", class: "broadcast" },
    make("th", { role: "rowheader", scope: "rowgroup", colspan: "7" },
      make("div", {}, title, fallback, about, other)),
  );
  const element = make("tbody", { role: "rowgroup" }, head);
  const tracks = new Keyed(element, () => trackRow(histories, broadcast), { after: head });
  return {
    element,
    update({ broadcast: current, now }) {
      mark(element, "data-broadcast", current.path);
      writeLong(title, shownPath(current.path));
      mark(title, "href", playLink(current.path));
      show(fallback, !current.serving);
      mark(other, "href", watchLink(current.path));
      mark(other, "aria-label", `Watch a track of ${shownPath(current.path)}`);
      const facts = [`session ${current.session}`];
      if (current.hops.length > 1) facts.push(`over ${current.hops.length} hops`);
      if (current.viewers !== undefined) facts.push(format.counted(current.viewers, "viewer"));
      if (current.tracks.length === 0) facts.push("no track requested yet");
      write(about, facts.join(", "));
      mark(about, "title", current.hops.length ? `hops: ${current.hops.join(" \u2192 ")}` : null);
      tracks.sync(current.tracks.map((track) => ({ track, now })), ({ track }) => track.name);
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
      },
    );
  }

  update(broadcasts, now) {
    const order = (a, b) =>
      (a.path < b.path ? -1 : a.path > b.path ? 1 : 0) || b.serving - a.serving || a.session - b.session;
    this.listing.update([...broadcasts].sort(order).map((broadcast) => ({ broadcast, now })));
  }
}

// -- sessions

const rights = (prefixes) => (prefixes.length ? prefixes.map((prefix) => `/${prefix}`).join(", ") : "nothing");

function sessionRow(histories) {
  const remote = pair();
  const path = pair();
  const gives = pair();
  const takes = pair();
  const received = pair();
  const sent = pair();
  const number = make("th", { role: "rowheader", scope: "row", "data-label": "Session" });
  const rtt = cell("Round trip", { class: "number" });
  const age = cell("For", { class: "number" });
  const two = (label, { main, aside }, kind = "") => cell(label, kind ? { class: kind } : {}, main, aside);
  const element = make("tr", { role: "row" }, number, two("Remote", remote), two("Path", path), two("Publishes", gives),
    two("Watches", takes, "number"), rtt, two("Received", received, "number"), two("Sent", sent, "number"), age);
  return {
    element,
    update({ session, now }) {
      const history = histories.of(session.session);
      mark(element, "data-session", session.session);
      write(number, String(session.session));
      writeLong(remote.main, session.remote);
      writeLong(remote.aside, `${session.transport}, ${session.version ?? "no version yet"}`);
      writeLong(path.main, `/${session.path}`);
      writeLong(path.aside, `may publish ${rights(session.publish)}; watch ${rights(session.subscribe)}`);
      writeLong(gives.main, session.publishing.map(shownPath).join(", ") || format.NONE);
      write(gives.aside, session.upstreams ? `${format.counted(session.upstreams, "track")} received` : "");
      write(takes.main, session.subscriptions ? format.counted(session.subscriptions, "track") : format.NONE);
      write(takes.aside, format.counted(session.streams, "stream"));
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
    this.listing = new Listing("sessions", new Keyed(find("#sessions tbody"), () => sessionRow(histories)), {
      key: ({ session }) => session.session,
      text: ({ session }) =>
        [session.session, session.remote, session.transport, session.version, session.path, ...session.publishing].join("\n"),
      none: "No sessions.",
      size: (items) => format.count(items.length),
    });
  }

  update(sessions, now) {
    this.listing.update([...sessions].sort((a, b) => a.session - b.session).map((session) => ({ session, now })));
  }
}

// -- cluster

function peerRow() {
  const node = make("span", { class: "line" });
  const state = make("span", { class: "tag" });
  const error = make("span", { class: "line quiet" });
  const age = cell("For", { class: "number" });
  const broadcasts = cell("Broadcasts", { class: "number" });
  const element = make("tr", { role: "row" }, make("th", { role: "rowheader", scope: "row" }, node),
    cell("State", {}, make("div", { class: "state" }, state, error)), age, broadcasts);
  return {
    element,
    update({ peer, now }) {
      mark(element, "data-peer", peer.node);
      writeLong(node, peer.node);
      write(state, peer.state);
      mark(state, "data-state", peer.state);
      const how = peer.dialled_by === "it" ? "dialled by the peer" : "";
      writeLong(error, peer.error ?? (peer.state === "connected" ? how : ""));
      write(age, peer.since ? format.duration(now - peer.since) : format.NONE);
      write(broadcasts, format.count(peer.broadcasts));
      mark(broadcasts, "title", (peer.offers ?? []).join("\n"));
    },
  };
}

export class PeerTable {
  constructor() {
    this.keyed = new Keyed(find("#peers tbody"), peerRow);
  }

  update(peers, now) {
    show(find("#peers"), peers.length > 0);
    write(find('[data-shown="peers"]'), format.counted(peers.length, "other relay"));
    this.keyed.sync(peers.map((peer) => ({ peer, now })), ({ peer }) => peer.node);
  }
}
