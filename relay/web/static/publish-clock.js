// A worker that ticks: browsers slow down the timers of a page that is not shown, but not those of its workers.
// Takes an interval in milliseconds.

let timer = null;

addEventListener("message", ({ data }) => {
  clearInterval(timer);
  timer = setInterval(() => postMessage(null), data);
});
