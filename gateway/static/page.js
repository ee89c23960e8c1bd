// Sends a photo, or the address of one, to POST /classify and shows the answer.
//
// Names, labels and messages come from outside: they are only ever written as text (textContent),
// never as HTML. Nothing is loaded from elsewhere but the photo whose address was given.

import { jpegOf, takePhoto } from "./camera.js";

const LIMITS = JSON.parse(document.body.dataset.limits); // of pictures that the gateway takes
const SHRUNK_SIDE = 2000; // pixels, of a picture over these
const STARTS = { // of a file, by its format's name in LIMITS.pixels
  JPEG: /^\xff\xd8\xff/, PNG: /^\x89PNG/, GIF: /^GIF8/, BMP: /^BM/, WEBP: /^RIFF[^]{4}WEBP/,
};
const BARS_SHOWN = 10; // a model with a thousand labels shows its ten best, the others on demand

const find = (selector) => document.querySelector(selector);
const form = find("#ask");
const fileInput = find("#file");
const urlInput = find("#url");
const askButton = form.querySelector("button");
const status = find("#status");
const errorBox = find("#error");
const result = find("#result");
const others = find("#others");

let asked = null; // the question whose answer is on the page, or is awaited
let running = null; // the AbortController of the request under way

// ---- Questions: what to send, what to show beside the answer, and the curl line for the same

function questionOfFile(file) {
  return {
    name: file.name,
    file,
    photo: URL.createObjectURL(file),
    curl: `curl -s ${endpointForShell()} -F ${shellQuote(`file=@${curlFileName(file.name)}`)}`,
  };
}

function questionOfUrl(url) {
  const body = `{"url": ${JSON.stringify(url)}}`;
  return {
    name: url,
    photo: url,
    request: { body, headers: { "Content-Type": "application/json" } },
    curl: `curl -s ${endpointForShell()} -H 'Content-Type: application/json' -d ${shellQuote(body)}`,
  };
}

/** The curl line of the question; it sends the file itself, also where the page sent another. */
function curlOf({ curl, note }) {
  return note ? `${curl}  # the page sent a small JPEG of it` : curl;
}

/** The text in single quotes, for any POSIX shell. */
function shellQuote(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** curl's -F takes , and ; for its own syntax unless the file name stands in double quotes. */
function curlFileName(name) {
  return /[,;"\\]/.test(name) ? `"${name.replace(/[\\"]/g, "\\$&")}"` : name;
}

/** The endpoint's address; brackets, as in http://[::1]:9696, mean something to some shells. */
function endpointForShell() {
  return /^[\w.:/-]+$/.test(form.action) ? form.action : shellQuote(form.action);
}

// ---- Asking

/** A failure in words for the person at the page; passing if the same question may succeed later. */
class Failure extends Error {
  constructor(title, detail, { passing = false } = {}) {
    super(detail);
    this.title = title;
    this.passing = passing;
  }
}

/** Asks, and shows busy, then the answer or what went wrong. A newer question replaces this one. */
async function ask(question) {
  running?.abort();
  const mine = new AbortController();
  running = mine;
  showWaiting(question);
  try {
    const request = question.request ?? (await uploadOf(question));
    find("#curl").textContent = curlOf(asked); // a newer question may have replaced this one
    const start = performance.now();
    const answer = await classify(question, request, mine.signal);
    showAnswer(answer, performance.now() - start);
  } catch (error) {
    if (mine.signal.aborted) return;
    showFailure(error);
  }
  running = null;
  showIdle();
}

/** The gateway's answer to the question. Throws Failure when there is none. */
async function classify(question, request, signal) {
  let response, text;
  try {
    response = await fetch(form.action, { method: "POST", signal, ...request });
    text = await response.text();
  } catch {
    throw unreachable(question);
  }
  const answer = parseJson(text);
  if (!response.ok) throw failureOf(response.status, answer);
  if (!isClassification(answer)) {
    throw new Failure(
      "The answer makes no sense",
      "The gateway's answer is not a list of labels and scores. Its log may say why.",
    );
  }
  return answer;
}

/** The request that sends a file, as a JPEG where the gateway would not take it. */
async function uploadOf(question) {
  const { file, name } = question;
  const start = await startOf(file);
  const body = new FormData();
  const picture = await createImageBitmap(file).catch(() => null); // the gateway says what is wrong
  const reason = picture && whyNotTaken(file, start, picture);
  body.append("file", reason ? await smallJpegOf(picture) : file, name);
  picture?.close();
  if (reason) question.note = `, sent as a JPEG: ${reason}`;
  return { body };
}

/** Why the gateway would not take a picture that this browser reads; "" if it would. */
function whyNotTaken(file, start, { width, height }) {
  const format = Object.keys(STARTS).find((name) => STARTS[name].test(start));
  const most = LIMITS.pixels[format];
  if (!most) return `the gateway does not read ${file.type.replace("image/", "").toUpperCase() || "this format"}`;
  if (file.size > LIMITS.bytes) return `the file has ${megabytes(file)} MB`;
  const large = width * height > most || Math.max(width, height) > LIMITS.side;
  return large ? `the picture has ${width} × ${height} pixels` : "";
}

/** The picture as a JPEG with sides of at most SHRUNK_SIDE; white shows through, as in the gateway. */
function smallJpegOf(picture) {
  const scale = Math.min(1, SHRUNK_SIDE / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(scale * picture.width));
  canvas.height = Math.max(1, Math.round(scale * picture.height));
  const paper = canvas.getContext("2d");
  paper.fillStyle = "white";
  paper.fillRect(0, 0, canvas.width, canvas.height);
  paper.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return jpegOf(canvas);
}

function megabytes(file) {
  return ((file?.size ?? 0) / 2 ** 20).toFixed(0);
}

/** The first bytes of a file, as a string. Folders can be dropped, and files can vanish: then it throws Failure. */
async function startOf(file) {
  if (file.type && !file.type.startsWith("image/")) {
    throw new Failure("Not a photo", `${file.name} is not a picture (${file.type}). Choose a photo.`);
  }
  try {
    const bytes = new Uint8Array(await file.slice(0, 12).arrayBuffer());
    return String.fromCharCode(...bytes);
  } catch {
    throw new Failure("The file cannot be read", `${file.name} is a folder, or has changed or moved.`);
  }
}

/** No answer at all. Servers also hang up on uploads over their limit, without the browser telling us. */
function unreachable({ file }) {
  const large = megabytes(file) < 5 ? "" : ` Or is the photo, ${megabytes(file)} MB, too large for it?`;
  return new Failure(
    "The gateway cannot be reached",
    `No answer came from ${location.host}. Is the gateway still running, and are you online?${large}`,
    { passing: true },
  );
}

/** The failure that an answer with an error status stands for (RFC 9457 where it keeps to it). */
function failureOf(status, problem) {
  const words = (text) => (typeof text === "string" ? text.trim() : "");
  const passing = status >= 500 || status === 408 || status === 429;
  return new Failure(
    words(problem?.title) || "No answer",
    words(problem?.detail) || `The gateway answered with status ${status} and did not say why.`,
    { passing },
  );
}

function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function isClassification(answer) {
  const ranked = answer?.predictions;
  if (!Array.isArray(ranked) || ranked.length === 0) return false;
  return ranked.every((one) => typeof one?.label === "string" && Number.isFinite(one.probability));
}

// ---- Showing

function showWaiting(question) {
  if (asked && asked !== question) URL.revokeObjectURL(asked.photo);
  asked = question;
  document.documentElement.dataset.asked = "";
  clear();
  status.textContent = "Looking…";
  result.setAttribute("aria-busy", "true");
  askButton.setAttribute("aria-disabled", "true");
  find("#waiting").hidden = false;
  find("#answer").hidden = false;
  showPhoto(question);
  find("#curl").textContent = curlOf(question);
  result.hidden = false;
}

function showPhoto({ name, photo }) {
  const picture = new Image();
  picture.alt = "The photo that was sent";
  picture.draggable = false;
  picture.referrerPolicy = "no-referrer";
  picture.addEventListener("error", () => {
    picture.remove(); // the gateway may read what the browser cannot show, or not get at
  });
  picture.src = photo;
  const caption = document.createElement("figcaption");
  caption.textContent = name;
  find("#photo").replaceChildren(picture, caption);
}

function showIdle() {
  result.removeAttribute("aria-busy");
  askButton.removeAttribute("aria-disabled");
  const waiting = find("#waiting");
  // The Cancel button goes, and must not take the keyboard's place along.
  if (waiting.contains(document.activeElement)) status.focus();
  waiting.hidden = true;
}

function clear() {
  status.textContent = "";
  errorBox.replaceChildren();
  find("#best").replaceChildren();
  others.hidden = true;
  others.open = false;
  find("#took").textContent = "";
  find("#copied").textContent = "";
  find("#raw").hidden = true;
}

function showAnswer(answer, milliseconds) {
  const ranked = answer.predictions;
  status.textContent = inWords(ranked, answer.unsure);
  showBars(find("#best"), ranked.slice(0, BARS_SHOWN));
  const rest = ranked.slice(BARS_SHOWN);
  others.hidden = rest.length === 0;
  others.querySelector("summary").textContent = `${rest.length} more`;
  showBars(others.querySelector("ol"), rest);
  find("#took").textContent = inDetail(answer, milliseconds) + (asked.note ?? "");
  find("#json").textContent = JSON.stringify(answer, null, 2);
  find("#raw").hidden = false;
  bringIntoView(status, find("#answer"));
}

function showFailure(error) {
  clear();
  const box = find("#failure").content.cloneNode(true);
  find("#answer").hidden = true;
  box.querySelector("strong").textContent = error.title ?? "Something went wrong in this page";
  box.querySelector("span").textContent = error.message;
  const again = box.querySelector("button");
  again.hidden = !error.passing;
  again.addEventListener("click", () => {
    status.focus(); // the button goes, and must not take the keyboard's place along
    ask(asked);
  });
  errorBox.replaceChildren(box);
  bringIntoView(errorBox, errorBox);
}

/** Says why no request is sent, and clears the page, so that an older result is not taken for the answer. */
function refuse(detail, title = "Nothing to ask about") {
  running?.abort();
  running = null;
  showIdle();
  result.hidden = true;
  showFailure(new Failure(title, detail));
}

function showBars(list, ranked) {
  const bars = ranked.map(({ label, probability }) => {
    const bar = find("#bar").content.cloneNode(true);
    bar.querySelector(".label").textContent = label;
    bar.querySelector(".percent").textContent = percent(probability, 1);
    return bar;
  });
  list.replaceChildren(...bars);
  list.getBoundingClientRect(); // lays the bars out at width 0, from which they grow
  const fills = list.querySelectorAll(".fill");
  ranked.forEach(({ probability }, i) => {
    fills[i].style.width = `${100 * Math.min(Math.max(probability, 0), 1)}%`;
  });
}

/** The best label; the second as well where the model itself is in doubt. */
function inWords([first, second], unsure) {
  const best = `${first.label} (${percent(first.probability)})`;
  if (unsure) return `Not sure: perhaps none of the labels. The best guess: ${best}`;
  const words = `This looks like: ${best}`;
  if (first.probability >= 0.5 || !second) return words;
  return `${words}, perhaps ${second.label} (${percent(second.probability)})`;
}

/** "Answered in 92 ms: 4 ms to decode, 71 ms for the model (version 1)". */
function inDetail({ seconds, model }, milliseconds) {
  const names = { fetch: "to fetch it", decode: "to decode it", model: "for the model" };
  const parts = Object.entries(names)
    .filter(([stage]) => Number.isFinite(seconds?.[stage]))
    .map(([stage, words]) => `${duration(1000 * seconds[stage])} ${words}`);
  const version = Number.isInteger(model?.version) ? ` (version ${model.version})` : "";
  return `Answered in ${duration(milliseconds)}${parts.length ? `: ${parts.join(", ")}` : ""}${version}`;
}

/** "93%"; what would only round to 0% or 100% is "<1%" or ">99%". */
function percent(probability, digits = 0) {
  const step = 10 ** -digits;
  const value = 100 * probability;
  const rounded = Number(value.toFixed(digits));
  if (rounded === 0 && value > 0) return `<${step}%`;
  if (rounded === 100 && value < 100) return `>${100 - step}%`;
  return `${value.toFixed(digits)}%`;
}

function duration(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

/** Scrolls to the first element where the last one would lie below the edge, as on a phone. */
function bringIntoView(first, last) {
  if (last.getBoundingClientRect().bottom > innerHeight) first.scrollIntoView();
}

// ---- Ways to ask: file picker, address, drop, paste

/** The http(s) address that the text is, or null. */
function webAddress(text) {
  let url;
  try {
    url = new URL(text.trim());
  } catch {
    return null;
  }
  return /^https?:$/.test(url.protocol) ? url.href : null;
}

/** Asks about the photo at the address, unless that is what is under way already. */
function askAboutAddress(text) {
  const url = webAddress(text);
  if (!url) {
    refuse("That is neither a picture nor an address that starts with https:// or http://.");
  } else if (!running || asked.name !== url) {
    urlInput.value = url;
    ask(questionOfUrl(url));
  }
}

/** Asks about what a drop or a paste brought. */
function askAbout(data) {
  if (data.files.length > 0) {
    ask(questionOfFile(data.files[0]));
  } else {
    askAboutAddress(data.getData("url") || data.getData("text"));
  }
}

fileInput.addEventListener("change", () => {
  if (fileInput.files.length === 0) return;
  ask(questionOfFile(fileInput.files[0]));
  fileInput.value = ""; // so that choosing the same file again is a change
});

find("#camera").addEventListener("click", async () => {
  try {
    const photo = await takePhoto(find("#viewfinder"));
    if (photo) ask(questionOfFile(photo));
  } catch (error) {
    refuse(error.message, "No photo from the camera");
  }
});

find("#cancel").addEventListener("click", () => {
  running?.abort();
  running = null;
  showIdle();
  clear();
  result.hidden = true;
  status.textContent = "Cancelled";
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  askAboutAddress(urlInput.value);
});

addEventListener("dragover", (event) => {
  event.preventDefault(); // or the browser would leave the page and open the photo
  document.documentElement.dataset.dragging = "";
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) delete document.documentElement.dataset.dragging;
});
addEventListener("drop", (event) => {
  event.preventDefault();
  delete document.documentElement.dataset.dragging;
  askAbout(event.dataTransfer);
});

addEventListener("paste", (event) => {
  const typing = event.target === urlInput && event.clipboardData.files.length === 0;
  if (!typing) askAbout(event.clipboardData);
});

// ---- Copying the curl line

find("#copy").addEventListener("click", async () => {
  getSelection().selectAllChildren(find("#curl"));
  const copied = await copy(curlOf(asked));
  find("#copied").textContent = copied ? "Copied" : "Selected: copy it with your keyboard";
});

/** Copies the text, which must be selected: over plain http there is no navigator.clipboard. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return document.execCommand("copy");
  }
}
