// What a page with @openai/agents does over WebRTC, bundled by esbuild: window.start(url, token), window.seen tells.
import { OpenAIRealtimeWebRTC, RealtimeAgent, RealtimeSession } from "@openai/agents/realtime";
import { listen } from "./level.mjs";

window.seen = { transcript: "", level: 0, errors: [], events: [] };

window.start = async (url, token) => {
  const { seen } = window;
  const audioElement = Object.assign(new Audio(), { autoplay: true });
  const transport = new OpenAIRealtimeWebRTC({ baseUrl: `${url}/v1/realtime/calls`, audioElement, useInsecureApiKey: true });
  const agent = new RealtimeAgent({ name: "Assistant", instructions: "You are a helpful assistant." });
  window.session = new RealtimeSession(agent, { transport, model: "wan-streamer" });
  window.session.on("error", ({ error }) => seen.errors.push(JSON.stringify(error)));
  transport.on("*", (event) => seen.events.push(event.type));
  transport.on("audio_transcript_delta", ({ delta }) => (seen.transcript += delta));
  await window.session.connect({ apiKey: token });
  listen(audioElement.srcObject);
};
