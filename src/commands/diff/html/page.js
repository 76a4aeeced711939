"use strict";
// Everything that is shown is set as text, never as markup: names come from files.
const data = JSON.parse(document.getElementById("data").textContent);
const { columns, blocks } = data;
// One tensor: name, index of its block, shape, and for each column [relative, largest, rank, full rank], or null where it is unchanged.
const tensors = data.tensors.map(([name, block, shape, changes], at) => ({ name, block, shape, changes, at }));
const make = (tag, attributes = {}, text = "") => {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== "") element.textContent = text;
  return element;
};
const byId = (id) => document.getElementById(id);
const plural = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
const amount = (v) => {
  if (v === null || v === undefined) return "–";
  if (v === 0) return "0";
  const size = Math.abs(v);
  return size < 1e-3 || size >= 1e4 ? v.toExponential(2) : v.toPrecision(3);
};
const rankText = (change) => {
  if (!change || change[3] === null) return "–";
  return change[2] === null ? "full" : `${change[2]} of ${change[3]}`;
};
const relative = (tensor, column) => tensor.changes[column]?.[0] ?? null;

// Colours: the logarithm of the relative change between the smallest and the largest of the whole report.
const logs = tensors.flatMap((t) => columns.map((_, c) => relative(t, c)).filter((v) => v > 0).map(Math.log10)).sort((a, b) => a - b);
const low = Math.floor(logs[Math.floor(logs.length * 0.01)] ?? -3);
const high = Math.max(Math.ceil(logs[logs.length - 1] ?? 0), low + 1);
const dark = matchMedia("(prefers-color-scheme: dark)");
const RAMPS = {
  light: [[222, 235, 250], [120, 178, 226], [66, 110, 190], [120, 44, 140], [150, 15, 60]],
  dark: [[38, 62, 92], [45, 105, 165], [100, 160, 215], [235, 170, 110], [255, 235, 160]],
};
const colour = (value) => {
  const ramp = dark.matches ? RAMPS.dark : RAMPS.light;
  const place = Math.min(Math.max((Math.log10(Math.max(value, 1e-30)) - low) / (high - low), 0), 1) * (ramp.length - 1);
  const at = Math.min(Math.floor(place), ramp.length - 2);
  const mix = ramp[at].map((from, i) => Math.round(from + (ramp[at + 1][i] - from) * (place - at)));
  return `rgb(${mix.join(",")})`;
};
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Which tensor is looked at, in the map, in the table and in words.
let chosen = -1;
const choose = (at, scroll) => {
  chosen = at;
  const t = tensors[at];
  const parts = columns.map((name, c) => {
    const change = t.changes[c];
    if (!change) return `${columns.length > 1 ? `${name}: ` : ""}unchanged`;
    const text = change[0] === null ? "changed, not measured" : `relative ${amount(change[0])}, max abs ${amount(change[1])}, rank ${rankText(change)}`;
    return `${columns.length > 1 ? `${name}: ` : ""}${text}`;
  });
  byId("detail").textContent = `${t.name}  ${t.shape}  ·  ${parts.join("  ·  ")}`;
  for (const map of maps) map.draw();
  if (scroll) table.show(at);
  table.render();
};

// The heat map: one line of cells for each block, tensor by tensor, in the model's order.
const CELL = 12, GAP = 2, LINE = 16, LABEL = 150;
const inBlock = blocks.map(() => []);
for (const t of tensors) inBlock[t.block].push(t.at);
class HeatMap {
  constructor(column, parent) {
    this.column = column;
    const changed = tensors.filter((t) => t.changes[column]).length;
    const panel = make("div", { class: "panel map" });
    panel.append(make("h3", {}, columns[column]));
    this.canvas = make("canvas", {
      role: "application", tabindex: "0", "aria-describedby": "detail",
      "aria-label": `Heat map of ${columns[column]}: ${changed} of ${plural(tensors.length, "tensor")} changed, in ${plural(blocks.length, "block")}. ` +
        "Arrow keys go from tensor to tensor, Enter shows one in the table.",
    });
    const scroll = make("div", { class: "scroll" });
    scroll.append(this.canvas);
    panel.append(scroll);
    parent.append(panel);
    this.canvas.addEventListener("mousemove", (e) => { const at = this.under(e); if (at >= 0 && at !== chosen) choose(at, false); });
    this.canvas.addEventListener("click", (e) => { const at = this.under(e); if (at >= 0) choose(at, true); });
    this.canvas.addEventListener("keydown", (e) => this.key(e));
  }
  layout() {
    const width = this.canvas.parentElement.clientWidth;
    this.label = Math.min(LABEL, Math.floor(width * 0.4));
    this.perLine = Math.max(Math.floor((width - this.label) / (CELL + GAP)), 1);
    this.lines = [];
    this.place = new Int32Array(tensors.length * 2);
    inBlock.forEach((members, block) => {
      for (let from = 0; from < members.length; from += this.perLine) {
        const line = members.slice(from, from + this.perLine);
        line.forEach((at, x) => { this.place[2 * at] = x; this.place[2 * at + 1] = this.lines.length; });
        this.lines.push({ block: from === 0 ? block : -1, line });
      }
    });
    const ratio = window.devicePixelRatio || 1;
    this.width = width;
    this.height = Math.max(this.lines.length * LINE, LINE);
    // Browsers draw nothing on a canvas that is too high.
    const scale = Math.min(ratio, 16000 / this.height);
    this.canvas.width = Math.max(Math.floor(width * scale), 1);
    this.canvas.height = Math.max(Math.floor(this.height * scale), 1);
    this.canvas.style.height = `${this.height}px`;
    this.scale = scale;
    this.picture = null;
    this.draw();
  }
  paint() {
    const off = document.createElement("canvas");
    off.width = this.canvas.width;
    off.height = this.canvas.height;
    const c = off.getContext("2d");
    c.scale(this.scale, this.scale);
    c.font = "11px ui-monospace, monospace";
    c.textBaseline = "middle";
    const text = style("--text"), none = style("--none");
    this.lines.forEach(({ block, line }, y) => {
      if (block >= 0) {
        c.fillStyle = text;
        let name = blocks[block];
        const most = Math.floor((this.label - 8) / 6.7);
        if (name.length > most) name = `…${name.slice(-(most - 1))}`;
        c.fillText(name, 0, y * LINE + LINE / 2);
      }
      line.forEach((at, x) => {
        const change = tensors[at].changes[this.column];
        c.fillStyle = !change ? none : change[0] === null ? text : colour(change[0]);
        c.fillRect(this.label + x * (CELL + GAP), y * LINE + 1, CELL, LINE - 3);
      });
    });
    return off;
  }
  draw() {
    this.picture ??= this.paint();
    const c = this.canvas.getContext("2d");
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, this.canvas.width, this.canvas.height);
    c.drawImage(this.picture, 0, 0);
    if (chosen >= 0) {
      c.scale(this.scale, this.scale);
      c.strokeStyle = style("--text");
      c.lineWidth = 2;
      c.strokeRect(this.label + this.place[2 * chosen] * (CELL + GAP), this.place[2 * chosen + 1] * LINE + 1, CELL, LINE - 3);
    }
  }
  under(e) {
    const box = this.canvas.getBoundingClientRect();
    const x = Math.floor((e.clientX - box.left - this.label) / (CELL + GAP)), y = Math.floor((e.clientY - box.top) / LINE);
    return x < 0 ? -1 : this.lines[y]?.line[x] ?? -1;
  }
  key(e) {
    if (chosen < 0 && e.key.startsWith("Arrow")) { choose(0, false); e.preventDefault(); return; }
    const [x, y] = [this.place[2 * chosen], this.place[2 * chosen + 1]];
    const row = (to) => { const line = this.lines[to]?.line; return line ? line[Math.min(x, line.length - 1)] : chosen; };
    const to = {
      ArrowRight: () => Math.min(chosen + 1, tensors.length - 1), ArrowLeft: () => Math.max(chosen - 1, 0),
      ArrowDown: () => row(y + 1), ArrowUp: () => row(y - 1), Home: () => 0, End: () => tensors.length - 1, Enter: () => chosen,
    }[e.key];
    if (!to || chosen < 0) return;
    e.preventDefault();
    choose(to(), e.key === "Enter");
    const place = this.place[2 * chosen + 1] * LINE, box = this.canvas.parentElement;
    if (place < box.scrollTop || place + LINE > box.scrollTop + box.clientHeight) box.scrollTop = place - box.clientHeight / 2;
  }
}

// The table: only the rows that are seen are in the page.
const ROW = 30;
const table = {
  order: tensors.map((t) => t.at), sort: "model", down: false, pool: [],
  fields: [
    { id: "model", name: "No.", width: "60px", number: true, value: (t) => t.at, text: (t) => String(t.at + 1) },
    { id: "name", name: "tensor", width: "minmax(320px, 1fr)", value: (t) => t.name, text: (t) => t.name },
    { id: "shape", name: "shape", width: "110px", number: true, value: (t) => t.shape.split("x").reduce((a, b) => a * (Number(b) || 1), 1), text: (t) => t.shape },
    ...columns.flatMap((name, c) => {
      const of = columns.length > 1 ? `${name}: ` : "";
      return [
        { id: `r${c}`, name: `${of}relative`, width: "110px", number: true, value: (t) => relative(t, c) ?? (t.changes[c] ? -1 : -2),
          text: (t) => (t.changes[c] ? amount(t.changes[c][0]) : "unchanged") },
        { id: `m${c}`, name: `${of}max abs`, width: "100px", number: true, value: (t) => t.changes[c]?.[1] ?? -1, text: (t) => amount(t.changes[c]?.[1]) },
        { id: `k${c}`, name: `${of}rank`, width: "100px", number: true, value: (t) => (t.changes[c] ? t.changes[c][2] ?? t.changes[c][3] ?? -1 : -2),
          text: (t) => rankText(t.changes[c]) },
      ];
    }),
  ],
  build() {
    this.box = byId("table");
    this.grid = this.fields.map((f) => f.width).join(" ");
    // Head and rows are grids of their own, so all get the same least width.
    this.least = `${this.fields.reduce((sum, f) => sum + Number(f.width.match(/\d+(?=px)/)[0]), 0)}px`;
    const head = make("div", { class: "head", role: "row", "aria-rowindex": "1" });
    head.style.gridTemplateColumns = this.grid;
    head.style.minWidth = this.least;
    for (const field of this.fields) {
      const cell = make("div", { role: "columnheader", "aria-sort": "none", class: field.number ? "number" : "" });
      const button = make("button", { type: "button" }, field.name);
      button.addEventListener("click", () => this.by(field));
      cell.append(button);
      head.append(cell);
      field.cell = cell;
    }
    const top = make("div", { role: "rowgroup" });
    top.append(head);
    this.rows = make("div", { class: "rows", role: "rowgroup" });
    this.box.append(top, this.rows);
    this.box.setAttribute("aria-colcount", String(this.fields.length));
    let waiting = false;
    this.box.addEventListener("scroll", () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; this.render(); });
    }, { passive: true });
    this.box.addEventListener("keydown", (e) => {
      if (e.target !== this.box || !["ArrowDown", "ArrowUp"].includes(e.key) || this.order.length === 0) return;
      e.preventDefault();
      const at = this.order.indexOf(chosen);
      const to = at < 0 ? 0 : Math.min(Math.max(at + (e.key === "ArrowDown" ? 1 : -1), 0), this.order.length - 1);
      choose(this.order[to], true);
    });
    this.rows.addEventListener("click", (e) => { const row = e.target.closest(".row"); if (row) choose(Number(row.dataset.at), false); });
    byId("search").addEventListener("input", () => this.filter());
    const relativeField = this.fields.find((f) => f.id === "r0");
    if (relativeField && tensors.some((t) => t.changes.some(Boolean))) this.by(relativeField); else this.filter();
  },
  by(field) {
    this.down = this.sort === field.id ? !this.down : Boolean(field.number) && field.id !== "model";
    this.sort = field.id;
    for (const f of this.fields) f.cell.setAttribute("aria-sort", f.id !== field.id ? "none" : this.down ? "descending" : "ascending");
    this.filter();
  },
  filter() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const field = this.fields.find((f) => f.id === this.sort);
    const kept = tensors.filter((t) => words.every((w) => t.name.toLowerCase().includes(w)));
    const keys = new Map(kept.map((t) => [t.at, field.value(t)]));
    const way = this.down ? -1 : 1;
    kept.sort((a, b) => {
      const [x, y] = [keys.get(a.at), keys.get(b.at)];
      return (x < y ? -way : x > y ? way : 0) || a.at - b.at;
    });
    this.order = kept.map((t) => t.at);
    byId("found").textContent = `${plural(this.order.length, "tensor")} of ${tensors.length.toLocaleString("en")}`;
    this.box.setAttribute("aria-rowcount", String(this.order.length + 1));
    this.rows.style.height = `${this.order.length * ROW}px`;
    this.box.scrollTop = 0;
    this.render();
  },
  row() {
    const row = make("div", { class: "row", role: "row" });
    row.style.gridTemplateColumns = this.grid;
    row.style.minWidth = this.least;
    for (const field of this.fields) row.append(make("div", { class: `cell${field.number ? " number" : " mono"}`, role: "cell" }));
    this.rows.append(row);
    return row;
  },
  render() {
    const from = Math.max(Math.floor(this.box.scrollTop / ROW) - 8, 0);
    const to = Math.min(from + Math.ceil(this.box.clientHeight / ROW) + 16, this.order.length);
    while (this.pool.length < to - from) this.pool.push(this.row());
    this.pool.forEach((row, i) => {
      const place = from + i;
      row.hidden = place >= to;
      row.style.display = place >= to ? "none" : "";
      if (place >= to) return;
      const t = tensors[this.order[place]];
      row.classList.toggle("chosen", t.at === chosen);
      if (row.dataset.at === String(t.at) && row.dataset.place === String(place)) return;
      row.dataset.at = t.at;
      row.dataset.place = place;
      row.setAttribute("aria-rowindex", String(place + 2));
      row.style.top = `${place * ROW}px`;
      this.fields.forEach((field, f) => {
        const cell = row.children[f], text = field.text(t);
        if (cell.textContent !== text) cell.textContent = text;
        if (field.id === "name") cell.title = t.name;
      });
    });
  },
  show(at) {
    let place = this.order.indexOf(at);
    if (place < 0) { byId("search").value = ""; this.filter(); place = this.order.indexOf(at); }
    const top = place * ROW, head = this.box.firstChild.offsetHeight;
    if (top < this.box.scrollTop || top + ROW > this.box.scrollTop + this.box.clientHeight - head) this.box.scrollTop = top - this.box.clientHeight / 2;
  },
};

// Counts as bars, each with its number beside it.
const bars = (parent, title, rows) => {
  const panel = make("div", { class: "panel" });
  panel.append(make("h3", {}, title));
  if (rows.length === 0) panel.append(make("p", { class: "soft" }, "nothing was measured"));
  const list = make("div", { class: "bars", role: "list" });
  const most = Math.max(...rows.map(([, n]) => n), 1);
  for (const [label, n] of rows) {
    const item = make("div", { role: "listitem", style: "display: contents" });
    const bar = make("div", { class: "bar", "aria-hidden": "true" });
    bar.style.width = `${(100 * n) / most}%`;
    if (n === 0) bar.style.visibility = "hidden";
    item.append(make("span", { class: "mono" }, label), bar, make("span", {}, n.toLocaleString("en")));
    list.append(item);
  }
  if (rows.length) panel.append(list);
  parent.append(panel);
};
const histogram = (column) => {
  const counts = new Map();
  for (const t of tensors) {
    const v = relative(t, column);
    if (v > 0) { const bin = Math.floor(Math.log10(v) * 2); counts.set(bin, (counts.get(bin) ?? 0) + 1); }
  }
  const bins = [...counts.keys()];
  const rows = [];
  if (bins.length) for (let b = Math.min(...bins); b <= Math.max(...bins); b++) rows.push([`${amount(10 ** (b / 2))} – ${amount(10 ** ((b + 1) / 2))}`, counts.get(b) ?? 0]);
  return rows;
};
const ranks = (column) => {
  const counts = new Map();
  for (const t of tensors) {
    const change = t.changes[column];
    if (change && change[3] !== null) { const key = change[2] ?? Infinity; counts.set(key, (counts.get(key) ?? 0) + 1); }
  }
  const all = [...counts].sort(([a], [b]) => a - b).map(([rank, n]) => [rank === Infinity ? "full rank" : `rank ${rank}`, n]);
  return all.length <= 24 ? all : [...all.slice(0, 23), ["others", all.slice(23).reduce((sum, [, n]) => sum + n, 0)]];
};

let maps = [];
const start = () => {
  if (tensors.length > 0) {
    maps = columns.map((_, c) => new HeatMap(c, byId("maps")));
    table.build();
    columns.forEach((name, c) => {
      const of = columns.length > 1 ? `, ${name}` : "";
      bars(byId("counts"), `Relative changes${of}`, histogram(c));
      bars(byId("counts"), `Ranks of the changes${of}`, ranks(c));
    });
    const legend = () => {
      const canvas = byId("scale"), c = canvas.getContext("2d");
      canvas.width = 160;
      canvas.height = 12;
      for (let x = 0; x < 160; x++) { c.fillStyle = colour(10 ** (low + ((high - low) * x) / 159)); c.fillRect(x, 0, 1, 12); }
      byId("low").textContent = amount(10 ** low);
      byId("high").textContent = amount(10 ** high);
    };
    const again = () => { legend(); for (const map of maps) map.layout(); };
    again();
    dark.addEventListener("change", again);
    let width = window.innerWidth;
    window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; again(); } table.render(); });
  } else {
    for (const section of document.querySelectorAll("section.tensors")) section.hidden = true;
  }
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard?.writeText(button.previousElementSibling.textContent);
      button.textContent = "copied";
    });
  }
  document.documentElement.dataset.ready = "yes";
};
// The verdict and its reasons are seen before the pictures are made.
requestAnimationFrame(() => setTimeout(start, 0));
