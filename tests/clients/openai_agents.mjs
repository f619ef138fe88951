// A realtime session of @openai/agents as its users write it: node openai_agents.mjs MODULES URL TOKEN SOUND PICTURE [WORD]
// sends a file of PCM16 at 24 kHz and a picture, and prints as JSON what was said until an answer had ended, in which
// there is WORD if one is given.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [modules, url, apiKey, sound, picture, word = ""] = process.argv.slice(2);
const { RealtimeAgent, RealtimeSession } = createRequire(`${modules}/`)("@openai/agents/realtime");

const agent = new RealtimeAgent({ name: "Assistant", instructions: "You are a helpful assistant." });
const session = new RealtimeSession(agent, { transport: "websocket", model: "wan-streamer" });
let numBytes = 0;
let numInterrupted = 0;
const said = () => session.history.filter((item) => item.role === "assistant");
const transcripts = () => said().map((item) => item.content.map((part) => part.transcript).join(""));
const answered = new Promise((resolve, reject) => {
  session.on("error", ({ error }) => reject(error));
  session.on("audio", ({ data }) => (numBytes += data.byteLength));
  session.on("audio_interrupted", () => (numInterrupted += 1));
  session.on("history_updated", () => {
    if (said().at(-1)?.status === "completed" && transcripts().at(-1).includes(word)) resolve();
  });
});

await session.connect({ apiKey, url: url.replace("http", "ws") });
session.addImage(`data:image/jpeg;base64,${readFileSync(picture).toString("base64")}`, { triggerResponse: false });
const samples = readFileSync(sound);
for (let i = 0; i < samples.length; i += 9600) session.sendAudio(new Uint8Array(samples.subarray(i, i + 9600)).buffer);
await answered;
console.log(JSON.stringify({ numBytes, numInterrupted, transcripts: transcripts() }));
session.close();
