// Finds the face in every frame of a film: node landmarks.cjs FOLDER, where FOLDER/node_modules holds the packages.
//
// On stdin come units of a film, each as three little-endian uint32 (frames, height, width) and RGB bytes. On stdout
// goes a line of JSON for every unit: null where its first frame shows no face, or {identity: 128 numbers of the first
// frame, points: for every frame 68 of [x, y], looked for where the face is in the first}.

const path = require("node:path");
const { createRequire } = require("node:module");

const load = createRequire(path.join(process.argv[2], "landmarks.cjs"));
const tf = load("@tensorflow/tfjs");
const wasm = load("@tensorflow/tfjs-backend-wasm");
const face = load("@vladmandic/face-api/dist/face-api.node-wasm.js");

const HEADER = 12; // bytes
const DETECTOR = new face.TinyFaceDetectorOptions({ inputSize: 416, scoreThreshold: 0.5 });

async function ready() {
  wasm.setWasmPaths(path.dirname(load.resolve("@tensorflow/tfjs-backend-wasm")) + "/");
  if (!(await tf.setBackend("wasm"))) throw new Error("the wasm backend of tfjs does not start");
  const models = path.join(path.dirname(load.resolve("@vladmandic/face-api/package.json")), "model");
  for (const net of ["tinyFaceDetector", "faceLandmark68Net", "faceRecognitionNet"])
    await face.nets[net].loadFromDisk(models);
}

// What `use` makes of the face's part of a picture.
async function withCrop(picture, box, use) {
  const [crop] = await face.extractFaceTensors(picture, [box]);
  try {
    return await use(crop);
  } finally {
    crop.dispose();
  }
}

async function measure({ frames, height, width, bytes }) {
  const pictures = [];
  for (let i = 0; i < frames; i++) {
    const frame = bytes.subarray(3 * i * height * width, 3 * (i + 1) * height * width);
    pictures.push(tf.tensor3d(frame, [height, width, 3], "int32"));
  }
  try {
    const box = (await face.detectSingleFace(pictures[0], DETECTOR))?.box;
    if (!box) return null;
    const points = [];
    let identity;
    for (const picture of pictures) {
      const inCrop = await withCrop(picture, box, (crop) => face.nets.faceLandmark68Net.detectLandmarks(crop));
      const landmarks = inCrop.shiftBy(box.x, box.y);
      points.push(landmarks.positions.map(({ x, y }) => [x, y]));
      identity ??= await withCrop(picture, landmarks.align(null, { useDlibAlignment: true }), (crop) =>
        face.nets.faceRecognitionNet.computeFaceDescriptor(crop),
      );
    }
    return { points, identity: Array.from(identity) };
  } finally {
    tf.dispose(pictures);
  }
}

async function* units(stream) {
  let pending = Buffer.alloc(0);
  for await (const piece of stream) {
    pending = Buffer.concat([pending, piece]);
    while (pending.length >= HEADER) {
      const [frames, height, width] = [0, 4, 8].map((offset) => pending.readUInt32LE(offset));
      const end = HEADER + 3 * frames * height * width;
      if (pending.length < end) break;
      yield { frames, height, width, bytes: new Uint8Array(pending.subarray(HEADER, end)) };
      pending = pending.subarray(end);
    }
  }
}

async function main() {
  await ready();
  for await (const unit of units(process.stdin)) process.stdout.write(JSON.stringify(await measure(unit)) + "\n");
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
