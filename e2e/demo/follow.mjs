// Follows a release to its end: the columns of `kubectl get portalreleases`, the phases as they complete, the workers beside
// them. In a terminal one picture that is redrawn in place; elsewhere a line for everything that happens.
//
//   node follow.mjs RELEASE      uses kubectl with its context; exits 0 when the release is Live, 1 when it ended otherwise
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

const name = process.argv[2];
const pretty = Boolean(process.stdout.isTTY);
const WORKERS = ["deployment/importer-worker", "statefulset/tile-worker", "cronjob/nightly-exports"];
const MARKS = { Pending: "·", Running: "▸", Succeeded: "✓", Failed: "✗", Skipped: "-", Undone: "↶" };
const COLOURS = { Running: 33, Succeeded: 32, Failed: 31 };

let release;
const workers = new Map();
const children = [];

// ---- What is known ----------------------------------------------------------------------------------------------------

// Every version of an object, as kubectl prints them: JSON over several lines that ends with a brace at the line's start.
function watch(object, seen) {
  const kubectl = spawn("kubectl", ["get", object, "--watch", "--output", "json"], { stdio: ["ignore", "pipe", "inherit"] });
  children.push(kubectl);
  let text = "";
  createInterface({ input: kubectl.stdout }).on("line", (line) => {
    text += `${line}\n`;
    if (line === "}") {
      seen(JSON.parse(text));
      text = "";
      changed();
    }
  });
  kubectl.on("exit", (code) => finish(1, `kubectl get ${object} --watch ended with exit code ${code}`));
}

const seconds = (from, to = new Date()) => Math.max(0, Math.round((new Date(to) - new Date(from)) / 1000));
const took = (phase) => (phase.startedAt && phase.completedAt ? `${seconds(phase.startedAt, phase.completedAt)}s` : "");

function workersNow() {
  return WORKERS.map((key) => {
    const object = workers.get(key);
    const short = key.split("/")[1];
    if (!object) return `${short} ?`;
    if (object.kind === "CronJob") return `${short} ${object.spec.suspend ? "suspended" : "active"}`;
    const { replicas = 0, readyReplicas = 0 } = object.status ?? {};
    return `${short} ${readyReplicas}/${object.spec.replicas}${replicas > object.spec.replicas ? ` (${replicas - object.spec.replicas} ending)` : ""}`;
  }).join("   ");
}

function columns() {
  const { metadata, spec, status = {} } = release;
  const ready = status.conditions?.find((condition) => condition.type === "Ready")?.status;
  const cells = [
    ["NAME", metadata.name],
    ["LABEL", spec.label],
    ["STATE", status.state],
    ["PHASE", status.phase],
    ["PROGRESS", status.progress],
    ["READY", ready],
    ["CURRENT", status.current],
    ["AGE", `${seconds(metadata.creationTimestamp)}s`],
  ];
  const widths = { NAME: 9, LABEL: 9, STATE: 10, PHASE: 20, PROGRESS: 10, READY: 7, CURRENT: 9, AGE: 5 };
  const row = (index) => cells.map((cell) => String(cell[index] ?? "").padEnd(widths[cell[0]])).join(" ");
  return [row(0), row(1)];
}

// ---- What is shown ----------------------------------------------------------------------------------------------------

const paint = (text, colour) => (pretty && colour ? `\x1b[${colour}m${text}\x1b[0m` : text);
const cut = (text, width) => (text.length > width ? `${text.slice(0, Math.max(0, width - 1))}…` : text);

let drawn = 0;
function picture() {
  const width = (process.stdout.columns || 100) - 1;
  const lines = columns().map((line) => [line]);
  lines.push([""], [`workers: ${workersNow()}`], [""]);
  for (const phase of release.status?.phases ?? []) {
    const time = phase.state === "Running" && phase.startedAt ? `${seconds(phase.startedAt)}s` : took(phase);
    const line = `${MARKS[phase.state] ?? "?"} ${phase.name.padEnd(20)} ${time.padStart(5)}  ${phase.message ?? ""}`;
    lines.push([line, COLOURS[phase.state] ?? 2]);
  }
  // As much as fits: a line that has scrolled away cannot be redrawn.
  const room = (process.stdout.rows || 40) - 2;
  const shown = lines.slice(0, Math.max(5, room));
  // One write, each line overwritten and its rest erased: nothing flickers.
  const up = drawn > 0 ? `\x1b[${drawn}A` : "";
  process.stdout.write(`${up}${shown.map(([line, colour]) => `\r${paint(cut(line, width), colour)}\x1b[K\n`).join("")}\x1b[J`);
  drawn = shown.length;
}

const told = new Map();
let toldState;
let toldWorkers;
function news() {
  const { state, phases = [], progress = 0 } = release.status ?? {};
  if (state && state !== toldState) {
    console.log(`           ${release.spec.label} is ${state}`);
    toldState = state;
  }
  const now = workersNow();
  if (now !== toldWorkers && !now.includes("?")) {
    console.log(`           workers: ${now}`);
    toldWorkers = now;
  }
  for (const phase of phases) {
    if (phase.state === "Pending" || told.get(phase.name) === phase.state) continue;
    told.set(phase.name, phase.state);
    const what = phase.state === "Running" ? "" : `${took(phase).padStart(4)}  ${phase.message ?? ""}`;
    console.log(`${`${progress}%`.padStart(5)}  ${MARKS[phase.state] ?? "?"}   ${phase.name.padEnd(20)} ${phase.state.padEnd(10)}${what}`.trimEnd());
  }
}

// ---- Until the end ----------------------------------------------------------------------------------------------------

let waiting;
function changed() {
  // What comes together is shown together.
  waiting ??= setTimeout(() => {
    waiting = undefined;
    if (!release) return;
    if (pretty) picture();
    else news();
    const { state, observedGeneration, conditions = [], message } = release.status ?? {};
    if (observedGeneration !== release.metadata.generation) return;
    const is = (type) => conditions.some((condition) => condition.type === type && condition.status === "True");
    if (state === "Live" && is("Ready")) finish(0);
    else if (is("Stalled")) finish(1, `${name} is ${state}: ${message}`);
  }, 30);
}

let over = false;
function finish(code, complaint) {
  if (over) return;
  over = true;
  if (pretty) process.stdout.write("\x1b[?25h");
  if (complaint) console.error(complaint);
  for (const child of children) child.kill();
  process.exitCode = code;
  clearInterval(clock);
}

const clock = setInterval(() => pretty && changed(), 1000);
process.on("SIGINT", () => finish(130));
process.on("SIGTERM", () => finish(143));
if (pretty) process.stdout.write("\x1b[?25l");
watch(`portalrelease/${name}`, (object) => {
  release = object;
});
for (const key of WORKERS) watch(key, (object) => workers.set(key, object));
