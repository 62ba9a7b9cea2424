"""Writes the small checkpoints that CheckpointsTests reads, each with the library that publishes such files.

Run it from anywhere in an environment with torch, safetensors and numpy:

    python3 Tests/Fixtures/make_checkpoint_fixtures.py

Element i of a tensor is ((37 * i + salt) % 255 - 127) / 64, where the salt is the sum of the canonical name's
bytes: exact in fp16, bf16 and fp32. In the fp32 fixtures 2^-13 is added, which fp16 has to round away or up.
"""

import json
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

HIDDEN, FFN, VOCABULARY, POSITIONS, LAYERS = 7, 28, 11, 5, 2

SHAPES = {
    "decoder.embed_tokens.weight": (VOCABULARY, HIDDEN),
    "decoder.embed_positions.weight": (POSITIONS, HIDDEN),
    "decoder.final_layer_norm.weight": (HIDDEN,),
    "decoder.final_layer_norm.bias": (HIDDEN,),
}
for layer in range(LAYERS):
    SHAPES[f"decoder.layers.{layer}.fc1.weight"] = (FFN, HIDDEN)
    SHAPES[f"decoder.layers.{layer}.fc1.bias"] = (FFN,)
    SHAPES[f"decoder.layers.{layer}.fc2.weight"] = (HIDDEN, FFN)

ROOT = Path(__file__).parent / "Checkpoints"


def tensor(name, dtype):
    count = int(np.prod(SHAPES[name]))
    values = ((37 * np.arange(count) + sum(name.encode())) % 255 - 127) / 64
    if dtype == torch.float32:
        values += 2**-13
    return torch.tensor(values, dtype=torch.float64).to(dtype).reshape(SHAPES[name])


def state(dtype, prefix="model."):
    return OrderedDict((prefix + name, tensor(name, dtype)) for name in SHAPES)


def folder(name):
    path = ROOT / name
    path.mkdir(parents=True)
    return path


def write_index(path, shards):
    weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    path.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}, indent=2))


def split(tensors, pattern):
    names = list(tensors)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    return {
        pattern % (number + 1): OrderedDict((name, tensors[name]) for name in half)
        for number, half in enumerate(halves)
    }


def main():
    shutil.rmtree(ROOT, ignore_errors=True)

    save_file(state(torch.float16), folder("safetensors-fp16") / "model.safetensors", {"format": "pt"})
    save_file(state(torch.bfloat16, ""), folder("safetensors-bf16") / "model.safetensors")
    save_file(state(torch.float32), folder("safetensors-fp32") / "model.safetensors")
    path = folder("safetensors-sharded-bf16")
    shards = split(state(torch.bfloat16), "model-0000%d-of-00002.safetensors")
    for shard, tensors in shards.items():
        save_file(tensors, path / shard, {"format": "pt"})
    write_index(path / "model.safetensors.index.json", shards)

    # A module's state dictionary carries _metadata; a tied output projection shares its storage.
    tensors = state(torch.float16)
    tensors["lm_head.weight"] = tensors["model.decoder.embed_tokens.weight"]
    tensors._metadata = OrderedDict([("", {"version": 1}), ("model", {"version": 1})])
    torch.save(tensors, folder("torch-fp16") / "pytorch_model.bin")

    # Parameters, and views into one common storage.
    tensors = state(torch.float32, "")
    storage = torch.cat([value.flatten() for value in tensors.values()])
    offset = 0
    for name, value in tensors.items():
        tensors[name] = torch.nn.Parameter(storage[offset : offset + value.numel()].view(value.shape))
        offset += value.numel()
    torch.save(tensors, folder("torch-fp32-views") / "pytorch_model.bin")

    path = folder("torch-sharded-bf16")
    shards = split(state(torch.bfloat16), "pytorch_model-0000%d-of-00002.bin")
    for shard, tensors in shards.items():
        torch.save(dict(tensors), path / shard)
    write_index(path / "pytorch_model.bin.index.json", shards)

    # Only the output projection of the tied pair.
    tensors = state(torch.float16)
    tensors["lm_head.weight"] = tensors.pop("model.decoder.embed_tokens.weight")
    torch.save(tensors, folder("torch-tied") / "pytorch_model.bin")

    torch.save(
        state(torch.float16),
        folder("torch-legacy") / "pytorch_model.bin",
        _use_new_zipfile_serialization=False,
    )

    for name, dtype in (("numpy-fp16", torch.float16), ("numpy-fp32", torch.float32)):
        path = folder(name)
        tensors = state(dtype, "")
        tensors["lm_head.weight"] = tensors["decoder.embed_tokens.weight"]
        for index, (key, value) in enumerate(tensors.items()):
            key = key.replace("decoder.final_layer_norm", "decoder.layer_norm")
            with open(path / key, "wb") as file:
                np.lib.format.write_array(file, value.numpy(), version=(1 + index % 3, 0))


main()
