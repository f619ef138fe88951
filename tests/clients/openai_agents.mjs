// A realtime session of @openai/agents as its users write it: node openai_agents.mjs MODULES URL TOKEN SOUND PICTURE
// sends a file of PCM16 at 24 kHz and a picture, and prints what the first answer was, as JSON.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [modules, url, apiKey, sound, picture] = process.argv.slice(2);
const { RealtimeAgent, RealtimeSession } = createRequire(`${modules}/`)("@openai/agents/realtime");

const agent = new RealtimeAgent({ name: "Assistant", instructions: "You are a helpful assistant." });
const session = new RealtimeSession(agent, { transport: "websocket", model: "wan-streamer" });
let numBytes = 0;
const answered = new Promise((resolve, reject) => {
  session.on("error", ({ error }) => reject(error));
  session.on("audio", ({ data }) => (numBytes += data.byteLength));
  session.on("audio_stopped", () => setTimeout(resolve, 500)); // what follows of the response
});

await session.connect({ apiKey, url: url.replace("http", "ws") });
session.addImage(`data:image/jpeg;base64,${readFileSync(picture).toString("base64")}`, { triggerResponse: false });
const samples = readFileSync(sound);
for (let i = 0; i < samples.length; i += 9600) session.sendAudio(new Uint8Array(samples.subarray(i, i + 9600)).buffer);
await answered;
const said = session.history.filter((item) => item.role === "assistant");
console.log(JSON.stringify({ numBytes, transcript: said.at(-1).content.map((part) => part.transcript).join("") }));
session.close();
