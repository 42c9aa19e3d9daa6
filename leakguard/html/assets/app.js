// The page: what is shown, searched, chosen; and, in a running service, told anew every few seconds.

const VERDICTS = [["leak", "leaks"], ["suspect", "suspects"], ["advice", "advice"], ["held", "held"]];
const STANDINGS = [["new", "new"], ["more", "more than known"], ["known", "known"]];
const TRACKS_SHOWN = 4, EVERY = 5000;

let data = JSON.parse(byId("data").textContent);
const state = { query: "", hidden: new Set(), sort: "worst", chosen: null, picked: false, allTracks: false, paused: false };
let found = [], cards = [];

const list = new Rows(byId("list"), 68, (at) => rowOf(found[at]), (at, by) => {
  state.picked = true;
  choose(found[at].bug);
  if (by !== "key" && (by === "enter" || matchMedia("(max-width: 880px)").matches)) {
    byId("detail").focus({ preventScroll: true });
    byId("detail").scrollIntoView({ block: "start" });
  }
});
const detail = new Detail(byId("detail"));

// ------------------------------------------------------------------------------------------------------------ search

function prepare() {
  data.bugs.forEach((bug, at) => {
    bug.site = at;
    const stack = data.stacks[bug.stack].map((frame) => data.frames[frame].slice(0, 3).join(" "));
    const words = [bug.fingerprint, bug.verdict, bug.place, bug.function, bug.code, bug.how, bug.why, bug.fix, stack];
    bug.text = [words, bug.counts.map((count) => count[0]), bug.facts, bug.standing || ""].flat(3).join("\n").toLowerCase();
    bug.total = bug.counts.reduce((sum, count) => sum + count[1], 0);
  });
}

const textOf = (hold) => (hold.text ??= [hold.what, hold.owner, hold.state, hold.facts].flat(3).join("\n").toLowerCase());

// Each word has to be in what is said of the place, or of one of its holds: then those holds alone are shown.
function match(bug, words) {
  const rest = words.filter((word) => !bug.text.includes(word));
  const all = bug.holds.map((_, at) => at);
  if (!rest.length) return all;
  const holds = all.filter((at) => rest.every((word) => textOf(bug.holds[at]).includes(word)));
  return holds.length ? holds : null;
}

function search() {
  const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
  found = [];
  for (const bug of data.bugs) {
    if (state.hidden.has(bug.verdict) || state.hidden.has(bug.standing)) continue;
    const holds = match(bug, words);
    if (holds) found.push({ bug, holds });
  }
  const by = { count: (bug) => bug.total, longest: (bug) => bug.longest, last: (bug) => bug.last ?? 0 }[state.sort];
  if (by) found.sort((a, b) => by(b.bug) - by(a.bug));
  const at = found.findIndex(({ bug }) => bug.fingerprint === state.chosen);
  byId("list").style.setProperty("--rows", found.length);
  list.set(found.length, at);
  byId("matches").textContent = found.length === data.bugs.length
    ? plural(found.length, "place") : `${number(found.length)} of ${plural(data.bugs.length, "place")}`;
  if (at >= 0) show(found[at]);
  else if (found.length) choose(found[0].bug, false);
  else detail.empty(data.bugs.length ? "No place matches." : "Nothing was found.");
}

// ------------------------------------------------------------------------------------------------------------ choice

function rowOf({ bug, holds }) {
  const longest = bug.longest ? duration(bug.longest) : "";
  return h("div", { class: `place ${bug.verdict}` },
    h("i", { class: `swatch ${colorOf(bug.site)}` }),
    h("span", { class: "kinds" }, kindsOf(bug)),
    h("span", { class: "side" }, badge(bug) || (holds.length < bug.holds.length ? `${number(holds.length)} match` : "")),
    h("span", { class: "where" }, name(bug.place)),
    h("span", { class: "side quiet num" }, longest),
    h("span", { class: "code quiet" }, name(bug.code || bug.function)));
}

function choose(bug, asked = true) {
  state.chosen = bug.fingerprint;
  if (asked) history.replaceState(null, "", `#${encodeURIComponent(bug.fingerprint)}`);
  const at = found.findIndex((one) => one.bug === bug);
  list.set(found.length, at);
  if (at >= 0) show(found[at]);
}

function show({ bug, holds }) {
  const again = detail.bug?.fingerprint === bug.fingerprint;
  if (again) keeping(byId("detail"), () => detail.show(data, bug, holds, detail.chosen));
  else detail.show(data, bug, holds, null);
  for (const card of cards) card.chart.emphasise(state.picked ? bug.site : null);
}

function pick(site) {
  const bug = data.bugs[site];
  if (!bug) return;
  state.picked = true;
  if (!found.some((one) => one.bug === bug)) {
    state.query = byId("query").value = "";
    state.hidden.clear();
    filters();
    search();
  }
  choose(bug);
  list.reveal(list.at);
}

// ----------------------------------------------------------------------------------------------------------- drawing

function labelOf(site) {
  if (site === OTHERS) return "other places";
  const bug = data.bugs[site];
  if (!bug) return data.others[site - data.bugs.length][1];
  return bug.function ? `${bug.place} ${bug.function}` : bug.place;
}

function tracks() {
  for (const card of cards) card.chart.watcher.disconnect();
  const shown = state.allTracks ? data.tracks : data.tracks.slice(0, TRACKS_SHOWN);
  cards = shown.map((track) => new TrackCard(track, labelOf, pick));
  keeping(byId("tracks"), () => byId("tracks").replaceChildren(...cards.map((card) => card.element)));
  byId("timelines").hidden = !data.tracks.length;
  const more = byId("more-tracks");
  more.hidden = shown.length === data.tracks.length;
  more.textContent = `Show all ${number(data.tracks.length)} pools`;
}

function filters() {
  const button = ([key, words], count) => h("button", {
    "type": "button", "class": `choice ${key}`, "aria-pressed": String(!state.hidden.has(key)),
    "onclick": (event) => {
      state.hidden.has(key) ? state.hidden.delete(key) : state.hidden.add(key);
      event.currentTarget.setAttribute("aria-pressed", String(!state.hidden.has(key)));
      search();
    },
  }, words, " ", h("span", { class: "num" }, number(count)));
  const counted = (choices, key) => choices
    .map((choice) => [choice, data.bugs.filter((bug) => bug[key] === choice[0]).length])
    .filter(([, count]) => count).map(([choice, count]) => button(choice, count));
  byId("verdicts").replaceChildren(...counted(VERDICTS, "verdict"), ...counted(STANDINGS, "standing"));
}

function rest() {
  byId("headline").textContent = data.headline;
  byId("about").textContent = data.about;
  byId("caption").textContent = data.caption;
  byId("process-section").hidden = !data.processes.length;
  byId("processes").replaceChildren(...data.processes.slice(0, 100).map((process) => h("div", { class: "process" },
    h("p", {}, h("b", { class: process.trouble ? "trouble" : null }, name(process.name))),
    process.lines.map((line) => h("p", { class: "quiet" }, name(line))),
    process.facts.length ? folded("Settings and versions", factList(process.facts)) : null)));
  if (data.processes.length > 100) {
    byId("processes").append(h("p", { class: "quiet" }, `${number(data.processes.length - 100)} more processes`));
  }
  byId("note-section").hidden = !data.notes.length;
  byId("notes").replaceChildren(...data.notes.map((note) => h("li", {}, name(note))));
}

function draw() {
  prepare();
  assignColors(data.tracks);
  rest();
  tracks();
  filters();
  search();
}

// -------------------------------------------------------------------------------------------------- theme, keys, life

const THEMES = ["auto", "light", "dark"];

function theme(choice) {
  document.documentElement.dataset.theme = choice;
  byId("theme").textContent = `Theme: ${choice}`;
}

// Storage may be forbidden, as for a file in some browsers: then the choice lasts as long as the page.
function remembered() {
  try {
    return localStorage.getItem("leakguard-theme");
  } catch {
    return null;
  }
}

byId("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
  theme(next);
  try {
    localStorage.setItem("leakguard-theme", next);
  } catch { /* see above */ }
});

let typing = 0;
byId("query").addEventListener("input", (event) => {
  state.query = event.target.value;
  clearTimeout(typing);
  typing = setTimeout(search, 80);
});
byId("sort").addEventListener("change", (event) => {
  state.sort = event.target.value;
  search();
});
byId("more-tracks").addEventListener("click", () => {
  state.allTracks = true;
  tracks();
});
document.addEventListener("keydown", (event) => {
  const inField = event.target.matches("input, select, textarea");
  if (event.key === "/" && !inField) {
    byId("query").focus();
    byId("query").select();
    event.preventDefault();
  } else if (event.key === "ArrowDown" && event.target === byId("query")) {
    byId("list").focus();
    event.preventDefault();
  } else if (event.key === "Escape" && (byId("detail").contains(event.target) || event.target === byId("query"))) {
    byId("list").focus();
  }
});
window.addEventListener("hashchange", fromAddress);

function fromAddress() {
  const wanted = decodeURIComponent(location.hash.slice(1));
  const bug = data.bugs.find((one) => one.fingerprint === wanted);
  if (bug) pick(bug.site);
}

async function ask(query) {
  try {
    const answer = await fetch(query, { credentials: "same-origin", cache: "no-store" });
    if (!answer.ok) throw new Error(`it answers ${answer.status}`);
    return await answer.json();
  } catch (error) {
    byId("about").textContent = `${data.about} · no newer data: ${error.message}`;
    return null;
  }
}

async function live() {
  const began = performance.now(), fresh = await ask("?format=json");
  if (fresh && !state.paused) {
    data = fresh;
    draw();
  }
  // A page that takes long to make is asked for less often: looking must not become the load.
  setTimeout(beat, Math.max(EVERY, 20 * (performance.now() - began)));
}

// What keeps a connection alive takes a search through memory: only when asked, and then it stays in sight.
async function why() {
  pause(true);
  const fresh = await ask("?format=json&why=1");
  if (fresh) {
    data = fresh;
    draw();
  }
}

function beat() {
  if (state.paused || document.hidden) setTimeout(beat, 1000);
  else live();
}

function pause(paused) {
  state.paused = paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  byId("pause").textContent = paused ? "Paused" : "Pause";
}

byId("pause").addEventListener("click", () => pause(!state.paused));
byId("why").addEventListener("click", why);

theme(THEMES.includes(remembered()) ? remembered() : "auto");
byId("plain").remove();
byId("app").hidden = byId("tools").hidden = false;
draw();
fromAddress();
if (data.live && location.protocol.startsWith("http")) {
  byId("pause").hidden = byId("why").hidden = false;
  setTimeout(beat, EVERY);
}
