"""Train the decoder that ships with linscore, on the source text of Python's own standard library.

A byte-level BPE of 2,048 tokens and a Llama of 10 blocks (d = 160, 2.9 M parameters, stored in float16:
under 6 MB). The files in `heldout/` and their unit tests are left out of the training text, so the default
job scores text that the decoder has never seen. Two processes share the work where there are two cores; the shipped
one is 3,600 steps of 4,096 tokens on Python 3.11.7, one and a half hours on two shared cores:

    torchrun --nproc-per-node 2 -m linscore.embedded.train --out DIR
    cp DIR/model/* linscore/embedded/model/
"""

import argparse
import contextlib
import json
import math
import os
import random
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HELDOUT = Path(__file__).with_name("heldout")
EOS = "<|endoftext|>"
SEQ_LEN = 512
BATCH = 8  # sequences per step, over all processes
WARMUP, DECAY = 200, 0.35  # steps; share of the steps over which the rate falls to zero
LEARNING_RATE = 3e-3


def training_files() -> list[Path]:
    """Standard-library sources without the held-out modules, their tests, and the codec tables."""
    root = Path(sysconfig.get_path("stdlib"))
    heldout = [path.name.removesuffix(".py.txt") for path in HELDOUT.glob("*.py.txt")]

    def kept(path: Path) -> bool:
        parts = path.relative_to(root).parts
        if {"site-packages", "dist-packages", "encodings"} & set(parts):
            return False
        return not any(name in part for name in heldout for part in parts)

    return sorted(filter(kept, root.rglob("*.py")))


def read_texts(paths: list[Path]) -> list[str]:
    """The files that are UTF-8, as text."""
    texts = []
    for path in paths:
        with contextlib.suppress(UnicodeDecodeError):
            texts.append(path.read_text(encoding="utf-8"))
    return texts


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that every text has an encoding and bits per byte are exact."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS)


def new_model() -> LlamaForCausalLM:
    """The architecture: Llama, 10 blocks, d = 160, one key-value head."""
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=160,
        intermediate_size=416,
        num_hidden_layers=10,
        num_attention_heads=5,
        num_key_value_heads=1,
        max_position_embeddings=SEQ_LEN,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    config._attn_implementation = "eager"  # on CPU 1.7 times as fast to train as the fused attention
    return LlamaForCausalLM(config)


def batches(documents: list[list[int]], seed: int) -> Iterator[torch.Tensor]:
    """Endless batches `[BATCH, SEQ_LEN]`: each epoch shuffles the documents and cuts them anew."""
    shuffle = random.Random(seed)
    while True:
        stream = [token for document in shuffle.sample(documents, len(documents)) for token in [*document, 0]]
        offset = shuffle.randrange(SEQ_LEN)
        usable = (len(stream) - offset) // SEQ_LEN * SEQ_LEN
        rows = torch.tensor(stream[offset : offset + usable]).view(-1, SEQ_LEN)
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(shuffle.randrange(2**31)))]
        yield from rows[: len(rows) // BATCH * BATCH].split(BATCH)


def learning_rate(step: int, steps: int) -> float:
    """Warm-up, plateau, linear decay to zero."""
    return LEARNING_RATE * min(1.0, (step + 1) / WARMUP, (steps - step) / (DECAY * steps))


@torch.no_grad()
def bits_per_byte(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> float:
    """Held-out code length of `texts`, each read in windows of SEQ_LEN tokens that overlap by half."""
    bits, stride = 0.0, SEQ_LEN // 2
    for text in texts:
        ids = torch.tensor([0, *tokenizer(text)["input_ids"]])
        for start in range(0, max(len(ids) - stride, 1), stride):
            window = ids[start : start + SEQ_LEN]
            losses = torch.nn.functional.cross_entropy(
                model(window[None]).logits[0, :-1].float(), window[1:], reduction="none"
            )
            bits += losses[0 if start == 0 else stride - 1 :].sum().item() / math.log(2)
    return bits / sum(len(text.encode()) for text in texts)


def average_gradients(model: LlamaForCausalLM) -> None:
    """Mean of the gradients over the processes, in one message."""
    if dist.is_initialized():
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        flat = torch.cat([gradient.view(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A plain transformers folder: float16 weights that load as float32."""
    half = {name: value.half() for name, value in model.state_dict().items() if name != "lm_head.weight"}  # tied
    model.save_pretrained(folder, state_dict=half)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n")


def train(out: Path, steps: int, seed: int) -> None:
    """Train for `steps` steps, resuming from `out/checkpoint.pt` when it is there."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        dist.init_process_group("gloo")
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    texts = read_texts(training_files())
    heldout = read_texts(sorted(HELDOUT.glob("*.py.txt")))
    tokenizer = train_tokenizer(texts)
    documents = [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(texts)]
    model = new_model()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    scales = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": scales, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        fused=True,
    )
    first, checkpoint = 0, out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    compiled = torch.compile(model)
    started = time.monotonic()
    for step, batch in zip(range(steps), batches(documents, seed), strict=False):
        if step < first:
            continue
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        rows = batch[rank::world]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = compiled(input_ids=rows, labels=rows, use_cache=False).loss
        loss.backward()
        average_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if rank == 0 and step % 20 == 0:
            rate = (step - first + 1) * BATCH * SEQ_LEN / (time.monotonic() - started)
            print(f"step {step} loss {loss.item():.4f} tokens/s {rate:.0f}", flush=True)
        if rank == 0 and ((step + 1) % 250 == 0 or step + 1 == steps):
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(state, out / "checkpoint.new")
            os.replace(out / "checkpoint.new", checkpoint)
    if rank == 0:
        save(model, tokenizer, out / "model")
        print(f"held-out bits per byte {bits_per_byte(model.eval(), tokenizer, heldout):.4f}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the final model")
    parser.add_argument("--steps", type=int, default=3600, help="steps of 4,096 tokens")
    parser.add_argument("--seed", type=int, default=0)
    train(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
