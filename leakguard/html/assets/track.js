// A pool's chart with its name, legend, and what it said when it had no connection left.

class TrackCard {
  constructor(track, labelOf, pick) {
    this.chart = new Chart(track, labelOf, pick);
    const refusals = track.samples.filter((sample) => sample.refused);
    this.element = h("figure", { class: refusals.length ? "track dry" : "track" },
      h("figcaption", {}, h("strong", {}, name(track.name)), " ", name(track.process, "quiet")),
      this.chart.box,
      this.legend(track, labelOf, pick),
      refusals.length ? this.shortage(track, refusals, labelOf) : null,
      track.left_out ? h("p", { class: "quiet" }, `${number(track.left_out)} more holds are not drawn.`) : null,
      track.facts.length ? h("details", {}, h("summary", {}, "About the pool"), factList(track.facts)) : null);
  }

  legend(track, labelOf, pick) {
    const ordered = byWeight(weights(track));
    const entries = ordered.slice(0, COLORS).map((site) => h("li", {},
      h("button", { type: "button", class: "key", onclick: () => pick(site) },
        h("i", { class: `swatch ${colorOf(site)}` }), name(labelOf(site)))));
    if (ordered.length > COLORS) {
      entries.push(h("li", { class: "quiet" }, h("i", { class: "swatch s-other" }),
        `${number(ordered.length - COLORS)} more places`));
    }
    if (track.spans.some((span) => span[4] === 1 && span[3] > span[2])) {
      entries.push(h("li", { class: "quiet" }, h("i", { class: "swatch pale" }), "not known to have been given back"));
    }
    if (track.spans.some((span) => span[4] === 2) || track.samples.some((sample) => sample.lost)) {
      entries.push(h("li", { class: "quiet" }, h("i", { class: "swatch hatched" }), "slot lost"));
    }
    return h("ul", { class: "legend" }, entries);
  }

  shortage(track, refusals, labelOf) {
    const last = refusals.at(-1), from = clock(refusals[0].time), until = clock(last.time);
    const of = last.capacity === null ? "" : ` of ${last.capacity}`;
    const lost = last.lost ? `, ${plural(last.lost, "slot")} lost` : "";
    return h("div", { class: "shortage" },
      h("p", {}, h("span", { class: "verdict leak" }, "✕ no connection left"),
        ` ${plural(track.refused, "time")}, ${from === until ? from : `${from} to ${until}`} UTC: `, name(last.error)),
      h("p", { class: "quiet" }, `Then held: ${last.held}${of}${lost}. `,
        last.holders.slice(0, COLORS).map(([site, count], at) => [at ? ", " : "", `${count} × `, name(labelOf(site))])));
  }
}
