"""Training steps of transformers + PEFT on random weights, to be run beside `rankine bench`: see peer.md.

One configuration a process; prints one JSON line. With --export DIR the model, the fresh adapter and the tokens are left for rankine.
"""

import time

STARTED = time.perf_counter()

import argparse
import json
import resource
import statistics
from pathlib import Path

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="a model's config.json")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--grad-ckpt", action="store_true")
    parser.add_argument("--export", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of the frozen weights and of what is computed; adapters are float32")
    parser.add_argument("--nf4", action="store_true", help="the base in NF4 with double quantization, by bitsandbytes")
    parser.add_argument("--matmul", action="store_true", help="print the rate of bare products too, FLOP/s")
    return parser.parse_args()


def product_rate(torch, device, dtype, width=8192, times=10):
    """The best of a few products of two square matrices, FLOP/s."""
    x = torch.randn(width, width, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(times):
        torch.cuda.synchronize()
        began = time.perf_counter()
        x @ x
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * width**3 / best


def packed(torch, model, dtype, device):
    """The model as bitsandbytes packs it when it is loaded."""
    import tempfile

    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        del model
        return AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=nf4, dtype=dtype, device_map=device, attn_implementation="sdpa"
        )


def main():
    args = arguments()
    import peft
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    values = json.loads(Path(args.config).read_text())
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    config.use_cache = False
    dtype = getattr(torch, args.dtype)
    with torch.device(args.device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    ids = torch.randint(0, config.vocab_size, (args.batch, args.seq), generator=torch.Generator().manual_seed(1)).to(args.device)
    if args.export:
        model.save_pretrained(args.export / "model")
    if args.nf4:
        model = packed(torch, model, dtype, args.device)
    lora = peft.LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, lora)
    if args.export:
        model.save_pretrained(args.export / "adapter")
        save_file({"input_ids": ids}, args.export / "tokens.safetensors")
    if args.grad_ckpt:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=2e-4, eps=1e-8, weight_decay=0.01)

    seconds, losses, first = [], [], None
    for _ in range(args.warmup + args.steps):
        began = time.perf_counter()
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - began)
        first = first or time.perf_counter() - STARTED
    measured = sorted(seconds[args.warmup :])
    median = statistics.median(measured)
    result = {
        "tokens_per_second": args.batch * args.seq / median,
        "step_seconds_median": median,
        "step_seconds_min": measured[0],
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "process_start_to_first_step_seconds": first,
        "losses": losses,
        "versions": {"torch": torch.__version__, "peft": peft.__version__},
    }
    if args.device != "cpu":
        result["device_peak_memory_bytes"] = torch.cuda.max_memory_allocated()
        result["weights_bytes"] = sum(p.numel() * p.element_size() for p in model.parameters())
    if args.matmul:
        del model, optimizer, trainable, loss
        torch.cuda.empty_cache()
        result["matmul_flops_per_second"] = product_rate(torch, args.device, dtype)
    print(json.dumps(result))


main()
