#!/usr/bin/env python3
"""Trains Models/storybook, the small OPT model that ships with Tandem, on a folder of books.

    pip install torch transformers tokenizers safetensors
    python Models/train_storybook.py --books FOLDER --out Models/storybook

FOLDER holds the 16 Project Gutenberg texts named in the model card. One H200 takes about twelve
minutes with the defaults, which made the published model. Every phase is bounded by a wall-clock
budget, and the learning rate follows the clock, so a slower GPU gives a somewhat worse model in the same
time. `--minutes` scales all budgets. The labels take about 100 GB of GPU memory, 16 GB for each of `--passes`.

A model of 4.7 million weights sees only 1.8 million tokens here. Trained on them directly it learns them
by heart long before it writes well, so the script
 1. trains several larger OPT models (teachers) with dropout, each kept at its best held-out loss;
 2. lets them write more text of the same kind;
 3. stores the average of their predictions for every token of books and written text, in windows cut at
    several alignments;
 4. trains the student on these whole distributions, plus a little of the true next tokens.

The best student so far, rounded to fp16, is always in `--out`. Teachers are kept in `--work`, so a
second call with more `--student-minutes` or `--teachers` goes on from there.
"""

import argparse
import copy
import dataclasses
import math
import pathlib
import time

import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from torch import nn

import storybook_text

BOS = 2  # </s>, put before every text as OPT does
POSITIONS = 2048
SHORT, LONG = 512, 2048  # window lengths: most training, and the one that trains every position
LONG_SHARE = 0.15
STUDENT_HEAD = 64

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def say(*words):
    print(f"[{time.monotonic() - START:6.1f} s]", *words, flush=True)


START = time.monotonic()


# MARK: Model


@dataclasses.dataclass
class Shape:
    """An OPT shape, written `layers x hidden`; heads of 64, MLP four times as wide."""

    layers: int
    hidden: int
    dropout: float = 0.0

    @property
    def heads(self):
        return self.hidden // STUDENT_HEAD


class Attention(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.heads, self.dropout = shape.heads, shape.dropout
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(shape.hidden, shape.hidden))

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x, cache=None):
        q, k, v = self.split(self.q_proj(x)), self.split(self.k_proj(x)), self.split(self.v_proj(x))
        if cache is not None:  # one token: cache is (keys, values, position)
            keys, values, position = cache
            keys[:, :, position], values[:, :, position] = k[:, :, 0], v[:, :, 0]
            k, v = keys[:, :, : position + 1], values[:, :, : position + 1]
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None, dropout_p=dropout)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.dropout = shape.dropout
        self.self_attn = Attention(shape)
        self.self_attn_layer_norm = nn.LayerNorm(shape.hidden)
        self.fc1 = nn.Linear(shape.hidden, 4 * shape.hidden)
        self.fc2 = nn.Linear(4 * shape.hidden, shape.hidden)
        self.final_layer_norm = nn.LayerNorm(shape.hidden)

    def forward(self, x, cache=None):
        x = x + F.dropout(self.self_attn(self.self_attn_layer_norm(x), cache), self.dropout, self.training)
        return x + F.dropout(self.fc2(F.relu(self.fc1(self.final_layer_norm(x)))), self.dropout, self.training)


class OPT(nn.Module):
    """OPT with transformers' tensor names (checked against it when the student is saved)."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        decoder = nn.Module()
        decoder.embed_tokens = nn.Embedding(storybook_text.VOCABULARY, shape.hidden)
        decoder.embed_positions = nn.Embedding(POSITIONS + 2, shape.hidden)
        decoder.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        decoder.final_layer_norm = nn.LayerNorm(shape.hidden)
        self.model = nn.Module()
        self.model.decoder = decoder
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                depth = (2 * shape.layers) ** -0.5 if "out_proj" in name or "fc2" in name else 1.0
                nn.init.normal_(parameter, std=0.02 * depth)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens, caches=None, position=0):
        """Hidden states [batch, tokens, hidden] before the output embedding."""
        decoder = self.model.decoder
        positions = torch.arange(position, position + tokens.shape[1], device=tokens.device) + 2
        x = decoder.embed_tokens(tokens) + decoder.embed_positions(positions)
        x = F.dropout(x, self.shape.dropout, self.training)
        for index, layer in enumerate(decoder.layers):
            x = layer(x, None if caches is None else (*caches[index], position))
        return decoder.final_layer_norm(x)

    def logits(self, hidden):
        return F.linear(hidden, self.model.decoder.embed_tokens.weight)


def make_model(shape):
    """A model on the device whose blocks are compiled one by one: they share one compilation."""
    model = OPT(shape).to(DEVICE)
    if DEVICE == "cuda":
        for layer in model.model.decoder.layers:
            layer.compile(dynamic=False)
    return model


def autocast():
    return torch.autocast(DEVICE, dtype=torch.bfloat16)


def hard_loss(logits, targets):
    """Cross-entropy with the true next tokens; a target of −100 does not count."""
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100)


def soft_loss(logits, labels, targets, hard_share):
    """Cross-entropy with the teachers' distributions (log-probabilities `labels`), mixed with the true tokens."""
    log_q = F.log_softmax(logits.float(), dim=-1)
    soft = -(labels.float().exp() * log_q).sum(-1).mean()
    hard = -log_q.gather(-1, targets[..., None]).mean()
    return (1 - hard_share) * soft + hard_share * hard


if DEVICE == "cuda":
    torch._dynamo.config.recompile_limit = 64
    torch.set_float32_matmul_precision("high")
    hard_loss = torch.compile(hard_loss, dynamic=False)
    soft_loss = torch.compile(soft_loss, dynamic=False)


# MARK: Text


class Corpus:
    """Chapters as one stream of token ids, each after </s>, and the places where a paragraph starts."""

    def __init__(self, tokenizer, chapters):
        newline = tokenizer("\n", add_special_tokens=False)["input_ids"][0]
        encoded = [tokenizer(chapter, add_special_tokens=False)["input_ids"] for chapter in chapters]
        self.stream = torch.tensor([token for chapter in encoded for token in [BOS, *chapter]], device=DEVICE)
        self.chapters = encoded
        self.byte_count = sum(len(chapter.encode()) for chapter in chapters)
        self.starts = ((self.stream == newline) | (self.stream == BOS)).nonzero()[:, 0] + 1

    def windows(self, starts, length):
        """Rows [batch, length + 1]: </s>, then the stream from each start."""
        starts = starts.clamp(max=len(self.stream) - length)
        rows = self.stream[starts[:, None] + torch.arange(length, device=DEVICE)]
        return F.pad(rows, (1, 0), value=BOS)

    def random_windows(self, count, length):
        return self.windows(self.starts[torch.randint(len(self.starts), (count,), device=DEVICE)], length)

    def all_windows(self, length):
        """Windows that cover the stream once; each starts at a paragraph, the first at a random one."""
        starts = self.starts.tolist()
        chosen, end = [], starts[torch.randint(min(len(starts), 12), (1,)).item()]
        for start, following in zip(starts, [*starts[1:], len(self.stream)]):
            if following > end:  # the last paragraph start that leaves no gap
                chosen.append(start)
                end = start + length
        return self.windows(torch.tensor(chosen, device=DEVICE), length)


@torch.no_grad()
def held_out_loss(model, corpus, length=SHORT):
    """Mean loss in nats for a token, each token predicted once, and its sum. Chapters are cut every `length` tokens."""
    rows = []
    for chapter in corpus.chapters:
        for begin in range(0, len(chapter), length):
            row = [BOS, *chapter[begin : begin + length]]
            rows.append(row + [-100] * (length + 1 - len(row)))
    rows += [[BOS] + [-100] * length] * (-len(rows) % 16)  # full parts only: one compiled shape
    rows = torch.tensor(rows, device=DEVICE)
    model.eval()
    total = count = 0
    for part in rows.split(16):
        targets = part[:, 1:]
        with autocast():
            logits = model.logits(model(part[:, :-1].clamp(min=0)))
        total += F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum").item()
        count += (targets >= 0).sum().item()
    model.train()
    return total / count, total


def describe_loss(corpus, loss, total):
    bits = total / math.log(2) / corpus.byte_count
    return f"perplexity {math.exp(loss):.2f} a token, {bits:.3f} bits a byte"


# MARK: Training


class Training:
    """AdamW with a warm-up and a cosine decay that follow the clock; keeps the best weights on held-out text."""

    def __init__(self, model, minutes, rate, decay, most_steps=10**9, evaluations=12, on_best=None):
        matrices = [p for p in model.parameters() if p.dim() == 2]
        others = [p for p in model.parameters() if p.dim() != 2]
        groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-8, fused=DEVICE == "cuda")
        self.model, self.rate, self.seconds, self.most_steps = model, rate, 60 * minutes, most_steps
        self.evaluations, self.on_best = evaluations, on_best
        self.best, self.best_state = math.inf, None

    def run(self, name, next_loss, development):
        """Steps on `next_loss(length)` until the budget is spent; leaves the best weights in the model."""
        for length in (SHORT, LONG):  # compiles; the clock starts after it
            next_loss(length)[0].backward()
            self.optimizer.zero_grad(set_to_none=True)
        held_out_loss(self.model, development)
        say(f"{name}: starts")
        begin = time.monotonic()
        step, evaluated, progress, tokens = 0, 0, 0.0, 0
        running = None
        while progress < 1:
            elapsed = time.monotonic() - begin
            progress = max(elapsed / self.seconds, step / self.most_steps)
            scale = min(1, step / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, progress))))
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * scale
            loss, count = next_loss(LONG if torch.rand(()).item() < LONG_SHARE else SHORT)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            step, tokens = step + 1, tokens + count
            # The queue of launched work must not run ahead of the clock.
            if step % 10 == 0:
                running = round(loss.item(), 3)
            if progress * self.evaluations >= evaluated + 1 or progress >= 1:
                evaluated = int(progress * self.evaluations)
                loss, _ = held_out_loss(self.model, development)
                mark = ""
                if loss < self.best:
                    self.best, self.best_state, mark = loss, copy.deepcopy(self.model.state_dict()), " *"
                    if self.on_best and progress > 0.3:
                        self.on_best(self.model)
                rate = tokens / (time.monotonic() - begin)
                say(f"{name}: step {step}, {tokens / 1e6:.1f} M tokens ({rate / 1e3:.0f} k/s), training {running},"
                    f" held-out perplexity {math.exp(loss):.2f}{mark}")  # fmt: skip
        self.model.load_state_dict(self.best_state)
        return self.best


def train_teacher(shape, corpus, development, options, rate, decay):
    model = make_model(shape)
    epochs_steps = int(options.teacher_epochs * len(corpus.stream) / options.teacher_batch)

    def next_loss(length):
        rows = corpus.random_windows(max(1, options.teacher_batch // length), length)
        with autocast():
            logits = model.logits(model(rows[:, :-1]))
            return hard_loss(logits, rows[:, 1:]), rows[:, 1:].numel()

    training = Training(model, options.teacher_minutes, rate, decay, most_steps=epochs_steps)
    training.run(f"teacher {shape.layers}x{shape.hidden} dropout {shape.dropout} decay {decay}", next_loss, development)
    return model, training.best


def get_teachers(corpus, development, options):
    """The teachers in the work folder, and as many new ones as are missing."""
    layers, hidden = map(int, options.teacher_shape.split("x"))
    # They differ in rate and weight decay beside the seed, so that their mistakes differ too.
    recipes = [(6e-4, 0.3), (8e-4, 0.1), (6e-4, 1.0), (6e-4, 1.5), (8e-4, 1.0), (6e-4, 2.0)]
    teachers = []
    for index in range(options.teachers):
        rate, decay = recipes[index % len(recipes)]
        path = options.work / f"teacher-{index}.pt"
        torch.manual_seed(options.seed + index)
        if path.exists():
            saved = torch.load(path, map_location=DEVICE)
            teacher, best = make_model(Shape(**saved["shape"])), saved["best"]
            teacher.load_state_dict(saved["weights"])
        else:
            teacher, best = train_teacher(Shape(layers, hidden, options.teacher_dropout), corpus, development, options, rate, decay)
            torch.save({"shape": vars(teacher.shape), "weights": teacher.state_dict(), "best": best}, path)
        say(f"teacher {index}: held-out perplexity {math.exp(best):.2f}")
        teachers.append(teacher.eval())
    return teachers


@torch.no_grad()
def average_labels(teachers, tokens):
    """Log of the teachers' mean probabilities, fp16, [batch, tokens, vocabulary]."""
    total = None
    for teacher in teachers:
        with autocast():
            logits = teacher.logits(teacher(tokens))
        probability = F.softmax(logits.float(), dim=-1)
        total = probability if total is None else total.add_(probability)
    return total.div_(len(teachers)).clamp_(min=1e-7).log_().half()


@torch.no_grad()
def write_text(model, prompts, length, temperature=0.9, least=0.02):
    """Samples rows [batch, length + 1] after prompts [batch, n]. A token needs `least` of the best one's probability."""
    model.eval()
    plain = OPT(model.shape).to(DEVICE).eval()  # not compiled: its shapes change with every token
    plain.load_state_dict(model.state_dict())
    plain.to(torch.bfloat16 if DEVICE == "cuda" else torch.float32)
    dtype = next(plain.parameters()).dtype
    shape = (prompts.shape[0], model.shape.heads, length, STUDENT_HEAD)
    caches = [
        (torch.zeros(shape, device=DEVICE, dtype=dtype), torch.zeros(shape, device=DEVICE, dtype=dtype))
        for _ in range(model.shape.layers)
    ]
    rows = [prompts[:, :1]]
    for position in range(length):
        logits = plain.logits(plain(rows[-1], caches, position))[:, -1].float()
        if position + 1 < prompts.shape[1]:
            rows.append(prompts[:, position + 1 : position + 2])
            continue
        probability = F.softmax(logits / temperature, dim=-1)
        probability[probability < least * probability.amax(dim=-1, keepdim=True)] = 0
        rows.append(torch.multinomial(probability, 1))
    return torch.cat(rows, dim=1)


class Labels:
    """Windows of one length, int32 [windows, length + 1], with the teachers' labels for every token of them."""

    def __init__(self, rows, teachers):
        self.rows = rows.int()
        shape = (rows.shape[0], rows.shape[1] - 1, storybook_text.VOCABULARY)
        self.labels = torch.empty(shape, dtype=torch.float16, device=DEVICE)
        part = max(1, 16384 // shape[1])
        for begin in range(0, shape[0] - shape[0] % part, part):  # full parts only: one compiled shape
            self.labels[begin : begin + part] = average_labels(teachers, rows[begin : begin + part, :-1])
        kept = shape[0] - shape[0] % part
        self.rows, self.labels = self.rows[:kept], self.labels[:kept]
        self.order, self.next = None, kept

    def batch(self, count):
        """The next `count` windows of a shuffled round: tokens, labels, targets."""
        count = min(count, len(self.rows))
        if self.next + count > len(self.rows):
            self.order, self.next = torch.randperm(len(self.rows), device=DEVICE), 0
        index = self.order[self.next : self.next + count]
        self.next += count
        rows = self.rows[index].long()
        return rows[:, :-1], self.labels[index], rows[:, 1:]


def make_labels(teachers, corpus, options):
    """Labels of the books at several alignments and of text the teachers wrote; and of long windows."""
    short = [corpus.all_windows(SHORT) for _ in range(options.passes)]
    for index in range(options.written_batches):
        # Beginnings of the books' own paragraphs, then the teachers go on alone.
        prompts = corpus.random_windows(options.written_windows, SHORT)[:, : 4 + 4 * (index % 4)]
        short.append(write_text(teachers[index % len(teachers)], prompts, SHORT))
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
    written = sum(rows.numel() for rows in short[options.passes :])
    say(f"teachers wrote {written / 1e6:.1f} M tokens")
    labels = {LONG: Labels(corpus.all_windows(LONG), teachers)}
    short = torch.cat(short)
    labels[SHORT] = Labels(short[torch.randperm(len(short), device=DEVICE)], teachers)
    say("labels", {length: tuple(part.labels.shape) for length, part in labels.items()})
    return labels


def train_student(teachers, corpus, development, options, save):
    layers, hidden = map(int, options.student_shape.split("x"))
    torch.manual_seed(options.seed)
    labels = make_labels(teachers, corpus, options)
    model = make_model(Shape(layers, hidden, options.student_dropout))
    if options.start_from:
        model.load_state_dict({n: t.float() for n, t in safetensors.torch.load_file(options.start_from).items()})

    def next_loss(length):
        tokens, soft, targets = labels[length].batch(max(1, options.student_batch // length))
        with autocast():
            return soft_loss(model.logits(model(tokens)), soft, targets, options.hard_share), targets.numel()

    training = Training(
        model, options.student_minutes, options.student_rate, options.student_decay, evaluations=20, on_best=save
    )
    training.run(f"student {layers}x{hidden}", next_loss, development)
    return model


# MARK: Saving


def save_student(model, folder):
    """config.json, generation_config.json and model.safetensors (fp16), written by transformers itself."""
    shape = model.shape
    config = transformers.OPTConfig(
        vocab_size=storybook_text.VOCABULARY, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, ffn_dim=4 * shape.hidden, max_position_embeddings=POSITIONS,
        dropout=0.0, bos_token_id=BOS, eos_token_id=BOS, pad_token_id=1,
    )  # fmt: skip
    published = transformers.OPTForCausalLM(config)
    missing, unexpected = published.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected and missing in ([], ["lm_head.weight"]), (missing, unexpected)
    # Drawn like this it reads best; greedy decoding soon repeats itself.
    published.generation_config = transformers.GenerationConfig(
        do_sample=True, temperature=0.7, top_p=0.9, repetition_penalty=1.1, bos_token_id=BOS, eos_token_id=BOS,
        pad_token_id=1,
    )  # fmt: skip
    published.half().save_pretrained(folder)


def report(model, folder, tokenizer, corpora):
    """Perplexities of the rounded student, and that transformers computes what this script's model computes."""
    rounded, exact = OPT(model.shape).to(DEVICE), OPT(model.shape).to(DEVICE)
    exact.load_state_dict(model.state_dict())
    rounded.load_state_dict({name: tensor.half().float() for name, tensor in model.state_dict().items()})
    for name, corpus in corpora.items():
        for length in (SHORT, LONG):
            for kind, one in (("fp16 weights", rounded), ("fp32 weights", exact)):
                say(f"{name}, windows of {length}, {kind}:", describe_loss(corpus, *held_out_loss(one, corpus, length)))
    published = transformers.OPTForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(DEVICE)
    tokens = corpora["development"].random_windows(2, 300)[:, :-1]
    with torch.no_grad():
        rounded.eval()
        difference = (published(tokens).logits - rounded.logits(rounded(tokens))).abs().max().item()
    say(f"largest difference of logits to transformers: {difference:.5f}")
    for prompt in ("Once upon a time", "The old man looked at the sea, and", '"I do not know," said the little girl,'):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]] * 2, device=DEVICE)
        for row in write_text(rounded, ids, 160, temperature=0.8, least=0.02).tolist():
            print("---", tokenizer.decode(row[1:]), flush=True)


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--books", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the Hugging Face folder to write")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("storybook-work"), help="keeps the teachers")
    parser.add_argument("--minutes", type=float, help="budget for everything; scales the two below")
    parser.add_argument("--teacher-minutes", type=float, default=1.0, help="for each teacher")
    parser.add_argument("--student-minutes", type=float, default=2.5)
    parser.add_argument("--teachers", type=int, default=6)
    parser.add_argument("--teacher-shape", default="10x640")
    parser.add_argument("--teacher-dropout", type=float, default=0.25)
    parser.add_argument("--teacher-batch", type=int, default=16384, help="tokens")
    parser.add_argument("--teacher-epochs", type=float, default=28)
    parser.add_argument("--student-shape", default="4x256")
    parser.add_argument("--student-batch", type=int, default=32768, help="tokens")
    parser.add_argument("--student-rate", type=float, default=3e-3)
    parser.add_argument("--student-decay", type=float, default=0.1)
    parser.add_argument("--student-dropout", type=float, default=0.0)
    parser.add_argument("--hard-share", type=float, default=0.1, help="weight of the true next tokens")
    parser.add_argument("--passes", type=int, default=4, help="alignments of the books to store labels for")
    parser.add_argument("--written-batches", type=int, default=3)
    parser.add_argument("--written-windows", type=int, default=1536)
    parser.add_argument("--start-from", help="a model.safetensors to continue the student from")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.minutes:
        scale = options.minutes / (options.teachers * options.teacher_minutes + options.student_minutes + 3)
        options.teacher_minutes *= scale
        options.student_minutes *= scale
    return options


def main():
    options = parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    parts = dict(zip(("training", "development", "test"), storybook_text.read_books(options.books)))
    tokenizer = storybook_text.train_tokenizer(parts["training"], options.out)
    corpora = {name: Corpus(tokenizer, chapters) for name, chapters in parts.items()}
    say({name: f"{len(c.stream)} tokens, {c.byte_count} bytes" for name, c in corpora.items()})
    development = corpora["development"]
    teachers = get_teachers(corpora["training"], development, options)
    student = train_student(teachers, corpora["training"], development, options, lambda m: save_student(m, options.out))
    save_student(student, options.out)
    del corpora["training"]
    report(student, options.out, tokenizer, corpora)


if __name__ == "__main__":
    main()
