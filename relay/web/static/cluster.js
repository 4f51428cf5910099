// The page of the cluster: its members, their totals, and the way to their dashboards.

import { Keyed, cell, find, make, mark, pageLink, show, write, writeLong } from "./dom.js";
import * as format from "./format.js";
import { Listing } from "./tables.js";

const sum = (values) => values.reduce((a, b) => a + b, 0);
const most = (values) => Math.max(...values); // members know the broadcasts of one another

/** Totals of a member, in the order of the columns: name, words, how a number is written, and that of the cluster. */
const TOTALS = [
  ["broadcasts", "Broadcasts", format.count, most, "Those that a member knows, most of all members"],
  ["sessions", "Sessions", format.count, sum, "A session between two relays counts at both"],
  ["viewers", "Viewers", format.count, sum, "Without relays, as on the overview"],
  ["received", "Received", format.rate, sum, "Also what relays receive from one another"],
  ["sent", "Sent", format.rate, sum, "Also what relays send to one another"],
];

function memberRow() {
  const node = make("a", { class: "line" });
  const state = make("span", { class: "tag" });
  const error = make("span", { class: "line quiet" });
  const age = cell("For", { class: "number" });
  const cells = TOTALS.map(([, label]) => cell(label, { class: "number" }));
  const link = make("a", { class: "line", rel: "noreferrer", target: "_blank" });
  const element = make("tr", { role: "row" }, make("th", { role: "rowheader", scope: "row" }, node),
    cell("State", {}, make("div", { class: "state" }, state, error)), age, ...cells, cell("Dashboard", {}, link));
  return {
    element,
    update({ member, now }) {
      mark(element, "data-peer", member.node);
      mark(element, "data-self", member.self ? "" : null);
      writeLong(node, member.node);
      mark(node, "href", member.session ? pageLink({ session: member.session }) : null);
      write(state, member.state);
      mark(state, "data-state", member.state);
      const how = member.dialled_by === "it" ? "dialled by the peer" : "";
      writeLong(error, member.error ?? (member.state === "connected" ? how : ""));
      write(age, member.since ? format.duration(now - member.since) : format.NONE);
      TOTALS.forEach(([name, , text], index) => write(cells[index], text(member.totals[name])));
      mark(cells[0], "title", member.offers?.length ? `offered to this relay:\n${member.offers.join("\n")}` : null);
      const url = member.self ? null : safe(member.dashboard);
      write(link, url ? "Open" : format.NONE);
      mark(link, "href", url);
      mark(link, "aria-label", url ? `Open the dashboard of ${member.node}` : null);
    },
  };
}

/** An address of the web, or null: a peer chooses what it sends. */
function safe(address) {
  try {
    const url = new URL(address);
    return ["http:", "https:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

export class ClusterPage {
  title = "Cluster";
  element = find("#cluster-page");

  /** `live` is the history of the totals of this relay. */
  constructor(live) {
    this.live = live;
    this.tiles = TOTALS.map(([name, label, , , about]) => {
      const value = make("dd", { "data-cluster-total": name }, format.NONE);
      find("[data-cluster=totals]").append(make("div", { title: about }, make("dt", {}, label), value));
      return value;
    });
    this.listing = new Listing("peers", new Keyed(find("#peers tbody"), memberRow), {
      key: ({ member }) => member.node,
      text: ({ member }) => [member.node, member.state, member.error].join("\n"),
      none: "This relay is in no cluster.",
      size: (items) => format.counted(items.length, "member"),
      columns: [
        ({ member }) => member.node,
        ({ member }) => member.state,
        ({ member, now }) => member.since && now - member.since,
        ...TOTALS.map(([name]) => ({ member }) => member.totals[name]),
        null,
      ],
    });
  }

  open() {
    find("#peers-title").focus({ preventScroll: true });
  }

  close() {}

  update({ relay, totals, peers }) {
    const rates = this.live.points.at(-1)?.gauges ?? {};
    const own = {
      self: true,
      node: relay.node ?? "this relay",
      state: relay.draining ? "draining" : "this relay",
      since: relay.since,
      totals: { ...totals, received: rates.received, sent: rates.sent },
    };
    const others = peers.map((peer) => ({ ...peer, totals: peer.totals ?? {} }));
    const members = peers.length ? [own, ...others] : [];
    this.listing.update(members.map((member) => ({ member, now: relay.now })));
    const incomplete = members.filter(({ totals: known }) => known.sessions === undefined).length;
    TOTALS.forEach(([name, , text, join], index) => {
      const known = members.map((member) => member.totals[name]).filter((value) => typeof value === "number");
      const value = known.length ? join(known) : null;
      write(this.tiles[index], text(value));
      mark(this.tiles[index], "data-value", value);
    });
    write(find("[data-cluster=missing]"), incomplete ? `Without ${format.counted(incomplete, "member")} of which nothing is known.` : "");
    show(find("[data-cluster=totals]"), members.length > 0);
  }
}
