// One pool over time: connections held, stacked by the place that acquired them, as an SVG of steps.

const COLORS = 10;
const LAYERS = ["sure", "open", "lost"]; // held; not known to have ended; its slot of the pool gone

const OTHERS = -1; // the places beyond those that a chart tells apart

// How much of a track each place is: the time that it held connections, and the exact counts.
function weights(track, into = new Map()) {
  const add = (site, span) => into.set(site, (into.get(site) || 0) + span);
  for (const [site, start, seen, until, fate] of track.spans) add(site, (fate === 2 ? until : seen) - start + 1);
  for (const sample of track.samples) for (const [site, count] of sample.holders) add(site, count);
  return into;
}

const byWeight = (weight) => [...weight.keys()].sort((a, b) => weight.get(b) - weight.get(a) || a - b);

// The largest places of the page have colours of their own; after that they come again, and legends have the names.
let colors = new Map();

function assignColors(tracks) {
  const weight = new Map();
  for (const track of tracks) weights(track, weight);
  colors = new Map(byWeight(weight).map((site, at) => [site, at % COLORS]));
}

const colorOf = (site) => (colors.has(site) ? `s${colors.get(site)}` : "s-other");

// For each of `width` columns of time the state with most connections in it: a short peak stays in sight.
function columnsOf(track, width) {
  const all = byWeight(weights(track));
  const sites = all.length > COLORS ? [...all.slice(0, COLORS), OTHERS] : all;
  const index = new Map(all.map((site, at) => [site, Math.min(at, sites.length - 1)]));
  const size = sites.length * LAYERS.length;
  const changes = [];
  for (const [site, start, seen, until, fate] of track.spans) {
    const at = index.get(site) * LAYERS.length, later = fate === 2 ? 2 : 1;
    const sure = Math.max(seen, start + 1e-3);
    changes.push([start, at, 1], [sure, at, -1]);
    if (until > sure) changes.push([sure, at + later, 1], [until, at + later, -1]);
  }
  // Of one moment what ends comes first; a state counts when all changes of its moment are made.
  changes.sort((a, b) => a[0] - b[0] || a[2] - b[2]);
  const span = track.end - track.start, columns = [];
  const counts = new Int32Array(size);
  let total = 0, next = 0;
  for (let column = 0; column < width; column++) {
    const until = column === width - 1 ? Infinity : track.start + (span * (column + 1)) / width;
    let best = counts.slice(), most = total;
    while (next < changes.length && changes[next][0] < until) {
      const moment = changes[next][0];
      for (; next < changes.length && changes[next][0] === moment; next++) {
        counts[changes[next][1]] += changes[next][2];
        total += changes[next][2];
      }
      // What ends at the very end of the time line is still to be seen there.
      if (total > most && moment < track.end) [best, most] = [counts.slice(), total];
    }
    columns.push({ counts: best, total: most });
  }
  return { sites, index, columns };
}

// The outline of one layer: along its upper edge, and back along its lower one.
function outline(lower, upper, x, y) {
  const edge = (values, from, to, step) => {
    let path = "";
    for (let at = from; at !== to; at += step) {
      const [near, far] = step > 0 ? [at, at + 1] : [at + 1, at];
      if (at === from || values[at] !== values[at - step]) path += `${path ? "L" : ""}${x(near)} ${y(values[at])}`;
      if (at === to - step || values[at] !== values[at + step]) path += `L${x(far)} ${y(values[at])}`;
    }
    return path;
  };
  let path = "";
  for (let at = 0; at < lower.length; at++) {
    if (upper[at] === lower[at]) continue;
    let end = at;
    while (end < lower.length && upper[end] !== lower[end]) end++;
    path += `M${edge(upper, at, end, 1)}L${edge(lower, end - 1, at - 1, -1)}Z`;
    at = end;
  }
  return path;
}

function niceStep(most, wanted) {
  const rough = Math.max(1, most / wanted), power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
}

const SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800,
  3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];

function timeTicks(start, end, wanted) {
  const span = (end - start) / 1000;
  const step = 1000 * (SECONDS.find((seconds) => span / seconds <= wanted) || span / wanted);
  const ticks = [];
  for (let at = Math.ceil(start / step) * step; at <= end; at += step) ticks.push(at);
  const label = (moment) => {
    if (step >= 86400e3) return iso(moment).slice(5, 10);
    if (step >= 60e3) return (end - start > 86400e3 ? `${iso(moment).slice(5, 10)} ` : "") + iso(moment).slice(11, 16);
    return iso(moment).slice(11, step >= 1000 ? 19 : step >= 100 ? 21 : 23);
  };
  return ticks.map((moment) => [moment, label(moment)]);
}

const LEFT = 42;
let hatches = 0;

class Chart {
  constructor(track, labelOf, pick) {
    this.track = track;
    this.labelOf = labelOf;
    this.pick = pick;
    this.tip = h("div", { class: "tip", hidden: true });
    this.box = h("div", {
      "class": "chart", "tabindex": "0", "role": "slider", "aria-label": `${track.name} over time`, "aria-valuemin": "0",
      "onkeydown": (event) => this.key(event), "onpointermove": (event) => this.hover(event),
      "onpointerleave": () => this.point(null), "onblur": () => this.point(null),
      "onfocus": () => this.box.matches(":focus-visible") && this.point(this.cursor ?? this.width - 1),
      "onclick": (event) => this.click(event),
    }, this.tip);
    this.watcher = new ResizeObserver(() => this.resize());
    this.watcher.observe(this.box);
  }

  resize() {
    const width = Math.max(120, Math.floor(this.box.clientWidth) - LEFT - 8);
    if (width !== this.width) {
      this.width = width;
      this.draw();
    }
  }

  draw() {
    const { track, width } = this, height = 128, left = LEFT, top = 16;
    const { sites, index, columns } = columnsOf(track, width);
    Object.assign(this, { sites, index, columns, left });
    const sampled = track.samples.map((sample) => sample.held + sample.lost);
    const most = Math.max(track.capacity || 0, ...sampled, columns.reduce((max, one) => Math.max(max, one.total), 1));
    const x = (column) => left + column, y = (count) => top + height - (height * count) / most;
    this.xOf = (moment) => left + (width * (moment - track.start)) / (track.end - track.start);
    this.countAt = (pixel) => ((top + height - pixel) * most) / height;
    const hatch = `hatch-${hatches++}`;
    const svg = s("svg", { width: width + LEFT + 8, height: height + top + 20, "aria-hidden": "true" },
      s("defs", {}, s("pattern", { id: hatch, width: 5, height: 5, patternUnits: "userSpaceOnUse",
        patternTransform: "rotate(45)" }, s("rect", { width: 2.2, height: 5, class: "hatching" }))));
    const step = niceStep(most, 4);
    for (let count = 0; count <= most; count += step) {
      svg.append(s("line", { class: "grid", x1: left, x2: left + width, y1: y(count), y2: y(count) }),
        s("text", { class: "tick", x: left - 7, y: y(count) + 4, "text-anchor": "end" }, number(count)));
    }
    for (const [moment, label] of timeTicks(track.start, track.end, width / 110)) {
      const at = this.xOf(moment);
      svg.append(s("line", { class: "grid", x1: at, x2: at, y1: top + height, y2: top + height + 4 }));
      if (at > left + 20 && at < left + width - 20) {
        svg.append(s("text", { class: "tick", x: at, y: top + height + 16, "text-anchor": "middle" }, label));
      }
    }
    // What is held at the bottom, what is lost on top of it: that is what is missing below the limit.
    let lower = new Int32Array(width);
    for (const layers of [["sure", "open"], ["lost"]]) {
      sites.forEach((site, at) => layers.forEach((layer) => {
        const below = at * LAYERS.length + LAYERS.indexOf(layer);
        const upper = lower.map((count, column) => count + columns[column].counts[below]);
        const path = outline(lower, upper, x, y);
        if (path) {
          svg.append(s("path", { "d": path, "class": `area ${layer} ${colorOf(site)}`, "data-site": site }));
          if (layer === "lost") svg.append(s("path", { "d": path, "fill": `url(#${hatch})`, "data-site": site }));
        }
        lower = upper;
      }));
    }
    for (const sample of track.samples) this.bar(svg, sample, y, hatch);
    if (track.capacity !== null) {
      svg.append(s("line", { class: "limit", x1: left, x2: left + width, y1: y(track.capacity), y2: y(track.capacity) }),
        s("text", { class: "limit-word", x: left + 4, y: y(track.capacity) - 4 },
          `limit ${number(track.capacity)}`));
    }
    this.line = s("line", { class: "cursor", y1: top, y2: top + height, visibility: "hidden" });
    svg.append(this.line);
    this.box.querySelector("svg")?.remove();
    this.box.prepend(svg);
    fill(this.box, { "aria-valuemax": String(width - 1), "aria-valuenow": String(this.cursor ?? width - 1),
      "aria-valuetext": this.words(this.cursor ?? width - 1).join(", ") }, []);
    this.emphasise(this.emphasised);
  }

  // An exact count: what was held, by place, what nobody can tell, and the slots that are lost.
  bar(svg, sample, y, hatch) {
    const wide = 8, at = Math.min(Math.max(this.xOf(sample.time) - wide / 2, this.left), this.left + this.width - wide);
    let below = 0;
    const piece = (count, attributes) => {
      const size = y(below) - y(below + count);
      const place = { x: at, width: wide, y: y(below + count), height: size };
      if (count > 0) svg.append(...attributes.map((one) => s("rect", { ...place, ...one })));
      below += count;
    };
    const known = this.sites.map(() => 0);
    for (const [site, count] of sample.holders) known[this.index.get(site)] += count;
    this.sites.forEach((site, at) => piece(known[at], [{ "class": `exact ${colorOf(site)}`, "data-site": site }]));
    piece(sample.held - below, [{ class: "exact s-other" }]);
    piece(sample.lost, [{ class: "exact gone" }, { fill: `url(#${hatch})` }]);
    if (sample.refused) {
      svg.append(s("line", { class: "refused", x1: at + wide / 2, x2: at + wide / 2, y1: y(below), y2: 12 }),
        s("path", { class: "cross", d: `M${at + wide / 2 - 3.5} 3l7 7m0 -7l-7 7` }));
    }
  }

  words(column) {
    const { track, width } = this, moment = track.start + ((column + 0.5) * (track.end - track.start)) / width;
    const near = track.samples.find((sample) => Math.abs(this.xOf(sample.time) - this.left - column) <= 4);
    if (near) {
      const of = near.capacity === null ? "" : ` of ${near.capacity}`;
      const words = [`${clock(near.time)} UTC, exactly ${near.held}${of} held`];
      for (const [site, count] of near.holders.slice(0, COLORS)) words.push(`${count} × ${this.labelOf(site)}`);
      if (near.lost) words.push(`${plural(near.lost, "slot")} lost`);
      return near.refused ? [...words, `no connection left: ${near.error}`] : words;
    }
    const { counts } = this.columns[column], words = [`${clock(moment)} UTC`];
    this.sites.forEach((site, at) => {
      const [sure, open, lost] = counts.subarray(at * LAYERS.length);
      const parts = [sure && `${sure}`, open && `${open} maybe`, lost && `${lost} lost`].filter(Boolean);
      if (parts.length) words.push(`${parts.join(" + ")} × ${this.labelOf(site)}`);
    });
    return words.length > 1 ? words : [...words, "nothing known to be held"];
  }

  point(column) {
    this.cursor = column ?? this.cursor;
    this.tip.hidden = column === null;
    this.line?.setAttribute("visibility", column === null ? "hidden" : "visible");
    if (column === null) return;
    const at = this.left + column + 0.5, words = this.words(column);
    fill(this.line, { x1: at, x2: at }, []);
    this.tip.replaceChildren(...words.slice(0, 10).map((line) => h("div", {}, name(line))));
    if (words.length > 10) this.tip.append(h("div", {}, `and ${words.length - 10} more places`));
    const side = at > this.width / 2 ? at - this.tip.offsetWidth - 10 : at + 10;
    this.tip.style.transform = `translate(${Math.max(0, side)}px, 150px)`;
    fill(this.box, { "aria-valuenow": String(column), "aria-valuetext": words.join(", ") }, []);
  }

  hover(event) {
    const column = Math.floor(event.clientX - this.box.getBoundingClientRect().left - this.left);
    this.point(column >= 0 && column < this.width ? column : null);
  }

  click(event) {
    const site = event.target.dataset?.site;
    if (site !== undefined && Number(site) !== OTHERS) this.pick(Number(site));
  }

  key(event) {
    const big = Math.ceil(this.width / 20);
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -big, PageDown: big, Home: -this.width, End: this.width };
    if (event.key === "Enter") {
      const { counts } = this.columns[this.cursor ?? this.width - 1];
      const sums = this.sites.map((_, at) => counts[at * 3] + counts[at * 3 + 1] + counts[at * 3 + 2]);
      if (sums.length) this.pick(this.sites[sums.indexOf(Math.max(...sums))]);
    } else if (event.key in steps) {
      this.point(Math.max(0, Math.min(this.width - 1, (this.cursor ?? this.width - 1) + steps[event.key])));
    } else return;
    event.preventDefault();
  }

  emphasise(site) {
    this.emphasised = site;
    const here = site !== null && site !== undefined && this.sites?.includes(site);
    this.box.classList.toggle("choosy", here);
    for (const part of this.box.querySelectorAll("[data-site]")) {
      part.classList.toggle("chosen", here && part.dataset.site === String(site));
    }
  }
}
