// The page of one session: rights, round trip, what it was too slow for, what it publishes; and the button to close it.

import * as api from "./api.js";
import { TimeChart } from "./charts.js";
import { Keyed, cell, find, make, mark, show, write, writeLong } from "./dom.js";
import { eventListing } from "./events.js";
import * as format from "./format.js";
import { Listing, rights, shownPath, trackKey, watchLink } from "./tables.js";

const field = (name) => find(`[data-session-page="${name}"]`);

/** Label, text, and explanation of each fact. */
const FACTS = [
  ["Remote", (session) => session.remote],
  ["Connection", (session) => `${session.transport}, ${session.version ?? "no version yet"}`],
  ["Path", (session) => `/${session.path}`],
  ["May publish", (session) => rights(session, session.publish)],
  ["May watch", (session) => rights(session, session.subscribe)],
  ["Connected for", (session, now) => format.duration(now - session.since)],
  ["Token", (session, now) => (session.expires ? `expires in ${format.duration(session.expires - now)}` : "none, or without end"),
    "The session is closed when its token expires"],
  ["Round trip", (session) => format.short(session.rtt), "Time of a packet to the client and back"],
  ["Watches", (session) => format.counted(session.subscriptions, "track")],
  ["Sends to the relay", (session) => format.counted(session.upstreams, "track")],
  ["Groups skipped for it", (session) => format.count(session.skipped), "Groups that its connection was too slow for"],
  ["Estimated capacity", (session) => format.rate(known(session.estimate) && session.estimate / 8), "What the network can carry toward the client"],
  ["Packets lost", (session) => format.count(session.lost), "Of those sent to the client, since the beginning"],
  ["Bytes received, sent", (session) => `${format.bytes(session.bytes_received)}, ${format.bytes(session.bytes_sent)}`],
  ["Refused", (session) => refusals(session.refused), "Requests and data that a limit refused"],
];

const known = (value) => (value === undefined ? null : value);

function refusals(refused) {
  const found = Object.entries(refused ?? {}).filter(([, number]) => number > 0);
  return found.map(([limit, number]) => `${limit}: ${format.count(number)}`).join(", ") || "nothing";
}

function publishedRow(histories) {
  const path = make("span", { class: "line" });
  const link = make("a", { class: "line" });
  const cells = ["Viewers", "Groups", "Rate", "Cached"].map((label) => cell(label, { class: "number" }));
  const element = make("tr", { role: "row" }, make("th", { role: "rowheader", scope: "row" }, path), cell("Track", {}, link), ...cells);
  return {
    element,
    update({ broadcast, track }) {
      writeLong(path, shownPath(broadcast.path));
      writeLong(link, track ? track.name || "(no name)" : "Watch a track\u2026");
      mark(link, "href", watchLink(broadcast.path, track?.name));
      const history = track && histories.of(trackKey(broadcast, track));
      const texts = track
        ? [format.count(track.viewers), format.often(history.rate("groups")), format.rate(history.rate("bytes", 3)), format.bytes(track.cached_bytes)]
        : cells.map(() => format.NONE);
      cells.forEach((element, index) => write(element, texts[index]));
    },
  };
}

export class SessionPage {
  element = find("#session");

  /** Histories of sessions and of tracks, and the log of events. */
  constructor(sessions, tracks, log) {
    Object.assign(this, { sessions, tracks, log, number: null });
    this.values = FACTS.map(([label, , about]) => {
      const value = make("dd", {}, format.NONE);
      field("facts").append(make("div", about ? { title: about } : {}, make("dt", {}, label), value));
      return value;
    });
    const charts = find("#session-charts");
    const options = { sync: "session" };
    this.charts = [
      [["bytes_sent", "bytes_received"], new TimeChart(charts, { title: "Traffic", ...options, format: format.rate,
        series: [{ label: "sent", colour: "sent" }, { label: "received", colour: "received" }],
        axis: format.round(format.rate), unit: format.MEGABIT, least: 0.01 * format.MEGABIT })],
      [["rtt"], new TimeChart(charts, { title: "Round trip", ...options, format: format.short,
        series: [{ label: "to the client and back", colour: "lag" }], axis: format.round(format.short), unit: 0.001, least: 0.01 })],
      [["skipped"], new TimeChart(charts, { title: "Skipped groups", ...options, format: format.often,
        series: [{ label: "skipped", colour: "skipped" }], axis: format.perSecond, least: 1 })],
    ];
    this.published = new Listing("session-broadcasts", new Keyed(find("#session-broadcasts tbody"), () => publishedRow(tracks)), {
      key: ({ broadcast, track }) => JSON.stringify([broadcast.path, track?.name ?? null]),
      none: "It publishes nothing.",
      columns: [
        ({ broadcast }) => broadcast.path,
        ({ track }) => track?.name,
        ({ track }) => track?.viewers,
        ({ broadcast, track }) => track && tracks.of(trackKey(broadcast, track)).rate("groups"),
        ({ broadcast, track }) => track && tracks.of(trackKey(broadcast, track)).rate("bytes", 3),
        ({ track }) => track?.cached_bytes,
      ],
    });
    this.events = eventListing("session-events", "None of the latest events is about this session.");
    const dialog = find("#closing");
    field("close").addEventListener("click", () => {
      write(field("question"), `Close session ${this.number}?`);
      dialog.returnValue = "cancel";
      dialog.showModal();
    });
    dialog.addEventListener("close", () => {
      if (dialog.returnValue === "close") this.#close();
    });
  }

  get title() {
    return Number.isNaN(this.number) ? "No session" : `Session ${this.number}`;
  }

  open(query) {
    this.number = Number(query.get("session"));
    this.found = null; // row of /state, the last known one if the session has ended
    this.closing = "";
    write(field("title"), this.title);
    for (const value of this.values) write(value, format.NONE);
    for (const [names, chart] of this.charts) chart.draw([[], ...names.map(() => [])]);
    this.#say("waiting", "Looking for the session.");
    field("title").focus({ preventScroll: true });
  }

  close() {
    find("#closing").close("cancel");
  }

  async ask() {
    await this.log.refresh();
  }

  update(state) {
    const { now } = state.relay;
    const session = state.sessions.find((each) => each.session === this.number);
    if (session) this.found = session;
    show(field("close"), Boolean(session) && state.relay.operator === true);
    const events = this.log.newestFirst.filter((event) => event.session === this.number);
    show(find("#session-events"), this.log.available);
    this.events.update(events);
    if (session) this.#say("following", this.closing || "Connected.");
    else this.#say("lost", this.#ended(events));
    if (!this.found) return;
    FACTS.forEach(([, text], index) => {
      if (session || !["Connected for"].includes(FACTS[index][0])) writeLong(this.values[index], text(this.found, now));
    });
    if (session) {
      const history = this.sessions.of(this.number);
      for (const [names, chart] of this.charts) {
        const columns = history.columns(now, names);
        show(chart.figure, columns[1].some((value) => value !== null));
        chart.draw(columns);
      }
    }
    const own = state.broadcasts.filter((broadcast) => broadcast.session === this.number);
    this.published.update(own.flatMap((broadcast) =>
      broadcast.tracks.length ? broadcast.tracks.map((track) => ({ broadcast, track })) : [{ broadcast }]));
  }

  #ended(events) {
    const left = events.find(({ kind }) => kind === "left");
    if (left) return `This session ended at ${format.clock(left.time * 1000)}${left.reason ? `: ${left.reason}` : ""}.`;
    return this.found ? "This session has ended." : "There is no session of this number, or it has ended.";
  }

  async #close() {
    const { number } = this;
    this.closing = "Closing.";
    this.#say("following", this.closing);
    try {
      await api.closeSession(number);
    } catch (error) {
      this.closing = error instanceof api.Refused ? `The relay did not close it: ${error.message}.` : "The relay did not answer.";
      if (number === this.number) this.#say("lost", this.closing);
    }
  }

  #say(state, text) {
    mark(field("state"), "data-state", state);
    write(field("state"), text);
  }
}
