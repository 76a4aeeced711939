// Looks at reports of `trtmut diff --html` in Chromium: node check.mjs PICTURES NAME=REPORT.html ...
// For each: no message on the console, no request, nothing that axe finds, in both themes, narrow and wide; search, order and keys
// do what they say; hostile names stay text; a large report paints within a second and scrolls without long tasks.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { cpus, loadavg } from "node:os";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.env.REPORT_MODULES}/`);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

/** Milliseconds until the first paint, and of the longest task while the table scrolls: what browsers call a long task takes more. */
const FIRST_PAINT = 1000;
const LONG_TASK = 50;

const [pictures, ...reports] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath: process.env.REPORT_CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });

const open = async (file, options) => {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const said = [];
  page.on("console", (message) => said.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => said.push(String(error)));
  const url = pathToFileURL(file).href;
  page.on("request", (request) => { if (request.url() !== url && !request.url().startsWith("data:")) said.push(`asks for ${request.url()}`); });
  await page.goto(url);
  await page.waitForFunction(() => document.documentElement.dataset.ready === "yes");
  return { page, said, close: () => context.close() };
};

const looks = async (name, file) => {
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [400, 1400]) {
      const { page, said, close } = await open(file, { colorScheme, viewport: { width, height: 900 } });
      await page.evaluate(axe);
      const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
      const lines = found.violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.map((n) => n.html.slice(0, 200)).join(" | ")}`);
      assert.deepEqual(lines, [], `${name}, ${colorScheme}, ${width}: axe`);
      assert.deepEqual(said, [], `${name}, ${colorScheme}, ${width}: messages`);
      const across = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(across <= 0, `${name}, ${width}: the page is ${across} pixels too wide`);
      assert.equal(await page.evaluate(() => window.pwned), undefined, `${name}: a name ran`);
      await page.screenshot({ path: `${pictures}/${name}-${colorScheme}-${width}.png`, fullPage: true });
      await close();
    }
  }
};

const works = async (name, file) => {
  const { page, said, close } = await open(file, { viewport: { width: 1200, height: 900 } });
  const data = await page.evaluate(() => JSON.parse(document.getElementById("data").textContent));
  const total = data.tensors.length;
  const rows = page.locator("#table .row:visible");
  const rowCount = async () => Number(await page.locator("#table").getAttribute("aria-rowcount")) - 1;
  assert.equal(await rowCount(), total);
  assert.ok((await page.locator("#table .row").count()) <= 80, "only the rows that are seen are in the page");
  // The order by relative change, largest first; then smallest first; then the model's.
  const firstRelative = () => rows.evaluateAll((all) => all.sort((a, b) => a.style.top.localeCompare(b.style.top, "en", { numeric: true }))[0].children[3].textContent);
  const largest = Math.max(...data.tensors.map(([, , , c]) => c[0]?.[0] ?? -1));
  assert.equal(Number(await firstRelative()).toPrecision(3), largest.toPrecision(3));
  const header = page.getByRole("columnheader", { name: "relative" }).first();
  assert.equal(await header.getAttribute("aria-sort"), "descending");
  await header.getByRole("button").click();
  assert.equal(await header.getAttribute("aria-sort"), "ascending");
  // No name turns the direction of writing around, or acts in another way.
  const acting = data.tensors.filter(([name]) => /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]/.test(name));
  assert.deepEqual(acting, [], "characters that act");
  // Every name is found by itself, as text.
  const step = Math.max(Math.floor(total / 20), 1);
  for (let i = 0; i < total; i += step) {
    const [wanted] = data.tensors[i];
    await page.getByLabel("Search").fill(wanted);
    const texts = await page.locator("#table .row:visible .mono").allTextContents();
    assert.ok(texts.includes(wanted), `${wanted} in ${texts}`);
  }
  await page.getByLabel("Search").fill("no tensor has this name");
  assert.equal(await rowCount(), 0);
  await page.getByLabel("Search").fill("");
  assert.equal(await rowCount(), total);
  // Keys: from tensor to tensor in the map, and into the table.
  const map = page.getByRole("application").first();
  await map.focus();
  await page.keyboard.press("ArrowRight");
  const first = await page.locator("#detail").textContent();
  assert.ok(first.startsWith(data.tensors[0][0]), first);
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  assert.ok((await page.locator("#detail").textContent()).startsWith(data.tensors[1][0]));
  assert.equal(await page.locator("#table .row.chosen:visible").count(), 1);
  await page.locator("#table").focus();
  await page.keyboard.press("ArrowDown");
  assert.equal(await page.locator("#table .row.chosen:visible").count(), 1);
  assert.deepEqual(said, [], `${name}: messages`);
  await close();
};

const mainTasks = (trace) => {
  const { traceEvents } = JSON.parse(trace.toString());
  const main = new Set(traceEvents.filter((e) => e.name === "thread_name" && e.args.name === "CrRendererMain").map((e) => `${e.pid}:${e.tid}`));
  return traceEvents.filter((e) => e.ph === "X" && e.name === "ThreadControllerImpl::RunTask" && main.has(`${e.pid}:${e.tid}`));
};

/** Milliseconds until the first paint: by the clock; and how long its main thread was at work, at most. The best of three. */
const firstPaint = async (file) => {
  let best = { clock: Infinity, processor: Infinity };
  for (let i = 0; i < 3 && best.clock > FIRST_PAINT; i++) {
    const context = await browser.newContext({ viewport: { width: 1400, height: 900 } });
    const page = await context.newPage();
    await browser.startTracing(page, { categories: ["toplevel", "devtools.timeline"] });
    await page.goto(pathToFileURL(file).href);
    await page.waitForFunction(() => performance.getEntriesByName("first-contentful-paint").length > 0);
    const clock = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime);
    // All that the page's main thread did by now, which is more than it did until the paint.
    const processor = mainTasks(await browser.stopTracing()).reduce((sum, e) => sum + (e.tdur ?? 0) / 1000, 0);
    assert.ok(processor > 0, "the trace shows what the page did");
    if (clock < best.clock) best = { clock, processor };
    await context.close();
  }
  return best;
};

const fast = async (name, file) => {
  const busy = loadavg()[0] > 2 * cpus().length;
  const paint = await firstPaint(file);
  const { page, close } = await open(file, { viewport: { width: 1400, height: 900 } });
  await page.locator("#table").hover();
  await page.waitForTimeout(500);
  // The processor's time of each task on the page's main thread, which other programs do not lengthen.
  await browser.startTracing(page, { categories: ["toplevel", "devtools.timeline"] });
  for (let i = 0; i < 120; i++) {
    await page.mouse.wheel(0, i < 60 ? 700 : 4000);
    await page.waitForTimeout(16);
  }
  await page.waitForTimeout(200);
  const tasks = mainTasks(await browser.stopTracing());
  const longest = Math.max(...tasks.map((e) => (e.tdur ?? 0) / 1000)), waited = Math.max(...tasks.map((e) => e.dur / 1000));
  const top = await page.evaluate(() => document.getElementById("table").scrollTop);
  console.log(`${name}: first paint after ${paint.clock.toFixed(0)} ms by the clock, ${paint.processor.toFixed(0)} ms of the processor${busy ? ` (load ${loadavg()[0].toFixed(1)})` : ""}; scrolled to ${top} px in ${tasks.length} tasks, the longest took ${longest.toFixed(0)} ms of the processor (${waited.toFixed(0)} ms by the clock)`);
  assert.ok(tasks.length > 100, "the trace shows what the page did");
  // On a machine that is busy with other things, the clock tells of those.
  assert.ok((busy ? paint.processor : paint.clock) <= FIRST_PAINT, `${name}: the first paint took ${JSON.stringify(paint)} ms`);
  assert.ok(top > 100_000, `${name}: it scrolled to ${top} only`);
  assert.ok(longest <= LONG_TASK, `${name}: a task of ${longest} ms while scrolling`);
  await close();
};

try {
  for (const report of reports) {
    const [name, file] = [report.slice(0, report.indexOf("=")), report.slice(report.indexOf("=") + 1)];
    await looks(name, file);
    await works(name, file);
    if (name === "large") await fast(name, file);
    console.log(`${name}: ok`);
  }
} finally {
  await browser.close();
}
