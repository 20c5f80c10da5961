// A training in Node under an agent, with nothing but the contract.
// node train.js HOST:PORT PATH_OF_PROTO_FOLDER

const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, protos] = process.argv.slice(2);
const definition = loader.loadSync("agent_service/v1/agent.proto", {
  includeDirs: [protos],
  keepCase: true,
  longs: Number,
  enums: String,
});
const { AgentService } = grpc.loadPackageDefinition(definition).agent_service.v1;
const agent = new AgentService(address, grpc.credentials.createInsecure());

// Each method as a function that returns a promise.
const call = (method, request) =>
  new Promise((resolve, reject) => {
    const deadline = Date.now() + 10_000;
    agent[method](request, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer)));
  });

async function main() {
  const spec = { name: "from-node", hyperparameters: [{ name: "dropout", low: 0, high: 0.5 }], ppo: {} };
  await call("CreateController", { spec });
  let { action } = await call("StartRun", { controller: spec.name, run_id: "node-1" });
  for (let chunk = 1; chunk <= 3; chunk++) {
    // Train 20 steps under action.values.dropout here.
    const losses = Array.from({ length: 20 }, (_, step) => 1 / (chunk + step));
    const scores = { training: 0.5, validation: 0.4 };
    const report = { run_id: "node-1", chunk_index: action.chunk_index, losses, scores };
    ({ action } = await call("ReportChunk", report));
  }
  await call("FinishRun", { run_id: "node-1", outcome: "OUTCOME_TERMINATED", final_score: 0.4 });
  try {
    await call("ReportChunk", { run_id: "nobody", chunk_index: 1, losses: [1], scores: {} });
  } catch (error) {
    console.log(JSON.stringify({ values: action.values, chunk: action.chunk_index, code: error.code }));
  }
  agent.close();
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
