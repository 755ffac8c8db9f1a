// Compares answers of a GGUF base with llama.cpp, whose activations have 8 bits: see peer_gguf.py.
//
//     npm install node-llama-cpp
//     node benches/peer_gguf.mjs MODEL.gguf answers.json [ADAPTER.gguf]
import fs from "node:fs";
import path from "node:path";
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

const root = createRequire(path.join(process.cwd(), "x.js")).resolve.paths("node-llama-cpp");
const entry = root.map((folder) => path.join(folder, "node-llama-cpp/dist/index.js")).find((file) => fs.existsSync(file));
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(entry).href);

const [modelPath, answers, lora] = process.argv.slice(2).map((file) => path.resolve(file));
const llama = await getLlama({gpu: false, build: "never", maxThreads: 1, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath});
const context = await model.createContext({contextSize: 1024, flashAttention: false, threads: 1, lora});
const sequence = context.getSequence();

// The log-probabilities after each of the tokens.
async function evaluated(tokens) {
    const out = await sequence.controlledEvaluate(tokens.map((token) => [token, {generateNext: {logits: true}}]));
    return out.map(({next}) => {
        const logits = [...next.logits];
        const most = Math.max(...logits.map(([, logit]) => logit));
        const sum = Math.log(logits.reduce((sum, [, logit]) => sum + Math.exp(logit - most), 0)) + most;
        return new Map(logits.map(([token, logit]) => [token, logit - sum]));
    });
}
const likeliest = (theirs) => [...theirs].reduce((best, pair) => (pair[1] > best[1] ? pair : best))[0];
const rest = (logprobs) => Math.max(1 - logprobs.reduce((sum, x) => sum + Math.exp(x), 0), 1e-12);

let divergence = 0, places = 0, same = 0, largest = 0;
const equal = [];
for (const {prompt, targets, ids, logprobs} of JSON.parse(fs.readFileSync(answers))) {
    await sequence.clearHistory();
    const all = (await evaluated([...prompt, ...targets])).slice(prompt.length - 1, -1);
    all.forEach((theirs, place) => {
        const ours = logprobs[place], picked = ids[place].map((token) => theirs.get(token));
        divergence += ours.reduce((sum, x, k) => sum + Math.exp(x) * (x - picked[k]), 0) + rest(ours) * Math.log(rest(ours) / rest(picked));
        same += ids[place][ours.indexOf(Math.max(...ours))] === likeliest(theirs);
        ours.forEach((x, k) => { largest = Math.max(largest, x > -7 ? Math.abs(x - picked[k]) : 0); });
        places++;
    });
    await sequence.clearHistory();
    let [last] = (await evaluated(prompt)).slice(-1), said = 0;
    while (said < Math.min(32, targets.length) && likeliest(last) === targets[said]) [last] = await evaluated([targets[said++]]);
    equal.push(`${said} of ${Math.min(32, targets.length)}`);
}
console.log(`llama.cpp: mean KL ${(divergence / places).toExponential(2)} nats a token at ${places} places, likeliest token equal at ${((100 * same) / places).toFixed(1)} %`);
console.log(`largest difference of a log-probability above -7: ${largest.toExponential(2)}`);
console.log(`greedy tokens equal until the first that differs: ${equal.join(", ")}`);
process.exit(0);
