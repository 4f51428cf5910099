// Pictures and sound to publish: a camera, a screen, or a test picture. Times are microseconds of the page's clock.

const FPS = 30;
const RATE = 48_000; // samples of sound a second
const BLOCK = 960; // samples: 20 ms
const MOST = { width: 1920, height: 1080 };
const STILL = 500; // milliseconds without a new picture, after which the latest is repeated: a screen may stand still

export const now = () => performance.now() * 1000;

/** Call back at an interval in milliseconds, also while the page is not shown. Returns the function that ends it. */
export function every(interval, callback) {
  const worker = new Worker(new URL("./publish-clock.js", import.meta.url));
  worker.onmessage = callback;
  worker.postMessage(interval);
  return () => worker.terminate();
}

/** What this page cannot do, in words; null if it can publish. */
export function obstacle() {
  if (!isSecureContext) return "insecure";
  if (typeof VideoEncoder === "undefined") return "encoder";
  return null;
}

/** Once started, gives pictures to `onpicture(VideoFrame)` and sound to `onsound(AudioData)`, which close them. */
class Source {
  constructor() {
    this.release();
    this.onended = () => {}; // the device was unplugged, or the person ended sharing
    this.ends = [];
    this.framerate = FPS;
    this.hasSound = false;
  }

  /** Drops pictures and sound from now on. */
  release() {
    this.onpicture = (frame) => frame.close();
    this.onsound = (data) => data.close();
  }

  stop() {
    for (const end of this.ends.splice(0)) end();
  }
}

// -- the test picture

const BARS = ["#c0c0c0", "#c0c000", "#00c0c0", "#00c000", "#c000c0", "#c00000", "#0000c0"];
const two = (number) => String(number).padStart(2, "0");

/** Colour bars, the time of day, a moving bar; each second a white field and, with sound, a short beep. */
export class TestPicture extends Source {
  constructor({ label = "", sound = true } = {}) {
    super();
    this.preview = document.createElement("canvas");
    this.preview.width = 960;
    this.preview.height = 540;
    this.context = this.preview.getContext("2d", { alpha: false });
    this.label = label;
    this.hasSound = sound && typeof AudioEncoder !== "undefined";
    this.draw(now());
  }

  async start() {
    const began = now();
    let pictures = 0;
    let samples = 0;
    this.ends.push(
      every(1000 / FPS, () => {
        const time = now();
        const due = Math.floor(((time - began) * FPS) / 1e6);
        if (due >= pictures) {
          pictures = due + 1;
          this.draw(time);
          this.onpicture(new VideoFrame(this.preview, { timestamp: Math.round(time) }));
        }
        if (!this.hasSound) return;
        if ((time - began) / 1e6 - samples / RATE > 1) samples = Math.floor(((time - began) / 1e6) * 50) * BLOCK; // the page stood still
        for (; (samples + BLOCK) / RATE <= (time - began) / 1e6; samples += BLOCK) this.beep(began, samples);
      }),
    );
  }

  draw(time) {
    const { context, label, preview: { width, height } } = this;
    const wall = new Date(performance.timeOrigin + time / 1000);
    const second = wall.getMilliseconds() / 1000;
    BARS.forEach((colour, index) => {
      context.fillStyle = colour;
      context.fillRect(Math.round((index * width) / 7), 0, Math.ceil(width / 7), height * 0.58);
    });
    context.fillStyle = "#101820";
    context.fillRect(0, height * 0.58, width, height * 0.42);
    context.fillStyle = "#2a3644";
    context.fillRect(0, height * 0.58, width, 14);
    context.fillStyle = "#ffffff";
    context.fillRect((width - 60) * Math.abs(1 - ((time / 2e6) % 2)), height * 0.58, 60, 14);
    context.fillStyle = second < 0.1 ? "#ffffff" : "#2a3644";
    context.fillRect(width - 120, height * 0.7, 80, 80);
    context.fillStyle = "#ffffff";
    context.textBaseline = "middle";
    context.font = "600 76px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace";
    const clock = `${two(wall.getHours())}:${two(wall.getMinutes())}:${two(wall.getSeconds())}`;
    context.fillText(`${clock}.${Math.floor(second * 10)}`, 40, height * 0.775);
    context.font = "26px system-ui, sans-serif";
    context.fillStyle = "#9fb0c3";
    context.fillText(label, 42, height * 0.91, width - 84);
  }

  /** 20 ms of sound: 1 kHz in the first 100 ms of each second. */
  beep(began, from) {
    const start = Math.round(began + (from / RATE) * 1e6);
    const samples = new Float32Array(BLOCK);
    for (let index = 0; index < BLOCK; index += 1) {
      const time = performance.timeOrigin / 1000 + start / 1e6 + index / RATE;
      if (time % 1 < 0.1) samples[index] = 0.1 * Math.sin(2 * Math.PI * 1000 * (time % 1));
    }
    this.onsound(sound(samples, RATE, start));
  }
}

const sound = (samples, sampleRate, timestamp) =>
  new AudioData({ format: "f32-planar", sampleRate, numberOfFrames: samples.length, numberOfChannels: 1, timestamp, data: samples });

// -- devices

/** The tracks of a MediaStream. */
export class Device extends Source {
  constructor(stream) {
    super();
    this.stream = stream;
    this.preview = document.createElement("video");
    Object.assign(this.preview, { srcObject: stream, muted: true, autoplay: true, playsInline: true });
    [this.video] = stream.getVideoTracks();
    [this.audio] = stream.getAudioTracks();
    this.framerate = Math.min(FPS, Math.round(this.video.getSettings().frameRate ?? FPS) || FPS);
    this.hasSound = this.audio !== undefined && typeof AudioEncoder !== "undefined";
    this.video.addEventListener("ended", () => this.onended());
    this.ends.push(() => {
      for (const track of stream.getTracks()) track.stop();
      this.preview.srcObject = null;
    });
  }

  async start() {
    await this.preview.play().catch(() => {}); // the page may be hidden
    this.#pictures();
    if (!this.hasSound) return;
    if (typeof MediaStreamTrackProcessor !== "undefined") this.#read(this.audio, (data) => this.onsound(data));
    else await this.#listen();
  }

  #pictures() {
    let last = null; // the latest picture
    let shown = 0; // its time
    const show = (frame) => {
      const time = Math.round(now());
      if (time - shown < 0.75e6 / this.framerate) {
        frame.close(); // the device is faster than asked for
        return;
      }
      const stamped = new VideoFrame(frame, { timestamp: time });
      frame.close();
      last?.close();
      last = stamped.clone();
      shown = time;
      this.onpicture(stamped);
    };
    this.ends.push(() => last?.close());
    if (typeof MediaStreamTrackProcessor !== "undefined") {
      this.#read(this.video, show);
      this.ends.push(
        every(STILL / 2, () => {
          if (last && now() - shown > STILL * 1000) show(last.clone());
        }),
      );
      return;
    }
    let seen = -1; // position of the picture taken last
    this.ends.push(
      every(1000 / this.framerate, () => {
        const { currentTime, readyState } = this.preview;
        if (readyState < HTMLMediaElement.HAVE_CURRENT_DATA) return;
        if (currentTime === seen && now() - shown < STILL * 1000) return;
        seen = currentTime;
        show(new VideoFrame(this.preview, { timestamp: Math.round(now()) }));
      }),
    );
  }

  async #read(track, take) {
    const reader = new MediaStreamTrackProcessor({ track }).readable.getReader();
    this.ends.push(() => reader.cancel().catch(() => {}));
    for (;;) {
      const { value, done } = await reader.read().catch(() => ({ done: true }));
      if (done) return;
      take(value);
    }
  }

  async #listen() {
    const context = new AudioContext();
    this.ends.push(() => context.close());
    await context.audioWorklet.addModule(new URL("./publish-audio.js", import.meta.url));
    const node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
    let samples = 0;
    node.port.onmessage = ({ data }) => {
      this.onsound(sound(data, context.sampleRate, Math.round((samples / context.sampleRate) * 1e6)));
      samples += data.length;
    };
    context.createMediaStreamSource(new MediaStream([this.audio])).connect(node);
  }
}

/** Ask for the camera, and the microphone if wanted. Raises DOMException. */
export async function openCamera({ sound: wanted = true } = {}) {
  const video = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: FPS, max: FPS } };
  try {
    return new Device(await navigator.mediaDevices.getUserMedia({ video, audio: wanted }));
  } catch (error) {
    if (!wanted || error.name !== "NotFoundError") throw error;
    return new Device(await navigator.mediaDevices.getUserMedia({ video })); // no microphone
  }
}

/** Ask for a screen, a window or a tab, with its sound if wanted and possible. Raises DOMException. */
export async function openScreen({ sound: wanted = true } = {}) {
  const video = { width: { max: MOST.width }, height: { max: MOST.height }, frameRate: { ideal: FPS, max: FPS } };
  const device = new Device(await navigator.mediaDevices.getDisplayMedia({ video, audio: wanted }));
  device.video.contentHint = "detail";
  return device;
}

/** Advice for a refusal of the browser or the person. */
export function advice(error, what) {
  const device = { camera: "camera", screen: "screen" }[what] ?? "picture";
  switch (error.name) {
    case "NotAllowedError":
      return what === "screen"
        ? "Nothing was chosen to share, or the browser does not permit it."
        : `The browser does not permit this page to use the ${device}. Its address bar can change that.`;
    case "NotFoundError":
      return `This machine has no ${device}.`;
    case "NotReadableError":
      return `The ${device} cannot be opened: another program may use it.`;
    default:
      return `The ${device} cannot be opened: ${error.message}`;
  }
}
