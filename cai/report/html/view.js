"use strict";
// Shows rows: a list to filter, and each row's texts, word diffs and votes. Texts become text nodes and nothing else.
// A store answers `page(source, {group, words, from, count})` with {total, rows}; that of a file has all rows at hand,
// and a server's can ask for them.

const PAGE = 25; // rows in the list at once
const REWRITTEN = 0.3; // share of words kept, below which a text counts as written anew
const MOST_CELLS = 4e6; // of a table of words against words: 2,000 of each
const diffs = { chain: true, sides: false }; // where word diffs are shown: along a chain, and between the replies of a pair
// What a browser would not show, or would let move other words: controls, formats, separators, letters that are blank.
const HIDDEN = /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\u115f\u1160\u3164\uffa0\u2800]/gu;
// A word with the space behind it; scripts without spaces between words are compared letter by letter.
const WORDS = /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}]\s*|[^\s\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}]+\s*|^\s+/gu;

function node(name, kind, ...inside) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.append(...inside);
  return made;
}

function code(character) {
  return "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
}

/** The text as nodes, with a mark for each character that would not be seen. */
function shown(text) {
  const all = document.createDocumentFragment();
  let from = 0;
  for (const found of text.matchAll(HIDDEN)) {
    if (found.index > from) all.append(text.slice(from, found.index));
    const mark = node("span", "hidden", code(found[0]));
    mark.title = "a character that is not seen, or that moves others";
    all.append(mark);
    from = found.index + found[0].length;
  }
  if (from < text.length) all.append(text.slice(from));
  return all;
}

function textOf(value) {
  return typeof value === "string" ? value : value[0];
}

function cutNote(...values) {
  const notes = values.filter((value) => typeof value !== "string").map(([start, length]) =>
    `the first ${start.length.toLocaleString("en")} of ${length.toLocaleString("en")} characters`);
  return notes.length ? [node("p", "note", [...new Set(notes)].join("; "))] : [];
}

function words(...inside) {
  const box = node("div", "words", ...inside);
  box.dir = "auto";
  return box;
}

/** A box that scrolls can be scrolled with keys; in a viewer, which scrolls as a whole, texts do not. */
function reachable(box) {
  if (document.body.matches(".app") && box.matches(".words")) return box;
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "text");
  return box;
}

function block(title, kind, ...inside) {
  const made = node("div", "block" + kind);
  if (title) made.append(node("h4", "", shown(title)));
  made.append(...inside);
  return made;
}

// Word diffs

/**
 * Runs of words as [kind, text]: "same", "went" or "came"; null if hardly a word is kept, or there are too many.
 * Space counts as a part of the word before it: if it alone differs, it is shown as it is in `after`.
 */
function diff(before, after) {
  const a = before.match(WORDS) ?? [], b = after.match(WORDS) ?? [];
  const x = a.map((word) => word.trimEnd()), y = b.map((word) => word.trimEnd());
  const least = Math.min(a.length, b.length);
  let start = 0, end = 0;
  while (start < least && x[start] === y[start]) start++;
  while (end < least - start && x[a.length - 1 - end] === y[b.length - 1 - end]) end++;
  const n = a.length - start - end, m = b.length - start - end;
  if (n * m > MOST_CELLS) return null;
  const width = m + 1, longest = new Uint16Array((n + 1) * width); // common words from place i of a and j of b on
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      longest[i * width + j] = x[start + i] === y[start + j]
        ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  if (start + end + longest[0] < REWRITTEN * Math.max(a.length, b.length)) return null;
  const runs = [];
  let same = b.slice(0, start).join(""), went = "", came = "";
  const flush = () => {
    for (const run of [["went", went], ["came", came], ["same", same]]) if (run[1]) runs.push(run);
    same = went = came = "";
  };
  for (let i = 0, j = 0; i < n || j < m;) {
    if (i < n && j < m && x[start + i] === y[start + j]) {
      if (!same) flush();
      same += b[start + j++];
      i++;
    } else {
      if (same) flush();
      if (j === m || (i < n && longest[(i + 1) * width + j] >= longest[i * width + j + 1])) went += a[start + i++];
      else came += b[start + j++];
    }
  }
  if (!same) flush();
  same += b.slice(b.length - end).join("");
  flush();
  return runs;
}

function diffBlock(title, before, after) {
  if (!diffs.chain) return text(title, after);
  const runs = diff(textOf(before), textOf(after));
  if (runs === null) {
    return block(title + " (written anew)", "", reachable(words(shown(textOf(after)))), ...cutNote(after));
  }
  const tags = { same: null, went: "del", came: "ins" };
  const box = words(...runs.map(([kind, text]) => (tags[kind] ? node(tags[kind], "", shown(text)) : shown(text))));
  return block(title, "", reachable(box), ...cutNote(before, after));
}

// Rows: of each kind of record, what to say in a line, and which blocks show it

const dash = "–";
const number = (value, digits = 3) => (value === null ? dash : value.toFixed(digits).replace("-", "−"));
const plus = (value) => (value === null ? dash : (value < 0 ? "" : "+") + number(value, 2));
const by = (from, model) => from + (model ? ` by ${model}` : "");

const text = (title, value) => block(title, "", reachable(words(shown(textOf(value)))), ...cutNote(value));
/** Two texts side by side; with word diffs, what only one of them has is marked, in neither as right or wrong. */
function pairOf(...texts) {
  const [[, a], [, b]] = texts;
  const runs = diffs.sides ? diff(textOf(a), textOf(b)) : null;
  const made = node("div", "two", ...texts.map(([title, value], at) => {
    if (runs === null) return text(title, value);
    const own = runs.filter(([kind]) => kind !== ["came", "went"][at]);
    const parts = own.map(([kind, run]) => (kind === "same" ? shown(run) : node("mark", "", shown(run))));
    return block(title, "", reachable(words(...parts)), ...cutNote(value));
  }));
  if (!diffs.sides || runs !== null) return made;
  return node("div", "", made, note("no word diff: hardly a word is in both, or they are too long"));
}
const note = (value) => node("p", "note", shown(textOf(value)));

function table(head, lines) {
  const kind = (cell, at) => (at === 0 ? "name" : textOf(cell).length > 12 ? "text long" : "text");
  const line = (cells, tag) => node("tr", "", ...cells.map((cell, at) => node(tag, kind(cell, at), shown(textOf(cell)))));
  const made = node("table", "", node("thead", "", line(head, "th")), node("tbody", "", ...lines.map((each) => line(each, "td"))));
  return block("", "", reachable(node("div", "scroll", made)));
}

function reading(read, first, second) {
  const parts = [{ first, second }[read.choice] ?? "neither"];
  if (read.first !== null || read.second !== null) parts.push(`ln p ${number(read.first, 2)} and ${number(read.second, 2)}${read.bounded ? " at most" : ""}`);
  if (read.mass !== null) parts.push(`mass ${(100 * read.mass).toFixed(1)}%`);
  else if (read.first !== null) parts.push("mass not known");
  if (read.problem) parts.push(textOf(read.problem));
  return parts.join("; ");
}

function votes(row) {
  const head = ["principle", "weight", "a shown first", "b shown first", "for a (d)", "for the first (b)"];
  const lines = row.votes.map((vote) => [
    vote.principle, String(vote.weight), reading(vote.ab, "a", "b"), reading(vote.ba, "b", "a"), plus(vote.d), plus(vote.b),
  ]);
  return lines.length ? [table(head, lines)] : [];
}

function verdict(row) {
  if (row.z === null) return "no valid vote";
  return `judge: ${row.z ? (row.z > 0 ? "a" : "b") : "tie"}, p(a) ${number(row.p_a)}`;
}

function screening(screen) {
  const found = screen.principle === null
    ? "the screen finds no principle that the reply goes against: it stands"
    : `of the principles that the reply goes against, ${textOf(screen.principle)} was drawn`;
  const head = ["principle", "p(goes against)", "against", "keeps to", "baseline"];
  const sorted = [...screen.of].sort((one, other) => (other.p ?? -1) - (one.p ?? -1));
  const lines = sorted.map((each) => [
    each.principle, number(each.p), plus(each.against), plus(each.keeps), plus(each.baseline),
  ]);
  return [note(found), table(head, lines)];
}

function rounds(row) {
  const made = [text("First reply", row.initial)];
  const screens = row.screens ?? [];
  let before = row.initial;
  row.rounds.forEach((round, at) => {
    if (at < screens.length) made.push(...screening(screens[at]));
    const gate = round.p_revise === null ? "" : `, p(revise) ${number(round.p_revise, 2)}`;
    if (round.critique) made.push(text(`Critique ${at + 1} under ${textOf(round.principle)}${gate}`, round.critique));
    else made.push(note("the next reply is to the same prompt, with the constitution in the system text"));
    const judged = round.acceptance ?? null;
    if (judged !== null) {
      const verdict = judged.accepted ? "accepted" : "rejected, the reply stands";
      const how = `the judge compared revision ${at + 1} with the reply: ${verdict}, p(it is better) ${number(judged.p)}`;
      made.push(note(judged.fault === null ? how : `revision ${at + 1} was rejected unjudged: ${textOf(judged.fault)}`));
      made.push(...votes(judged));
      if (judged.rejected !== null) made.push(diffBlock(`Revision ${at + 1}, rejected`, before, judged.rejected));
    } else if (round.revision === null) made.push(note("nothing to fix, says the gate: no revision"));
    if (round.revision !== null) {
      made.push(diffBlock(`Revision ${at + 1}${round.changed ? "" : ", unchanged"}`, before, round.revision));
      before = round.revision;
    }
  });
  if (screens.length > row.rounds.length) made.push(...screening(screens[row.rounds.length]));
  if (row.rounds.length > 1 && diffs.chain) made.push(diffBlock("First reply to final text", row.initial, row.final));
  return made;
}

const KINDS = {
  Revision: {
    badges: (row) => [`${row.rounds.filter((round) => round.changed).length} of ${row.rounds.length} rounds changed it`],
    blocks: rounds,
  },
  Candidates: {
    badges: (row) => [`${row.replies.length + (row.left_out.replies ?? 0)} replies`],
    blocks: (row) => row.replies.map((reply) =>
      text(`${textOf(reply.model)}, sample ${reply.sample}${reply.problem ? ` (${reply.problem})` : ""}`, reply.text)),
  },
  Label: {
    badges: (row) => [verdict(row), ...(row.human === null ? [] : [`people: ${row.human}`])],
    blocks: (row) => [
      pairOf([`a: ${by(row.a_from, row.a_model)}`, row.a], [`b: ${by(row.b_from, row.b_model)}`, row.b]),
      ...(row.rewards ? [note(`reward of a ${number(row.rewards[0])}, of b ${number(row.rewards[1])}`)] : []),
      ...votes(row),
    ],
  },
  Rating: {
    badges: (row) => [textOf(row.contestant), `${textOf(row.asked)}: ${row.value === null ? "invalid" : number(row.value)}`],
    blocks: (row) => [
      text(`Reply of ${by(textOf(row.contestant), row.model)}`, row.reply),
      table(["level", "probability"], Object.entries(row.p).map(([level, p]) => [level, number(p, 4)])),
      ...(row.problem ? [note(row.problem)] : []),
    ],
  },
  Drop: {
    badges: (row) => [row.reason],
    blocks: (row) => [note(`${row.stage}: ${textOf(row.detail)}${row.line === null ? "" : `, line ${row.line}`}`)],
  },
  Sample: {
    badges: (row) => (row.before === row.after ? ["the same before and after"] : []),
    blocks: (row) => (row.after === null
      ? [text("Before training", row.before)] : [pairOf(["Before training", row.before], ["After training", row.after])]),
  },
};

/** A row of any other kind: its fields. */
const OTHER = {
  badges: () => [],
  blocks: (row) => {
    const known = ["kind", "reasons", "left_out", "group", "id", "prompt", "number", "position", "facets", "key", "calls", "models"];
    const fields = Object.entries(row).filter(([name, value]) => !known.includes(name) && value !== null);
    return [table(["field", "value"], fields.map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]))];
  },
};

const kindOf = (row) => (Object.hasOwn(KINDS, row.kind) ? KINDS[row.kind] : OTHER);

/** The turns of a prompt, which may be a text, or missing. */
function turnsOf(row) {
  const prompt = row.prompt ?? [];
  return Array.isArray(prompt) && typeof prompt[1] !== "number" ? prompt : [{ role: "text", content: prompt }];
}

const turnBlocks = (row) => turnsOf(row).map(({ role, content }) =>
  block(role, " turn", reachable(words(shown(textOf(content)))), ...cutNote(content)));

const badgesOf = (row) => [...kindOf(row).badges(row), ...row.reasons].map((badge) => node("span", "badge", shown(badge)));

function body(row) {
  const made = node("div", "body", ...turnBlocks(row), ...kindOf(row).blocks(row));
  for (const [name, count] of Object.entries(row.left_out)) {
    made.append(note(`${count.toLocaleString("en")} more of ${name} are not shown`));
  }
  return made;
}

function lead(row) {
  const turns = turnsOf(row);
  const text = turns.length ? turns[turns.length - 1].content : row.id ?? "no readable prompt";
  return textOf(text).slice(0, 200).replace(/\s+/g, " ");
}

function rowNode(row) {
  const summary = node("summary", "", node("span", "lead", shown(lead(row))), node("span", "badges", ...badgesOf(row)));
  const made = node("details", "row", summary);
  made.addEventListener("toggle", () => {
    if (made.open && made.childElementCount === 1) made.append(body(row));
  });
  return made;
}

/** All texts in a row, to search in. */
function* textsIn(value) {
  if (typeof value === "string") yield value;
  else if (value && typeof value === "object") for (const inner of Object.values(value)) yield* textsIn(inner);
}

// The list

function mount(place, store) {
  const source = Number(place.dataset.source);
  const query = { group: "", words: "", from: 0, count: PAGE };
  const list = node("div", "list"), status = node("span", "status");
  const group = node("select", ""), search = node("input", "");
  const back = node("button", "", "Previous"), on = node("button", "", "Next");
  status.setAttribute("role", "status");
  search.type = "search";
  group.append(new Option("all", ""));
  place.querySelectorAll(".groups tbody th").forEach((head, at) => group.append(new Option(head.textContent, at)));
  const label = (text, control) => node("label", "", text, control);
  place.append(node("div", "bar-of-tools", label("group", group), label("contains", search), status, back, on), list);

  let asked = 0;
  async function show() {
    const turn = ++asked;
    const { total, rows } = await store.page(source, query);
    if (turn !== asked) return; // a later question was answered meanwhile
    list.replaceChildren(...rows.map(rowNode));
    const last = query.from + rows.length;
    status.textContent = total ? `${(query.from + 1).toLocaleString("en")} to ${last.toLocaleString("en")} of ${total.toLocaleString("en")}` : "no rows";
    back.disabled = query.from === 0;
    on.disabled = last >= total;
  }
  const move = (step) => { query.from = Math.max(0, query.from + step * PAGE); show(); };
  back.addEventListener("click", () => move(-1));
  on.addEventListener("click", () => move(1));
  group.addEventListener("change", () => { Object.assign(query, { group: group.value, from: 0 }); show(); });
  let wait;
  search.addEventListener("input", () => {
    clearTimeout(wait);
    wait = setTimeout(() => { Object.assign(query, { words: search.value, from: 0 }); show(); }, 150);
  });
  show();
}

/** The rows that a page holds. */
function storeOf(sources) {
  const haystacks = new Map(); // of rows that were searched
  const haystack = (row) => {
    if (!haystacks.has(row)) {
      haystacks.set(row, [...textsIn(row)].join("\n").toLowerCase());
    }
    return haystacks.get(row);
  };
  return {
    async page(source, { group, words, from, count }) {
      const wanted = words.trim().toLowerCase();
      const rows = sources[source].filter((row) =>
        (group === "" || row.group === Number(group)) && (!wanted || haystack(row).includes(wanted)));
      return { total: rows.length, rows: rows.slice(from, from + count) };
    },
  };
}

const own = document.getElementById("rows");
if (own) {
  const store = storeOf(JSON.parse(own.textContent));
  document.querySelectorAll(".browser").forEach((place) => mount(place, store));
}
