// What a page with Pipecat's client does, bundled by esbuild: window.start(url, token), then window.seen tells.
import { PipecatClient } from "@pipecat-ai/client-js";
import { SmallWebRTCTransport, WavMediaManager } from "@pipecat-ai/small-webrtc-transport";
import { listen } from "./level.mjs";

// The client's own manager of devices that fetches nothing from elsewhere, with a camera beside its microphone.
class Devices extends WavMediaManager {
  async initialize() {
    await super.initialize();
    [this.camera] = (await navigator.mediaDevices.getUserMedia({ video: true })).getVideoTracks();
  }

  tracks() {
    return { local: { ...super.tracks().local, video: this.camera } };
  }
}

window.seen = { ready: null, words: "", spoke: 0, stopped: 0, level: 0, kinds: [], errors: [] };

function play(track) {
  const stream = new MediaStream([track]);
  window.seen.kinds.push(track.kind);
  if (track.kind === "video") {
    window.picture = Object.assign(document.createElement("video"), { srcObject: stream, muted: true });
    window.picture.play();
    return;
  }
  const player = Object.assign(new Audio(), { srcObject: stream, muted: true }); // Chromium decodes only what is played
  player.play();
  listen(stream);
}

window.start = async (url, token) => {
  const { seen } = window;
  window.client = new PipecatClient({
    transport: new SmallWebRTCTransport({ mediaManager: new Devices() }),
    enableMic: true,
    enableCam: true,
    callbacks: {
      onBotReady: (data) => (seen.ready = data),
      onBotStartedSpeaking: () => (seen.spoke += 1),
      onBotStoppedSpeaking: () => (seen.stopped += 1),
      onBotOutput: (data) => (seen.words += data.text),
      onTrackStarted: (track, participant) => participant?.local || play(track),
      onError: (message) => seen.errors.push(message.data.message),
      onMessageError: (message) => seen.errors.push(message.data.error),
    },
  });
  const headers = new Headers({ Authorization: `Bearer ${token}` });
  await window.client.connect({ webrtcRequestParams: { endpoint: `${url}/api/offer`, headers } });
};
