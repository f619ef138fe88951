// The loudest sample of a stream so far, kept in window.seen.level.
export function listen(stream) {
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  context.createMediaStreamSource(stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  setInterval(() => {
    analyser.getFloatTimeDomainData(samples);
    window.seen.level = Math.max(window.seen.level, ...samples);
  }, 20);
}
