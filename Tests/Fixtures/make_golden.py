#!/usr/bin/env python3
"""Makes the golden files: small OPT checkpoints and what transformers' `OPTForCausalLM` computes with them.

    pip install torch transformers safetensors numpy
    python Tests/Fixtures/make_golden.py                 # every random case
    python Tests/Fixtures/make_golden.py pre-norm odd    # only these
    python Tests/Fixtures/make_golden.py storybook       # the shipped model, from Models/storybook

The result is deterministic for given versions of torch and transformers (both are written into
golden.json). A change of version may move the last bits of the logits, not the tokens.

What a case holds, under `Golden/<case>/`:

  golden.json         what was computed (see below)
  golden.safetensors  float32 logits [vocabulary]: `logits.<i>` after prompt i (they choose its first
                      token) and `logits.<i>.step63`, which choose its 64th
  <format>/           the checkpoint, once for each name in golden.json's `checkpoints`

golden.json:

  prompts[i].ids            the prompt, starting with </s> (2); `text` too where it came from a tokenizer
  prompts[i].tokens         64 greedy tokens; </s> does not end the text
  prompts[i].minimumMargin  smallest (top-1 − top-2) / std of the logits over the 64 steps
  raggedBatch               prompts to run as one batch: every row must give the tokens it gives alone
  halfPrecision             the same run with every linear layer's input and output, and so the KV cache,
                            rounded to fp16: the tokens were unchanged, and the logits moved by at most
                            `maximumLogitDifference` times their std. A tolerance must be above it.
  checkpoints               folder, format, scalar type, names of the tensors, SHA-256 of each file

How the numbers are made: float32 weights are drawn, rounded to the stored type, and run in float32, so
the checkpoint is exact and the only freedom of an implementation is its own rounding. Random logits tie
often, so weights (by seed) and prompts (by choice among random candidates) are picked such that no
margin is below `SMALLEST_MARGIN` and no text is monotonous. Nothing is left at 0 or 1: biases and
layer-norm weights are random too. Attention is as strong as the MLP, so an error in it changes tokens.
"""

import argparse
import collections
import hashlib
import json
import pathlib
import shutil

import numpy
import safetensors.torch
import torch
import transformers

GOLDEN = pathlib.Path(__file__).resolve().parent / "Golden"
STORYBOOK = pathlib.Path(__file__).resolve().parents[2] / "Models" / "storybook"

STEPS = 64
PROMPT_LENGTHS = [1, 2, 5, 12, 33, 60]
SMALLEST_MARGIN = 0.02
SMALLEST_TEXT_MARGIN = 0.01  # the storybook's prompts are few and chosen by hand
FEWEST_DISTINCT_TOKENS = 12
CANDIDATES = 240  # random prompts tried for each length

# Two heads and one or two layers: enough to be wrong in, small enough for a repository.
BASE = dict(
    vocab_size=251, hidden_size=64, num_attention_heads=2, ffn_dim=128, num_hidden_layers=2,
    max_position_embeddings=136, dropout=0.0,
)  # fmt: skip

CASES = {
    "pre-norm": dict(
        about="as 125m: layer norm before, biases, ReLU, two heads of 64",
        config=dict(BASE, hidden_size=128, ffn_dim=144),
    ),
    "formats": dict(
        about="pre-norm, one set of weights in every checkpoint format; float32 holds the same values",
        config=dict(BASE, vocab_size=211, hidden_size=48, num_attention_heads=3, ffn_dim=96),
        checkpoints=["safetensors", "safetensors-sharded", "pytorch", "pytorch-sharded", "numpy", "float32"],
    ),
    "formats-bfloat16": dict(
        about="the weights of `formats` before rounding, rounded to bfloat16: other values, other tokens",
        config=dict(BASE, vocab_size=211, hidden_size=48, num_attention_heads=3, ffn_dim=96),
        checkpoints=["safetensors"],
        scalar_type=torch.bfloat16,
    ),
    "head-dim-80": dict(
        about="as 2.7b: heads of 80",
        config=dict(BASE, vocab_size=233, hidden_size=160, ffn_dim=96, num_hidden_layers=1),
    ),
    "head-dim-128": dict(
        about="as 6.7b and up: heads of 128",
        config=dict(BASE, vocab_size=233, hidden_size=256, ffn_dim=64, num_hidden_layers=1),
    ),
    "odd": dict(
        about="sizes that are multiples of nothing: three heads of 12, hidden 36, ffn 100, vocabulary 211",
        config=dict(BASE, vocab_size=211, hidden_size=36, num_attention_heads=3, ffn_dim=100, num_hidden_layers=3),
    ),
    "post-norm": dict(
        about="as 350m: layer norm after, no final one, embeddings narrower than the hidden state",
        config=dict(BASE, do_layer_norm_before=False, word_embed_proj_dim=40),
    ),
    "galactica": dict(
        about="GELU (exact), no biases in linear layers, layer norms with weight and bias",
        config=dict(BASE, activation_function="gelu", enable_bias=False, layer_norm_elementwise_affine=True),
    ),
    "galactica-no-affine": dict(
        about="GELU (exact), no biases at all, layer norms without weight and bias",
        config=dict(BASE, activation_function="gelu", enable_bias=False, layer_norm_elementwise_affine=False),
    ),
    "opt-iml": dict(
        about="pre-norm; tensor names start with `decoder.` and of the tied pair only lm_head.weight is there",
        config=dict(BASE, num_attention_heads=4, ffn_dim=160),
        checkpoints=["safetensors-lm-head"],
    ),
}

# More than are kept: a trained model loops when it decodes greedily, and some loops hang on a near tie.
STORYBOOK_PROMPTS = [
    "",
    "Once upon a time",
    "The",
    '"Yes',
    "The old man looked at the sea, and",
    '"I do not know," said the little girl,',
    '"Where are you going?" asked',
    "The garden was full of roses.",
    "Alice was beginning to get very tired of",
    "It was a cold winter morning, and",
    "The captain took his sword and",
    "Dorothy and the Scarecrow walked through the forest until they came to",
    "My dear Mr. Holmes, I have come to ask your advice about a very strange letter which",
    "In the middle of the forest there lived a king who had three daughters. The youngest of them was so",
    "The mole and the rat sat by the fire and ate their supper. Outside the snow was falling, and the wind "
    "blew through the dark trees of the wood. There was a knock at the door, and",
    "The ship lay at anchor in the bay. We could hear the sailors singing, and now and then the captain's "
    "voice above the others. My mother had told me to stay in the house until she came back, but the night "
    "was warm and the window was open, and I",
    "There was once a poor woodcutter who lived with his wife and his two children at the edge of a great "
    "forest. They had very little to eat, and when the winter came there was no bread in the house. One "
    "night the woman said to her husband,",
]


# MARK: Weights


def draw_weights(model, seed):
    """Random float32 weights under which attention, MLP, positions and biases all move the logits.

    Token embeddings are small beside what the blocks add. Otherwise the tied output embedding finds the
    current token in the residual stream again and greedy decoding repeats it for ever.
    """
    generator = torch.Generator().manual_seed(seed)
    hidden = model.config.hidden_size
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if "layer_norm" in name:
            value = 1 + 0.2 * noise if name.endswith("weight") else 0.1 * noise
        elif name.endswith("bias"):
            value = 0.2 * noise
        elif "embed_tokens" in name:
            value = 0.25 * noise
        elif "embed_positions" in name:
            value = 0.25 * noise
        elif "q_proj" in name or "k_proj" in name:
            value = 1.4 * noise / hidden**0.5
        elif "v_proj" in name or "out_proj" in name:
            value = 1.5 * noise / hidden**0.5
        else:  # fc1, fc2, project_in, project_out
            value = 1.4 * noise / parameter.shape[1] ** 0.5
        parameter.data.copy_(value)


def make_model(config, seed, scalar_type):
    """A float32 model whose weights are exact in `scalar_type`."""
    model = transformers.OPTForCausalLM(transformers.OPTConfig(**config))
    draw_weights(model, seed)
    for parameter in model.parameters():
        parameter.data.copy_(parameter.data.to(scalar_type).to(torch.float32))
    return model.eval()


# MARK: Running


@torch.no_grad()
def decode_greedily(model, prompts):
    """Decodes prompts of one length, `[batch, length]`: tokens, margins `[batch, STEPS]`, first and last logits."""
    tokens, margins, logits = [], [], []
    output = model(input_ids=prompts, use_cache=True)
    for step in range(STEPS):
        last = output.logits[:, -1, :].float()
        best = last.topk(2, dim=-1)
        tokens.append(best.indices[:, 0])
        margins.append((best.values[:, 0] - best.values[:, 1]) / last.std(dim=-1))
        if step in (0, STEPS - 1):
            logits.append(last)
        if step < STEPS - 1:
            output = model(input_ids=tokens[-1][:, None], past_key_values=output.past_key_values, use_cache=True)
    return torch.stack(tokens, 1), torch.stack(margins, 1), logits[0], logits[1]


@torch.no_grad()
def decode_ragged(model, prompts):
    """Decodes prompts of several lengths as one left-padded batch: tokens `[batch, STEPS]`."""
    longest = max(map(len, prompts))
    pad = model.config.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    tokens = []
    output = model(input_ids=ids, attention_mask=mask, use_cache=True)
    for step in range(STEPS):
        tokens.append(output.logits[:, -1, :].argmax(dim=-1))
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        if step < STEPS - 1:
            output = model(
                input_ids=tokens[-1][:, None], attention_mask=mask,
                past_key_values=output.past_key_values, use_cache=True,
            )  # fmt: skip
    return torch.stack(tokens, 1)


class HalfPrecision:
    """While entered, every linear layer inside the decoder reads and writes values rounded to fp16."""

    def __init__(self, model):
        self.layers = [module for module in model.model.modules() if isinstance(module, torch.nn.Linear)]

    def __enter__(self):
        def round_inputs(_, inputs):
            return tuple(value.half().float() for value in inputs)

        def round_output(_, __, output):
            return output.half().float()

        self.hooks = [layer.register_forward_pre_hook(round_inputs) for layer in self.layers]
        self.hooks += [layer.register_forward_hook(round_output) for layer in self.layers]

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


# MARK: Choosing


def is_good(tokens, margins, smallest=SMALLEST_MARGIN):
    """Which rows of a batch have no near tie and no monotonous text."""
    distinct = torch.tensor([len(set(row.tolist())) for row in tokens])
    return (margins.min(dim=1).values >= smallest) & (distinct >= FEWEST_DISTINCT_TOKENS)


def choose_prompts(model, seed):
    """For each length the candidate with the largest smallest margin, or None where no candidate is good."""
    generator = torch.Generator().manual_seed(1000 + seed)
    vocabulary = model.config.vocab_size
    chosen = []
    for length in PROMPT_LENGTHS:
        count = 1 if length == 1 else CANDIDATES
        candidates = torch.randint(3, vocabulary, (count, length), generator=generator)
        candidates[:, 0] = 2
        tokens, margins, _, _ = decode_greedily(model, candidates)
        score = torch.where(is_good(tokens, margins), margins.min(dim=1).values, -1.0)
        if score.max() < 0:
            return None
        chosen.append(candidates[score.argmax()].tolist())
    return chosen


def find_weights(config, scalar_type, first_seed=0):
    """The first seed whose model has good prompts of every length, with these prompts."""
    for seed in range(first_seed, first_seed + 2000):
        model = make_model(config, seed, scalar_type)
        prompts = choose_prompts(model, seed)
        if prompts and survives_half_precision(model, prompts):
            return seed, model, prompts
    raise SystemExit("no seed gives good margins; make the weights larger")


def survives_half_precision(model, prompts):
    """Whether rounding to fp16 inside the model leaves every token as it is."""
    exact = [decode_greedily(model, torch.tensor([prompt]))[0] for prompt in prompts]
    with HalfPrecision(model):
        rounded = [decode_greedily(model, torch.tensor([prompt]))[0] for prompt in prompts]
    return all(torch.equal(a, b) for a, b in zip(exact, rounded))


# MARK: Writing


def write_checkpoint(model, folder, kind, scalar_type):
    """Writes the model in one format; returns the sentence that golden.json says about its names."""
    folder.mkdir(parents=True)
    stored = torch.float32 if kind == "float32" else scalar_type
    half = transformers.OPTForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.to(stored)
    state = {name: tensor.clone() for name, tensor in half.state_dict().items()}
    tied = "lm_head.weight"
    if kind in ("safetensors", "float32"):
        half.save_pretrained(folder)
        names = "model.decoder.*, no lm_head.weight"
    elif kind == "safetensors-sharded":
        half.save_pretrained(folder, max_shard_size="40KB")
        names = "model.decoder.*, no lm_head.weight"
    elif kind == "safetensors-lm-head":
        half.config.save_pretrained(folder)
        tensors = {name.removeprefix("model."): tensor for name, tensor in state.items()}
        del tensors["decoder.embed_tokens.weight"]
        safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        names = "decoder.* and lm_head.weight, no embed_tokens.weight"
    elif kind == "pytorch":
        # An OrderedDict with `_metadata`, as module.state_dict() makes it, the tied pair on one storage.
        half.config.save_pretrained(folder)
        torch.save(half.state_dict(), folder / "pytorch_model.bin")
        names = "model.decoder.* and lm_head.weight, which shares the storage of embed_tokens.weight"
    elif kind == "pytorch-sharded":
        half.config.save_pretrained(folder)
        del state[tied]
        write_pytorch_shards(folder, {name.removeprefix("model."): tensor for name, tensor in state.items()})
        names = "decoder.*, no lm_head.weight"
    elif kind == "numpy":
        half.config.save_pretrained(folder)
        for name, tensor in state.items():
            name = name.removeprefix("model.").replace("decoder.final_layer_norm", "decoder.layer_norm")
            with open(folder / name, "wb") as file:
                numpy.save(file, tensor.numpy())
        names = "files named decoder.* without extension, decoder.layer_norm.* for the final one, lm_head.weight"
    else:
        raise ValueError(kind)
    (folder / "generation_config.json").unlink(missing_ok=True)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes 0600
    return names


def write_pytorch_shards(folder, tensors, count=3):
    """Plain dicts in `count` files of about equal numbers of tensors, with the index that names them."""
    names = list(tensors)
    weight_map = {}
    for shard in range(count):
        part = names[shard * len(names) // count : (shard + 1) * len(names) // count]
        file = f"pytorch_model-{shard + 1:05d}-of-{count:05d}.bin"
        torch.save({name: tensors[name] for name in part}, folder / file)
        weight_map |= {name: file for name in part}
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2) + "\n")


def describe_checkpoint(folder, root, kind, scalar_type, names):
    """golden.json's entry for one checkpoint folder."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    scalar = "float32" if kind == "float32" else str(scalar_type).removeprefix("torch.")
    return {"folder": root, "format": kind, "scalarType": scalar, "tensorNames": names, "sha256": hashes}


def measure(model, prompts):
    """Runs each prompt alone, as a ragged batch and in half precision; returns golden.json's part and the logits."""
    entries, logits, drift = [], {}, 0.0
    for index, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        tokens, margins, first, last = decode_greedily(model, ids)
        with HalfPrecision(model):
            half_tokens, _, half_first, half_last = decode_greedily(model, ids)
        assert torch.equal(tokens, half_tokens), f"fp16 rounding changes the tokens of prompt {index}"
        for exact, rounded in ((first, half_first), (last, half_last)):
            drift = max(drift, ((exact - rounded).abs().max() / exact.std()).item())
        logits[f"logits.{index}"] = first[0].contiguous()
        logits[f"logits.{index}.step{STEPS - 1}"] = last[0].contiguous()
        entries.append({"ids": prompt, "tokens": tokens[0].tolist(), "minimumMargin": round(margins.min().item(), 5)})
        assert len(prompt) + STEPS <= model.config.max_position_embeddings
    ragged = decode_ragged(model, prompts)
    assert ragged.tolist() == [entry["tokens"] for entry in entries], "the ragged batch differs"
    return entries, logits, drift


def write_golden(root, case, about, model, entries, logits, drift, checkpoints, **more):
    """Writes golden.json and golden.safetensors, one line for each list of ids."""
    document = {
        "case": case,
        "about": about,
        "madeWith": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
        **more,
        "steps": STEPS,
        "minimumMargin": min(entry["minimumMargin"] for entry in entries),
        "halfPrecision": {"maximumLogitDifference": round(drift, 6)},
        "checkpoints": checkpoints,
        "raggedBatch": list(range(len(entries))),
        "prompts": entries,
    }
    text = json.dumps(document, indent=1, ensure_ascii=False)
    root.mkdir(parents=True, exist_ok=True)
    (root / "golden.json").write_text(join_numbers(text) + "\n")
    safetensors.torch.save_file(logits, root / "golden.safetensors")
    (root / "golden.safetensors").chmod(0o644)
    margin, distinct = document["minimumMargin"], [len(set(entry["tokens"])) for entry in entries]
    print(f"{case}: margin {margin:.4f}, fp16 drift {drift:.4f}, distinct tokens {distinct}, {more}", flush=True)


def join_numbers(text):
    """Puts each list of numbers of an indented JSON text on one line."""
    lines = collections.deque(text.split("\n"))
    joined = []
    while lines:
        line = lines.popleft()
        if line.endswith("[") and lines[0].strip(" ,").lstrip("-").isdigit():
            items = []
            while lines[0].strip()[0] != "]":
                items.append(lines.popleft().strip(" ,"))
            line += ", ".join(items) + lines.popleft().strip()
        joined.append(line)
    return "\n".join(joined)


# MARK: Cases


def make_case(case):
    """One random case: finds weights and prompts, writes checkpoints and golden values."""
    description = CASES[case]
    scalar_type = description.get("scalar_type", torch.float16)
    root = GOLDEN / case
    shutil.rmtree(root, ignore_errors=True)
    seed, model, prompts = find_weights(description["config"], scalar_type)
    entries, logits, drift = measure(model, prompts)
    checkpoints = []
    for kind in description.get("checkpoints", ["safetensors"]):
        names = write_checkpoint(model, root / kind, kind, scalar_type)
        checkpoints.append(describe_checkpoint(root / kind, kind, kind, scalar_type, names))
    write_golden(root, case, description["about"], model, entries, logits, drift, checkpoints, seed=seed)


def make_storybook():
    """The shipped model. Prompts with a margin under SMALLEST_TEXT_MARGIN are left out and named on the way."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(STORYBOOK)
    model = transformers.OPTForCausalLM.from_pretrained(STORYBOOK, dtype=torch.float32).eval()
    texts, prompts = [], []
    for text in STORYBOOK_PROMPTS:
        prompt = [2] + tokenizer(text, add_special_tokens=False)["input_ids"]
        _, margins, _, _ = decode_greedily(model, torch.tensor([prompt]))
        if margins.min() < SMALLEST_TEXT_MARGIN or not survives_half_precision(model, [prompt]):
            print(f"left out, margin {margins.min():.4f}: {text}")
            continue
        texts.append(text)
        prompts.append(prompt)
    entries, logits, drift = measure(model, prompts)
    for entry, text in zip(entries, texts):
        entry["text"] = text
        entry["continuation"] = tokenizer.decode(entry["tokens"])
    root = GOLDEN / "storybook"
    shutil.rmtree(root, ignore_errors=True)
    place, names = "../../../../Models/storybook", "model.decoder.*, no lm_head.weight"
    checkpoint = describe_checkpoint(STORYBOOK, place, "safetensors", torch.float16, names)
    checkpoint["sha256"] = {"model.safetensors": checkpoint["sha256"]["model.safetensors"]}
    about = "the model in Models/storybook; prompts as text with the ids its tokenizer gives them"
    write_golden(root, "storybook", about, model, entries, logits, drift, [checkpoint])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", help=f"of {', '.join([*CASES, 'storybook'])}; all but storybook if none")
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    for case in parser.parse_args().cases or CASES:
        make_storybook() if case == "storybook" else make_case(case)


if __name__ == "__main__":
    main()
