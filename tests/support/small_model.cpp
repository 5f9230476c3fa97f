#include "support/small_model.h"

#include <random>

#include "support/small_layer.h"

namespace samba::test {
namespace {

View column(const std::vector<int>& ids) {
  static_assert(sizeof(int) == 4);
  auto* data = const_cast<int*>(ids.data());
  return {reinterpret_cast<std::byte*>(data), static_cast<Index>(ids.size()), 1, 1, DType::i32};
}

}  // namespace

ModelConfig small_samba(bool tied, Index window) {
  const Json swiglu = {{"type", "swiglu"}, {"d_ff", 20}};
  Json attention = {{"type", "attention"}, {"heads", 3}, {"kv_heads", 1}};
  if (window > 0) attention["window"] = window;
  ModelConfig config;
  config.name = config.place = "small";
  config.vocab = 37;
  config.d_model = 24;
  config.context = 64;
  config.tied = tied;
  config.layers = {Json{{"type", "mamba"}, {"d_state", 5}}, swiglu, attention, swiglu};
  return config;
}

SmallModel::SmallModel(const ModelConfig& config, const Target& target, bool training, int threads)
    : stream_(target.stream(threads)),
      model_(std::make_unique<Model>(config, stream_, target.dtype)) {
  model_->allocate(training);
  int seed = 500;
  for (Parameter& p : model_->parameters()) {
    Host values = values_of(p, seed++);
    copy(p.value, View{reinterpret_cast<std::byte*>(values.values.data()), p.rows, p.cols, p.cols,
                       DType::f64});
  }
}

Host SmallModel::logits(const std::vector<int>& ids, const std::vector<Span>& spans,
                        States* states) {
  const Index n = static_cast<Index>(ids.size());
  Pass pass{stream_, batch_of(spans), states, false};
  Matrix x(stream_, model_->dtype(), n, model_->config().d_model);
  Matrix y(stream_, exact_of(model_->dtype()), n, model_->config().vocab);
  model_->forward(pass, upload(stream_, column(ids)), x);
  model_->head(pass, x, y);
  return host(y);
}

double SmallModel::loss_and_gradient(const std::vector<int>& ids, const std::vector<int>& targets,
                                     const std::vector<Span>& spans) {
  model_->zero_gradients();
  Pass pass{stream_, batch_of(spans), nullptr, true};
  return model_->loss_and_gradient(pass, upload(stream_, column(ids)),
                                   upload(stream_, column(targets)),
                                   1 / static_cast<double>(ids.size()));
}

double SmallModel::loss(const std::vector<int>& ids, const std::vector<int>& targets,
                        const std::vector<Span>& spans, Host* each) {
  Pass pass{stream_, batch_of(spans), nullptr, false};
  Matrix losses(stream_, exact_of(model_->dtype()), static_cast<Index>(ids.size()), 1);
  const double sum =
      model_->loss(pass, upload(stream_, column(ids)), upload(stream_, column(targets)), losses);
  if (each != nullptr) *each = host(losses);
  return sum;
}

std::vector<Host> SmallModel::gradients() const {
  std::vector<Host> all;
  for (const Parameter& p : model_->parameters()) all.push_back(host(p.grad));
  return all;
}

std::vector<int> random_ids(Index count, Index vocab, int seed) {
  std::mt19937_64 generator(static_cast<std::uint64_t>(seed));
  std::vector<int> ids(static_cast<std::size_t>(count));
  for (int& id : ids) id = static_cast<int>(generator() % static_cast<std::uint64_t>(vocab));
  return ids;
}

}  // namespace samba::test
