// The page: queries the relay every second and shows the last minutes. Other modules do not query.

import * as api from "./api.js";
import { TimeChart } from "./charts.js";
import { copy, find, findAll, mark, show, write, writeLong } from "./dom.js";
import * as format from "./format.js";
import { Histories, History } from "./history.js";
import { Publish } from "./publish.js";
import { BroadcastTable, PeerTable, SessionTable, trackKey } from "./tables.js";
import { Watch } from "./watch.js";

const PERIOD = 1000; // milliseconds between queries
const LONGEST_PAUSE = 10_000; // between attempts without an answer
const REFUSED_PAUSE = 60_000; // without any permission
const ASK_AGAIN = 60; // queries until a page without permission for /state tries again

const total = new History();
const tracks = new Histories();
const sessions = new Histories();

const broadcastTable = new BroadcastTable(tracks);
const sessionTable = new SessionTable(sessions);
const peerTable = new PeerTable();
const charts = find("#charts");
const traffic = new TimeChart(charts, {
  title: "Traffic",
  series: [{ label: "sent", colour: "sent" }, { label: "received", colour: "received" }],
  format: format.rate,
  axis: format.round(format.rate),
  least: 1000,
  sync: "overview",
});
const groups = new TimeChart(charts, {
  title: "Groups of all tracks",
  series: [{ label: "begun", colour: "groups" }],
  format: format.often,
  axis: format.perSecond,
  least: 1,
  sync: "overview",
});
const audience = new TimeChart(charts, {
  title: "Audience",
  series: [{ label: "sessions", colour: "sessions" }, { label: "viewers", colour: "viewers" }],
  format: format.count,
  least: 4,
  sync: "overview",
});
const watch = new Watch(tracks);
const publish = new Publish();

// -- state

let since = null; // start time of the relay
let hidden = 0; // queries left without /state

function remember(state) {
  const { now } = state.relay;
  if (since !== null && since !== state.relay.since) {
    total.clear(); // the relay was restarted
    tracks.keep(new Set());
    sessions.keep(new Set());
  }
  since = state.relay.since;
  const known = new Set();
  for (const broadcast of state.broadcasts) {
    for (const track of broadcast.tracks) {
      const key = trackKey(broadcast, track);
      known.add(key);
      tracks
        .of(key)
        .push(now, { bytes: track.received_bytes, groups: track.received_groups }, { viewers: track.viewers });
    }
  }
  tracks.keep(known);
  for (const { session, bytes_received, bytes_sent } of state.sessions) {
    sessions.of(session).push(now, { bytes_received, bytes_sent });
  }
  sessions.keep(new Set(state.sessions.map(({ session }) => session)));
  // Sums of rates: rates of sums would fall whenever a session closes.
  const first = total.points.length === 0;
  const sum = (histories, name) => (first ? null : histories.sum(name));
  total.push(now, {}, {
    sent: sum(sessions, "bytes_sent"),
    received: sum(sessions, "bytes_received"),
    groups: sum(tracks, "groups"),
    viewers: state.totals.viewers,
    sessions: state.totals.sessions,
  });
}

// -- display

const field = (name) => find(`[data-relay="${name}"]`);

function display(state) {
  know(true);
  const { relay, totals } = state;
  for (const [name, value] of Object.entries(totals)) {
    const element = find(`[data-total="${name}"]`);
    if (!element) continue;
    write(element, name.includes("bytes") ? format.bytes(value) : format.count(value));
    mark(element, "data-value", value);
  }
  write(field("version"), relay.draining ? `${relay.version}, draining` : relay.version);
  const listen = Object.entries(relay.listen).filter(([, addresses]) => addresses.length);
  writeLong(field("listen"), listen.map(([kind, addresses]) => `${KINDS[kind] ?? kind} ${addresses.join(", ")}`).join(" \u00b7 "));
  write(field("versions"), versions(relay.versions));
  mark(field("versions"), "title", relay.versions.join(", "));
  write(field("public"), access(relay.public));
  write(field("uptime"), format.duration(relay.now - relay.since));
  write(field("hop"), relay.hop);
  writeLong(field("node"), relay.node ?? "none (standalone)");
  fingerprint(relay.certificate);
  certificates(relay.certificates ?? [], relay.now);
  const columns = (...names) => total.columns(relay.now, names);
  traffic.draw(columns("sent", "received"));
  groups.draw(columns("groups"));
  audience.draw(columns("sessions", "viewers"));
  broadcastTable.update(state.broadcasts, relay.now);
  sessionTable.update(state.sessions, relay.now);
  peerTable.update(state.peers, relay.now);
  welcome(state.broadcasts, relay);
  note("");
}

/** Show or hide the parts that need /state. */
function know(all) {
  for (const element of findAll("[data-needs=state]")) show(element, all);
  mark(document.body, "data-announced", all ? null : "");
}

/** "moq-lite 01 to 06" for a range without gaps, else all names. */
function versions(names) {
  const numbers = names.map((name) => Number(/^moq-lite-(\d+)$/.exec(name)?.[1])).sort((a, b) => a - b);
  const gapless = numbers.length > 2 && numbers.every((number, index) => number === numbers[0] + index);
  const two = (number) => String(number).padStart(2, "0");
  return gapless ? `moq-lite ${two(numbers[0])} to ${two(numbers.at(-1))}` : names.join(", ");
}

const KINDS = { quic: "QUIC", http: "HTTP", https: "HTTPS" };

function access(anyone) {
  if (anyone === null) return "tokens only";
  const { publish, subscribe } = anyone;
  if (String(publish) === String(subscribe)) return `open to everyone${places(publish)}`;
  const parts = [["publish", publish], ["subscribe", subscribe]].filter(([, paths]) => paths.length);
  return `everyone may ${parts.map(([verb, paths]) => `${verb}${places(paths)}`).join(", ")}`;
}

/** Empty for all paths. */
function places(paths) {
  return paths.includes("") ? "" : ` under ${paths.map((path) => `/${path}`).join(", ")}`;
}

function displayAnnounced(broadcasts) {
  know(false);
  show(find("#peers"), false);
  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
  const known = {
    broadcasts: new Set(broadcasts.map(({ path }) => path)).size,
    tracks: sum(broadcasts.map((broadcast) => broadcast.tracks.length)),
    viewers: sum(broadcasts.map(({ viewers }) => viewers)),
  };
  for (const [name, value] of Object.entries(known)) {
    write(find(`[data-total="${name}"]`), format.count(value));
    mark(find(`[data-total="${name}"]`), "data-value", value);
  }
  broadcastTable.update(broadcasts, Date.now() / 1000);
  welcome(broadcasts, null);
  note(
    api.hasToken
      ? "The token in this page's address does not show sessions and rates; the relay's internal address does."
      : "Sessions and rates are shown on the relay's internal address, or with a token: ?jwt= in this page's address.",
  );
}

function note(text) {
  write(find("#note"), text);
  show(find("#note"), text !== "");
}

function fingerprint(text) {
  write(field("certificate"), text || "none");
  show(find('[data-copy="certificate"]'), Boolean(text));
}

/** Expiry of each certificate, marked if soon. */
function certificates(rows, now) {
  const element = field("ends");
  writeLong(element, rows.map((row) => `${row.name} ${format.ends(row, now)}`).join(" \u00b7 ") || "none");
  const invalid = (row) => now >= row.not_after || now < row.not_before;
  const soon = (row) => !row.generated && row.not_after - now < 14 * 86400;
  mark(element, "data-validity", rows.some(invalid) ? "bad" : rows.some(soon) ? "soon" : null);
}

/** First commands for a relay without broadcasts. */
function welcome(broadcasts, relay) {
  show(find("#start"), broadcasts.length === 0);
  show(find("#broadcasts"), broadcasts.length > 0);
  if (broadcasts.length > 0) return;
  const url = publicUrl(relay);
  write(find('[data-command="publish"]'), `moq-clock publish ${url}`);
  write(find('[data-command="watch"]'), `moq-clock watch ${url}`);
}

/** URL for clients: the HTTP port serves the certificate fingerprint if QUIC has the same number. */
function publicUrl(relay) {
  const port = (address) => address.slice(address.lastIndexOf(":") + 1);
  let base = location.origin;
  if (relay) {
    const quic = relay.listen.quic.map(port);
    const plain = relay.listen.http.map(port).find((number) => quic.includes(number));
    if (plain !== undefined) base = `http://${location.hostname}:${plain}`;
    else if (quic.length) base = `https://${location.hostname}:${quic[0]}`;
  }
  const both = relay ? open(relay.public) : "";
  if (both === undefined) return `"${base}/?jwt=$TOKEN"`;
  return `${base}/${both ? `${both}/` : ""}`;
}

/** A path with public publish and subscribe permission. */
function open(anyone) {
  const covers = (prefix, path) => !prefix || `${path}/`.startsWith(`${prefix}/`);
  return anyone?.publish.find((path) => anyone.subscribe.some((prefix) => covers(prefix, path)));
}

// -- queries

function report(status, text) {
  const element = find("#status");
  mark(element, "data-status", status);
  write(element, text);
  mark(document.body, "data-stale", status === "unreachable" ? "" : null);
}

/** Query and show. Returns the refusal if nothing is permitted. */
async function ask() {
  if (hidden > 0) hidden -= 1;
  else {
    try {
      const state = await api.state();
      remember(state);
      display(state);
      watch.update(state);
      publish.update(state.broadcasts, state.relay);
      return null;
    } catch (error) {
      if (!(error instanceof api.Refused) || error.status >= 500) throw error;
      hidden = ASK_AGAIN;
    }
  }
  let refusal = null;
  const [broadcasts, certificate] = await Promise.all([
    api.announced().catch((error) => {
      if (!error.final) throw error;
      refusal = error;
      return [];
    }),
    api.certificate().catch(() => ""),
  ]);
  displayAnnounced(broadcasts);
  fingerprint(certificate);
  watch.update(null);
  publish.update(broadcasts, null);
  if (refusal) {
    hidden = 0;
    show(find("#start"), false);
    for (const element of findAll("[data-total]")) write(element, format.NONE);
    note(refusal.advice + (api.hasToken ? "" : " Or add ?path= with a public path."));
  }
  return refusal;
}

async function run() {
  let lost = null;
  let pause = PERIOD;
  for (;;) {
    if (document.hidden) {
      report("paused", "paused");
      await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
      continue;
    }
    const start = performance.now();
    try {
      const refusal = await ask();
      lost = null;
      pause = refusal ? Math.min(pause * 2, REFUSED_PAUSE) : PERIOD;
      if (refusal) report("refused", "refused");
      else report("live", "live");
    } catch (error) {
      if (!lost) console.warn("no answer:", error);
      lost ??= Date.now();
      report("unreachable", `relay not reachable since ${format.clock(lost)}`);
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
    const wait = Math.max(PERIOD / 4, pause - (performance.now() - start));
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

// -- views and buttons

function navigate() {
  const query = new URLSearchParams(location.hash.slice(1));
  const watching = query.has("broadcast");
  const publishing = location.hash === "#publish";
  show(find("#overview"), !watching && !publishing);
  show(find("#watch"), watching);
  show(find("#publish"), publishing);
  scrollTo(0, 0);
  if (publishing) publish.open();
  else publish.close();
  if (watching) watch.open(query.get("broadcast"), query.get("track") ?? "");
  else watch.close();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (!button) return;
  copy(button, find("code", button.parentElement).textContent);
});
for (const link of findAll("[data-route]")) link.href = api.below(link.dataset.route);
addEventListener("hashchange", navigate);
navigate();
run();
