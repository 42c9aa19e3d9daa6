// A list box of rows of one height, of which only those in sight exist: ten thousand cost what twenty do.

class Rows {
  constructor(box, height, draw, choose) {
    this.box = box;
    this.height = height;
    this.draw = draw;
    this.choose = choose;
    this.count = 0;
    this.at = -1;
    this.space = h("div", { class: "space" });
    box.append(this.space);
    box.addEventListener("scroll", () => this.show(), { passive: true });
    box.addEventListener("keydown", (event) => this.key(event));
    box.addEventListener("click", (event) => {
      const row = event.target.closest("[data-at]");
      if (row) this.choose(Number(row.dataset.at), "click");
    });
    new ResizeObserver(() => this.show()).observe(box);
  }

  set(count, at) {
    this.count = count;
    this.at = at;
    this.space.style.height = `${count * this.height}px`;
    this.shown = null;
    this.show();
  }

  show() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / this.height) - 4);
    const last = Math.min(this.count, Math.ceil((this.box.scrollTop + this.box.clientHeight) / this.height) + 4);
    const shown = `${first} ${last} ${this.at}`;
    if (shown === this.shown) return;
    this.shown = shown;
    const rows = [];
    for (let at = first; at < last; at++) rows.push(this.row(at));
    this.space.replaceChildren(...rows);
    const active = this.at >= first && this.at < last ? this.id(this.at) : null;
    if (active) this.box.setAttribute("aria-activedescendant", active);
    else this.box.removeAttribute("aria-activedescendant");
  }

  row(at) {
    const row = this.draw(at);
    fill(row, {
      "id": this.id(at), "role": "option", "data-at": String(at), "aria-selected": String(at === this.at),
      "aria-posinset": at + 1, "aria-setsize": this.count,
    }, []);
    row.style.transform = `translateY(${at * this.height}px)`;
    return row;
  }

  id(at) {
    return `${this.box.id}-${at}`;
  }

  reveal(at) {
    const top = at * this.height, bottom = top + this.height;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (bottom > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = bottom - this.box.clientHeight;
    this.show();
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !this.count) return;
    const page = Math.max(1, Math.floor(this.box.clientHeight / this.height) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.count, End: this.count };
    if (event.key in steps) {
      const at = Math.max(0, Math.min(this.count - 1, this.at + steps[event.key]));
      this.choose(at, "key");
      this.reveal(at);
    } else if ((event.key === "Enter" || event.key === " ") && this.at >= 0) {
      this.choose(this.at, "enter");
    } else return;
    event.preventDefault();
  }
}
