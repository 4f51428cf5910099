// The page: queries the relay every second and shows the last minutes. Other modules do not query.

import * as api from "./api.js";
import { ClusterPage } from "./cluster.js";
import { copy, find, findAll, mark, show, write, writeLong } from "./dom.js";
import { EventLog, EventsPage } from "./events.js";
import * as format from "./format.js";
import { Health, TabIcon } from "./health.js";
import { Histories, History } from "./history.js";
import { Player } from "./player.js";
import { Publish } from "./publish.js";
import { SessionPage } from "./session.js";
import "./signin.js";
import { BroadcastTable, SessionTable, trackKey } from "./tables.js";
import { TotalCharts } from "./totals.js";
import { Watch } from "./watch.js";

const PERIOD = 1000; // milliseconds between queries
const LONGEST_PAUSE = 10_000; // between attempts without an answer
const REFUSED_PAUSE = 60_000; // without any permission
const BAR = 60; // pixels of the bar on top
const ASK_AGAIN = 60; // queries until a page without permission for /state tries again

const total = new History();
const tracks = new Histories();
const sessions = new Histories();

const broadcastTable = new BroadcastTable(tracks);
const sessionTable = new SessionTable(sessions);
const totalCharts = new TotalCharts(total);
const health = new Health();
const icon = new TabIcon();
const events = new EventLog();
const watch = new Watch(tracks);
const player = new Player();
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
    totalCharts.forget();
    events.forget();
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
  for (const session of state.sessions) {
    const { bytes_received, bytes_sent, skipped = 0, rtt } = session;
    sessions.of(session.session).push(now, { bytes_received, bytes_sent, skipped }, { rtt });
  }
  sessions.keep(new Set(state.sessions.map(({ session }) => session)));
  // Sums of rates: rates of sums would fall whenever a session closes.
  const first = total.points.length === 0;
  const sum = (histories, name) => (first ? null : histories.sum(name));
  total.push(now, {}, {
    sent: sum(sessions, "bytes_sent"),
    received: sum(sessions, "bytes_received"),
    groups: sum(tracks, "groups"),
    skipped: sum(sessions, "skipped"),
    viewers: state.totals.viewers,
    sessions: state.totals.sessions,
  });
}

// -- display

let name = location.host; // of the relay
let last = null; // the newest answer of /state, or null without permission

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
  totalCharts.draw(relay.now);
  broadcastTable.update(state.broadcasts, relay.now);
  sessionTable.update(state.sessions, relay.now);
  health.update(state.health ?? null);
  name = relay.node ?? location.host;
  show(find("[data-page=cluster]"), state.peers.length > 0 || relay.node !== null);
  show(find("[data-page=events]"), totalCharts.remembered !== null); // the same rights
  welcome(state.broadcasts, relay);
  note("");
}

/** Show or hide the parts that need /state. */
function know(all) {
  for (const element of findAll("[data-needs=state]")) show(element, all);
  for (const link of all ? [] : findAll("[data-page=events], [data-page=cluster]")) show(link, false);
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
  health.update(null);
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
    api.hasToken()
      ? "This token does not show sessions and rates; the relay's internal address does."
      : "Sessions and rates are shown on the relay's internal address, or with a token.",
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
  tab();
}

/** Title and icon of the tab, and the name on top. */
function tab() {
  const { status } = find("#status").dataset;
  const well = last?.health?.well;
  const condition = status === "unreachable" ? "gone" : well === undefined ? "unknown" : well ? "well" : "look";
  icon.show(name, condition, page.title);
  writeLong(field("name"), name);
}

/** Query and show. Returns the refusal if nothing is permitted. */
async function ask() {
  if (hidden > 0) hidden -= 1;
  else {
    try {
      const state = await api.state();
      last = state;
      remember(state);
      await Promise.allSettled([totalCharts.load(state.relay.now), page.ask?.()]); // without them the rest still counts
      display(state);
      page.update(state);
      publish.learn(state.broadcasts, state.relay);
      arrive();
      return null;
    } catch (error) {
      if (!(error instanceof api.Refused) || error.status >= 500) throw error;
      hidden = ASK_AGAIN;
      last = null;
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
  if (page === watch || page === player) page.update(null);
  publish.learn(broadcasts, null);
  if (refusal) {
    hidden = 0;
    show(find("#start"), false);
    for (const element of findAll("[data-total]")) write(element, format.NONE);
    note(refusal.advice + (api.hasToken() ? "" : " Or add ?path= with a public path to this page's address."));
  }
  return refusal;
}

let wake = () => {}; // ends the pause: a page was opened that needs an answer

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
    await new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, wait);
    });
  }
}

// -- pages, keys and buttons

/** Pages by the key in the address that opens them: `#session=7`, `#events`. Each has `open`, `close` and `update`;
 * `ask`, where it is there, queries more than /state. */
const overview = { title: "", element: find("#overview"), open() {}, close() {}, update() {} };
const words = { title: "Words", element: find("#words"), open: () => find("#words-title").focus({ preventScroll: true }), close() {}, update() {} };
const pages = {
  track: watch, // of a broadcast, which the address names, too
  broadcast: player,
  publish,
  session: new SessionPage(sessions, tracks, events),
  events: new EventsPage(events),
  cluster: new ClusterPage(total),
  words,
};
let page = overview;

let aim = null; // heading to scroll to, as soon as the rows above it are there

function arrive() {
  if (!aim || !last) return;
  aim.closest("section").scrollIntoView();
  aim.focus({ preventScroll: true });
  aim = null;
}

function navigate() {
  const query = new URLSearchParams(location.hash.slice(1));
  const key = Object.keys(pages).find((each) => query.has(each));
  page.close();
  page = pages[key] ?? overview;
  for (const each of [overview, ...Object.values(pages)]) show(each.element, each === page);
  for (const link of findAll(".pages a")) {
    mark(link, "aria-current", link.dataset.page === (key ?? (query.has("sessions") ? "sessions" : "overview")) ? "page" : null);
  }
  scrollTo(0, 0);
  page.open(query);
  if (last) page.update(last);
  aim = query.has("sessions") ? find("#sessions-title") : null;
  arrive();
  tab();
  wake();
}

const editable = (element) => element.matches("input, textarea, select, [contenteditable]");

/** "/" enters the filter that is in view; Esc clears it, and otherwise returns to the overview. */
function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || find("dialog[open]")) return;
  const { target, key } = event;
  if (key === "/" && !editable(target)) {
    const filters = findAll("[data-filter]").filter((filter) => filter.checkVisibility());
    const filter = filters.find((each) => each.getBoundingClientRect().bottom > BAR) ?? filters.at(-1);
    if (!filter) return;
    event.preventDefault();
    filter.focus();
    filter.select();
  } else if (key === "Escape" && target.matches("[data-filter]")) {
    event.preventDefault(); // the event for the changed text comes from here, in every browser
    if (target.value) {
      target.value = "";
      target.dispatchEvent(new Event("input"));
    } else target.blur();
  } else if (key === "Escape" && !editable(target) && !document.fullscreenElement && page !== overview) {
    location.hash = "";
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (!button) return;
  copy(button, find("code", button.parentElement).textContent);
});
function routes() {
  for (const link of findAll("[data-route]")) link.href = api.link(link.dataset.route);
}
routes();
api.changes.addEventListener("token", () => {
  hidden = 0; // with another token the state may be shown
  routes();
  wake();
});
document.addEventListener("keydown", press);
addEventListener("hashchange", navigate);
totalCharts.onchoose = () => wake();
navigate();
run();
