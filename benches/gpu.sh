#!/usr/bin/env bash
# What one NVIDIA card is asked, in under nine minutes: what it is, the gradient check in each type, golden parity, the quickstart,
# product routines side by side, the speed and memory of training steps with the time of each kernel, and the same steps with
# transformers + PEFT. Each result is a line of OUT/gpu.jsonl; at the end OUT/gpu.json has all of them and OUT/gpu.md the tables. What
# fails or finds no time left is there as such.
#
#     cargo build --release && cargo test --release --test gpu --no-run
#     benches/gpu.sh target/release/rankine OUT [the test's binary: golden parity, on CUDA]
#
# The peer needs python3 with torch, transformers, peft and bitsandbytes; without them its lines say so. DEVICE and SECONDS_LEFT may be
# set. SIZES=tiny takes a model of 0.4 million parameters and short rows everywhere, and the peer's CPU: the same commands on a machine
# without a card, `SIZES=tiny tests/emulated/emulate benches/gpu.sh target/release/rankine OUT`.
set -uo pipefail
cd "$(dirname "$0")/.."
rankine=$(realpath "$1") out=$2 parity=${3:-}
device=${DEVICE:-cuda:0} sizes=${SIZES:-whole}
case $sizes in
    whole) default_seconds=520 peer_device=${device%%:*} short=() product=() steps=(--steps 4 --warmup 2) ;;
    # Every command may take as long as it needs there.
    tiny)
        default_seconds=7200 peer_device=cpu product=(--product-width 128) steps=(--steps 1 --warmup 1)
        short=(training.max_steps=2 training.micro_batch_size=2 evaluation.prompts= evaluation.val_set_size=0)
        ;;
    *) echo "gpu.sh: SIZES is \`$sizes\`, expected \`whole\` or \`tiny\`" >&2; exit 2 ;;
esac
end=$((SECONDS + ${SECONDS_LEFT:-$default_seconds}))
mkdir -p "$out"
out=$(realpath "$out")
: >"$out/gpu.jsonl"

# Runs a command for so many seconds at most; its last line of output, JSON or not, is the result of that name.
record() {
    local name=$1 most=$2 left=$((end - SECONDS)) began=$SECONDS status last
    shift 2
    if [ "$sizes" != whole ]; then
        # Several models are one there.
        ! grep -qF "\"name\": \"$name\"" "$out/gpu.jsonl" || return 0
        most=$left
    fi
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

# Of a config and a length: themselves, or what stands for them.
sized() { if [ "$sizes" = whole ]; then echo "$1" "$2"; else echo tiny $(($2 / 64)); fi; }

bench() { # config seq seconds [--recompute ..]
    local config seq most=$3
    read -r config seq <<<"$(sized "$1" "$2")"
    shift 3
    record "ours $config $seq $*" "$most" "$rankine" bench --device "$device" --config "benches/configs/$config.json" \
        --batch 1 --seq "$seq" --model-dtype bfloat16 "${steps[@]}" "${product[@]}" --json "$@"
}

peer() { # config seq seconds [--grad-ckpt] [--matmul]
    local config seq most=$3
    read -r config seq <<<"$(sized "$1" "$2")"
    shift 3
    record "peer $config $seq $*" "$most" python3 benches/peer.py --device "$peer_device" --dtype bfloat16 \
        --config "benches/configs/$config.json" --batch 1 --seq "$seq" "${steps[@]}" "$@"
}

export RANKINE_CACHE="$out/cache"
record doctor 20 "$rankine" doctor --json
for dtype in float32 bfloat16 float16; do
    record "proof $dtype" 60 "$rankine" doctor --gradcheck --device "$device" --model-dtype "$dtype" --json
done
[ -z "$parity" ] || record "golden parity" 60 env RANKINE_TEST_DEVICE=cuda "$parity" --test-threads 1
quickstart() { # name, folder, seconds, overrides..
    record "$1" "$3" "$rankine" train recipes/quickstart.yaml "device=$device" "output_dir=$out/$2" --json "${short[@]}" "${@:4}"
}
quickstart quickstart quickstart 60
quickstart "quickstart in float16" float16 60 training.model_dtype=float16
quickstart "quickstart, second start" again 30 training.max_steps=5
products() { # dtype
    local shapes=()
    [ "$sizes" = whole ] || shapes=(--shapes 64x128x256,32x256x16 --launches 2)
    record "products $1" 40 "$rankine" bench-products --device "$device" --model-dtype "$1" --json "${shapes[@]}"
}
products bfloat16

# What the goals are about comes first.
peer llama3.1-8b 2048 60 --grad-ckpt --matmul
bench llama3.1-8b 2048 90 --recompute --kernels
bench llama3.1-8b 2048 90 --kernels
small="--quantization nf4 --double-quant --quantize-head --offload-embedding"
bench llama3.1-8b 2048 90 --recompute --kernels $small
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
products float16
products float32

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
for line in lines:
    kernels = line.get("result", {}).get("kernels")
    if kernels:
        total = sum(kernel["seconds"] for kernel in kernels)
        table += ["", f"{line['name']}: {sum(kernel['launches'] for kernel in kernels)} launches, {total * 1e3:.1f} ms in kernels", "",
                  "| kernel | launches | ms | share |", "|---|---:|---:|---:|"]
        table += [f"| {k['kernel']} | {k['launches']} | {k['seconds'] * 1e3:.3f} | {k['seconds'] / total if total else 0:.3f} |" for k in kernels[:20]]
for line in lines:
    for product in line.get("result", {}).get("products") or []:
        table += ["", f"{'x'.join(map(str, product['shape']))}, {product['dtype']}", "", "| routine | TFLOP/s | difference |", "|---|---:|---:|"]
        for routine in product["routines"]:
            said = f"| {routine['refused'][:120]} | |" if "refused" in routine else f"| {routine['flops_per_second'] / 1e12:.3f} | {routine['difference']:.1e} |"
            table.append(f"| {routine['routine']} {said}")
(out / "gpu.md").write_text("\n".join(table) + "\n")
print("\n".join(table))
PY
