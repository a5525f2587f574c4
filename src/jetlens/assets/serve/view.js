// The live page: one connection brings the pictures of all streams, another asks for the status every second.
// Whatever jetlens sends is shown as text; nothing is loaded from elsewhere.
"use strict";

const POLL_MS = 1000;
const ANSWER_MS = 4000;
const OLD_MS = 2000;
const LONGEST_WAIT_MS = 5000;
const MOST_FOUND = 12;
const GRAPHS = [
  { key: "cpu_percent", name: "CPU", unit: "%", digits: 0, top: 100 },
  { key: "gpu_percent", name: "GPU", unit: "%", digits: 0, top: 100 },
  { key: "power_w", name: "Power", unit: "W", digits: 1 },
  { key: "memory_used_mib", name: "Memory", unit: "GiB", digits: 1, scale: 1 / 1024 },
  { key: "hottest_c", name: "Hottest sensor", unit: "°C", digits: 0, top: 105 },
];
const tiles = [];
const byId = (id) => document.getElementById(id);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const clone = (id) => byId(id).content.firstElementChild.cloneNode(true);

// ---- pictures ------------------------------------------------------------------------------------------------------

function endOfHead(bytes) {
  for (let i = 0; i + 3 < bytes.length; i++) {
    if (bytes[i] === 13 && bytes[i + 1] === 10 && bytes[i + 2] === 13 && bytes[i + 3] === 10) return i + 4;
  }
  return -1;
}

function number(head, name) {
  const found = new RegExp(`^${name}: (\\d+)`, "im").exec(head);
  if (!found) throw new Error(`a part has no ${name}`);
  return Number(found[1]);
}

async function readPictures(signal) {
  const reply = await fetch("/frames", { signal });
  if (!reply.ok) throw new Error(`status ${reply.status}`);
  const reader = reply.body.getReader();
  let bytes = new Uint8Array(0);
  const more = async () => {
    const { done, value } = await reader.read();
    if (done) throw new Error("the stream ended");
    const joined = new Uint8Array(bytes.length + value.length);
    joined.set(bytes);
    joined.set(value, bytes.length);
    bytes = joined;
  };
  for (;;) {
    let start;
    while ((start = endOfHead(bytes)) < 0) await more();
    const head = new TextDecoder("latin1").decode(bytes.subarray(0, start));
    const end = start + number(head, "Content-Length");
    while (bytes.length < end) await more();
    const tile = tiles[number(head, "X-Stream")];
    if (tile) tile.take(new Blob([bytes.slice(start, end)], { type: "image/jpeg" }), number(head, "X-Age-Ms"));
    bytes = bytes.slice(end);
  }
}

// Nobody sees a hidden page: its pictures are neither drawn nor sent.
async function followPictures() {
  let wait = 500;
  for (;;) {
    while (document.hidden || !tiles.length) await sleep(200);
    const abort = new AbortController();
    const leave = () => document.hidden && abort.abort();
    document.addEventListener("visibilitychange", leave);
    const began = performance.now();
    try {
      await readPictures(abort.signal);
    } catch {
      abort.abort();
    }
    document.removeEventListener("visibilitychange", leave);
    wait = performance.now() - began > LONGEST_WAIT_MS ? 500 : Math.min(LONGEST_WAIT_MS, 2 * wait);
    if (!document.hidden) await sleep(wait);
  }
}

class Tile {
  constructor(index) {
    this.root = clone("stream");
    this.canvas = this.root.querySelector("canvas");
    this.over = this.root.querySelector(".over");
    this.newest = null;
    this.busy = false;
    this.captured = null; // on this page's clock
    this.state = "";
    for (const link of this.root.querySelectorAll("a[data-kind]")) {
      link.href = `/snapshot/${index}.${link.dataset.kind}`;
      link.download = "";
    }
    const size = this.root.querySelector(".size");
    size.addEventListener("click", () => {
      size.textContent = this.root.classList.toggle("wide") ? "Shrink" : "Enlarge";
      if (this.root.classList.contains("wide")) this.root.scrollIntoView({ block: "nearest" });
    });
    byId("streams").append(this.root);
  }

  take(jpeg, ageMs) {
    this.newest = { jpeg, captured: performance.now() - ageMs };
    if (!this.busy) this.draw();
  }

  async draw() {
    this.busy = true;
    while (this.newest) {
      const { jpeg, captured } = this.newest;
      this.newest = null;
      try {
        const bitmap = await createImageBitmap(jpeg);
        if (this.canvas.width !== bitmap.width || this.canvas.height !== bitmap.height) {
          this.canvas.width = bitmap.width;
          this.canvas.height = bitmap.height;
        }
        this.canvas.getContext("2d").drawImage(bitmap, 0, 0);
        bitmap.close();
        this.captured = captured;
        this.root.dataset.pictures = Number(this.root.dataset.pictures || 0) + 1;
      } catch {
        // A picture that cannot be decoded is left out.
      }
    }
    this.busy = false;
    this.mark();
  }

  // Says how old the picture is where it is not the present.
  mark() {
    const age = this.captured === null ? Infinity : performance.now() - this.captured;
    const old = age > OLD_MS;
    this.root.classList.toggle("old", old && this.captured !== null);
    this.over.hidden = !old;
    if (old) this.over.textContent = this.captured === null ? "no picture yet" : `picture is ${duration(age / 1000)} old`;
  }

  show(stream) {
    this.root.querySelector("h2").textContent = stream.name;
    this.canvas.setAttribute("aria-label", `newest picture of ${stream.name}`);
    badge(this.root.querySelector(".state"), stream.state);
    const reason = this.root.querySelector(".reason");
    reason.hidden = !stream.reason;
    reason.textContent = stream.state === "running" ? `last fault: ${stream.reason}` : stream.reason;
    reason.classList.toggle("bad", stream.state === "stalled");
    const dropped = Object.values(stream.dropped).reduce((sum, count) => sum + count, 0);
    this.figure("fps", fixed(stream.fps, 1), stream.captured_fps ? `of ${fixed(stream.captured_fps, 1)}` : "");
    this.figure("age_p99", fixed(stream.age_p99_ms, 0), "ms");
    this.figure("age_p50", fixed(stream.age_p50_ms, 0), "ms");
    this.figure("dropped", whole(dropped), dropped ? `${fixed((100 * dropped) / Math.max(1, stream.captured), 1)} %` : "");
    const found = foundIn(stream.answer);
    this.root.querySelector(".found").replaceChildren(...found);
    this.root.querySelector(".counts").textContent = counts(stream);
    this.mark();
  }

  figure(name, value, more) {
    const small = document.createElement("small");
    small.textContent = value === "n/a" || !more ? "" : ` ${more}`;
    this.root.querySelector(`[data-figure=${name}]`).replaceChildren(value, small);
  }
}

// ---- words and numbers ---------------------------------------------------------------------------------------------

const fixed = (value, digits) => (typeof value === "number" ? value.toFixed(digits) : "n/a");
const whole = (value) => (typeof value === "number" ? value.toLocaleString("en") : "n/a");

function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

function badge(element, state) {
  element.className = "state";
  if (/^[a-z]+$/.test(state)) element.classList.add(state);
  element.textContent = state;
}

function counts(stream) {
  const [height, width] = stream.size_hw;
  const reasons = Object.entries(stream.dropped).map(([reason, count]) => `${reason} ${whole(count)}`);
  const parts = [
    width ? `${width}×${height}` : "",
    `captured ${whole(stream.captured)}`,
    `delivered ${whole(stream.delivered)}`,
    `dropped ${reasons.join(", ") || "none"}`,
    `corrupt ${whole(stream.corrupt)}`,
    stream.live ? `reconnects ${whole(stream.reconnects)}` : "",
  ];
  return parts.filter(Boolean).join(" · ");
}

function chip(text, more, name) {
  const item = document.createElement("li");
  item.textContent = text;
  if (name) item.className = name;
  const small = document.createElement("small");
  small.textContent = more ? ` ${more}` : "";
  item.append(small);
  return item;
}

// What the newest answer says, whatever the task: counted objects, best classes or shares of the picture.
function foundIn(answer) {
  const rows = [];
  if (answer && answer.detections) {
    const kinds = new Map();
    for (const one of answer.detections) {
      const kind = kinds.get(one.label) || { count: 0, best: 0 };
      kinds.set(one.label, { count: kind.count + 1, best: Math.max(kind.best, one.confidence) });
    }
    for (const [label, { count, best }] of kinds) rows.push([`${count} × ${label}`, fixed(best, 2)]);
  } else if (answer && answer.top) {
    for (const one of answer.top.slice(0, 5)) rows.push([one.label, fixed(one.confidence, 2)]);
  } else if (answer && answer.classes) {
    for (const one of [...answer.classes].sort((a, b) => b.ratio - a.ratio)) rows.push([one.label, `${fixed(100 * one.ratio, 1)} %`]);
  }
  const chips = rows.slice(0, MOST_FOUND).map(([text, more]) => chip(text, more));
  if (rows.length > MOST_FOUND) chips.push(chip(`and ${rows.length - MOST_FOUND} more`, "", "none"));
  return chips.length ? chips : [chip(answer ? "nothing found" : "no answer yet", "", "none")];
}

// ---- graphs --------------------------------------------------------------------------------------------------------

function graphOf(parent, key, name) {
  let graph = parent.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (!graph) {
    graph = clone("graph");
    graph.dataset.key = key;
    graph.querySelector(".name").textContent = name;
    parent.append(graph);
  }
  return graph;
}

// Newest at the right edge; where nothing was measured the line is broken.
function paths(values, kept, top) {
  let line = "";
  let area = "";
  let run = [];
  const close = () => {
    if (!run.length) return;
    const points = run.map(([x, y]) => `${x.toFixed(2)} ${y.toFixed(2)}`).join(" L");
    line += `M${points}`;
    area += `M${run[0][0].toFixed(2)} 32 L${points} L${run[run.length - 1][0].toFixed(2)} 32 Z`;
    run = [];
  };
  values.forEach((value, i) => {
    if (value === null) close();
    else run.push([100 - (100 * (values.length - 1 - i)) / Math.max(1, kept - 1), 31 - (30 * Math.min(value, top)) / top]);
  });
  close();
  return { line, area };
}

function showMachine(machine) {
  const minutes = Math.round((machine.kept * machine.interval_s) / 60);
  for (const { key, name, unit, digits, top, scale = 1 } of GRAPHS) {
    const graph = graphOf(byId("graphs"), key, name);
    const values = machine.series[key].map((value) => (value === null ? null : value * scale));
    const known = values.filter((value) => value !== null);
    const last = values.length ? values[values.length - 1] : null;
    const total = key === "memory_used_mib" && machine.memory_total_mib ? machine.memory_total_mib * scale : null;
    const { line, area } = paths(values, machine.kept, top || total || Math.max(1e-9, ...known) * 1.15);
    graph.classList.toggle("unknown", last === null);
    graph.classList.toggle("never", !known.length);
    graph.querySelector("output").textContent = last === null ? "n/a" : `${fixed(last, digits)} ${unit}`;
    graph.querySelector(".line").setAttribute("d", line);
    graph.querySelector(".area").setAttribute("d", area);
    const note = key === "power_w" ? machine.power_of || machine.why_no_power : "";
    const most = known.length ? `highest ${fixed(Math.max(...known), digits)} ${unit} in ${minutes} min` : "not measured here";
    const all = total ? `of ${fixed(total, digits)} ${unit}` : "";
    graph.querySelector("p").textContent = [all, most, note].filter(Boolean).join("; ");
  }
}

function showBusy(busy) {
  const rows = Object.entries(busy);
  byId("stages").hidden = !rows.length;
  for (const [name, share] of rows) {
    const graph = graphOf(byId("busy"), name, name);
    const width = Math.min(100, Math.max(0, 100 * share)).toFixed(1);
    graph.querySelector("output").textContent = `${fixed(100 * share, 0)} %`;
    graph.querySelector(".area").setAttribute("d", `M0 0 H${width} V32 H0 Z`);
  }
}

// ---- status --------------------------------------------------------------------------------------------------------

function showStatus({ pipeline, machine }) {
  byId("model").textContent = pipeline.model;
  const parts = [pipeline.task, `${pipeline.backend} ${pipeline.precision} on ${pipeline.device} (${pipeline.provider})`];
  byId("runtime").textContent = [...parts, `up ${duration(pipeline.uptime_s)}`, pipeline.note].filter(Boolean).join(" · ");
  document.title = `${pipeline.model} - jetlens live`;
  badge(byId("state"), pipeline.state);
  const pause = byId("pause");
  pause.textContent = pipeline.state === "paused" ? "Resume" : "Pause";
  pause.disabled = !["running", "paused"].includes(pipeline.state);
  pipeline.streams.forEach((stream, i) => (tiles[i] ||= new Tile(i)).show(stream));
  byId("streams").classList.toggle("alone", pipeline.streams.length === 1);
  showMachine(machine);
  showBusy(pipeline.busy);
}

async function poll() {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), ANSWER_MS);
  try {
    const reply = await fetch("/status", { signal: abort.signal });
    if (reply.status === 401) location.reload();
    if (!reply.ok) throw new Error(`status ${reply.status}`);
    showStatus(await reply.json());
    byId("lost").hidden = true;
  } catch {
    byId("lost").hidden = false;
    tiles.forEach((tile) => tile.mark());
  } finally {
    clearTimeout(timer);
  }
}

async function followStatus() {
  for (;;) {
    if (!document.hidden) await poll();
    await sleep(POLL_MS);
  }
}

byId("pause").addEventListener("click", async () => {
  const path = byId("pause").textContent === "Pause" ? "/pause" : "/resume";
  byId("pause").disabled = true;
  try {
    await fetch(path, { method: "POST", headers: { "X-Jetlens-Action": "1" } });
  } catch {
    // The next question for the status says that the connection is lost.
  }
  await poll();
});
document.addEventListener("visibilitychange", () => document.hidden || poll());
// The token has been exchanged for a cookie: it need not stand in the address.
if (location.search) history.replaceState(null, "", location.pathname);
followStatus();
followPictures();
