// Asks a cytoserve server for the cells of one frame, without any of its Python code:
//
//     npm install
//     node segment.mjs localhost:8001 yolo frame.pgm
//
// frame.pgm is a binary PGM of 8 or 16 bits: what a camera's raw pixels become with a line of header.
// The answer is printed as JSON. All tensors are those of docs/contract.md.
import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const MAX_MESSAGE = 1 << 30; // bytes; gRPC's default of 4 MiB is less than a frame
const MAX_OVERLAP = 320; // network pixels: a larger overlap only adds tiles

/** Read a binary PGM: width, height and the pixels as UINT16, little endian. */
function readPgm(file) {
  const bytes = readFileSync(file);
  const head = /^P5\s+(?:#.*\s+)*(\d+)\s+(\d+)\s+(\d+)\s/.exec(bytes.toString("latin1", 0, 512));
  if (head === null) throw new Error(`${file} must be a binary PGM, which begins with P5.`);
  const [width, height, most] = head.slice(1).map(Number);
  const data = bytes.subarray(head[0].length);
  const pixels = new Uint16Array(width * height);
  for (let i = 0; i < pixels.length; i++) {
    pixels[i] = most > 255 ? data.readUInt16BE(2 * i) : data[i];
  }
  return { width, height, pixels };
}

const bytesOf = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength);

/** Call ModelInfer; inputs are [name, datatype, shape, typed array]. Returns name -> tensor. */
function infer(client, model, inputs, outputs) {
  const request = {
    model_name: model,
    inputs: inputs.map(([name, datatype, shape]) => ({ name, datatype, shape })),
    outputs: outputs.map((name) => ({ name })),
    raw_input_contents: inputs.map(([, , , values]) => bytesOf(values)),
  };
  const deadline = new Date(Date.now() + 60_000);
  return new Promise((resolve, reject) => {
    client.ModelInfer(request, { deadline }, (error, answer) => {
      if (error) return reject(error);
      const tensors = {};
      answer.outputs.forEach((tensor, i) => {
        tensors[tensor.name] = {
          shape: tensor.shape.map(Number),
          bytes: Buffer.from(answer.raw_output_contents[i]),
        };
      });
      resolve(tensors);
    });
  });
}

/** The numbers of a tensor; its bytes are copied, since they need not be aligned. */
function numbers(tensor, kind) {
  return Array.from(new kind(Uint8Array.from(tensor.bytes).buffer));
}

/** Ask for the model card: class names, and the threshold and scale of the training. */
async function readCard(client, pipeline) {
  const page = [["page", "INT64", [1], new BigInt64Array([0n])]];
  const { card } = await infer(client, `${pipeline}_card`, page, ["card"]);
  // A text tensor holds the length of each text in four bytes, then the text.
  return JSON.parse(card.bytes.subarray(4, 4 + card.bytes.readUInt32LE(0)).toString("utf8"));
}

async function main([url, pipeline, file]) {
  if (file === undefined) throw new Error("node segment.mjs HOST:PORT PIPELINE FRAME.pgm");
  const definition = loader.loadSync(new URL("inference.proto", import.meta.url).pathname, {
    keepCase: true,
  });
  const { inference } = grpc.loadPackageDefinition(definition);
  const client = new inference.GRPCInferenceService(url, grpc.credentials.createInsecure(), {
    "grpc.max_receive_message_length": MAX_MESSAGE,
    "grpc.max_send_message_length": MAX_MESSAGE,
  });
  const { width, height, pixels } = readPgm(file);
  const card = await readCard(client, pipeline);
  const scale = card.scale ?? { network_scale: 1, largest_cell_px: 128 };
  const float = (value) => new Float32Array([value]);
  const overlap = Math.min(scale.largest_cell_px * scale.network_scale, MAX_OVERLAP);
  const answer = await infer(
    client,
    pipeline,
    [
      ["image", "UINT16", [height, width, 1], pixels],
      ["scale", "FP32", [1], float(scale.network_scale)],
      ["tile_overlap", "FP32", [1], float(overlap)],
      ["score_threshold", "FP32", [1], float(card.threshold ?? 0.25)],
      ["overlap_threshold", "FP32", [1], float(0.6)],
      ["max_cells", "INT32", [1], new Int32Array([4096])],
    ],
    ["boxes", "scores", "class_ids", "cells_found"],
  );
  const boxes = numbers(answer.boxes, Float32Array);
  const scores = numbers(answer.scores, Float32Array);
  const cells = numbers(answer.class_ids, Int32Array).map((id, i) => ({
    class: card.class_names[id],
    score: scores[i],
    box: boxes.slice(4 * i, 4 * i + 4), // x0, y0, x1, y1 in pixels of the frame
  }));
  console.log(JSON.stringify({ pipeline, cells }));
  client.close();
}

main(process.argv.slice(2)).catch((error) => {
  console.error(`Error: ${error.message}`);
  process.exitCode = 1;
});
