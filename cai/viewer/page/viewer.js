"use strict";
// The page of `cai view`: a list of rows, an opened row, and pairs to label blind. Every text that comes from data goes
// through `shown` or `visible` of view.js and into text nodes; the server is asked by the header that carries the token.

const ROW = 52; // px of a line of the list, as viewer.css has it
const MOST_HEIGHT = 8e6; // px that every browser can lay out; longer lists are scrolled in proportion
const LINES = 40; // of the list in the document at once
const MOST_KEPT = 2000; // lines that the page remembers
const EVERY = 1000; // ms between questions about what is new
const BADGES = ["status", "flips"]; // groups of facets that the list shows
const USUAL = ["kept", "does not flip"]; // values that it does not
const STORED = "cai-token";

const the = (id) => document.getElementById(id);
const comma = (value) => value.toLocaleString("en");
const share = (value) => `${(100 * value).toFixed(0)}%`;
/** A text for where no elements can be: hidden characters as ⟨U+202E⟩. */
const visible = (text) => text.replace(HIDDEN, (found) => `⟨${code(found)}⟩`);

function button(text, key, action) {
  const made = node("button", "", text);
  made.type = "button";
  if (key) {
    made.append(" ", node("kbd", "", key));
    made.setAttribute("aria-keyshortcuts", key);
  }
  made.addEventListener("click", action);
  return made;
}

// The server

let token = takeToken();

/** The token: from the address, out of which it is taken at once, or as this tab remembers it. */
function takeToken() {
  const handed = location.hash.slice(1);
  const isOne = /^[\w-]{32}$/.test(handed);
  if (isOne) history.replaceState(null, "", location.pathname);
  try {
    if (isOne) sessionStorage.setItem(STORED, handed);
    return sessionStorage.getItem(STORED);
  } catch { // a browser that stores nothing: the page works until it is loaded again
    return isOne ? handed : null;
  }
}

function lock() {
  token = null;
  try {
    sessionStorage.removeItem(STORED);
  } catch { /* nothing is stored */ }
  for (const each of document.querySelectorAll("main")) each.hidden = each.id !== "locked";
  for (const each of document.querySelectorAll(".top button, .top label")) each.hidden = true;
  for (const each of ["row", "label", "list"]) the(each).replaceChildren();
  the("live").textContent = "";
}

/** The answer to a question; null if there is none, and the page then says why. */
async function ask(question, values = {}) {
  if (token === null) return null;
  const options = { method: "POST", headers: { "X-Cai-Token": token }, body: JSON.stringify(values) };
  let response, answer;
  try {
    response = await fetch(`api/${question}`, options);
    answer = await response.json();
  } catch {
    trouble("", "cai view does not answer: it has ended. Start it again, and open the address that it prints.");
    return null;
  }
  if (response.status === 403) {
    lock();
    return null;
  }
  trouble("", "");
  trouble(question, response.ok ? "" : answer.problem);
  return response.ok ? answer : null;
}

const troubles = new Map(); // by question, what was wrong with the last one

function trouble(question, problem) {
  troubles.set(question, visible(problem));
  const all = [...new Set(troubles.values())].filter(Boolean).join(" · ");
  const place = the("trouble");
  if (place.textContent === all) return;
  place.textContent = all;
  place.hidden = !all;
}

// The list: lines of one height, of which those in sight and some around them are in the document

const sources = []; // as the server last described them
const list = { source: 0, facets: {}, words: "", total: 0, lines: new Map(), chosen: -1, number: null, mark: null, opened: null, turn: 0, asking: false };

/** The place of the line at the upper edge, a fraction of a line included. */
function upper() {
  const box = the("list");
  const slack = height() - box.clientHeight;
  if (slack <= 0) return 0;
  return (box.scrollTop / slack) * (list.total - box.clientHeight / ROW);
}

const height = () => Math.min(list.total * ROW, MOST_HEIGHT);

function first() {
  const around = (LINES - the("list").clientHeight / ROW) / 2;
  return Math.max(0, Math.min(Math.floor(upper() - around), list.total - LINES));
}

function draw() {
  const box = the("list"), top = upper(), from = first();
  const spacer = node("div", "spacer");
  spacer.style.height = `${height()}px`;
  const lines = [];
  for (let place = from; place < Math.min(from + LINES, list.total); place++) {
    const line = lineOf(place);
    line.style.top = `${box.scrollTop + (place - top) * ROW}px`;
    lines.push(line);
  }
  box.replaceChildren(spacer, ...lines);
  if (list.chosen >= 0) box.setAttribute("aria-activedescendant", `line-${list.chosen}`);
  else box.removeAttribute("aria-activedescendant");
  fill();
}

function lineOf(place) {
  const row = list.lines.get(place);
  const line = node("div", "line");
  line.id = `line-${place}`;
  line.setAttribute("role", "option");
  line.setAttribute("aria-selected", String(place === list.chosen));
  line.setAttribute("aria-posinset", place + 1);
  line.setAttribute("aria-setsize", list.total);
  line.append(node("span", "lead", row ? shown(lead(row)) : "…"));
  const badges = row ? [...new Set(lineBadges(row))].map((badge) => node("span", "badge", shown(badge))) : [];
  line.append(node("span", "badges", node("span", "id", row ? shown(row.id ?? "–") : comma(place + 1)), ...badges));
  return line;
}

/** What the list says of a row: nothing that tells for which reply a judge or a person is. */
function lineBadges(row) {
  if (row.kind === "Label") return [row.confidence === null ? "no valid vote" : `confidence ${number(row.confidence, 2)}`, ...labels(row)];
  return [...kindOf(row).badges(row), ...labels(row)];
}

const labels = (row) => Object.entries(row.facets).filter(([group]) => BADGES.includes(group))
  .flatMap(([, values]) => values).filter((value) => !USUAL.includes(value));

/** Ask for the lines that are missing; one question at a time, and the last place wins. */
async function fill() {
  if (list.asking) return;
  const from = first(), turn = list.turn;
  const count = Math.min(LINES, list.total - from);
  let missing = false;
  for (let place = from; place < from + count; place++) missing ||= !list.lines.has(place);
  if (!missing) return;
  list.asking = true;
  const answer = await page(from);
  list.asking = false;
  if (answer === null) return;
  if (turn === list.turn) take(answer, from);
  draw();
}

const page = (start) => ask("rows", {
  source: list.source, facets: list.facets, words: list.words, start, count: LINES,
});

function take({ total, rows }, from) {
  list.total = total;
  if (list.lines.size > MOST_KEPT) list.lines.clear();
  rows.forEach((row, at) => list.lines.set(from + at, row));
  for (const [place, row] of list.lines) { // rows may come before it, or a longer one in its place
    if (isChosen(row)) Object.assign(list, { chosen: place, number: row.number });
  }
  const isPart = list.words.trim() || Object.keys(list.facets).length;
  const all = Math.max(total, sources[list.source]?.entries ?? 0);
  the("total").textContent = isPart ? `${comma(total)} of ${counted(all, "row")}` : counted(total, "row");
}

/** Whether a row is the chosen one; its number is another when it has grown, or its file was written anew. */
function isChosen({ kind, position, id }) {
  const { mark } = list;
  return mark !== null && mark.kind === kind && mark.position === position && mark.id === id;
}

const counted = (number, noun) => `${comma(number)} ${noun}${number === 1 ? "" : "s"}`;

/** Show the list anew: of another source, with other filters, or after more rows have come. */
async function renew(from = first()) {
  const turn = ++list.turn;
  const answer = await page(from);
  if (answer === null || turn !== list.turn) return;
  list.lines.clear();
  take(answer, from);
  draw();
  const { opened, number } = list;
  if (opened === null || number === null || opened.number === number) return;
  await openRow(number, isChosen(opened) ? the("row").scrollTop : 0);
}

function find(values) {
  Object.assign(list, values, { chosen: -1, number: null, mark: null });
  the("list").scrollTop = 0;
  the("active").textContent = Object.keys(list.facets).length ? `(${Object.keys(list.facets).length} on)` : "";
  return renew(0);
}

async function choose(place) {
  if (place < 0 || place >= list.total) return;
  const before = list.lines.get(place) ?? null;
  Object.assign(list, { chosen: place, number: before?.number ?? null, mark: before });
  const box = the("list"), lines = box.clientHeight / ROW, top = upper();
  if (place < top) scrollTo(place);
  else if (place > top + lines - 1) scrollTo(place - lines + 1);
  draw();
  if (!list.lines.has(place)) await renew();
  const line = list.lines.get(place);
  if (!line || place !== list.chosen) return;
  Object.assign(list, { number: line.number, mark: line });
  await openRow(line.number);
}

function scrollTo(place) {
  const box = the("list"), span = list.total - box.clientHeight / ROW;
  box.scrollTop = span > 0 ? (place / span) * (height() - box.clientHeight) : 0;
}

// An opened row

const PROVENANCE = ["position", "key", "prompt_id", "constitution", "templates", "protocol", "temperature", "models", "model", "seed", "usage", "line"];

async function openRow(number, top = 0) {
  const source = list.source;
  const row = await ask("row", { source, number });
  if (row === null || source !== list.source) return;
  list.opened = row;
  document.body.classList.add("reading");
  drawRow();
  the("row").scrollTop = top;
}

function drawRow() {
  const row = list.opened, place = the("row");
  if (row === null) {
    place.replaceChildren(node("p", "note empty", "Choose a row: click it, or press j."));
    return;
  }
  const close = button("Back to the list", "Escape", closeRow);
  close.classList.add("narrow-only");
  const name = node("h2", "", shown(row.id ?? row.name ?? `row ${row.number}`));
  const head = node("header", "", close, name, node("span", "badges", ...badgesOf(row)));
  place.replaceChildren(head, body(row), provenance(row), questions(row));
  mark();
}

function closeRow() {
  document.body.classList.remove("reading");
  list.opened = null;
  drawRow();
  the("list").focus();
}

function provenance(row) {
  const lines = PROVENANCE.filter((name) => row[name] !== undefined && row[name] !== null).map((name) => [name, asText(row[name])]);
  return folded("Provenance", () => (lines.length ? [table(["field", "value"], lines)] : [note("none")]));
}

const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value));

/** A part that is made when it is opened. */
function folded(title, make) {
  const made = node("details", "folded", node("summary", "", title));
  made.addEventListener("toggle", async () => {
    if (!made.open || made.childElementCount > 1) return;
    const waiting = note("…");
    made.append(waiting);
    const inside = await make();
    waiting.replaceWith(...inside);
  });
  return made;
}

function questions(row) {
  const keys = row.calls ?? [], source = list.source;
  const title = `What was asked: ${counted(keys.length, "question")}`;
  if (!keys.length) return node("span", "");
  return folded(title, () => keys.map((key, at) => folded(`Question ${at + 1} of ${keys.length}`, async () => {
    const call = await ask("call", { source, key });
    return call === null ? [note("It cannot be shown: see the line above the page.")] : callBlocks(call);
  })));
}

function callBlocks(call) {
  const { messages, ...rest } = call.request.payload;
  const turns = Array.isArray(messages) ? messages : [];
  const made = [note(`${call.request.provider}:${call.request.name}, ${new Date(call.at * 1000).toLocaleString()}`)];
  for (const turn of turns) made.push(text(asText(turn.role ?? "message"), asText(turn.content ?? turn)));
  made.push(table(["field", "value"], Object.entries(rest).map(([name, value]) => [name, asText(value)])));
  const answer = call.answer;
  if (answer.reasoning !== null) made.push(text("Thoughts", answer.reasoning));
  const title = `Answer of ${answer.model}, ended by ${answer.finish}`;
  made.push(answer.scores === null ? text(title, answer.text) : block(title, ""));
  const tokens = ["input_tokens", "output_tokens", "cached_tokens"].filter((name) => answer[name] !== null);
  made.push(note(tokens.map((name) => `${name.replace("_", " ")} ${comma(answer[name])}`).join(", ")));
  if (answer.scores !== null) made.push(table(["continuation", "ln p"], answer.scores.map((score, at) => [JSON.stringify(rest.score?.[at] ?? at + 1), number(score)])));
  if (answer.logprobs !== null) {
    const lines = answer.logprobs.slice(0, LINES).map((tokens, at) => [
      String(at + 1), Object.entries(tokens).sort((a, b) => b[1] - a[1]).map(([word, p]) => `${JSON.stringify(word)} ${number(p)}`).join("  "),
    ]);
    made.push(table(["token", "alternatives with ln p"], lines));
  }
  return made;
}

/** Colour the words that were searched for; the document stays as it is. */
function mark() {
  if (!globalThis.CSS?.highlights) return;
  CSS.highlights.delete("found");
  const words = list.words.toLowerCase().match(/[\p{L}\p{N}]+/gu);
  if (!words) return;
  const ranges = [];
  const walk = document.createTreeWalker(the("row"), NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const content = walk.currentNode.textContent.toLowerCase();
    if (content.length !== walk.currentNode.textContent.length) continue; // a letter that is longer in lower case
    for (const word of words) {
      for (let at = content.indexOf(word); at >= 0; at = content.indexOf(word, at + word.length)) {
        const range = new Range();
        range.setStart(walk.currentNode, at);
        range.setEnd(walk.currentNode, at + word.length);
        ranges.push(range);
      }
    }
  }
  CSS.highlights.set("found", new Highlight(...ranges));
}

// Labels by hand: two replies without names, and what the judge says of them only after the vote

const QUEUES = {
  random: "drawn at random: may certify a threshold",
  uncertain: "least certain first: to read, certifies nothing",
};
const CHOICES = { a: "first", b: "second", t: "tie", s: "skip" };
const desk = { source: -1, queue: "random", wanted: null, pair: null, standing: null, since: 0, votes: [], back: 0, row: null, busy: false };

async function startLabelling(source, queue = desk.queue) {
  const votes = source === desk.source ? desk.votes : [];
  Object.assign(desk, { source, queue, pair: null, standing: null, votes, back: 0 });
  showMain("label");
  document.activeElement.blur(); // else Enter would leave again
  await nextPair();
}

async function nextPair() {
  const answer = await ask("pair", { source: desk.source, queue: desk.queue });
  if (answer !== null) lay(answer);
}

/** Put a pair on the desk. */
function lay(answer) {
  Object.assign(desk, answer, { since: performance.now(), back: 0 });
  trouble("undo", "");
  drawDesk();
  the("label").querySelector(".desk-top").scrollTop = 0;
}

/** Do what one key press wants, and nothing that is pressed meanwhile. */
async function alone(action) {
  if (desk.busy) return;
  desk.busy = true;
  try {
    await action();
  } finally {
    desk.busy = false;
  }
}

const vote = (choice) => alone(async () => {
  const { source, queue, pair, back } = desk;
  if (pair === null || back > 0) return;
  const seconds = (performance.now() - desk.since) / 1000;
  const answer = await ask("vote", { source, queue, key: pair.key, choice, seconds });
  if (answer === null) return;
  desk.votes.push({ ...pair, ...answer });
  await nextPair();
});

const undo = () => alone(async () => {
  const answer = await ask("undo", { source: desk.source, queue: desk.queue });
  if (answer === null) return;
  if (answer.pair === null) trouble("undo", "There is no vote of yours to take back.");
  else {
    desk.votes = desk.votes.filter((each) => each.key !== answer.pair.key);
    lay(answer);
  }
});

/** Go back through the votes of this session, and forth to the pair that waits. */
const look = (step) => alone(async () => {
  const back = desk.back + step;
  if (back < 0 || back > desk.votes.length) return;
  const { number, key } = desk.votes.at(-back) ?? {};
  let row = back > 0 && number !== null ? await ask("row", { source: desk.source, number }) : null;
  if (row?.kind === "Label" && row.key !== key) row = null; // the file was written anew since, without this place
  Object.assign(desk, { back, row });
  drawDesk();
  the("label").querySelector(".desk-top").scrollTop = 0;
});

function drawDesk() {
  const { pair, votes, back, row } = desk;
  const made = node("div", "body");
  if (back > 0) {
    const old = votes.at(-back);
    const sides = row?.kind === "Label" ? ` First was ${old.first === textOf(row.a) ? "a" : "b"}.` : "";
    made.append(note(`${back} back, with everything shown. ${outcome(old)}${sides}`));
    if (row !== null) made.append(node("span", "badges", ...badgesOf(row)), body(row));
    else made.append(...turnBlocks(old), pairOf(["First", old.first], ["Second", old.second]));
  } else if (pair === null) {
    made.append(node("p", "note empty", desk.standing === null ? "…" : "No pair is left in this queue that you have not labelled, skipped or opened."));
  } else {
    if (!pair.blind) made.append(note("You have seen the verdict on this pair: your label is kept, and certifies nothing."));
    made.append(...turnBlocks(pair), pairOf(["First", pair.first], ["Second", pair.second]));
  }
  const focused = document.activeElement?.dataset?.does;
  const top = node("div", "desk-top", deskHead(), made);
  top.tabIndex = 0; // it scrolls
  top.setAttribute("role", "group");
  top.setAttribute("aria-label", "pair");
  the("label").replaceChildren(top, deskFoot());
  document.querySelector(`[data-does="${focused}"]`)?.focus();
}

function deskHead() {
  const queue = node("select", "");
  queue.dataset.does = "queue";
  for (const [name, words] of Object.entries(QUEUES)) queue.append(new Option(words, name, false, name === desk.queue));
  queue.addEventListener("change", () => startLabelling(desk.source, queue.value));
  const progress = node("div", "progress", ...standing());
  progress.setAttribute("role", "status");
  return node("header", "desk-head", node("label", "", "pairs", queue), progress);
}

/** How many labels there are, how many more a certificate needs, and how far judge and people agree. */
function standing() {
  const now = desk.standing;
  if (now === null) return [];
  const made = [], session = desk.votes.filter((each) => each.choice !== "skip").length;
  if (now.needed !== null) {
    const bar = node("progress", "");
    bar.max = now.needed;
    bar.value = Math.min(now.labels, now.needed);
    bar.setAttribute("aria-label", "labels of those that a certificate needs");
    const left = now.needed - now.labels;
    const words = left > 0 ? `${comma(now.labels)} of ${comma(now.needed)} labels: ${comma(left)} more before a threshold can be certified`
      : `${counted(now.labels, "label")}, enough to try a certificate: ${now.next}`;
    made.push(node("span", "", bar, " ", shown(words)));
  } else made.push(node("span", "", counted(now.labels, "label")));
  if (now.agreement !== null) {
    const { value, low, high, n } = now.agreement;
    made.push(node("span", "", `the judge agrees on ${share(value)} of ${comma(n)} (95% interval ${share(low)} to ${share(high)})`));
  }
  for (const { people, n, share: part, kappa } of now.people) {
    made.push(node("span", "", shown(`${people.join(" and ")} agree on ${share(part)} of ${comma(n)}${kappa === null ? "" : `, κ ${number(kappa[0], 2)}`}`)));
  }
  if (now.lost) made.push(node("span", "", `${comma(now.lost)} skipped or taken back`));
  if (desk.wanted !== null) made.push(node("span", "", `this session ${comma(session)} of ${comma(desk.wanted)}${session < desk.wanted ? "" : ", done"}`));
  return made;
}

/** What came of a vote. */
function outcome({ choice, judge, confidence, blind }) {
  if (choice === "skip") return "Skipped: it is asked again in another session.";
  const yours = `You: ${choice}. `;
  if (confidence === null || confidence === undefined) return yours + (judge === null ? "No judge has a verdict on it." : "");
  const agreed = judge === choice ? "agrees" : "differs";
  return `${yours}Judge: ${judge}, confidence ${number(confidence, 2)}, ${agreed}.${blind ? "" : " Not blind: it certifies nothing."}`;
}

function deskFoot() {
  const last = desk.votes.at(-1);
  const strip = node("p", "strip", last ? shown(outcome(last)) : shown(desk.standing ? `Votes go to ${desk.standing.gold}` : ""));
  strip.setAttribute("role", "status");
  const tools = node("div", "tools");
  for (const [key, name, action] of [
    ["a", "First", () => vote("first")], ["b", "Second", () => vote("second")], ["t", "Tie", () => vote("tie")],
    ["s", "Skip", () => vote("skip")], ["u", "Undo", undo], ["d", "Word diff", toggleDiff],
    ["k", "Back", () => look(1)], ["j", "Forth", () => look(-1)],
  ]) {
    const made = button(name, key, action);
    made.dataset.does = name;
    if (key === "d") made.setAttribute("aria-pressed", String(diffs.sides));
    made.disabled = (key in CHOICES && (desk.pair === null || desk.back > 0)) || (key === "j" && desk.back === 0)
      || (key === "k" && desk.back >= desk.votes.length);
    tools.append(made);
  }
  return node("footer", "desk-foot", strip, tools);
}

// Keys, and what goes on around both

function toggleDiff() {
  if (!the("label").hidden) {
    diffs.sides = !diffs.sides;
    drawDesk();
  } else if (list.opened !== null) {
    const which = ["Label", "Sample"].includes(list.opened.kind) ? "sides" : "chain";
    diffs[which] = !diffs[which];
    drawRow();
  }
}

const READING = {
  j: ["next row", () => choose(list.chosen + 1)],
  k: ["row before", () => choose(list.chosen - 1)],
  d: ["word diffs on or off", toggleDiff],
  "/": ["search", () => the("search").focus()],
  Escape: ["back to the list", () => list.opened !== null && closeRow()],
};
const IN_LIST = { ArrowDown: "j", ArrowUp: "k" }; // as in any list box
const LABELLING = {
  a: ["the first reply is better", () => vote("first")],
  b: ["the second reply is better", () => vote("second")],
  t: ["tie", () => vote("tie")],
  s: ["skip", () => vote("skip")],
  u: ["take your last vote back", undo],
  d: ["word diff on or off", toggleDiff],
  k: ["votes before, with everything shown", () => look(1)],
  j: ["forth again", () => look(-1)],
  Escape: ["back to the rows", () => showMain("browse")],
};

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || token === null || the("help").open) return;
  const { target, key } = event;
  if (target.matches("input, select, textarea")) {
    if (key === "Escape") {
      event.preventDefault(); // the browser would empty the search
      target.blur();
    } else if (key === "Enter" && target.id === "search") the("list").focus();
    return;
  }
  if (key === "?") {
    event.preventDefault();
    the("help").showModal();
    return;
  }
  const keys = the("label").hidden ? READING : LABELLING;
  const name = target.id === "list" ? IN_LIST[key] ?? key : key;
  if (key === "Enter" && target.id === "list") choose(Math.max(list.chosen, 0));
  if (!Object.hasOwn(keys, name)) return;
  event.preventDefault();
  if (event.repeat && keys === LABELLING) return; // a key held down is one vote
  keys[name][1]();
}

function showMain(id) {
  for (const each of ["browse", "label"]) the(each).hidden = each !== id;
  the("mode").textContent = id === "label" ? "Back to the rows" : "Label pairs";
  if (id === "browse") draw();
}

function fillHelp() {
  const keys = [...new Set([...Object.keys(READING), ...Object.keys(LABELLING)])];
  const cells = (key) => [READING, LABELLING].map((one) => node("td", "text", one[key]?.[0] ?? "–"));
  the("help").querySelector("tbody").replaceChildren(...[...keys, "?"].map((key) => {
    const head = node("th", "name", node("kbd", "", key));
    head.scope = "row";
    const both = key === "?" ? [node("td", "text", "this help"), node("td", "text", "this help")] : cells(key);
    return node("tr", "", head, ...both);
  }));
}

/** The filters: a choice for each group of facets, with how many rows have each value. */
function drawFacets() {
  const place = the("filters").querySelector(".facets");
  const groups = Object.entries(sources[list.source].facets);
  const text = JSON.stringify([list.source, list.facets, groups]);
  if (place.dataset.shown === text || place.contains(document.activeElement)) return;
  place.dataset.shown = text;
  place.replaceChildren(...groups.map(([group, values]) => {
    const choice = node("select", "");
    choice.append(new Option("all", ""));
    for (const [value, count] of Object.entries(values)) {
      choice.append(new Option(`${visible(value)} (${comma(count)})`, value, false, list.facets[group] === value));
    }
    choice.addEventListener("change", () => {
      const { [group]: _, ...others } = list.facets;
      find({ facets: choice.value ? { ...others, [group]: choice.value } : others });
    });
    return node("label", "", visible(group), choice);
  }));
}

function describe(state) {
  const before = JSON.stringify(sources[list.source] ?? null);
  sources.splice(0, sources.length, ...state.sources);
  const choice = the("source");
  if (choice.options.length !== sources.length) {
    choice.replaceChildren(...sources.map(({ title, kind }, at) => new Option(`${visible(title)} (${kind})`, at)));
    choice.value = list.source;
    choice.parentElement.hidden = sources.length < 2;
  }
  trouble("files", [...new Set(sources.map(({ problem }) => problem).filter(Boolean))].join(" · "));
  const now = sources[list.source];
  the("mode").hidden = !now.pairs && the("label").hidden;
  const [read, all] = now.bytes;
  const parts = [];
  if (read < all) parts.push(`reading: ${share(read / all)}`);
  if (now.searchable < now.entries) parts.push(`search covers ${comma(now.searchable)} rows so far`);
  the("live").textContent = parts.join(" · ");
  drawFacets();
  if (JSON.stringify(now) !== before) renew();
}

async function poll() {
  const state = await ask("state");
  if (state !== null) describe(state);
  if (token !== null) setTimeout(poll, document.hidden ? 5 * EVERY : EVERY);
  return state;
}

async function start() {
  fillHelp();
  the("keys").addEventListener("click", () => the("help").showModal());
  the("close-help").addEventListener("click", () => the("help").close());
  if (token === null) return lock();
  the("browse").hidden = false;
  the("filters").open = matchMedia("(min-width: 60rem)").matches;
  drawRow();
  the("list").addEventListener("click", ({ clientY, currentTarget }) => // lines may be drawn anew between press and release
    choose(Math.floor(upper() + (clientY - currentTarget.getBoundingClientRect().top) / ROW)));
  the("list").addEventListener("scroll", () => requestAnimationFrame(draw));
  addEventListener("resize", () => requestAnimationFrame(draw));
  document.addEventListener("keydown", press);
  the("skip").addEventListener("click", () => the("row").focus());
  the("mode").addEventListener("click", () => (the("label").hidden ? startLabelling(list.source) : showMain("browse")));
  the("source").addEventListener("change", ({ target }) => {
    Object.assign(list, { source: Number(target.value), facets: {}, opened: null });
    drawRow();
    drawFacets();
    find({});
    if (!the("label").hidden) showMain("browse");
    the("mode").hidden = !sources[list.source].pairs;
  });
  let wait;
  the("search").addEventListener("input", ({ target }) => {
    clearTimeout(wait);
    wait = setTimeout(() => { find({ words: target.value }); mark(); }, 150);
  });
  const state = await poll();
  if (state === null) return undefined;
  Object.assign(desk, { queue: state.queue, wanted: state.annotate });
  const judged = sources.findIndex(({ kind }) => kind === "label run"); // an evaluation has replies, too
  const source = judged >= 0 ? judged : sources.findIndex(({ pairs }) => pairs);
  if (state.annotate !== null && source >= 0) {
    list.source = source;
    the("source").value = source;
    await startLabelling(source);
  }
  return undefined;
}

start();
