#!/usr/bin/env bash
# What one NVIDIA card is asked, in under nine minutes: what it is, the gradient proof in each type, golden parity, the quickstart, the
# speed and memory of training steps, and the same steps with transformers + PEFT. Each result is a line of OUT/gpu.jsonl; at the end
# OUT/gpu.json has all of them and OUT/gpu.md the table. What fails or finds no time left is there as such.
#
#     cargo build --release --features cuda && cargo test --release --features cuda --test gpu --no-run
#     benches/gpu.sh target/release/rankine OUT [the test's binary: golden parity, through wgpu]
#
# The peer needs python3 with torch, transformers, peft and bitsandbytes; without them its lines say so. DEVICE and SECONDS_LEFT may be set.
set -uo pipefail
cd "$(dirname "$0")/.."
rankine=$(realpath "$1") out=$2 parity=${3:-}
device=${DEVICE:-cuda:0} end=$((SECONDS + ${SECONDS_LEFT:-520}))
mkdir -p "$out"
out=$(realpath "$out")
: >"$out/gpu.jsonl"

# Runs a command for so many seconds at most; its last line of output, JSON or not, is the result of that name.
record() {
    local name=$1 most=$2 left=$((end - SECONDS)) began=$SECONDS status last
    shift 2
    if [ "$left" -lt 15 ]; then
        printf '{"name": "%s", "left_out": "no time left"}\n' "$name" >>"$out/gpu.jsonl"
        return
    fi
    timeout "$((left < most ? left : most))" "$@" >"$out/last.out" 2>"$out/last.err"
    status=$?
    last=$(tail -n 1 "$out/last.out")
    python3 - "$name" "$status" "$((SECONDS - began))" "$last" "$(tail -n 3 "$out/last.err")" >>"$out/gpu.jsonl" <<'PY'
import json, sys
name, status, seconds, last, err = sys.argv[1:]
try:
    result = json.loads(last)
except ValueError:
    result = {"said": last}
if status != "0":
    result["error"] = err
print(json.dumps({"name": name, "status": int(status), "seconds": int(seconds), "result": result}))
PY
    echo "$name: exit $status, $((SECONDS - began)) s"
}

bench() { # config batch seq dtype seconds [--recompute]
    local config=$1 seq=$2 most=$3
    shift 3
    record "ours $config $seq $*" "$most" "$rankine" bench --device "$device" --config "benches/configs/$config.json" \
        --batch 1 --seq "$seq" --model-dtype bfloat16 --steps 4 --warmup 2 --json "$@"
}

peer() { # config seq seconds [--grad-ckpt] [--matmul]
    local config=$1 seq=$2 most=$3
    shift 3
    record "peer $config $seq $*" "$most" python3 benches/peer.py --device "${device%%:*}" --dtype bfloat16 \
        --config "benches/configs/$config.json" --batch 1 --seq "$seq" --steps 4 --warmup 2 "$@"
}

export RANKINE_CACHE="$out/cache"
record doctor 20 "$rankine" doctor --json
for dtype in float32 bfloat16 float16; do
    record "proof $dtype" 60 "$rankine" doctor --gradcheck --device "$device" --model-dtype "$dtype" --json
done
[ -z "$parity" ] || record "golden parity through wgpu" 60 "$parity" --test-threads 1
record quickstart 60 "$rankine" train recipes/quickstart.yaml "device=$device" "output_dir=$out/quickstart" --json
record "quickstart in float16" 60 "$rankine" train recipes/quickstart.yaml "device=$device" training.model_dtype=float16 "output_dir=$out/float16" --json
record "quickstart, second start" 30 "$rankine" train recipes/quickstart.yaml "device=$device" "output_dir=$out/again" training.max_steps=5 --json

# What the goals are about comes first.
peer llama3.1-8b 2048 60 --grad-ckpt --matmul
bench llama3.1-8b 2048 90 --recompute
bench llama3.1-8b 2048 90
small="--quantization nf4 --double-quant --quantize-head --offload-embedding"
bench llama3.1-8b 2048 90 --recompute $small
peer llama3.1-8b 2048 90 --grad-ckpt --nf4
bench llama3.1-8b 2048 90 --recompute --quantization nf4 --double-quant
peer llama3.1-8b 8192 60 --grad-ckpt
bench llama3.1-8b 8192 90 --recompute
peer llama3.1-8b 2048 60
for config in smollm2-135m qwen2.5-0.5b; do
    for seq in 2048 512 8192; do
        bench $config $seq 40
        peer $config $seq 40
        bench $config $seq 40 --recompute
        peer $config $seq 40 --grad-ckpt
    done
done
bench llama3.1-8b 512 60
bench llama3.1-8b 512 60 --recompute

python3 - "$out" <<'PY'
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
lines = [json.loads(line) for line in (out / "gpu.jsonl").read_text().splitlines()]
(out / "gpu.json").write_text(json.dumps(lines, indent=1) + "\n")
rate = next((r["result"]["matmul_flops_per_second"] for r in lines if "matmul_flops_per_second" in r.get("result", {})), None)
table = ["| steps | tokens/s | share of torch's product | device peak, MiB | weights, MiB | first step, s |", "|---|---:|---:|---:|---:|---:|"]
for line in lines:
    result = line.get("result", {})
    if "tokens_per_second" not in result:
        table.append(f"| {line['name']} | {line.get('left_out') or result.get('error') or result.get('said') or 'done'} | | | | |".replace("\n", " "))
        continue
    mib = lambda key: f"{result[key] / 2**20:.0f}" if result.get(key) else ""
    share = f"{result['flops_per_second'] / rate:.3f}" if rate and "flops_per_second" in result else ""
    first = result.get("process_start_to_first_step_seconds") or float("nan")
    cells = [line["name"], f"{result['tokens_per_second']:.0f}", share, mib("device_peak_memory_bytes"), mib("weights_bytes"), f"{first:.1f}"]
    table.append("| " + " | ".join(cells) + " |")
(out / "gpu.md").write_text("\n".join(table) + "\n")
print("\n".join(table))
PY
