#include "support/small_layer.h"

#include <algorithm>
#include <cmath>

#include "kernels/rms_norm.h"
#include "kernels/run.h"

namespace samba::test {

Host values_of(const Parameter& p, int seed) {
  Host x = random(p.rows, p.cols, p.exact ? DType::f32 : DType::bf16, seed,
                  1 / std::sqrt(static_cast<double>(p.cols)));
  for (Index r = 0; r < p.rows; ++r)
    for (Index c = 0; c < p.cols; ++c) {
      double& v = x(r, c);
      if (p.init.kind == Init::Kind::log_steps) v = std::log(static_cast<double>(c + 1)) + 0.2 * v;
      if (p.init.kind == Init::Kind::time_step) v = v - 2;
      if (p.init.kind == Init::Kind::ones) v = v + 1;
      v = static_cast<float>(v);
    }
  return x;
}

SmallLayer::SmallLayer(const Json& entry, const Target& target, int threads)
    : stream_(target.stream(threads)), dtype_(target.dtype) {
  const DType dtype = dtype_;
  Json own = entry;
  layer_ = make_layer(own, "test", kWidth,
                      Plan(parameters_, shapes_, dtype, InitScheme{false, kWidth, 1, 1}));
  int seed = 100;
  for (Parameter& p : parameters_) {
    const DType type = p.exact ? exact_of(dtype) : dtype;
    p.value = Matrix(stream_, type, p.rows, p.cols);
    p.grad = Matrix(stream_, exact_of(dtype), p.rows, p.cols);
    Host values = values_of(p, seed++);
    copy(p.value, View{reinterpret_cast<std::byte*>(values.values.data()), p.rows, p.cols, p.cols,
                       DType::f64});
    fill(p.grad, 0);
  }
}

Host shaken(const Host& x, DType dtype, int seed) {
  Host moved = random(x.rows, x.cols, DType::f64, seed);
  for (std::size_t i = 0; i < x.values.size(); ++i)
    moved.values[i] =
        x.values[i] * (1 + std::clamp(moved.values[i], -1.0, 1.0) * unit_roundoff(dtype));
  return moved;
}

void SmallLayer::shake(DType dtype, int seed) {
  for (Parameter& p : parameters_) {
    Host moved = shaken(host(p.value), p.exact ? exact_of(dtype) : dtype, seed++);
    copy(p.value, View{reinterpret_cast<std::byte*>(moved.values.data()), p.rows, p.cols, p.cols,
                       DType::f64});
  }
}

Matrix SmallLayer::upload(const Host& x) {
  return upload(x, dtype_);
}

Matrix SmallLayer::upload(const Host& x, DType dtype) {
  Matrix m(stream_, dtype, x.rows, x.cols);
  auto* values = const_cast<double*>(x.values.data());
  copy(m, View{reinterpret_cast<std::byte*>(values), x.rows, x.cols, x.cols, DType::f64});
  return m;
}

Host SmallLayer::forward(const Host& x, const std::vector<Span>& spans, States* states) {
  const Matrix in = upload(x), out = upload(Host(x.rows, x.cols));
  Pass pass{stream_, batch_of(spans), states, false};
  layer_->forward(pass, in, out);
  return host(out);
}

SmallLayer::OnStream SmallLayer::forward_on_stream(const Host& stream, const Host& norm,
                                                   const std::vector<Span>& spans) {
  constexpr double kEps = 1e-5;
  const Matrix residual = upload(stream, exact_of(dtype_)), w = upload(norm, exact_of(dtype_));
  const Matrix rows = upload(Host(stream.rows, stream.cols)), out = upload(host(rows));
  Pass pass{stream_, batch_of(spans), nullptr, false};
  run(stream_, op::RmsNorm{.y = rows, .x = residual, .w = w, .eps = kEps});
  layer_->forward(pass, rows, out);
  layer_->forward(pass, Input(residual, dtype_, w.view(), kEps), Output(residual, true));
  return {host(residual), host(out)};
}

Host SmallLayer::backward(const Host& x, const std::vector<Span>& spans, const Host& dy) {
  const Matrix in = upload(x), out = upload(x), dout = upload(dy),
               dx = upload(Host(x.rows, x.cols));
  for (Parameter& p : parameters_) fill(p.grad, 0);
  Pass pass{stream_, batch_of(spans), nullptr, true};
  layer_->forward(pass, in, out);
  layer_->backward(pass, in, dout, dx);
  return host(dx);
}

States SmallLayer::make_states(Index slots, Index context) {
  States states;
  for (const StateShape& shape : shapes_) {
    states.emplace_back(stream_, shape.dtype, slots,
                        shape.per_token ? shape.width * context : shape.width);
    fill(states.back(), 0);
  }
  return states;
}

}  // namespace samba::test
