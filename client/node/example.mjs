// SPDX-License-Identifier: MIT
// node example.mjs [ADDRESS] [TEXT]: asks a running lstm-server for its own API by reflection, opens a simple session of the
// model `french`, sends a text word by word, and prints what the network expects next.
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const address = process.argv[2] ?? "127.0.0.1:8001";
const text = process.argv[3] ?? "i grew up in france . we liked a red boat at night . i speak fluent";
const insecure = grpc.credentials.createInsecure();
const options = { longs: Number, enums: String, defaults: true, oneofs: true };

// The file descriptors of a service and of all that it imports, as the server sends them.
function reflect(symbol) {
  const definition = protoLoader.loadSync(new URL("reflection.proto", import.meta.url).pathname, { ...options, keepCase: true });
  const { ServerReflection } = grpc.loadPackageDefinition(definition).grpc.reflection.v1alpha;
  const call = new ServerReflection(address, insecure).ServerReflectionInfo({ deadline: Date.now() + 10_000 });
  return new Promise((resolve, reject) => {
    call.on("error", reject);
    call.on("data", (answer) => {
      call.end();
      if (answer.error_response) return reject(new Error(answer.error_response.error_message));
      // A FileDescriptorSet: each file as field 1, with its length as a varint.
      const parts = answer.file_descriptor_response.file_descriptor_proto.flatMap((file) => {
        const head = [0x0a];
        for (let n = file.length; ; n >>>= 7) {
          head.push(n < 128 ? n : (n & 127) | 128);
          if (n < 128) return [Buffer.from(head), file];
        }
      });
      resolve(protoLoader.loadFileDescriptorSetFromBuffer(Buffer.concat(parts), options));
    });
    call.write({ file_containing_symbol: symbol });
  });
}

const { Prediction } = grpc.loadPackageDefinition(await reflect("lstm.v1.Prediction")).lstm.v1;
const client = new Prediction(address, insecure);
const { model } = await new Promise((resolve, reject) =>
  client.GetModel({ name: "french" }, (error, answer) => (error ? reject(error) : resolve(answer))));
const { tokens, unknown } = model.vocabulary;
const words = text.split(/\s+/).filter(Boolean);

const stream = client.Stream();
stream.on("error", (error) => { console.error(error.details || error.message); process.exitCode = 1; });
let step = 0;
stream.on("data", ({ responses }) => {
  for (const { result, reject } of responses) {
    if (reject) { console.error(reject.message); process.exitCode = 1; }
    if (!result) continue;
    const bytes = result.outputs[0].data;
    const p = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    const best = p.indexOf(Math.max(...p));
    console.log(`${words[step++].padEnd(12)} -> ${tokens[best].padEnd(12)} ${(100 * p[best]).toFixed(0)} %`);
  }
});
stream.write({ requests: [{ open: { lane: 1, model: "french", simple: true } }] });
for (const word of words) {
  const id = tokens.indexOf(word);
  stream.write({ requests: [{ step: { lane: 1, inputs: [{ ints: [id < 0 ? Number(unknown) : id] }] } }] });
}
stream.end();
