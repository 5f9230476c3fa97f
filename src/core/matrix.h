#pragma once

#include <cassert>
#include <cstddef>
#include <memory>
#include <string>

#include "core/dtype.h"

namespace samba {

class Pool;

/// A window onto a row-major matrix that somebody else owns, for reading. Cheap to copy.
/// Rows may lie apart (stride >= cols), elements of a row never do: a block of columns of a wider
/// matrix is a view; a transpose is not.
struct ConstView {
  const std::byte* data = nullptr;
  Index rows = 0;
  Index cols = 0;
  Index stride = 0;  ///< elements from the start of one row to the start of the next
  DType dtype = DType::f32;

  [[gnu::always_inline]] constexpr bool empty() const { return data == nullptr; }
  /// The same rows, `count` columns from `first` on.
  [[gnu::always_inline]] constexpr ConstView columns(Index first, Index count) const {
    assert(first >= 0 && count >= 0 && first + count <= cols);
    return {data + first * size_of(dtype), rows, count, stride, dtype};
  }
  /// `count` rows from `first` on, all columns.
  [[gnu::always_inline]] constexpr ConstView block(Index first, Index count) const {
    assert(first >= 0 && count >= 0 && first + count <= rows);
    return {data + first * stride * size_of(dtype), count, cols, stride, dtype};
  }
  /// The start of row r. T must be the element type.
  template <class T>
  [[gnu::always_inline]] constexpr const T* row(Index r) const {
    assert(dtype_of<T>() == dtype);
    return reinterpret_cast<const T*>(data) + r * stride;
  }
};

/// The same, for writing. A View can be passed wherever a ConstView is asked for.
struct View {
  std::byte* data = nullptr;
  Index rows = 0;
  Index cols = 0;
  Index stride = 0;
  DType dtype = DType::f32;

  [[gnu::always_inline]] constexpr bool empty() const { return data == nullptr; }
  [[gnu::always_inline]] constexpr View columns(Index first, Index count) const {
    assert(first >= 0 && count >= 0 && first + count <= cols);
    return {data + first * size_of(dtype), rows, count, stride, dtype};
  }
  [[gnu::always_inline]] constexpr View block(Index first, Index count) const {
    assert(first >= 0 && count >= 0 && first + count <= rows);
    return {data + first * stride * size_of(dtype), count, cols, stride, dtype};
  }
  template <class T>
  [[gnu::always_inline]] constexpr T* row(Index r) const {
    assert(dtype_of<T>() == dtype);
    return reinterpret_cast<T*>(data) + r * stride;
  }
  [[gnu::always_inline]] constexpr operator ConstView() const {
    return {data, rows, cols, stride, dtype};
  }
};

class CpuStream;
class CudaStream;
class Stream;

/// A matrix that owns its memory, which it takes from the stream's pool and gives back to it.
/// Contents are undefined until written. Rows are contiguous; the start is aligned to 64 bytes.
class Matrix {
 public:
  Matrix() = default;
  Matrix(std::shared_ptr<Pool>, DType, Index rows, Index cols);
  /// Of the pool of a stream, or of one side of it. Out of line: objects of one tier define
  /// nothing.
  Matrix(const CpuStream&, DType, Index rows, Index cols);
  Matrix(const CudaStream&, DType, Index rows, Index cols);
  Matrix(const Stream&, DType, Index rows, Index cols);
  /// In the memory of another, a single row, from its element `first` on. That one must live longer
  /// and keeps the memory.
  Matrix(const Matrix& whole, Index first, Index rows, Index cols);
  Matrix(Matrix&& other) noexcept;
  Matrix& operator=(Matrix&& other) noexcept;
  ~Matrix();

  bool empty() const { return view_.empty(); }
  View view() const { return view_; }
  operator View() const { return view_; }
  operator ConstView() const { return view_; }
  Index rows() const { return view_.rows; }
  Index cols() const { return view_.cols; }
  DType dtype() const { return view_.dtype; }
  Index bytes() const { return view_.rows * view_.cols * size_of(view_.dtype); }
  /// The start of row r.
  template <class T>
  T* row(Index r) const {
    return view_.row<T>(r);
  }

 private:
  View view_;
  std::shared_ptr<Pool> pool_;
};

/// "f32[1 x 1536]"
std::string shape_of(ConstView);

/// Throw an Error "what: expected f32[2 x 3], found ..." unless the view is as named.
void expect_shape(const char* what, ConstView, Index rows, Index cols, DType);
void expect_same_shape(const char* what, ConstView, ConstView);
/// Throws an Error unless the view holds elements that kernels compute on: f64, f32 or bf16.
void expect_float(const char* what, ConstView);

/// Copies all elements between views of one shape, converting where the dtypes differ (f64, f32
/// and bf16; i32 only to i32). For the machine's own memory; runs on the calling thread.
void copy(View to, ConstView from);

/// Sets all elements, also those of i32 views, to value. For the machine's own memory.
void fill(View, double value);

}  // namespace samba
