"""A writer of compressed-tensors' ``sparse-bitmask``, after its layout and sharing nothing with us.

``bitmask_compress`` there is ``numpy.packbits(tensor != 0, axis=-1, bitorder="little")``.
"""

import json

import numpy as np
import torch
from safetensors.torch import load_file, save_file

BLOCK = {
    "quant_method": "compressed-tensors",
    "format": "dense",
    "config_groups": {},
    "ignore": [],
    "quantization_status": "compressed",
    "kv_cache_scheme": None,
    "sparsity_config": {
        "format": "sparse-bitmask",
        "global_sparsity": 0.85,
        "ignore": ["lm_head"],
        "registry_requires_subclass": False,
        "sparsity_structure": "unstructured",
        "targets": ["Linear"],
    },
    "transform_config": {},
    "version": "0.12.2",
}


def parts(name, weight):
    """What stands for the weight of a module."""
    kept = weight != 0
    counts = kept.sum(-1)
    packed = np.packbits(kept.numpy(), axis=-1, bitorder="little")
    return {
        f"{name}.shape": torch.tensor(weight.shape),
        f"{name}.compressed": weight[kept],
        f"{name}.bitmask": torch.from_numpy(packed),
        f"{name}.row_offsets": counts.cumsum(0) - counts,
    }


def compress(folder, chosen=lambda name: True, block=BLOCK, shards=1):
    """Rewrite a dense checkpoint folder, its weights in one file or several.

    Args:
        chosen: which weights, by name.
        shards: files; the parts of one weight are dealt out to all of them.
    """
    file = folder / "model.safetensors"
    stored = {}
    for name, tensor in load_file(file).items():
        module = name.removesuffix(".weight")
        stored |= parts(module, tensor) if module != name and chosen(name) else {name: tensor}
    file.unlink()
    if shards == 1:
        save_file(stored, file, {"format": "pt"})
    else:
        names = [f"model-{n + 1:05}-of-{shards:05}.safetensors" for n in range(shards)]
        where = {key: names[n % shards] for n, key in enumerate(stored)}
        for shard in names:
            held = {key: tensor for key, tensor in stored.items() if where[key] == shard}
            save_file(held, folder / shard, {"format": "pt"})
        index = {"metadata": {}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    configure(folder, quantization_config=block)


def configure(folder, **entries):
    """Write entries into a config.json; None takes one out."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
