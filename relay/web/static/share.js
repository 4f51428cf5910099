// The address of a broadcast for other devices, as text and as a QR code.

import { find, make } from "./dom.js";

const QUIET = 4; // modules of margin, as the standard asks

/** Machines that only this machine reaches under that name. */
const isLocal = (host) => host === "localhost" || host.endsWith(".localhost") || host.startsWith("127.") || host === "[::1]";

const isAny = (host) => ["[::]", "0.0.0.0", "::", ""].includes(host);

/** "host:port" of /state in its parts. */
function parts(address) {
  const at = address.lastIndexOf(":");
  return { host: address.slice(0, at), port: address.slice(at + 1) };
}

const origin = (scheme, host, port) => new URL(`${scheme}://${host}:${port}`).origin;

/**
 * Addresses that show a broadcast to other devices: {url, reachable, others}. `relay` is the part of /state, or null.
 * A page that was opened as localhost is of no use to them; then `others` are what the relay knows of itself.
 */
export function watchAddress(path, relay) {
  const hash = `#${new URLSearchParams({ broadcast: path })}`;
  const page = new URL(document.baseURI);
  page.hash = "";
  page.search = ""; // a token is for this page only
  const reachable = !isLocal(page.hostname);
  const others = new Set();
  if (relay && !reachable) {
    for (const [scheme, names] of [["https", (relay.certificates ?? []).filter(({ generated }) => !generated).flatMap(hosts)], ["http", []]]) {
      for (const { host, port } of (relay.listen[scheme] ?? []).map(parts)) {
        for (const name of isAny(host) ? names : [host]) if (!isLocal(name)) others.add(`${origin(scheme, name, port)}/${hash}`);
      }
    }
  }
  return { url: `${page.href}${hash}`, reachable, others: [...others] };
}

/** Names that a certificate is for, where they are addresses to open. */
function hosts({ name }) {
  return name.split(/[\s,]+/).filter((host) => /^[\w-]+(\.[\w-]+)+$/.test(host));
}

/** A QR code as an SVG image. The encoder is loaded when the first one is drawn. */
export async function qr(text) {
  const { qrcode } = await import("./qrcode-generator.js");
  const code = qrcode(0, "M");
  code.addData(text);
  code.make();
  const size = code.getModuleCount();
  let dark = "";
  for (let row = 0; row < size; row += 1) {
    for (let column = 0; column < size; column += 1) {
      if (code.isDark(row, column)) dark += `M${column + QUIET} ${row + QUIET}h1v1h-1z`;
    }
  }
  const element = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const whole = size + 2 * QUIET;
  const svg = element("svg", { viewBox: `0 0 ${whole} ${whole}`, class: "qr", role: "img", "shape-rendering": "crispEdges" });
  svg.setAttribute("aria-label", `QR code of ${text}`);
  svg.append(element("rect", { width: whole, height: whole, fill: "#fff" }), element("path", { d: dark, fill: "#000" }));
  return svg;
}

function copied(text) {
  const button = make("button", { type: "button", "data-copy": "address", "aria-label": "Copy the address" }, "Copy");
  return make("p", { class: "copying" }, make("code", {}, text), button);
}

/** Addresses to watch a broadcast at, the QR code of the best one, and what is in the way. */
export class Share {
  constructor(parent) {
    this.parent = parent;
    this.shown = null; // what is drawn
  }

  /** Draw unless nothing has changed. */
  async show(path, relay) {
    const { url, reachable, others } = watchAddress(path, relay);
    const addresses = reachable ? [url] : others.slice(0, 3);
    const key = addresses.join("\n") || url;
    if (this.shown === key) return;
    this.shown = key;
    const lines = addresses.map(copied);
    if (!addresses.length) {
      lines.push(copied(url), quiet("Only this machine can open that address. Open the dashboard by a name or an address of the relay that a phone reaches, and the QR code appears here."));
    } else if (!reachable) lines.push(quiet("This page was opened as localhost, which other devices cannot open; these are the relay\u2019s other addresses."));
    if (addresses[0]?.startsWith("http:")) lines.push(quiet("Browsers decode video only from https:// addresses, and from localhost."));
    const image = addresses.length ? [await qr(addresses[0]).catch(() => "")] : []; // none of a text that is too long
    if (this.shown === key) this.parent.replaceChildren(...image, make("div", {}, ...lines));
  }
}

const quiet = (text) => make("p", { class: "quiet" }, text);

/** The same for the broadcast that the page's address names, in an element that unfolds. */
export class FoldedShare {
  constructor(details) {
    this.details = details;
    this.share = new Share(find(".sharing", details));
    this.relay = null;
    details.addEventListener("toggle", () => this.#draw());
    addEventListener("hashchange", () => (details.open = false));
  }

  /** The part of /state, or null. */
  learn(relay) {
    this.relay = relay;
    this.#draw();
  }

  #draw() {
    if (this.details.open) this.share.show(new URLSearchParams(location.hash.slice(1)).get("broadcast") ?? "", this.relay);
  }
}
