#include "core/matrix.h"

#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/stream.h"

namespace samba {
namespace {

double load(ConstView v, Index r, Index c) {
  switch (v.dtype) {
    case DType::f64: return v.row<double>(r)[c];
    case DType::f32: return v.row<float>(r)[c];
    case DType::bf16: return static_cast<float>(v.row<Bf16>(r)[c]);
    case DType::i32: return v.row<std::int32_t>(r)[c];
  }
  return 0;
}

void store(View v, Index r, Index c, double value) {
  switch (v.dtype) {
    case DType::f64: v.row<double>(r)[c] = value; break;
    case DType::f32: v.row<float>(r)[c] = static_cast<float>(value); break;
    case DType::bf16: v.row<Bf16>(r)[c] = Bf16(static_cast<float>(value)); break;
    case DType::i32: v.row<std::int32_t>(r)[c] = static_cast<std::int32_t>(value); break;
  }
}

}  // namespace

Matrix::Matrix(std::shared_ptr<Pool> pool, DType dtype, Index rows, Index cols)
    : pool_(std::move(pool)) {
  view_ = {nullptr, rows, cols, cols, dtype};
  view_.data = pool_->take(static_cast<std::size_t>(bytes()));
}

Matrix::Matrix(const CpuStream& stream, DType dtype, Index rows, Index cols)
    : Matrix(stream.pool(), dtype, rows, cols) {}

Matrix::Matrix(const CudaStream& stream, DType dtype, Index rows, Index cols)
    : Matrix(pool_of(stream), dtype, rows, cols) {}

Matrix::Matrix(const Stream& stream, DType dtype, Index rows, Index cols)
    : Matrix(stream.pool(), dtype, rows, cols) {}

Matrix::Matrix(const Matrix& whole, Index first, Index rows, Index cols)
    : view_(whole.view_.columns(first, rows * cols)) {
  view_.rows = rows, view_.cols = view_.stride = cols;
}

Matrix::Matrix(Matrix&& other) noexcept
    : view_(std::exchange(other.view_, {})), pool_(std::move(other.pool_)) {}

Matrix& Matrix::operator=(Matrix&& other) noexcept {
  std::swap(view_, other.view_);
  std::swap(pool_, other.pool_);
  return *this;
}

Matrix::~Matrix() {
  if (pool_) pool_->give(view_.data, static_cast<std::size_t>(bytes()));
}

std::string shape_of(ConstView v) {
  return text_of(name_of(v.dtype), '[', v.rows, " x ", v.cols, ']');
}

void expect_shape(const char* what, ConstView v, Index rows, Index cols, DType dtype) {
  if (v.empty() || v.rows != rows || v.cols != cols || v.dtype != dtype) {
    const ConstView expected{v.data, rows, cols, cols, dtype};
    fail(what, ": expected ", shape_of(expected), ", found ", v.empty() ? "nothing" : shape_of(v));
  }
}

void expect_same_shape(const char* what, ConstView a, ConstView b) {
  expect_shape(what, a, b.rows, b.cols, b.dtype);
}

void expect_float(const char* what, ConstView v) {
  if (v.empty() || v.dtype == DType::i32)
    fail(what, ": expected f64, f32 or bf16, found ", v.empty() ? "nothing" : shape_of(v));
}

void copy(View to, ConstView from) {
  if (to.rows != from.rows || to.cols != from.cols)
    fail("copy: expected ", shape_of(to), ", found ", shape_of(from));
  for (Index r = 0; r < to.rows; ++r) {
    if (to.dtype == from.dtype) {
      std::memcpy(to.data + r * to.stride * size_of(to.dtype),
                  from.data + r * from.stride * size_of(from.dtype),
                  static_cast<std::size_t>(to.cols * size_of(to.dtype)));
      continue;
    }
    for (Index c = 0; c < to.cols; ++c) store(to, r, c, load(from, r, c));
  }
}

void fill(View v, double value) {
  if (value == 0) {  // in every dtype zero is a run of zero bits
    const Index width = size_of(v.dtype);
    for (Index r = 0; r < v.rows; ++r)
      std::memset(v.data + r * v.stride * width, 0, static_cast<std::size_t>(v.cols * width));
    return;
  }
  for (Index r = 0; r < v.rows; ++r)
    for (Index c = 0; c < v.cols; ++c) store(v, r, c, value);
}

}  // namespace samba
