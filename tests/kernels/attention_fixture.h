#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attention.h"
#include "kernels/run.h"
#include "support/kernel_test.h"
#include "support/reference.h"

// What the tests of attention and of its gradients share.
namespace samba::test {

inline constexpr Index kFull = std::numeric_limits<Index>::max();

struct Shape {
  op::Heads heads;
  Index length;
  Index window;
  bool chunked = false;

  Index q_cols() const { return heads.heads * heads.width; }
  Index k_cols() const { return heads.kv_heads * heads.width; }
  Index v_cols() const { return heads.kv_heads * heads.value_width; }
  Index y_cols() const { return heads.heads * heads.value_width; }
  double scale() const { return 1 / std::sqrt(static_cast<double>(heads.width)); }
  Index terms() const {
    return std::min(length, window) + std::max(heads.width, heads.value_width);
  }
};

/// Every kind of heads, odd and usual widths, windows within and beyond a tile; values wider and
/// narrower than keys; chunks of one token, within a block, across blocks and longer than the text.
inline const Shape kShapes[] = {
    {{1, 1, 1}, 1, 1},
    {{2, 2, 1}, 7, 5},
    {{1, 1, 16}, 33, 1},
    {{4, 2, 16}, 130, 16},
    {{4, 1, 24}, 101, 5},
    {{6, 2, 5}, 203, 100},
    {{3, 3, 64}, 211, 16},
    {{2, 1, 64}, 330, 1000},
    {{1, 1, 128}, 300, 97},
    {{5, 5, 17}, 65, kFull},
    {{8, 1, 16}, 250, kFull},
    {{2, 1, 130}, 99, 48},
    {{1, 1, 16, 80}, 140, 50},
    {{4, 2, 24, 7}, 101, 30},
    {{2, 2, 5, 1}, 120, kFull},
    {{1, 1, 16}, 40, 1, true},
    {{4, 2, 16}, 210, 37, true},
    {{2, 1, 24}, 300, 120, true},
    {{1, 1, 32, 200}, 230, 96, true},
    {{3, 1, 12, 33}, 90, 1000, true},
    {{3, 1, 64}, 600, 300},
    {{2, 2, 128}, 520, kFull},
    {{4, 2, 128}, 450, 129},
    {{2, 1, 256}, 300, 100},
    {{1, 1, 64, 192}, 260, 70},
    {{2, 1, 64}, 500, 37, true},
    {{1, 1, 128, 256}, 420, 200, true},
    {{1, 1, 256, 512}, 280, 150, true},
};

class Attention : public KernelTest {
 protected:
  /// Random queries, keys and values, and views of them.
  struct Inputs {
    Host q, k, v;
    View views[3];
  };

  Inputs inputs(const Shape& s, int seed = 1) {
    Inputs in{random(s.length, s.q_cols(), dtype(), seed),
              random(s.length, s.k_cols(), dtype(), seed + 1),
              random(s.length, s.v_cols(), dtype(), seed + 2),
              {}};
    const Host* from[] = {&in.q, &in.k, &in.v};
    for (int i = 0; i < 3; ++i) in.views[i] = upload(*from[i]);
    return in;
  }

  Host expected(const Shape& s, const Inputs& in, Host* lse = nullptr) {
    return reference::attention(in.q, in.k, in.v, s.heads.heads, s.heads.kv_heads, s.window,
                                s.scale(), lse, s.chunked);
  }

  op::Attention call(const Shape& s, const View (&views)[3], View y,
                     const std::vector<Span>& spans) {
    return {.y = y,
            .q = views[0],
            .k = views[1],
            .v = views[2],
            .heads = s.heads,
            .window = s.window,
            .chunked = s.chunked,
            .scale = s.scale(),
            .batch = batch_of(spans)};
  }

  /// What cancels are values, of rms 1, whatever is left of them. Weights may be rounded to bf16 on
  /// their way to the values; beside that nothing else counts.
  Law law(const Shape& s) const {
    return {.terms = s.terms(), .rounded = dtype(), .rms = dtype() == DType::bf16 ? 0.0 : 1.0};
  }

  /// One sequence in chunks, each a call of its own on slot 1 of rings that begin as NaN.
  Host in_chunks(const Shape& s, const Inputs& in, Index capacity,
                 const std::vector<Index>& chunks) {
    const View keys = empty(3, capacity * s.k_cols()), values = empty(3, capacity * s.v_cols());
    const View y = empty(s.length, s.y_cols());
    Index done = 0;
    for (std::size_t c = 0; done < s.length; ++c) {
      const Index n = std::min(chunks[c % chunks.size()], s.length - done);
      const View views[3] = {in.views[0].block(done, n), in.views[1].block(done, n),
                             in.views[2].block(done, n)};
      const std::vector<Span> spans = {{.first = 0, .length = n, .position = done, .slot = 1}};
      op::Attention op = call(s, views, y.block(done, n), spans);
      op.key_state = keys;
      op.value_state = values;
      run(stream(), op);
      done += n;
    }
    return host(y);
  }
};

}  // namespace samba::test
