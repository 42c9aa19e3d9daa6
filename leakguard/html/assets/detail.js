// Everything about one place: the line, what is wrong and what to write instead, the way there, and each hold.

function stackOf(data, stack, appOnly) {
  const frames = data.stacks[stack].map((frame) => data.frames[frame]).filter((frame) => !appOnly || frame[3]);
  return h("ol", { class: "stack" }, frames.map(([file, line, inside, app]) => h("li", { class: app ? "app" : "library" },
    name(`${file}:${line}`, "where"), h("span", { class: "quiet" }, " in ", name(inside)))));
}

function folded(title, content, open) {
  return h("details", { open: Boolean(open) }, h("summary", {}, title), content);
}

function excerptOf({ lines, line, mark: [start, end] }) {
  return h("pre", { class: "excerpt", tabindex: "0", "aria-label": "Source" }, lines.map(([at, text]) =>
    h("code", { class: at === line ? "line here" : "line" }, h("span", { class: "no" }, String(at)),
      at === line ? [text.slice(0, start), h("mark", {}, text.slice(start, end)), text.slice(end)] : text, "\n")));
}

function paragraph(label, text) {
  // `code` in a sentence is code.
  const parts = text.split(/`([^`]*)`/).map((part, at) => (at % 2 ? h("code", {}, part) : name(part)));
  return text ? h("p", { class: "say" }, h("b", {}, label), " ", parts) : null;
}

function badge(bug) {
  if (!bug.standing) return null;
  const words = { new: "new", known: "known", more: "more than known" }[bug.standing];
  return h("span", { class: `badge ${bug.standing}`, title: bug.standing_why || null }, words);
}

// leak dropped ×6, overdue ×1
function kindsOf(bug) {
  const counts = bug.counts.map(([kind, count], at) => [at ? ", " : "", kindWords(kind), ` ×${number(count)}`]);
  return bug.verdict === "held" ? counts : [h("span", { class: `verdict ${bug.verdict}` }, bug.verdict), " ", counts];
}

const kindWords = (...kinds) => name(kinds.join(", ").replaceAll("_", " "));

class Detail {
  constructor(box) {
    this.box = box;
  }

  empty(words) {
    this.bug = null;
    this.box.replaceChildren(h("p", { class: "quiet" }, words));
  }

  // `holds` are the numbers of those that match the search; `chosen` is the hold to unfold, if it is still there.
  show(data, bug, holds, chosen) {
    const frames = data.stacks[bug.stack];
    const libraries = frames.filter((frame) => !data.frames[frame][3]).length;
    Object.assign(this, { data, bug, holds });
    this.box.replaceChildren(...[
      h("header", {},
        h("p", { class: "kinds" }, kindsOf(bug), " ", badge(bug)),
        h("h3", {}, name(bug.place)),
        h("p", { class: "quiet" }, bug.function ? ["in ", name(bug.function), ", "] : null, bug.how ? [name(bug.how), ", "] : null,
          "fingerprint ", h("a", { href: `#${bug.fingerprint}` }, bug.fingerprint))),
      bug.excerpt ? excerptOf(bug.excerpt) : null,
      paragraph("Why", bug.why),
      paragraph("Fix", bug.fix),
      bug.cure.length ? [h("p", { class: "say" }, h("b", {}, "Write instead")), h("pre", { class: "cure" }, bug.cure.join("\n"))] : null,
      bug.standing_why ? paragraph("Baseline", bug.standing_why) : null,
      frames.length ? [h("h4", {}, "Application frames"), stackOf(data, bug.stack, true)] : null,
      libraries ? folded(`All ${frames.length} frames, ${libraries} of them of libraries`, stackOf(data, bug.stack, false)) : null,
      factList(bug.facts),
      this.table(),
    ].flat().filter(Boolean));
    if (holds.length) this.choose(Math.max(0, holds.indexOf(chosen)), "set");
  }

  table() {
    const { data, bug, holds } = this, kept = bug.holds.length, told = bug.left_out ? ` of ${number(kept + bug.left_out)}` : "";
    this.one = h("section", { "class": "one", "aria-label": "One hold" });
    this.rows = null;
    if (!holds.length) return kept ? [h("h4", {}, "No hold of this place matches the search")] : [];
    if (holds.length === 1) return [h("h4", {}, kept > 1 ? `1 of ${number(kept)} holds matches` : "The hold"), this.one];
    const all = data.live ? "held now" : "reported one by one";
    const title = holds.length === kept ? `${number(kept)}${told} ${all}` : `${number(holds.length)} of ${number(kept)} match`;
    const box = h("div", { "id": "holds", "class": "rows holds", "role": "listbox", "tabindex": "0", "aria-label": "Holds" });
    box.style.setProperty("--rows", holds.length);
    this.rows = new Rows(box, 26, (at) => this.row(bug.holds[holds[at]]), (at, by) => this.choose(at, by));
    return [h("h4", {}, title),
      h("div", { "class": "hold head", "aria-hidden": "true" },
        ["since (UTC)", "held", "found", "owner", "state"].map((title) => h("span", {}, title))),
      box, this.one];
  }

  row(hold) {
    return h("div", { class: "hold" },
      h("span", {}, dayAndClock(hold.since).slice(5)), h("span", { class: "num" }, duration(hold.held)),
      h("span", {}, kindWords(...hold.what)), h("span", {}, name(hold.owner)), h("span", {}, name(hold.state)));
  }

  choose(at, by) {
    this.at = at;
    const hold = this.bug.holds[this.holds[at]];
    if (this.rows) {
      this.rows.set(this.holds.length, at);
      if (by === "set") this.rows.reveal(at);
    }
    const { data } = this, now = data.stacks[hold.now], kept = hold.kept;
    this.one.replaceChildren(...[
      h("p", { class: "kinds" }, kindWords(...hold.what), hold.since === null ? null : ` since ${dayAndClock(hold.since)} UTC`),
      factList(hold.facts.filter(([label, lines]) => label !== "why" || lines[0] !== this.bug.why)),
      kept.length ? [h("h4", {}, "What keeps it alive"), h("pre", { class: "kept" }, kept.join("\n"))] : null,
      now.length ? folded(`Where the owner is now, ${plural(now.length, "frame")}`, stackOf(data, hold.now, false)) : null,
      hold.stack !== this.bug.stack && data.stacks[hold.stack].length
        ? folded("Its own way there", stackOf(data, hold.stack, false)) : null,
    ].flat().filter(Boolean));
    if (by === "enter") this.one.scrollIntoView({ block: "nearest" });
  }

  get chosen() {
    return this.bug && this.holds.length ? this.holds[this.at] : null;
  }
}
