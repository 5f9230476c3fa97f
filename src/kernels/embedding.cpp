#include "kernels/embedding.h"

#include "core/error.h"

namespace samba::op {
namespace {

void expect_ids(const char* what, ConstView ids, Index rows, Index vocabulary) {
  expect_shape(what, ids, rows, 1, DType::i32);
  for (Index n = 0; n < rows; ++n)
    if (const Index id = *ids.row<std::int32_t>(n); id < 0 || id >= vocabulary)
      fail(what, ": expected an id from 0 to ", vocabulary - 1, ", found ", id, " in row ", n);
}

}  // namespace

void Embedding::check() const {
  expect_float("embedding: w", w);
  expect_shape("embedding: y", y, tokens.rows, w.cols, exact_of(w.dtype));
  expect_ids("embedding: tokens", tokens, y.rows, w.rows);
}

void EmbeddingBackward::check() const {
  expect_shape("embedding_backward: dw", dw, dw.rows, dw.cols, exact_of(dw.dtype));
  expect_shape("embedding_backward: dy", dy, tokens.rows, dw.cols, dw.dtype);
  expect_ids("embedding_backward: tokens", tokens, dy.rows, dw.rows);
}

}  // namespace samba::op
