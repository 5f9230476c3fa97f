#include "kernels/embedding.h"

#include "core/error.h"

namespace samba::op {
namespace {

void expect_ids(const char* what, ConstView ids, Index vocabulary) {
  for (Index n = 0; n < ids.rows; ++n)
    if (const Index id = *ids.row<std::int32_t>(n); id < 0 || id >= vocabulary)
      fail(what, ": expected an id from 0 to ", vocabulary - 1, ", found ", id, " in row ", n);
}

}  // namespace

void Embedding::check() const {
  expect_float("embedding: w", w);
  expect_shape("embedding: y", y, tokens.rows, w.cols, exact_of(w.dtype));
  expect_shape("embedding: tokens", tokens, y.rows, 1, DType::i32);
}

void Embedding::check_tokens() const {
  expect_ids("embedding: tokens", tokens, w.rows);
}

void EmbeddingBackward::check() const {
  expect_shape("embedding_backward: dw", dw, dw.rows, dw.cols, exact_of(dw.dtype));
  expect_shape("embedding_backward: dy", dy, tokens.rows, dw.cols, dw.dtype);
  expect_shape("embedding_backward: tokens", tokens, dy.rows, 1, DType::i32);
}

void EmbeddingBackward::check_tokens() const {
  expect_ids("embedding_backward: tokens", tokens, dw.rows);
}

}  // namespace samba::op
