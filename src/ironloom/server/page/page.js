// The first page: services as /api/v1/stream tells them, recent events, and a chat with one service.
// No dependency, no build step. Text reaches the document as text nodes only.
"use strict";

const KEY_NAME = "ironloom-key";
const MAX_EVENTS = 50;
const MAX_TOKENS = 512; // of an answer, as `ironloom chat` has it: a small model may never find its end
const at = (id) => document.getElementById(id);

// ---------------------------------------------------------------- requests

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY_NAME);
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

class ApiError extends Error {
  constructor(status, error) {
    super(error?.message ?? `the daemon answered with status ${status}`);
    this.status = status;
    this.code = error?.code ?? null;
  }
}

async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: headers(options.headers) });
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new ApiError(response.status, body.error);
  }
  return response;
}

// The data of a server-sent event stream, one string an event. Comments (heartbeats) are passed over.
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
        if (data.length) yield data.join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

// ---------------------------------------------------------------- small helpers for the document

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Only what changed is written, so that focus, selection and screen readers are left alone.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

// A reason may end in the last lines of an engine. Where there is room for one line, it is what happened and the last
// of them, as serve/reason.py tells it; all of them unfold below. What only a terminal obeys, colours, is left out.
function linesOf(text) {
  return text.replace(/\x1b\[[0-?]*[ -/]*[@-~]/g, "").split(/\r?\n/).filter((line) => line.trim());
}

function oneLine(lines) {
  if (lines.length < 2) return lines[0] ?? "";
  return lines[0].replace(/; its last lines:$/, () => `: ${lines.at(-1).trim()}`);
}

function makeWhole() {
  const whole = element("details", "whole");
  whole.append(element("summary", "", "all of it"), element("pre"));
  return whole;
}

function updateWhole(whole, lines) {
  whole.hidden = lines.length < 2;
  setText(whole.querySelector("pre"), lines.length < 2 ? "" : lines.join("\n"));
}

function number(value) {
  if (value >= 100) return Math.round(value).toLocaleString("en");
  return Number.isInteger(value) ? String(value) : value.toFixed(1);
}

// Rows of a list, one a name: kept, added and removed in place.
function reconcile(list, items, nameOf, make, update) {
  const rows = new Map([...list.children].map((row) => [row.dataset.name, row]));
  items.forEach((item, index) => {
    const name = nameOf(item);
    let row = rows.get(name);
    rows.delete(name);
    if (!row) {
      row = make(item);
      row.dataset.name = name;
    }
    update(row, item);
    if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
  });
  for (const row of rows.values()) row.remove();
}

// ---------------------------------------------------------------- services

function makeService() {
  const row = element("li");
  const name = element("div", "name");
  name.append(element("h3"), element("span", "state"));
  const numbers = element("dl", "numbers");
  for (const label of ["replicas", "in flight", "held", "tokens/s"]) {
    const pair = element("div");
    pair.append(element("dt", "", label), element("dd"));
    numbers.append(pair);
  }
  const details = element("details", "of-replicas");
  details.append(element("summary"), element("ul", "replicas"));
  row.append(name, element("p", "sub"), makeWhole(), numbers, details);
  return row;
}

function updateService(row, service) {
  setText(row.querySelector("h3"), service.name);
  const state = row.querySelector(".state");
  setText(state, service.state);
  setClass(state, `state ${service.state}`);
  const reason = linesOf(service.reason);
  const about = [service.engine, service.model.uri, service.model.note, oneLine(reason)].filter(Boolean);
  setText(row.querySelector(".sub"), about.join(" · "));
  updateWhole(row.querySelector(":scope > .whole"), reason);
  const live = service.replicas.filter((replica) => !["stopped", "failed"].includes(replica.state));
  const ready = live.filter((replica) => replica.state === "ready").length;
  const values = [live.length ? `${ready} of ${live.length}` : "0", number(service.in_flight), number(service.held), number(service.tokens_per_s)];
  row.querySelectorAll("dd").forEach((node, index) => setText(node, values[index]));
  const details = row.querySelector(".of-replicas");
  details.hidden = service.replicas.length === 0;
  setText(details.querySelector(":scope > summary"), service.replicas.length === 1 ? "1 replica" : `${service.replicas.length} replicas`);
  reconcile(details.querySelector("ul"), service.replicas, (replica) => replica.id, makeReplica, updateReplica);
}

function makeReplica() {
  const row = element("li");
  row.append(element("code"), element("span", "state"), element("span", "about muted"), makeWhole());
  return row;
}

function updateReplica(row, replica) {
  setText(row.querySelector("code"), replica.id);
  const state = row.querySelector(".state");
  setText(state, replica.state);
  setClass(state, `state ${replica.state}`);
  const reason = linesOf(replica.reason);
  const about = [replica.phase, oneLine(reason), replica.pid ? `pid ${replica.pid}` : "", replica.devices.join(", ")];
  about.push(`${replica.in_flight} in flight`);
  setText(row.querySelector(".about"), about.filter(Boolean).join(" · "));
  updateWhole(row.querySelector(".whole"), reason);
}

// ---------------------------------------------------------------- training runs

const SVG = "http://www.w3.org/2000/svg";
const CURVE = { width: 600, height: 140 };

function shape(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function makeRun() {
  const row = element("li");
  const name = element("div", "name");
  name.append(element("h3"), element("span", "state"));
  const numbers = element("dl", "numbers");
  for (const label of ["step", "loss", "tokens/s", "left"]) {
    const pair = element("div");
    pair.append(element("dt", "", label), element("dd"));
    numbers.append(pair);
  }
  const curve = shape("svg", { class: "curve", viewBox: `0 0 ${CURVE.width} ${CURVE.height}`, preserveAspectRatio: "none", role: "img" });
  curve.append(shape("title", {}));
  curve.append(shape("line", { class: "axis", x1: 0, x2: CURVE.width, y1: CURVE.height, y2: CURVE.height }));
  curve.append(shape("polyline", { class: "loss" }), shape("polyline", { class: "eval" }));
  row.append(name, element("p", "sub"), makeWhole(), numbers, element("p", "sub step-parts"), curve, element("p", "curve-legend"));
  return row;
}

// Where the mean step's time goes, from a hundredth of it on, and what stalls cost.
function stepParts({ step_s: step, parts_s: parts, num_stalls: stalls, stall_s: lost }) {
  if (typeof step !== "number" || !(step > 0)) return "";
  const shares = Object.entries(parts ?? {}).filter(([, seconds]) => seconds >= step / 100);
  const told = shares.map(([part, seconds]) => `${part} ${Math.round((100 * seconds) / step)} %`);
  if (stalls) told.push(`${stalls === 1 ? "1 stall" : `${stalls} stalls`}, ${duration(lost)} lost`);
  return [`step ${step < 1 ? `${Math.round(1000 * step)} ms` : `${step.toFixed(1)} s`}`, ...told].join(" · ");
}

function updateRun(row, run) {
  setText(row.querySelector("h3"), run.name);
  const state = row.querySelector(".state");
  setText(state, run.state);
  setClass(state, `state ${run.state}`);
  const reason = linesOf(run.reason);
  const ranks = run.num_ranks === 1 ? "1 rank" : `${run.num_ranks} ranks`;
  const about = [run.model, run.method === "full" ? "" : run.method, ranks, run.attempt > 1 ? `attempt ${run.attempt}` : "", run.phase || oneLine(reason)];
  setText(row.querySelector(".sub"), about.filter(Boolean).join(" · "));
  updateWhole(row.querySelector(".whole"), reason);
  const { loss, tokens_per_s: rate, remaining_s: left } = run.last;
  const values = [
    run.num_steps ? `${run.step} of ${run.num_steps}` : "–",
    typeof loss === "number" ? loss.toFixed(4) : "–",
    typeof rate === "number" ? number(rate) : "–",
    run.state === "running" && typeof left === "number" ? duration(left) : "–",
  ];
  row.querySelectorAll("dd").forEach((node, index) => setText(node, values[index]));
  const parts = row.querySelector(".step-parts");
  setText(parts, stepParts(run.last));
  parts.hidden = parts.textContent === "";
  drawCurve(row, run);
}

function drawCurve(row, run) {
  const curve = row.querySelector(".curve");
  const legend = row.querySelector(".curve-legend");
  const points = [...run.loss_curve, ...run.eval_curve];
  curve.toggleAttribute("hidden", run.loss_curve.length < 2);
  curve.style.display = run.loss_curve.length < 2 ? "none" : "";
  if (run.loss_curve.length < 2) {
    setText(legend, "");
    return;
  }
  const last = Math.max(run.num_steps, ...points.map((point) => point[0]));
  const [low, high] = [Math.min(...points.map((point) => point[1])), Math.max(...points.map((point) => point[1]))];
  const place = ([step, loss]) => {
    const x = (step / Math.max(1, last)) * CURVE.width;
    const y = CURVE.height - ((loss - low) / Math.max(1e-9, high - low)) * (CURVE.height - 4) - 2;
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  };
  curve.querySelector(".loss").setAttribute("points", run.loss_curve.map(place).join(" "));
  curve.querySelector(".eval").setAttribute("points", run.eval_curve.map(place).join(" "));
  const ends = `loss ${run.loss_curve[0][1].toFixed(3)} to ${run.loss_curve.at(-1)[1].toFixed(3)}`;
  const evaluated = run.eval_curve.length ? `, evaluation (dashed) ${run.eval_curve[0][1].toFixed(3)} to ${run.eval_curve.at(-1)[1].toFixed(3)}` : "";
  setText(curve.querySelector("title"), `Loss curve of ${run.name}: ${ends}${evaluated}`);
  setText(legend, `${ends}${evaluated}; step 0 to ${last}`);
}

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)}s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes}m` : `${Math.floor(minutes / 60)}h${String(minutes % 60).padStart(2, "0")}m`;
}

function showSnapshot(snapshot) {
  const { services, totals } = snapshot;
  setText(at("total-in-flight"), number(totals.in_flight));
  setText(at("total-held"), number(totals.held));
  setText(at("total-requests"), number(totals.requests_per_s));
  setText(at("total-tokens"), number(totals.tokens_per_s));
  at("empty").hidden = services.length > 0;
  reconcile(at("services"), services, (service) => service.name, makeService, updateService);
  offer(services.map((service) => service.name));
  const runs = snapshot.runs ?? [];
  at("runs-panel").hidden = runs.length === 0;
  reconcile(at("runs"), runs, (run) => run.name, makeRun, updateRun);
}

// The services that a chat can pick.
function offer(names) {
  const select = at("service");
  const known = [...select.options].map((option) => option.value);
  if (known.join("\n") !== names.join("\n")) {
    const chosen = select.value;
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.includes(chosen)) select.value = chosen;
  }
  if (!answering) at("send").disabled = names.length === 0;
}

// ---------------------------------------------------------------- following the daemon

function connection(text, lost = false) {
  setText(at("connection"), text);
  setClass(at("connection"), lost ? "lost" : "");
}

function wantKey(reason) {
  at("key-section").hidden = false;
  setText(at("key-reason"), reason);
  connection("waiting for a key", true);
}

async function follow() {
  let waitS = 1;
  for (;;) {
    try {
      const status = await (await ask("/api/v1/status")).json();
      const gpus = status.machine.gpus.length ? ` · ${status.machine.gpus.length} GPU` : "";
      setText(at("machine"), `${status.machine.name} · ${status.machine.num_cpus} CPUs${gpus} · version ${status.version}`);
      const stream = await ask("/api/v1/stream");
      at("key-section").hidden = true;
      for await (const data of eventsOf(stream)) {
        waitS = 1;
        connection("live");
        showSnapshot(JSON.parse(data));
        readEvents().catch(() => {});
      }
      connection("the daemon has ended; trying again", true);
    } catch (error) {
      if (error instanceof ApiError && (error.status === 401 || error.status === 403)) {
        await withoutControl(error);
        return; // goes on when a key is given
      }
      connection("the daemon does not answer; trying again", true);
    }
    await pause(waitS);
    waitS = Math.min(waitS * 2, 15);
  }
}

// A key of scope inference still opens the chat.
async function withoutControl(error) {
  if (error.code === "insufficient_scope") {
    const models = await ask("/v1/models").then((response) => response.json()).catch(() => ({ data: [] }));
    offer(models.data.map((model) => model.id));
    wantKey("This key opens the chat only. Services and events need a key of scope control: ironloom key create --scope control NAME.");
    connection("chat only");
  } else if (error.status === 401) {
    wantKey(`${sentence(error.message)} ironloom key create --scope control NAME makes one.`);
  } else {
    connection(error.message, true);
  }
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

let lastSeq = 0;
let reading = false;

async function readEvents() {
  if (reading) return;
  reading = true;
  try {
    const events = await (await ask(`/api/v1/events?after=${lastSeq}&limit=${MAX_EVENTS}`)).json();
    const list = at("events");
    for (const event of events) {
      lastSeq = Math.max(lastSeq, event.seq);
      list.prepend(eventRow(event));
    }
    while (list.children.length > MAX_EVENTS) list.lastElementChild.remove();
    at("no-events").hidden = list.children.length > 0;
  } finally {
    reading = false;
  }
}

function eventRow(event) {
  const row = element("li");
  const when = new Date(event.wall_time_s * 1000);
  const time = element("time", "", when.toLocaleTimeString("en-GB"));
  time.dateTime = when.toISOString();
  const message = linesOf(event.message);
  const text = element("div", "text", [event.service, event.reason, oneLine(message)].filter(Boolean).join(" · "));
  if (message.length > 1) {
    const whole = makeWhole();
    updateWhole(whole, message);
    text.append(whole);
  }
  row.append(time, element("span", "what", event.kind), text);
  return row;
}

// ---------------------------------------------------------------- chat

let conversation = [];
let answering = null; // the AbortController of the answer that is coming

function say(who, className, text = "") {
  const message = element("div", `message ${className}`);
  message.append(element("span", "who", who), element("span", "content", text));
  at("messages").append(message);
  scroll();
  return message;
}

function scroll() {
  const log = at("messages");
  log.scrollTop = log.scrollHeight;
}

async function chat(service, text) {
  conversation.push({ role: "user", content: text });
  say("You", "user", text);
  const message = say(service, "assistant");
  answering = new AbortController();
  at("send").disabled = true;
  at("stop").disabled = false;
  setText(at("chat-status"), "waiting for the first token");
  const started = performance.now();
  let answer = "";
  try {
    const response = await ask("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ model: service, messages: conversation, stream: true, max_tokens: MAX_TOKENS, stream_options: { include_usage: true } }),
      signal: answering.signal,
    });
    let firstMs = null;
    let usage = null;
    let cutOff = false;
    for await (const data of eventsOf(response)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.status ?? 0, chunk.error);
      usage = chunk.usage ?? usage;
      cutOff ||= chunk.choices?.[0]?.finish_reason === "length";
      const delta = chunk.choices?.[0]?.delta ?? {};
      const thought = delta.reasoning_content ?? delta.reasoning;
      if (firstMs === null && (delta.content || thought)) {
        firstMs = performance.now() - started;
        setText(at("chat-status"), "answering");
      }
      if (thought) thoughtOf(message).append(thought);
      if (delta.content) {
        answer += delta.content;
        message.querySelector(".content").append(delta.content);
      }
      scroll();
    }
    message.append(element("span", "figures", figures(firstMs, performance.now() - started, usage)));
    setText(at("chat-status"), cutOff ? `cut off: an answer has at most ${MAX_TOKENS} tokens here` : "");
  } catch (error) {
    const stopped = error.name === "AbortError";
    if (!answer) message.remove();
    if (!stopped) say("Error", "error", error.message);
    setText(at("chat-status"), stopped ? "stopped" : "failed");
  } finally {
    if (answer) conversation.push({ role: "assistant", content: answer });
    else conversation.pop();
    answering = null;
    at("send").disabled = at("service").options.length === 0;
    at("stop").disabled = true;
    scroll();
  }
}

function thoughtOf(message) {
  let thought = message.querySelector(".thought");
  if (!thought) {
    thought = element("span", "thought");
    message.querySelector(".content").before(thought);
  }
  return thought;
}

function figures(firstMs, allMs, usage) {
  const parts = [];
  if (firstMs !== null) parts.push(`first token ${(firstMs / 1000).toFixed(2)} s`);
  const tokens = usage?.completion_tokens;
  if (tokens) parts.push(`${tokens} tokens`);
  if (tokens > 1 && firstMs !== null && allMs > firstMs) parts.push(`${number(((tokens - 1) * 1000) / (allMs - firstMs))} tokens/s`);
  return parts.join(" · ");
}

// ---------------------------------------------------------------- start

at("chat-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("prompt").value.trim();
  if (!text || answering || !at("service").value) return;
  at("prompt").value = "";
  chat(at("service").value, text);
});
at("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("chat-form").requestSubmit();
  }
});
at("stop").addEventListener("click", () => answering?.abort());
at("clear").addEventListener("click", () => {
  answering?.abort();
  conversation = [];
  at("messages").replaceChildren();
  setText(at("chat-status"), "");
});
at("service").addEventListener("change", () => {
  conversation = [];
  at("messages").replaceChildren();
});
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY_NAME, at("key").value.trim());
  at("key").value = "";
  at("key-section").hidden = true;
  connection("connecting");
  follow();
});
at("send").disabled = true;
follow();
