#!/usr/bin/python3
"""One training step of a small Samba in PyTorch on the CPU, to hold ours against.

    /usr/bin/python3 bench/pytorch/step.py [--threads N] [--rounds N] [--sambalm PROGRAM] [--json]

Forward, backward and AdamW over one sequence of 1024 tokens, in float32 and under bfloat16 autocast,
in the forms below. All of them compute the same function of the same parameters: loss and gradient
norm are compared before anything is timed. The forms take turns; the best and the median of the rounds
are printed, since other programs on the machine only ever slow a step down. With --sambalm the program
trains the same shape (bench/samba-20m.json) in turns with them.

Scan: `loop`, one token after the other as autograd records it; `chunked`, 32 chunks side by side, then
what each carries into the next; `blocked`, a hand-written backward that recomputes states in blocks
that stay in the cache. Attention: `masked`, all pairs of tokens and a mask; `banded`, blocks of
queries with only the keys that their windows reach.
"""
import argparse
import ctypes
import json
import math
import os
import statistics
import subprocess
import time

for name in [name for name in os.environ if name.startswith("OPENBLAS_")]:
    del os.environ[name]  # read when torch is imported

import torch
import torch.nn.functional as F
from torch import nn

VOCAB, WIDTH, BLOCKS, D_FF, TOKENS = 8192, 384, 8, 1024, 1024
INNER, STATE, RANK, CONV = 2 * WIDTH, 16, math.ceil(WIDTH / 16), 4
HEADS, WINDOW = 6, 512
HEAD_WIDTH = WIDTH // HEADS


# The scan: h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t, y_t = h_t C_t. dt, u [T, E]; A [S, E];
# B, C [T, S]; states are [S, E], so that the long axis is the contiguous one.


def scan_loop(dt, u, A, B, C):
    decay = torch.exp(dt[:, None, :] * A)
    added = (dt * u)[:, None, :] * B[:, :, None]
    h = torch.zeros_like(A)
    states = []
    for a, x in zip(decay.unbind(0), added.unbind(0)):
        h = torch.addcmul(x, a, h)
        states.append(h)
    return torch.bmm(C[:, None, :], torch.stack(states))[:, 0]


def scan_chunked(dt, u, A, B, C, chunks=32):
    length = dt.shape[0] // chunks
    decay = torch.exp(dt[:, None, :] * A).view(chunks, length, STATE, INNER)
    added = ((dt * u)[:, None, :] * B[:, :, None]).view(chunks, length, STATE, INNER)
    h = torch.zeros_like(added[:, 0])
    within = []
    for a, x in zip(decay.unbind(1), added.unbind(1)):
        h = torch.addcmul(x, a, h)
        within.append(h)
    within = torch.stack(within, 1)
    since = torch.cumsum(dt.view(chunks, length, INNER), 1)  # time since the chunk began
    passed = torch.exp(since[:, :, None, :] * A)
    carry = torch.zeros_like(A)
    carries = []
    for last, survives in zip(within[:, -1].unbind(0), passed[:, -1].unbind(0)):
        carries.append(carry)
        carry = torch.addcmul(last, survives, carry)
    states = torch.addcmul(within, passed, torch.stack(carries)[:, None])
    return torch.bmm(C[:, None, :], states.view(-1, STATE, INNER))[:, 0]


class BlockedScan(torch.autograd.Function):
    LENGTH = 16  # tokens; 0.8 MB of states, about a core's second-level cache

    @staticmethod
    def states(dt, moved, A, B, start):
        """Decays [L, S, E] and the states [L + 1, S, E] of a block, `start` first."""
        decay = (dt[:, None, :] * A).exp_()
        h = torch.empty(dt.shape[0] + 1, *A.shape)
        h[0] = start
        torch.mul(moved[:, None, :], B[:, :, None], out=h[1:])
        rows = h.unbind(0)
        for before, now, a in zip(rows, rows[1:], decay.unbind(0)):
            now.addcmul_(a, before)
        return decay, h

    @staticmethod
    def forward(ctx, dt, u, A, B, C):
        moved = dt * u
        y = torch.empty_like(dt)
        starts = [torch.zeros_like(A)]
        for first in range(0, dt.shape[0], BlockedScan.LENGTH):
            part = slice(first, first + BlockedScan.LENGTH)
            _, h = BlockedScan.states(dt[part], moved[part], A, B[part], starts[-1])
            torch.bmm(C[part, None, :], h[1:], out=y[part, None, :])
            starts.append(h[-1].clone())
        ctx.save_for_backward(dt, u, A, B, C, *starts)
        return y

    @staticmethod
    def backward(ctx, dy):
        dt, u, A, B, C, *starts = ctx.saved_tensors
        moved = dt * u
        d_dt, d_moved = torch.empty_like(dt), torch.empty_like(dt)
        dA, dB, dC = torch.zeros_like(A), torch.empty_like(B), torch.empty_like(C)
        later = torch.zeros_like(A)  # what the tokens after the block ask of its last state
        for index in reversed(range(len(starts) - 1)):
            first = index * BlockedScan.LENGTH
            part = slice(first, first + BlockedScan.LENGTH)
            decay, h = BlockedScan.states(dt[part], moved[part], A, B[part], starts[index])
            dh = dy[part, None, :] * C[part, :, None]
            dh[-1] += later
            rows = dh.unbind(0)
            for t in range(len(rows) - 1, 0, -1):
                rows[t - 1].addcmul_(decay[t], rows[t])
            later = decay[0] * rows[0]
            torch.bmm(h[1:], dy[part, :, None], out=dC[part, :, None])
            torch.bmm(dh, moved[part, :, None], out=dB[part, :, None])
            torch.bmm(B[part, None, :], dh, out=d_moved[part, None, :])
            slope = dh.mul_(h[:-1]).mul_(decay)  # of the loss in dt_t A
            dA += (slope * dt[part, None, :]).sum(0)
            torch.sum(slope.mul_(A), 1, out=d_dt[part])
        d_dt.addcmul_(d_moved, u)
        return d_dt, d_moved * dt, dA, dB, dC


SCANS = {"loop": scan_loop, "chunked": scan_chunked, "blocked": BlockedScan.apply}


def attention_masked(q, k, v):
    t = torch.arange(q.shape[1])
    distance = t[:, None] - t[None, :]
    outside = (distance < 0) | (distance >= WINDOW)
    scores = torch.matmul(q, k.transpose(1, 2)) * HEAD_WIDTH**-0.5
    return torch.matmul(scores.masked_fill(outside, -math.inf).softmax(-1), v)


def attention_banded(q, k, v, length=128):
    t = torch.arange(q.shape[1])
    out = []
    for first in range(0, q.shape[1], length):
        queries = slice(first, first + length)
        keys = slice(max(0, first - WINDOW + 1), first + length)
        distance = t[queries, None] - t[None, keys]
        outside = (distance < 0) | (distance >= WINDOW)
        scores = torch.matmul(q[:, queries], k[:, keys].transpose(1, 2)) * HEAD_WIDTH**-0.5
        out.append(torch.matmul(scores.masked_fill(outside, -math.inf).softmax(-1), v[:, keys]))
    return torch.cat(out, 1)


ATTENTIONS = {"masked": attention_masked, "banded": attention_banded}
FORMS = [("loop", "masked"), ("chunked", "masked"), ("blocked", "masked"), ("blocked", "banded")]
CASES = [(dtype, scan, attention) for dtype in ("f32", "bf16") for scan, attention in FORMS]


class RmsNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


class Mamba(nn.Module):
    def __init__(self, forms):
        super().__init__()
        self.forms = forms
        self.in_proj = nn.Linear(WIDTH, 2 * INNER, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(CONV, INNER).uniform_(-0.5, 0.5))
        self.conv_bias = nn.Parameter(torch.zeros(INNER))
        self.x_proj = nn.Linear(INNER, RANK + 2 * STATE, bias=False)
        self.dt_weight = nn.Parameter(torch.empty(INNER, RANK).uniform_(-1, 1) * RANK**-0.5)
        dt = torch.exp(torch.rand(INNER) * math.log(100) + math.log(1e-3))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.a_log = nn.Parameter(torch.arange(1.0, STATE + 1).log()[:, None].repeat(1, INNER))
        self.skip = nn.Parameter(torch.ones(INNER))
        self.out_proj = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x):
        h, gate = self.in_proj(x).chunk(2, -1)
        # Four shifted products: on this CPU several times as fast as a depthwise conv1d.
        padded = F.pad(h.float(), (0, 0, CONV - 1, 0))
        u = self.conv_bias + padded[: x.shape[0]] * self.conv_weight[0]
        for j in range(1, CONV):
            u = torch.addcmul(u, padded[j : j + x.shape[0]], self.conv_weight[j])
        u = F.silu(u)
        low, B, C = self.x_proj(u).split([RANK, STATE, STATE], -1)
        dt = F.softplus(F.linear(low, self.dt_weight).float() + self.dt_bias)
        with torch.autocast("cpu", enabled=False):
            scan = SCANS[self.forms["scan"]]
            y = scan(dt, u, -torch.exp(self.a_log), B.float(), C.float())
        return self.out_proj((y + self.skip * u) * F.silu(gate))


class Attention(nn.Module):
    def __init__(self, forms):
        super().__init__()
        self.forms = forms
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        theta = 10000.0 ** (-torch.arange(0, HEAD_WIDTH, 2) / HEAD_WIDTH)
        angle = torch.arange(TOKENS)[:, None] * theta
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def rotate(self, x):
        a, b = x.chunk(2, -1)
        return torch.cat([a * self.cos - b * self.sin, a * self.sin + b * self.cos], -1)

    def forward(self, x):
        q, k, v = self.qkv(x).view(-1, 3, HEADS, HEAD_WIDTH).permute(1, 2, 0, 3)
        y = ATTENTIONS[self.forms["attention"]](self.rotate(q), self.rotate(k), v)
        return self.out_proj(y.transpose(0, 1).reshape(-1, WIDTH))


class SwiGlu(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, D_FF, bias=False)
        self.up = nn.Linear(WIDTH, D_FF, bias=False)
        self.down = nn.Linear(D_FF, WIDTH, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Samba(nn.Module):
    def __init__(self, forms):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(VOCAB, WIDTH) * 0.02)
        layers = []
        for block in range(BLOCKS):
            layers.append(Mamba(forms) if block % 2 == 0 else Attention(forms))
            layers.append(SwiGlu())
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(RmsNorm() for _ in layers)
        self.norm = RmsNorm()

    def forward(self, tokens, targets):
        x = F.embedding(tokens, self.embedding)
        for norm, layer in zip(self.norms, self.layers):
            x = x + layer(norm(x))
        return F.cross_entropy(F.linear(self.norm(x), self.embedding).float(), targets)


def loaded_blas():
    """The BLAS library in this process and, where it is OpenBLAS, its own description."""
    with open("/proc/self/maps") as maps:
        paths = {line.split()[-1] for line in maps if "blas" in line}
    for path in sorted(paths):
        if "openblas" in path:
            describe = getattr(ctypes.CDLL(path), "openblas_get_config", None)
            if describe:
                describe.restype = ctypes.c_char_p
                return f"{path}: {describe().decode().strip()}"
    return ", ".join(sorted(paths)) or "none"


class Comparison:
    def __init__(self):
        torch.manual_seed(1)
        self.forms = {}
        self.model = Samba(self.forms)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
        self.tokens, self.targets = torch.randint(VOCAB, (2, TOKENS))

    def loss(self, dtype, scan, attention):
        """The loss; its gradient is left on the parameters."""
        self.forms.update(scan=scan, attention=attention)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            loss = self.model(self.tokens, self.targets)
        loss.backward()
        return loss.item()

    def gradient_norm(self):
        return math.sqrt(sum(p.grad.double().square().sum().item() for p in self.model.parameters()))

    def check(self):
        """Refuses to compare forms that do not compute the same thing."""
        expected = {}
        for case in CASES:
            found = (self.loss(*case), self.gradient_norm())
            first = expected.setdefault(case[0], found)
            bound = 1e-4 if case[0] == "f32" else 2e-2
            if not all(abs(a - b) <= bound * b for a, b in zip(found, first)):
                raise SystemExit(f"{case}: loss, gradient norm {found}; the first form has {first}")

    def seconds(self, case):
        start = time.perf_counter()
        self.loss(*case)
        self.optimizer.step()
        return time.perf_counter() - start


def sambalm_seconds(program, dtype, threads):
    """Seconds that a step takes there, the second of two: the first one warms up."""
    config = os.path.join(os.path.dirname(__file__), "..", "samba-20m.json")
    result = subprocess.run(
        [program, "bench", config, "--train", "--prompt", str(TOKENS), "--dtype", dtype,
         "--threads", str(threads), "--rounds", "2", "--json", "-", "--quiet"],
        check=True, stdout=subprocess.PIPE)
    return json.loads(result.stdout)[0]["seconds"]


def measure(rounds, program, threads):
    """Seconds of each round's step, by case and, for sambalm, by dtype; number of parameters."""
    comparison = Comparison()
    comparison.check()  # warms up too
    taken = {case: [] for case in CASES}
    ours = {dtype: [] for dtype in ("f32", "bf16")}
    for _ in range(rounds):
        for case in CASES:
            taken[case].append(comparison.seconds(case))
        if program:
            for dtype, times in ours.items():
                times.append(sambalm_seconds(program, dtype, threads))
    parameters = sum(p.numel() for p in comparison.model.parameters())
    return taken, {dtype: times for dtype, times in ours.items() if times}, parameters


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sambalm", metavar="PROGRAM", help="also time this program")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)  # it starts with one

    taken, ours, parameters = measure(options.rounds, options.sambalm, options.threads)
    statistic = {"best": min, "median": statistics.median}
    seconds = {name: {case: of(times) for case, times in taken.items()}
               for name, of in statistic.items()}
    own = {name: {dtype: of(times) for dtype, times in ours.items()}
           for name, of in statistic.items()}
    # The strongest opponent by either measure.
    fastest = {name: {dtype: min((case for case in CASES if case[0] == dtype), key=times.get)
                      for dtype in ("f32", "bf16")} for name, times in seconds.items()}
    if options.json:
        names = ("dtype", "scan", "attention")
        print(json.dumps({
            "torch": torch.__version__, "blas": loaded_blas(), "threads": options.threads,
            "parameters": parameters, "tokens": TOKENS, "rounds": options.rounds,
            "steps": [dict(zip(names, case), seconds=times) for case, times in taken.items()],
            "sambalm": ours}, indent=1))
        return
    print(f"PyTorch {torch.__version__}, {options.threads} threads,"
          f" {parameters:,} parameters, {TOKENS} tokens a step, {options.rounds} rounds")
    print(f"BLAS: {loaded_blas()}\n")
    print(f"{'':6} {'':19} {'best':>15} {'':9} {'median':>6}")
    print(f"{'dtype':6} {'scan':8} {'attention':10}" + f" {'s/step':>8} {'tokens/s':>9}" * 2)

    def row(times):
        return "".join(f" {time:8.3f} {TOKENS / time:9.0f}" for time in times)

    for case in CASES:
        mark = "  fastest" if case in (names[case[0]] for names in fastest.values()) else ""
        print("{:6} {:8} {:10}".format(*case) + row(seconds[name][case] for name in statistic) + mark)
    for dtype in ours:
        ratios = {name: seconds[name][fastest[name][dtype]] / own[name][dtype] for name in statistic}
        print(f"{dtype:6} {'sambalm':19}" + row(own[name][dtype] for name in statistic) +
              "  {best:.1f} (median {median:.1f}) times as fast".format(**ratios))


if __name__ == "__main__":
    main()
