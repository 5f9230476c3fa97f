"""Writes checkpoint.pth beside this file: every storage type that a checkpoint may have, tensors
that are not contiguous, share a storage, or are empty, and what stands beside "model" in a
checkpoint of a training run. Made with torch 1.13; elements count up from 0 and wrap at 100."""

import os
from collections import OrderedDict

import torch


def counting(dtype, *shape):
    return (torch.arange(torch.Size(shape).numel()) % 100).to(dtype).reshape(shape)


model = OrderedDict()
for name in ["float64", "float32", "float16", "bfloat16",
             "int64", "int32", "int16", "int8", "uint8", "bool"]:
    model[name] = counting(getattr(torch, name), 2, 3)
model["transposed"] = counting(torch.float32, 4, 3).t()
model["columns"] = counting(torch.float32, 4, 6)[:, 1:4]
model["rows"] = counting(torch.float32, 5, 2)[2:4]
model["convolution"] = counting(torch.float32, 3, 1, 4)
model["scalar"] = torch.tensor(7.0)
model["empty"] = torch.zeros(0, 3)
model["embedding"] = counting(torch.float32, 300, 2)
model["head"] = model["embedding"]
model._metadata = OrderedDict({"": {"version": 1}})

layer = torch.nn.Linear(2, 2)
optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()

torch.save({"model": model,
            "optimizer": optimizer.state_dict(),
            "hparams": {"learning_rate": 4e-4, "name": "x", "tokens": 2**40},
            "iter_num": 8,
            "step_count": None},
           os.path.join(os.path.dirname(os.path.abspath(__file__)), "checkpoint.pth"))
