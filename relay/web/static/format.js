// Numbers and times as text, independent of the page.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];
export const MEGABIT = 125_000; // bytes
const counts = new Intl.NumberFormat("en");

const two = (number) => String(number).padStart(2, "0");

export const NONE = "\u2013";

function missing(value) {
  return value === null || value === undefined || Number.isNaN(value);
}

/** 1234567 -> "1,234,567". */
export function count(value) {
  return missing(value) ? NONE : counts.format(value);
}

/** "1 track", "2 tracks". */
export function counted(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** Three digits: 83000 -> "83.0 kB". */
export function bytes(value) {
  if (missing(value)) return NONE;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** Bytes per second, always as Mbit/s: 1250000 -> "10.0 Mbit/s". */
export function rate(value) {
  if (missing(value)) return NONE;
  const megabits = value / MEGABIT;
  if (megabits === 0) return "0 Mbit/s";
  if (megabits < 0.0005) return "<0.001 Mbit/s";
  const digits = megabits >= 99.95 ? 0 : megabits >= 9.995 ? 1 : megabits >= 0.9995 ? 2 : 3;
  return `${digits ? megabits.toFixed(digits) : count(Math.round(megabits))} Mbit/s`;
}

/** A share: 0.042 -> "4.2 %". */
export function percent(value) {
  if (missing(value)) return NONE;
  const hundredths = value * 100;
  return `${hundredths.toFixed(hundredths > 0 && hundredths < 9.95 ? 1 : 0)} %`;
}

/** Events per second, or per minute if rare. */
export function often(value) {
  if (missing(value)) return NONE;
  if (value === 0) return "0/s";
  if (value < 0.95) return `${(value * 60).toFixed(value * 60 < 9.5 ? 1 : 0).replace(/\.0$/, "")}/min`;
  return `${value.toFixed(value < 9.95 ? 1 : 0)}/s`;
}

/** The same for an axis: always a second. */
export function perSecond(value) {
  return `${Number(value.toPrecision(3))}/s`;
}

/** `format` for an axis: "4.00 MB" is "4 MB". */
export function round(format) {
  return (value) => format(value).replace(/\.(\d*?)0+(?= )/, (_, digits) => (digits ? `.${digits}` : ""));
}

/** A length of time in seconds, two units at most: "2 h 05 m". */
export function duration(seconds) {
  if (missing(seconds)) return NONE;
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two(Math.floor(whole / 60) % 60)} m`;
  return `${Math.floor(whole / 86400)} d ${two(Math.floor(whole / 3600) % 24)} h`;
}

/** Expiry relative to now, both in seconds since the epoch: "in 12 days". */
export function ends(certificate, now) {
  const { not_before: begins, not_after: end } = certificate;
  const days = (seconds) => (seconds < 172800 ? counted(Math.floor(seconds / 3600), "hour") : `${Math.floor(seconds / 86400)} days`);
  if (now >= end) return `expired ${days(now - end)} ago`;
  if (now < begins) return `not valid for another ${days(begins - now)}`;
  return `in ${days(end - now)}${certificate.generated ? ", renewed by itself" : ""}`;
}

/** A short time in seconds: "1.2 ms". */
export function short(seconds) {
  if (missing(seconds)) return NONE;
  if (seconds === 0) return "0 ms";
  if (seconds >= 9.995) return `${seconds.toFixed(1)} s`;
  if (seconds >= 0.9995) return `${seconds.toFixed(2)} s`;
  const milliseconds = seconds * 1000;
  return `${milliseconds.toFixed(milliseconds < 9.95 ? 1 : 0)} ms`;
}

/** A moment in milliseconds since the epoch, as local time. */
export function clock(moment, { milliseconds = false } = {}) {
  const date = new Date(moment);
  const text = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return milliseconds ? `${text}.${String(date.getMilliseconds()).padStart(3, "0")}` : text;
}

/** Media time in microseconds: "2:03.456", "1:02:03"; dates are shown as time of day. */
export function timestamp(microseconds) {
  if (missing(microseconds)) return NONE;
  const milliseconds = Math.floor(microseconds / 1000);
  if (milliseconds > 1e12) return clock(milliseconds);
  const seconds = Math.floor(milliseconds / 1000);
  const minutes = Math.floor(seconds / 60);
  if (minutes >= 60) return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(seconds % 60)}`;
  return `${minutes}:${two(seconds % 60)}.${String(milliseconds % 1000).padStart(3, "0")}`;
}
