// The view that publishes from this browser: choose a source, see it, name the broadcast, go live.
// A broadcast goes on while other views of the page are shown.

import * as api from "./api.js";
import { find, make, mark, show, write } from "./dom.js";
import * as format from "./format.js";
import { Broadcast, KEY_INTERVAL } from "./publish-encoder.js";
import { Publication } from "./publish-publication.js";
import { TestPicture, advice, obstacle, openCamera, openScreen } from "./publish-source.js";
import { FoldedShare, Share } from "./share.js";
import { playLink } from "./tables.js";

const PERIOD = 500; // milliseconds between two drawings of the figures
const RATE_TIME = 3000; // milliseconds that a rate is of

const CHOOSE = "Choose what to publish. Nothing is sent before you go live.";
const PREVIEWED = "This is what will be published. Nothing is sent yet.";

const SOURCES = [
  { kind: "camera", label: "Camera", hint: "and microphone", open: openCamera },
  { kind: "screen", label: "Screen", hint: "a screen, a window or a tab", open: openScreen },
  { kind: "test", label: "Test picture", hint: "a clock, colours and a beep", open: async (options) => new TestPicture(options) },
];

const field = (name) => find(`[data-publish="${name}"]`);

/** Slashes as the relay has them. */
const normalize = (path) => path.split("/").map((part) => part.trim()).filter(Boolean).join("/");

/** What is wrong with a path, or null. */
function fault(path) {
  if (!path) return "The broadcast needs a name, such as live/camera.";
  if (path.length > 500) return "That name is too long.";
  // eslint-disable-next-line no-control-regex
  if (/[\u0000-\u001f\u007f]/.test(path)) return "The name has characters that cannot be shown.";
  if (path.split("/").some((part) => part === "." || part === "..")) return "A part of the name cannot be a dot or two.";
  return null;
}

export class Publish {
  element = find("#publish");
  title = "Publish";

  constructor() {
    this.source = null; // that is previewed or published
    this.broadcast = null;
    this.publication = null;
    this.relay = null; // part of /state
    this.known = new Map(); // viewers of each path that is published
    this.named = false; // the person has typed a name
    this.rates = []; // [time, bytes, pictures]
    this.#build();
    this.share = new Share(find(".sharing", this.element));
    this.folded = new FoldedShare(find("#share"));
  }

  // -- elements

  #build() {
    const tile = (name, label, title) => {
      const element = make("div", {}, make("dt", {}, label), make("dd", { "data-publish": name }, format.NONE));
      if (title) element.title = title;
      return element;
    };
    this.sound = make("input", { type: "checkbox", name: "sound", checked: "" });
    this.name = make("input", { name: "path", required: "", autocomplete: "off", autocapitalize: "off", spellcheck: "false" });
    const form = make("form", { id: "go-live" },
      make("label", {}, "Broadcast ", this.name),
      make("label", { class: "tick" }, this.sound, " Sound"),
      make("button", { type: "submit", class: "main", "data-publish": "go" }, "Go live"),
      make("button", { type: "button", class: "stop", "data-publish": "stop", hidden: "" }, "Stop"),
      make("a", { class: "button", "data-publish": "watch", hidden: "" }, "Watch"));
    this.element.append(
      make("h1", { tabindex: "-1" }, "Publish from this browser"),
      make("p", { class: "note", "data-publish": "obstacle", hidden: "" }),
      make("div", { class: "sources", "data-publish": "sources" }, ...sourceButtons((source) => this.#choose(source))),
      form,
      make("p", { class: "publishing", "data-publish": "state", role: "status" }),
      make("div", { class: "split", "data-publish": "stage", hidden: "" },
        make("section", { class: "card", "aria-label": "Preview" }, make("div", { class: "preview", "data-publish": "preview" })),
        make("section", { class: "column" },
          make("dl", { class: "tiles", "aria-label": "The broadcast" },
            tile("viewers", "Viewers", "Sessions that watch this broadcast on this relay"),
            tile("rate", "Bitrate", "Pictures and sound, before anything is sent"),
            tile("fps", "Frame rate"),
            tile("size", "Picture"),
            tile("codec", "Codec"),
            tile("key", "Key frames", "A group begins with each key frame"),
            tile("backlog", "Not sent yet", "Bytes that wait for the network"),
            tile("dropped", "Dropped", "Pictures left out because the network or the encoder was too slow")),
          make("section", { class: "card", "data-publish": "share", hidden: "" },
            make("h2", {}, "Watch on another device"), make("div", { class: "sharing" })))));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#go();
    });
    this.name.addEventListener("input", () => {
      this.named = true;
      this.#hint();
    });
    field("stop").addEventListener("click", () => this.stop());
    addEventListener("pagehide", () => this.publication && this.stop()); // withdrawn at once, instead of missed
    const slot = find("#start [data-start=publish]");
    slot?.append(make("p", {}, "Publish from this browser:"), make("div", { class: "sources" }, ...sourceButtons((source) => {
      location.hash = "#publish"; // shows this view, in a later turn
      this.opened = true;
      this.#choose(source);
    })));
    this.badge = make("a", { class: "on-air", href: "#publish", hidden: "" }, make("span", { class: "line" }));
    find("#token").before(this.badge);
    this.#draw();
  }

  // -- the page

  open() {
    this.opened = true;
    const problem = obstacle();
    show(field("obstacle"), problem !== null);
    if (problem !== null) field("obstacle").replaceChildren(...explain(problem));
    for (const button of field("sources").children) button.disabled = problem !== null;
    this.#suggest();
    if (!this.source && problem === null) this.#say("", CHOOSE);
    this.#draw();
    find("h1", this.element).focus({ preventScroll: true });
  }

  close() {
    this.opened = false;
    if (!this.publication) this.#release(); // a camera that is not published must not stay on
  }

  update() {}

  /** Broadcasts in the form of /state, each second on every page, and the part about the relay; null if unknown. */
  learn(broadcasts, relay) {
    this.relay = relay;
    this.known = new Map();
    mark(field("viewers"), "title", relay ? null : "Summed over tracks: who watches pictures and sound counts for each");
    for (const { path, viewers, tracks } of broadcasts) {
      const most = Math.max(0, ...tracks.map((track) => track.viewers ?? 0));
      this.known.set(path, Math.max(this.known.get(path) ?? 0, viewers ?? most));
    }
    if (this.opened && !this.publication) this.#suggest();
    this.folded.learn(relay);
  }

  // -- steps

  async #choose({ kind, open }) {
    if (this.publication || obstacle() !== null) return;
    this.#release();
    this.kind = kind;
    this.#suggest();
    this.#say("", kind === "test" ? "" : "The browser asks for permission.");
    try {
      const source = await open({ sound: this.sound.checked });
      await source.start();
      if (this.kind !== kind || !this.opened) {
        source.stop();
        return;
      }
      this.source = source;
    } catch (error) {
      this.#say("refused", advice(error, kind));
      this.kind = null;
      this.#draw();
      return;
    }
    this.source.onended = () => this.stop("The source has ended.");
    field("preview").replaceChildren(this.source.preview);
    this.#say("", PREVIEWED);
    this.#draw();
    field("go").focus();
  }

  async #go() {
    const path = normalize(this.name.value);
    const problem = fault(path);
    if (problem || !this.source || this.publication) {
      this.#say("refused", problem ?? "Choose a camera, a screen or the test picture first.");
      return;
    }
    this.name.value = path;
    if (this.source instanceof TestPicture) this.source.label = path;
    const publication = new Publication((state, text) => this.#onstate(publication, state, text));
    const broadcast = new Broadcast(path, this.source, () => publication.backlog);
    this.publication = publication;
    this.broadcast = broadcast;
    broadcast.onerror = (error) => this.stop(`The browser cannot encode this: ${error.message}`);
    this.rates = [];
    this.timer = setInterval(() => this.#figures(), PERIOD);
    this.#say("connecting", "Starting the encoder.");
    this.#draw();
    try {
      await broadcast.start();
    } catch {
      return; // `onerror` has told
    }
    if (!publication.stopped) await publication.run(broadcast);
  }

  #onstate(publication, state, text) {
    if (publication !== this.publication) return;
    this.#say(state, text);
    if (state === "refused") this.#finish(); // the source stays, for another name or token
    this.#draw();
  }

  /** Withdraw the broadcast and release the device. */
  stop(reason = "Stopped. The broadcast is withdrawn.") {
    const { publication } = this;
    this.#finish();
    publication?.stop();
    this.#release();
    this.#say("stopped", reason);
  }

  #finish() {
    clearInterval(this.timer);
    this.publication = null;
    this.broadcast?.close();
    this.broadcast = null;
  }

  /** Switch the device off. */
  #release() {
    this.source?.stop();
    this.source = null;
    this.kind = null;
    field("preview").replaceChildren();
    this.#draw();
  }

  // -- names

  /** Suggests a name that may be published and is not live, until the user types one. */
  #suggest() {
    if (this.named || this.publication) return;
    const base = [this.#permitted(), "live", this.kind ?? "camera"].filter(Boolean).join("/");
    let name = base;
    for (let number = 2; this.known.has(name); number += 1) name = `${base}-${number}`;
    this.name.value = name;
  }

  /** A prefix that this page may publish, as far as it knows. */
  #permitted() {
    const claims = api.claims();
    if (claims) {
      const [grant = ""] = [claims.put ?? []].flat();
      return normalize(`${claims.root ?? ""}/${grant}`);
    }
    const prefixes = this.relay?.public?.publish ?? [""];
    return prefixes.includes("") ? "" : prefixes[0] ?? "";
  }

  #hint() {
    const path = normalize(this.name.value);
    const taken = !this.publication && this.known.has(path);
    if (taken) this.#say("waiting", `${path} is being published. Going live takes its viewers over.`);
    else if (this.source && !this.publication) this.#say("", PREVIEWED);
  }

  // -- drawing

  #say(state, text) {
    mark(field("state"), "data-state", state || null);
    write(field("state"), text);
    mark(this.badge, "data-state", state || null);
  }

  #draw() {
    const live = this.publication !== null;
    show(field("stage"), this.source !== null);
    show(field("stop"), live);
    show(field("go"), !live);
    show(field("watch"), live);
    show(field("share"), live);
    show(this.badge, live);
    field("go").disabled = this.source === null;
    this.name.disabled = live;
    this.sound.disabled = live || this.source !== null;
    show(field("sources"), !live);
    for (const button of field("sources").children) mark(button, "aria-pressed", String(button.dataset.source === this.kind));
    if (!live) for (const name of ["viewers", "rate", "fps", "size", "codec", "key", "backlog", "dropped"]) write(field(name), format.NONE);
    if (!live) return;
    write(this.badge.firstChild, this.broadcast.path);
    this.badge.title = `Publishing ${this.broadcast.path}`;
    field("watch").href = playLink(this.broadcast.path);
    this.share.show(this.broadcast.path, this.relay);
  }

  #figures() {
    const { broadcast } = this;
    const { bytes, pictures, dropped } = broadcast.figures;
    const time = performance.now();
    this.rates.push([time, bytes, pictures]);
    while (this.rates.length > 2 && this.rates[0][0] < time - RATE_TIME) this.rates.shift();
    const [from, bytesThen, picturesThen] = this.rates[0];
    const seconds = (time - from) / 1000;
    const watched = [...broadcast.tracks.values()].some((track) => track.wanted && !track.keeps);
    write(field("viewers"), format.count(this.known.get(broadcast.path) ?? 0));
    write(field("rate"), watched && seconds ? bits((bytes - bytesThen) / seconds) : "idle");
    write(field("fps"), watched && seconds ? format.often((pictures - picturesThen) / seconds) : "idle");
    const { config } = broadcast;
    write(field("size"), config ? `${config.width} \u00d7 ${config.height}` : format.NONE);
    write(field("codec"), config ? codecName(config.codec) : format.NONE);
    mark(field("codec"), "title", config?.codec ?? null);
    write(field("key"), `every ${KEY_INTERVAL} s`);
    write(field("backlog"), format.bytes(this.publication.backlog));
    write(field("dropped"), format.count(dropped));
    if (!watched && field("state").dataset.state === "live") write(field("state"), "Live. Nobody watches, so nothing is encoded.");
    if (watched && field("state").dataset.state === "live") write(field("state"), "Live.");
    this.share.show(broadcast.path, this.relay);
  }
}

const bits = (bytesPerSecond) => `${((bytesPerSecond * 8) / 1e6).toFixed(2)} Mbit/s`;

const codecName = (codec) => (codec.startsWith("avc1") ? "H.264" : codec.startsWith("vp09") ? "VP9" : "VP8");

function sourceButtons(choose) {
  return SOURCES.map((source) => {
    const button = make("button", { type: "button", class: "source", "data-source": source.kind },
      make("b", {}, source.label), make("span", { class: "quiet" }, source.hint));
    button.addEventListener("click", () => choose(source));
    return button;
  });
}

/** Why this page cannot publish, and how it could. */
function explain(problem) {
  if (problem === "encoder") return ["This browser cannot encode video: it lacks WebCodecs. Chromium, Chrome, Edge, Firefox and Safari of recent years have it."];
  const port = location.port || "80";
  const local = `http://localhost:${port}/#publish`;
  const tunnel = `ssh -L ${port}:localhost:${port} ${location.hostname}`;
  return [
    make("b", {}, "Browsers give cameras, screens and encoders only to secure pages."),
    " This page came over plain http from another machine. On the relay\u2019s own machine open ",
    make("code", {}, local),
    "; from this one, forward the port first with ",
    make("code", {}, tunnel),
    " and open the same address; or give the relay a certificate ([web.https]) and open it by https.",
  ];
}
