// Text that comes from tasks is only ever assigned to textContent.

const RECONNECT = 5000, PING = 30000, POLL = 5000, HISTORY = 100, PAGE = 25;
const STATUSES = [["", "All"], ["queued", "Queued"], ["running", "Running"], ["completed", "Completed"], ["failed", "Failed"], ["cancelled", "Cancelled"]];
const PRIORITIES = { 1: "Low", 2: "Medium", 3: "High", 4: "Critical" };
const COUNTS = { queued: "pending", running: "in_progress", completed: "completed", failed: "failed", cancelled: "cancelled" };

const byId = (id) => document.getElementById(id);
const address = (name) => new URL(name, location.href.split(/[?#]/)[0]);

function element(name, className, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// ---- numbers as text

const whole = (value) => Math.round(value).toLocaleString("en");
const percent = (value) => `${value < 10 && value % 1 ? value.toFixed(1) : Math.round(value)} %`;
const rate = (value) => (value >= 100 ? whole(value) : value >= 10 ? value.toFixed(0) : value.toFixed(1));
const axisNumber = (value) => (value >= 10000 ? `${+(value / 1000).toFixed(1)}k` : value % 1 ? value.toFixed(value < 1 ? 2 : 1) : whole(value));
const seconds = (value) => (value >= 1 ? `${value.toFixed(1)} s` : value >= 0.001 ? `${(value * 1000).toFixed(value >= 0.01 ? 0 : 1)} ms` : value > 0 ? `${Math.round(value * 1e6)} µs` : "0");

function duration(value) {
  const total = Math.max(0, Math.round(value));
  if (total < 60) return `${total} s`;
  if (total < 3600) return `${Math.floor(total / 60)} min ${total % 60 ? `${total % 60} s` : ""}`.trim();
  if (total < 86400) return `${Math.floor(total / 3600)} h ${Math.floor((total % 3600) / 60)} min`;
  return `${Math.floor(total / 86400)} d ${Math.floor((total % 86400) / 3600)} h`;
}
const ago = (value) => (value < 2 ? "now" : value < 60 ? `${Math.floor(value)} s ago` : value < 3600 ? `${Math.floor(value / 60)} min ago` : value < 86400 ? `${Math.floor(value / 3600)} h ago` : `${Math.floor(value / 86400)} d ago`);

// Times of the tables are UTC without saying so.
const utc = (text) => (text ? Date.parse(`${text.replace(" ", "T")}Z`) / 1000 : null);
const clock = (text) => (text ? new Date(utc(text) * 1000).toLocaleString() : "–");

// ---- what is known

const samples = [];
let started = null; // of the server, its clock
let drift = 0; // server's clock minus this one's, seconds
let actionToken = null;
const serverNow = () => Date.now() / 1000 + drift;

// Differences between a sample and the one before it, so that charts show rates.
function addRates(sample, before) {
  sample.rates = {};
  if (!before) return;
  const time = sample.timestamp_epoch - before.timestamp_epoch;
  if (time <= 0 || time > GAP) return;
  const grown = (now, then, key) => (now && then && now[key] >= then[key] ? now[key] - then[key] : null);
  const completed = grown(sample.tasks, before.tasks, "completed"), failed = grown(sample.tasks, before.tasks, "failed");
  sample.rates.completed = completed === null ? null : completed / time;
  sample.rates.failed = failed === null ? null : failed / time;
  const hits = grown(sample.cache, before.cache, "hits"), requests = grown(sample.cache, before.cache, "total_requests");
  sample.rates.hits = requests ? (100 * hits) / requests : null;
}

function addSamples(list) {
  const known = new Map(samples.map((sample) => [sample.timestamp_epoch, sample]));
  for (const sample of list) known.set(sample.timestamp_epoch, sample);
  const all = [...known.values()].sort((one, other) => one.timestamp_epoch - other.timestamp_epoch).slice(-HISTORY);
  samples.splice(0, samples.length, ...all);
  samples.forEach((sample, index) => addRates(sample, samples[index - 1]));
  const last = samples[samples.length - 1];
  if (!last) return;
  drift = last.timestamp_epoch - Date.now() / 1000;
  show(last);
}

const poolShare = (sample) => {
  const pools = Object.values(sample.db_pools || {}).filter(Boolean);
  const size = pools.reduce((sum, pool) => sum + pool.max_size, 0);
  return size ? (100 * pools.reduce((sum, pool) => sum + pool.in_use, 0)) / size : null;
};
const SERIES = {
  cpu: { label: "CPU", color: "#8b9bff", value: (s) => s.system.cpu_percent, format: percent },
  memory: { label: "Memory", color: "#4fd1e8", value: (s) => s.system.memory_percent, format: percent },
  completed: { label: "Completed", color: "#42d69a", value: (s) => s.rates.completed ?? null, format: rate },
  failed: { label: "Failed", color: "#ff7381", value: (s) => s.rates.failed ?? null, format: rate },
  queue: { label: "Waiting", color: "#8b9bff", value: (s) => s.workers?.queue_depth ?? null, format: whole },
  running: { label: "Running", color: "#f4b955", value: (s) => s.tasks?.in_progress ?? null, format: whole },
  workers: { label: "Workers", color: "#42d69a", value: (s) => s.workers?.current_workers ?? null, format: whole },
  hits: { label: "Cache hits", color: "#4fd1e8", value: (s) => s.rates.hits ?? null, format: percent },
  pools: { label: "Pools in use", color: "#c792ea", value: poolShare, format: percent },
};
const inPercent = { top: 100, axis: (value) => `${value} %` };
const chart = (name, title, series, options) => new Chart(byId(`chart-${name}`), byId(`legend-${name}`), title, series.map((key) => SERIES[key]), options);
const charts = [
  chart("machine", "Machine", ["cpu", "memory"], inPercent),
  chart("tasks", "Tasks finished per second", ["completed", "failed"], { axis: axisNumber, least: 1 }),
  chart("queue", "Queue and workers", ["queue", "running", "workers"], { axis: axisNumber, least: 4 }),
  chart("stores", "Cache and pools", ["hits", "pools"], inPercent),
];

// ---- showing a sample

function tile(name, value, unit, note, series, top) {
  const box = byId(`tile-${name}`), number = box.querySelector(".value");
  number.replaceChildren(value);
  if (unit) number.append(element("small", "", unit));
  box.querySelector(".note").textContent = note;
  const spark = box.querySelector(".spark");
  if (spark) drawSpark(spark, samples, series, top);
}

function show(sample) {
  const { system, workers, tasks, cache } = sample;
  tile("cpu", String(system.cpu_percent), "%", "of all processors", SERIES.cpu, 100);
  tile("memory", String(system.memory_percent), "%", `${system.memory_used_gb} of ${system.memory_total_gb} GiB`, SERIES.memory, 100);
  tile("disk", String(system.disk_percent), "%", `${system.disk_used_gb} of ${system.disk_total_gb} GiB`);
  const used = byId("tile-disk").querySelector(".meter i");
  used.style.width = `${system.disk_percent}%`;
  used.style.background = system.disk_percent > 90 ? "var(--red)" : system.disk_percent > 75 ? "var(--amber)" : "";
  tile("queue", workers ? whole(workers.queue_depth) : "–", "", tasks ? `${whole(tasks.in_progress)} running` : "", SERIES.queue);
  tile("workers", workers ? String(workers.current_workers) : "–", workers ? `/ ${workers.max_workers}` : "", workers ? `${workers.active_workers} active` : "", SERIES.workers, workers ? Math.max(workers.max_workers, 1) * 1.1 : 0);
  tile("cache", cache ? rate(cache.hit_rate * 100) : "–", cache ? "%" : "", cache ? `${whole(cache.total_requests)} lookups` : "no cache connected", SERIES.hits, 105);
  for (const one of charts) one.update(samples);
  showWorkers(workers);
  showCache(cache);
  showPools(sample.db_pools || {});
  showCounts(tasks);
  showErrors(sample.errors);
  showTimes();
}

function showErrors(errors) {
  const texts = Object.entries(errors || {}).map(([part, reason]) => `${part}: ${reason}`);
  banner("errors", texts.length ? `Cannot be read – ${texts.join("; ")}` : "");
}

function showWorkers(workers) {
  const list = byId("workers");
  if (!workers) { list.replaceChildren(element("li", "free", "unknown")); return; }
  byId("workers-aside").textContent = `${workers.min_workers}–${workers.max_workers}, ${workers.auto_scaling_enabled ? "scaling by load" : "fixed"}`;
  const boxes = Object.entries(workers.worker_activity)
    .sort(([one], [other]) => one.localeCompare(other, "en", { numeric: true }))
    .map(([name, last]) => {
      const idle = serverNow() - last, box = element("li", idle < 10 ? "active" : "");
      box.append(element("b", "", name), element("span", "", idle < 10 ? "active" : `idle ${duration(idle)}`));
      return box;
    });
  const free = Math.min(workers.max_workers, 32) - boxes.length;
  for (let place = 0; place < free; place++) {
    const box = element("li", "free");
    box.append(element("b", "", "free"), element("span", "", "not started"));
    boxes.push(box);
  }
  list.replaceChildren(...boxes);
}

function facts(pairs) {
  const list = element("dl", "facts");
  for (const [name, value, isBad] of pairs) list.append(element("dt", "", name), element("dd", isBad ? "bad" : "", value));
  return list;
}

function showCache(cache) {
  const box = byId("cache");
  byId("cache-aside").textContent = cache ? `${whole(cache.size)} of ${whole(cache.max_size)} entries` : "";
  if (!cache) { box.replaceChildren(element("p", "empty", "No cache is connected to this dashboard.")); return; }
  const around = 2 * Math.PI * 44, ring = element("div", "ring"), share = cache.hit_rate * around;
  ring.append(
    svg("svg", { viewBox: "0 0 104 104", role: "img", "aria-label": `Hit rate ${percent(cache.hit_rate * 100)}` },
      svg("circle", { class: "track", cx: 52, cy: 52, r: 44 }),
      svg("circle", { class: "share", cx: 52, cy: 52, r: 44, "stroke-dasharray": `${share} ${around}`, visibility: share ? "visible" : "hidden" }),
      svg("text", { x: 52, y: 55 }, percent(cache.hit_rate * 100)), svg("text", { class: "small", x: 52, y: 71 }, "hits")),
    facts([["Hits", whole(cache.hits)], ["Misses", whole(cache.misses)], ["Stored", whole(cache.sets)], ["Evicted", whole(cache.evictions)],
      ["Expired", whole(cache.expirations)], ["Tags", whole(cache.tags_count)], ...(cache.disk_errors ? [["Disk errors", whole(cache.disk_errors), true]] : [])]),
  );
  box.replaceChildren(ring);
}

function showPools(pools) {
  const boxes = Object.entries(pools).map(([name, pool]) => {
    const box = element("div", "pool"), title = element("h3"), bar = element("div", "bar"), waits = element("p", "waits");
    title.append(element("b", "", name));
    box.append(title);
    if (!pool) { box.append(element("p", "empty", "cannot be read")); return box; }
    title.append(element("span", "", `${pool.in_use} in use · ${pool.available} idle · at most ${pool.max_size}`));
    for (const [part, count] of [["used", pool.in_use], ["idle", pool.available]]) {
      const piece = element("i", part);
      piece.style.width = `${(100 * count) / pool.max_size}%`;
      bar.append(piece);
    }
    bar.setAttribute("aria-hidden", "true");
    const fact = (label, value, isBad) => {
      const item = element("span", "", `${label} `);
      item.append(element("b", isBad ? "bad" : "", value));
      waits.append(item);
    };
    fact("borrowed", whole(pool.acquisitions));
    if (pool.wait_p95 !== undefined) fact("wait p50", seconds(pool.wait_p50)), fact("p95", seconds(pool.wait_p95));
    if (pool.waiting !== undefined) fact("waiting", whole(pool.waiting), pool.waiting > 0);
    if (pool.timeouts) fact("timeouts", whole(pool.timeouts), true);
    if (pool.errors) fact("errors", whole(pool.errors), true);
    if (pool.overdue) fact("overdue", whole(pool.overdue), true);
    box.append(bar, waits);
    return box;
  });
  byId("pools").replaceChildren(...(boxes.length ? boxes : [element("p", "empty", "No pool is connected to this dashboard.")]));
}

function showTimes() {
  byId("uptime").textContent = started === null ? "" : `up ${duration(serverNow() - started)}`;
  for (const cell of document.querySelectorAll("[data-since]")) cell.textContent = ago(serverNow() - cell.dataset.since);
  for (const cell of document.querySelectorAll("[data-running]")) cell.textContent = duration(serverNow() - cell.dataset.running);
  if (link.state === "lost") setLink("lost");
}

// ---- the line to the server: one socket, one timer of each kind for the life of the page

const link = { socket: null, state: "connecting", retryAt: 0, timer: null };
const isOpen = () => link.socket !== null && link.socket.readyState === WebSocket.OPEN;

function setLink(state) {
  link.state = state;
  byId("link").dataset.state = state;
  const left = Math.max(1, Math.ceil((link.retryAt - Date.now()) / 1000));
  const text = { live: "Live", connecting: "Connecting", lost: `Reconnecting in ${left} s` }[state];
  if (byId("link-text").textContent !== text) byId("link-text").textContent = text;
}

function connect() {
  link.timer = null;
  setLink("connecting");
  const url = address("ws");
  url.protocol = url.protocol.replace("http", "ws");
  const socket = link.socket = new WebSocket(url);
  socket.onopen = () => { setLink("live"); banner("access", ""); catchUp(); };
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.type === "metrics_update") addSamples([message.data]);
  };
  socket.onclose = () => {
    if (link.socket !== socket || link.timer !== null) return;
    link.retryAt = Date.now() + RECONNECT;
    link.timer = setTimeout(connect, RECONNECT);
    setLink("lost");
  };
}

setInterval(() => { if (isOpen()) link.socket.send("ping"); }, PING);
setInterval(() => { if (!isOpen()) poll(); }, POLL);
setInterval(showTimes, 1000);

async function load(name, options) {
  const response = await fetch(address(name), { cache: "no-store", ...options });
  if (response.status === 401) banner("access", "This dashboard needs its token. Open the address that the program has written to its log.");
  const body = await response.json();
  if (!response.ok) throw Object.assign(new Error(body.error || (typeof body.detail === "string" ? body.detail : response.statusText)), { status: response.status });
  return body;
}

// The server is away or restarting: what is on the page stays, and the line says so.
const quietly = (work) => work.catch((error) => { if (!(error instanceof TypeError) && !error.status) throw error; });

const poll = () => quietly(load("api/system/stats").then((sample) => addSamples([sample])));

// After a reload or a lost connection: the history has what was missed, the server may be another one.
function catchUp() {
  quietly(load("api/session").then((session) => {
    if (started !== null && session.started !== started) samples.length = 0;
    started = session.started;
    actionToken = session.action_token;
    return load("api/metrics/history").then(addSamples);
  }));
  loadTasks();
}

const banners = {};
function banner(name, text) {
  banners[name] = text;
  const all = Object.values(banners).filter(Boolean).join(" · ");
  byId("banner").hidden = !all;
  if (byId("banner").textContent !== all) byId("banner").textContent = all;
}

// ---- tasks

const view = { status: "", text: "", limit: PAGE, counts: "", isLoading: false, isStale: false, loadedAt: 0, cost: 0, rows: new Map() };

const filters = STATUSES.map(([status, label]) => {
  const button = element("button", "", label), count = element("b");
  button.type = "button";
  button.dataset.status = status;
  button.append(count);
  button.addEventListener("click", () => { view.status = status; view.limit = PAGE; showFilter(); loadTasks(); });
  byId("filter").append(button);
  return { status, button, count };
});
function showFilter() {
  for (const { status, button } of filters) button.setAttribute("aria-pressed", String(status === view.status));
}

function showCounts(tasks) {
  if (!tasks) return;
  for (const { status, count } of filters) {
    count.textContent = whole(status ? tasks[COUNTS[status]] ?? 0 : Object.values(COUNTS).reduce((sum, key) => sum + (tasks[key] ?? 0), 0));
  }
  const counts = JSON.stringify(tasks);
  // A search through a long table is not repeated at every change.
  if (counts !== view.counts && performance.now() > view.loadedAt + 20 * view.cost) {
    view.counts = counts;
    loadTasks();
    if (byId("detail").open) openDetail(detail.id);
  }
}

async function loadTasks() {
  if (view.isLoading) { view.isStale = true; return; } // one request at a time, the last wish wins
  view.isLoading = true;
  try {
    do {
      view.isStale = false;
      const begun = performance.now();
      const query = new URLSearchParams({ limit: String(Math.min(view.limit, 200)) });
      if (view.status) query.set("status", view.status);
      if (view.text) query.set("q", view.text);
      const found = await quietly(load(`api/tasks?${query}`));
      view.loadedAt = performance.now();
      view.cost = view.loadedAt - begun;
      if (found && !view.isStale) showTasks(found);
    } while (view.isStale);
  } finally {
    view.isLoading = false;
  }
}

function showTasks({ tasks, more }) {
  const rows = tasks.map((task) => {
    const row = view.rows.get(task.id) || makeRow(task);
    fillRow(row, task);
    return row;
  });
  view.rows = new Map(rows.map((row) => [Number(row.dataset.id), row]));
  // Rows that stay are not moved, so that the focus stays as well.
  const body = byId("rows");
  for (const row of [...body.children]) if (!rows.includes(row)) row.remove();
  rows.forEach((row, index) => { if (body.children[index] !== row) body.insertBefore(row, body.children[index] || null); });
  byId("rows-empty").hidden = rows.length > 0;
  byId("rows-empty").textContent = view.text || view.status ? "No task matches." : "No tasks yet. What is queued appears here.";
  byId("more").hidden = !more || view.limit >= 200;
  showTimes();
}

function makeRow(task) {
  const row = element("tr"), what = element("td", "what"), open = element("button"), cell = (name) => element("td", name);
  row.dataset.id = task.id;
  open.type = "button";
  open.addEventListener("click", () => openDetail(task.id));
  what.append(open, element("p"));
  row.append(what, cell("status"), cell("priority"), cell("when"), cell("took"), cell("acts"));
  return row;
}

function fillRow(row, task) {
  const [what, status, priority, when, took, acts] = row.children, [open, note] = what.children;
  open.textContent = task.task_type;
  open.append(element("small", "", `#${task.id}`));
  note.textContent = (task.status === "failed" && task.error) || task.task_description || "";
  note.className = task.status === "failed" && task.error ? "error" : "";
  note.hidden = !note.textContent;
  status.replaceChildren(chip(task.status));
  priority.textContent = PRIORITIES[task.priority] || task.priority;
  priority.dataset.level = task.priority;
  when.dataset.since = utc(task.created_at) ?? "";
  when.title = clock(task.created_at);
  delete took.dataset.running;
  const lasted = task.completed_at && task.started_at ? utc(task.completed_at) - utc(task.started_at) : null;
  took.textContent = lasted === null ? "" : lasted < 1 ? "< 1 s" : duration(lasted);
  if (task.status === "running" && task.started_at) took.dataset.running = utc(task.started_at);
  const wanted = actionOf(task.status);
  if (acts.dataset.action !== (wanted || "")) {
    acts.dataset.action = wanted || "";
    acts.replaceChildren(...(wanted ? [actionButton(wanted, task)] : []));
  }
}

function chip(status) {
  const node = element("span", "chip", status);
  node.dataset.status = status;
  return node;
}

const actionOf = (status) => ({ queued: "cancel", failed: "retry", cancelled: "retry" })[status];

function actionButton(action, task) {
  const button = element("button", "button", action === "cancel" ? "Cancel" : "Retry");
  button.type = "button";
  button.setAttribute("aria-label", `${button.textContent} task ${task.id}`);
  button.addEventListener("click", async () => {
    button.disabled = true;
    await act(action, task.id);
    button.disabled = false;
  });
  return button;
}

async function act(action, id) {
  const send = () => load(`api/tasks/${id}/${action}`, { method: "POST", headers: { "X-Upshift-Action": actionToken || "" } });
  const renew = () => load("api/session").then((session) => { actionToken = session.action_token; });
  try {
    if (actionToken === null) await renew();
    // 403: the server was restarted since the page was loaded.
    const done = await send().catch((error) => (error.status === 403 ? renew().then(send) : Promise.reject(error)));
    toast(action === "cancel" ? `Task ${id} is cancelled.` : `Task ${id} is queued again as ${done.task_id}.`);
    await loadTasks();
    if (byId("detail").open) openDetail(detail.id);
  } catch (error) {
    toast(`Task ${id}: ${error.message}`, true);
  }
}

let toastTimer = null;
function toast(text, isBad) {
  const box = byId("toast");
  box.textContent = text;
  box.className = isBad ? "toast bad" : "toast";
  box.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { box.hidden = true; }, 4000);
  (byId("detail").open ? byId("detail") : document.body).append(box); // an open dialog covers everything else
}

// ---- one task

const detail = { id: null };

async function openDetail(id) {
  detail.id = id;
  let found;
  try {
    found = await load(`api/tasks/${id}/detail`);
  } catch (error) {
    toast(`Task ${id}: ${error.message}`, true);
    return;
  }
  if (detail.id !== id) return;
  const { task, attempts } = found, body = byId("detail-body");
  byId("detail-over").textContent = `Task #${task.id} · ${PRIORITIES[task.priority] || task.priority} priority`;
  byId("detail-title").textContent = task.task_type;
  const parts = [chip(task.status)];
  if (task.task_description) parts.push(element("p", "description", task.task_description));
  const steps = element("dl", "steps");
  for (const [name, time] of [["Queued", task.created_at], ["Started", task.started_at], ["Ended", task.completed_at]]) {
    const step = element("div");
    step.append(element("dt", "", name), element("dd", "", clock(time)));
    steps.append(step);
  }
  parts.push(steps);
  if (task.error) parts.push(block("Error", task.error, "error"));
  if (attempts.length) parts.push(attemptList(attempts));
  if (task.context !== null) parts.push(block("Context", asText(task.context)));
  if (task.result !== null) parts.push(block("Result", asText(task.result)));
  parts[0].style.justifySelf = "start";
  const scrolled = body.scrollTop;
  body.replaceChildren(...parts);
  body.scrollTop = scrolled;
  const action = task.status === "completed" ? "retry" : actionOf(task.status), footer = byId("detail-actions");
  if (footer.dataset.for !== `${task.id} ${action}`) {
    footer.dataset.for = `${task.id} ${action}`;
    footer.replaceChildren(...(action ? [actionButton(action, task)] : []));
  }
  if (!byId("detail").open) byId("detail").showModal();
}

const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

function block(title, text, className) {
  const section = element("section"), content = element("pre", className || "", text);
  content.tabIndex = 0; // scrolls with the keyboard
  section.append(element("h3", "", title), content);
  return section;
}

function attemptList(attempts) {
  const section = element("section"), list = element("ol", "attempts");
  section.append(element("h3", "", "Attempts"));
  for (const [index, attempt] of attempts.entries()) {
    const item = element("li"), outcome = attempt.outcome || "running";
    item.append(element("span", "", String(attempt.attempt ?? index + 1)), element("span", "", outcome), element("span", "", attempt.error || ""));
    list.append(item);
  }
  section.append(list);
  return section;
}

byId("detail-close").addEventListener("click", () => byId("detail").close());
byId("detail").addEventListener("click", (event) => { if (event.target === byId("detail")) byId("detail").close(); });
byId("detail").addEventListener("close", () => {
  const row = view.rows.get(detail.id);
  detail.id = null;
  document.body.append(byId("toast"));
  if (row) row.querySelector("button").focus();
});

let searchTimer = null;
byId("search").addEventListener("input", (event) => {
  clearTimeout(searchTimer);
  searchTimer = setTimeout(() => { view.text = event.target.value.trim(); view.limit = PAGE; loadTasks(); }, 200);
});
byId("more").addEventListener("click", () => { view.limit += PAGE; loadTasks(); });

showFilter();
connect();
