// The page of the live server: one conversation at a time, over WebRTC.

const PING_MS = 1000;
const SILENCE_MS = 4000; // the server says something every 160 ms
const PLOT_SECONDS = 60;
const RETRY_MS = [500, 1000, 2000, 2000, 4000, 4000, 8000];
const PAUSE_UNITS = 8; // units without a word of one side after which its next word begins a new line
const STATES = { off: "Not connected", connecting: "Connecting…", listen: "Listening", speak: "Speaking" };
const ANNOUNCED = { off: STATES.off, connecting: STATES.connecting, listen: "Connected", speak: "Connected" };
const INVITATION = "Look into the camera and talk. To interrupt, just speak.";
const NO_WAY =
  "The server answered, but sound and picture do not get through: a router or a firewall is between. " +
  "Whoever runs the server can name a TURN server (--ice-server).";
const AGAIN = "You are not connected. Press Connect to begin again.";

const $ = (id) => document.getElementById(id);
const token = new URLSearchParams(location.hash.slice(1)).get("token");
const samples = []; // one a second: { model, network, buffer } in ms
const about = fetch("/about").then((response) => response.json(), () => ({})); // awaited by a click that is faster

export let call = null;
let retries = 0;

class CallError extends Error {}

class Call {
  constructor(stream, iceServers, id) {
    this.stream = stream;
    this.id = id; // of the conversation, if it is to go on
    this.candidates = []; // found, and not sent yet
    this.previous = null; // the call whose line was lost; hung up on only when this one stands
    this.hasConnected = false;
    this.model = [];
    this.network = null;
    this.pings = new Map();
    this.numPings = 0;
    this.buffered = null;
    this.lines = {}; // of each side: the line that its next word may continue, and the units without a word since
    this.ended = false;
    this.connection = new RTCPeerConnection({ iceServers });
  }

  async connect() {
    const connection = this.connection;
    const incoming = new MediaStream();
    $("agent").srcObject = incoming;
    connection.ontrack = (event) => incoming.addTrack(event.track);
    connection.onicecandidate = ({ candidate }) => this.found(candidate);
    connection.onconnectionstatechange = () => this.changed(connection.connectionState);
    for (const kind of ["audio", "video"]) {
      const track = this.stream.getTracks().find((each) => each.kind === kind);
      if (track) connection.addTrack(track, this.stream);
      else connection.addTransceiver(kind, { direction: "recvonly" });
    }
    this.channel = connection.createDataChannel("talk");
    this.channel.onmessage = (event) => this.heard(JSON.parse(event.data));

    await connection.setLocalDescription(await connection.createOffer());
    const { sdp } = connection.localDescription;
    const resume = this.id;
    const answer = await request("POST", "/offer", { sdp, type: "offer", consent: $("consent-box").checked, resume });
    if (this.ended) return;
    await connection.setRemoteDescription(answer);
    this.id = answer.id;
    this.sendCandidates();
    this.heardAt = performance.now();
    this.timer = setInterval(() => this.measure(), PING_MS);
  }

  // Addresses are sent as they are found, while the connection is being tried.
  found(candidate) {
    if (candidate?.candidate === "") return; // the end of one kind
    this.candidates.push(candidate);
    if (this.connection.remoteDescription) this.sendCandidates();
  }

  async sendCandidates() {
    const candidates = this.candidates.splice(0);
    if (!candidates.length || this.ended) return;
    this.sent = (this.sent ?? Promise.resolve()).then(() => request("PATCH", `/offer/${this.id}`, { candidates }));
    await this.sent.catch(() => {}); // whether it mattered, the connection says
  }

  changed(state) {
    if (this.ended) return;
    if (state === "connected") {
      retries = 0;
      this.hasConnected = true;
      if (this.previous) say("");
      this.previous?.connection.close();
      this.previous = null;
      show("listen");
    } else if (state === "failed" && !this.hasConnected && !this.previous) {
      failed(new CallError(NO_WAY));
    } else if (state === "failed" || state === "closed") {
      lost(this);
    } else if (state === "disconnected") {
      show("connecting");
    }
  }

  heard(message) {
    if (this.ended) return; // what was on its way when the user hung up
    this.heardAt = performance.now();
    if (message.type === "unit") this.unit(message);
    else if (message.type === "pong") this.pong(message.id);
    else if (message.type === "error") say(message.message);
    else if (message.type === "hello") this.greeted(message);
    else if (message.type === "bye") hangUp(`The server ended the conversation: ${message.message}.`);
  }

  greeted({ recording }) {
    $("recording").hidden = !recording;
    if ($("consent-box").checked && !recording) say("Nothing is recorded: the server cannot write its recordings now.");
  }

  unit(message) {
    show(message.state === "speak" ? "speak" : "listen");
    if (message.reply_ms) this.model.push(message.reply_ms);
    this.write("You", "you", message.heard); // first: it was said before it is answered
    this.write("Agent", "agent", message.text);
  }

  // Words of one side in this unit. What one side says while the other speaks stands in a line of its own.
  write(who, kind, words) {
    const line = this.lines[kind];
    if (line) line.silentUnits += 1;
    if (!words) return;
    if (!line || line.silentUnits > PAUSE_UNITS) this.lines[kind] = { element: addLine(who, kind) };
    this.lines[kind].silentUnits = 0;
    this.lines[kind].element.append(words);
    scrollToEnd();
  }

  type(text) {
    this.channel.send(JSON.stringify({ type: "text", text }));
    addLine("You", "you").append(text);
    this.lines = {};
    scrollToEnd();
  }

  pong(id) {
    if (!this.pings.has(id)) return;
    this.network = performance.now() - this.pings.get(id);
    this.pings.delete(id);
  }

  async measure() {
    if (this.hasConnected && performance.now() - this.heardAt > SILENCE_MS) return lost(this);
    if (this.channel.readyState === "open") {
      this.pings.delete(this.numPings - 10); // whose answer is not waited for any longer
      this.pings.set(++this.numPings, performance.now());
      this.channel.send(JSON.stringify({ type: "ping", id: this.numPings }));
    }
    const buffer = await this.bufferDelay();
    if (this.ended || !this.model.length) return;
    const model = this.model.reduce((sum, each) => sum + each, 0) / this.model.length;
    this.model = [];
    samples.push({ model, network: this.network ?? 0, buffer: buffer ?? 0 });
    if (samples.length > PLOT_SECONDS) samples.shift();
    showLatency();
  }

  // Milliseconds that sound waited in the jitter buffer during the last second.
  async bufferDelay() {
    for (const report of (await this.connection.getStats()).values()) {
      if (report.type !== "inbound-rtp" || report.kind !== "audio") continue;
      const now = { delay: report.jitterBufferDelay, count: report.jitterBufferEmittedCount };
      const before = this.buffered ?? { delay: 0, count: 0 };
      this.buffered = now;
      if (now.count > before.count) return (1000 * (now.delay - before.delay)) / (now.count - before.count);
    }
    return null;
  }

  end() {
    this.pause();
    this.connection.close();
    this.previous?.connection.close();
  }

  pause() {
    this.ended = true;
    clearInterval(this.timer);
  }
}

async function request(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new CallError("The server cannot be reached. Is it still running?");
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  const reason = await response.json().then((json) => json.detail, () => response.statusText);
  const error = new CallError(sentence(typeof reason === "string" ? reason : "The server did not understand the offer"));
  error.isOver = response.status === 404;
  throw error;
}

// Microphone and camera; without a camera the conversation is by voice alone.
async function openDevices() {
  if (!navigator.mediaDevices) {
    throw new CallError("The browser gives camera and microphone only to pages on localhost or by HTTPS.");
  }
  const audio = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
  const { width, height } = await about;
  const size = { width: { ideal: width }, height: { ideal: height } }; // more would be sent to be thrown away
  const video = { ...size, frameRate: { ideal: 25 }, facingMode: "user" };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio, video });
  } catch (error) {
    if (error.name === "NotAllowedError") {
      throw new CallError("Camera and microphone were refused. Allow them for this page, then connect again.");
    }
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio });
      say("No camera can be used: the agent hears you but does not see you.");
      return stream;
    } catch (second) {
      const what = second.name === "NotFoundError" ? "No microphone was found" : "The microphone cannot be opened";
      throw new CallError(`${what}. Connect one, or close the program that uses it, then connect again.`);
    }
  }
}

async function start({ isRetry = false } = {}) {
  if (call && !isRetry) return;
  show("connecting");
  if (!isRetry) say("");
  const stream = call?.stream ?? (await openDevices().catch(failed));
  if (!stream) return;
  const old = call;
  const next = await request("GET", "/ice-servers").then((servers) => new Call(stream, servers, old?.id), (error) => error);
  if (call !== old) return;
  if (next instanceof Error) {
    if (old) lost(old);
    else failed(next);
    return;
  }
  if (old) next.previous = old.hasConnected ? old : old.previous;
  if (old && next.previous !== old) old.connection.close();
  call = next;
  showDevices();
  await next.connect().catch((error) => {
    if (call !== next) return;
    if (isRetry && !error.isOver) lost(next);
    else failed(error);
  });
}

function failed(error) {
  hangUp(error instanceof CallError ? error.message : `Connecting failed: ${error.message}`);
}

function lost(old) {
  old.pause();
  if (retries < RETRY_MS.length) {
    say("The connection was lost. Trying again…");
    show("connecting");
    setTimeout(() => call === old && start({ isRetry: true }), RETRY_MS[retries++]);
  } else {
    hangUp("The connection was lost. Check the network, then connect again.");
  }
}

function hangUp(reason = "") {
  if (call) {
    call.end();
    for (const track of call.stream.getTracks()) track.stop();
  }
  call = null;
  retries = 0;
  $("agent").srcObject = null;
  $("recording").hidden = true;
  show("off");
  if (reason) $("cover-text").textContent = AGAIN;
  showDevices();
  say(reason);
}

function toggle(kind, button) {
  const track = call?.stream.getTracks().find((each) => each.kind === kind);
  if (!track) return;
  track.enabled = !track.enabled;
  button.setAttribute("aria-pressed", String(!track.enabled));
  if (kind === "video") $("self").classList.toggle("on", track.enabled);
}

// ---- what is shown ----

function show(state) {
  if ($("state").dataset.state !== state) {
    $("state").dataset.state = state;
    $("state").textContent = STATES[state];
    if ($("announcement").textContent !== ANNOUNCED[state]) $("announcement").textContent = ANNOUNCED[state];
  }
  const isOff = state === "off";
  $("cover").hidden = !isOff && state !== "connecting";
  $("cover-text").textContent = isOff ? INVITATION : STATES.connecting;
  $("connect").textContent = isOff ? "Connect" : "Hang up";
  $("connect").classList.toggle("live", !isOff);
  $("consent-box").disabled = !isOff;
  const canType = state === "listen" || state === "speak";
  $("text").disabled = $("send").disabled = !canType;
}

function showDevices() {
  const tracks = call ? call.stream.getTracks() : [];
  const has = (kind) => tracks.some((track) => track.kind === kind);
  $("self").srcObject = call ? call.stream : null;
  $("self").classList.toggle("on", tracks.some((track) => track.kind === "video" && track.enabled));
  $("mute").disabled = !has("audio");
  $("camera").disabled = !has("video");
  if (call) return;
  for (const id of ["mute", "camera"]) $(id).setAttribute("aria-pressed", "false");
}

function say(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text;
}

function sentence(text) {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}

function addLine(who, kind) {
  const line = document.createElement("p");
  line.className = kind;
  const name = document.createElement("span");
  name.className = "who";
  name.textContent = who;
  line.append(name);
  $("words").append(line);
  while ($("words").children.length > 200) $("words").firstChild.remove();
  return line;
}

function scrollToEnd() {
  $("words").scrollTop = $("words").scrollHeight;
}

function showLatency() {
  const last = samples.at(-1);
  $("model").textContent = Math.round(last.model);
  $("network").textContent = Math.round(last.network);
  $("buffer").textContent = Math.round(last.buffer);
  $("total").textContent = Math.round(last.model + last.network + last.buffer);
  if ($("latency").open) draw();
}

// Stacked areas: model, network, buffer.
function draw() {
  const canvas = $("plot");
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const style = getComputedStyle(document.documentElement);
  const top = Math.max(250, ...samples.map((each) => 1.1 * (each.model + each.network + each.buffer)));
  const x = (i) => ((i + PLOT_SECONDS - samples.length) / (PLOT_SECONDS - 1)) * width;
  const base = samples.map(() => 0);
  for (const name of ["model", "network", "buffer"]) {
    context.beginPath();
    samples.forEach((each, i) => context.lineTo(x(i), height - (base[i] / top) * height));
    samples.forEach((each, i) => (base[i] += each[name]));
    for (let i = samples.length - 1; i >= 0; i--) context.lineTo(x(i), height - (base[i] / top) * height);
    context.closePath();
    context.fillStyle = style.getPropertyValue(`--${name}`);
    context.fill();
  }
  context.fillStyle = context.strokeStyle = style.getPropertyValue("--soft");
  context.globalAlpha = 0.4;
  context.strokeRect(0, height - 0.5, width, 0.5);
  context.globalAlpha = 1;
  context.font = "11px system-ui, sans-serif";
  context.fillText(`${Math.round(top)} ms`, 2, 11);
}

// ---- buttons ----

$("connect").onclick = () => (call || $("state").dataset.state !== "off" ? hangUp() : start());
$("mute").onclick = () => toggle("audio", $("mute"));
$("camera").onclick = () => toggle("video", $("camera"));
$("typing").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || call?.channel.readyState !== "open") return;
  call.type(text);
  $("text").value = "";
};
window.addEventListener("pagehide", () => call?.end());
for (const [target, event] of [[window, "resize"], [$("latency"), "toggle"]]) {
  target.addEventListener(event, () => $("latency").open && samples.length && draw());
}

about.then((server) => {
  $("consent").hidden = !server.recording;
  $("suggestions").hidden = !server.suggestions?.length;
  $("suggestions").textContent = `You could say: ${server.suggestions?.map((each) => `“${each}”`).join(", ")}.`;
  if (server.token_needed && !token) say("A token is needed: open the address that the server printed when it started.");
});
