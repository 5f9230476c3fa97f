#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "model/model.h"
#include "support/compare.h"

// The first weights of every layer type in both schemes, by what can be measured of them.

namespace samba::test {
namespace {

constexpr double kD = 64, kFf = 96, kInner = 2 * kD;
constexpr double kBlocks = 6, kResiduals = 2 * kBlocks;
constexpr const char* kModel = R"({
  "name": "n", "vocab": 200, "d_model": 64, "tied": false, "layers": [
    {"type": "mamba"},
    {"type": "swiglu", "d_ff": 96},
    {"type": "attention", "heads": 4, "kv_heads": 2, "qkv_bias": true, "short_conv": 4},
    {"type": "swiglu", "d_ff": 96},
    {"type": "gla", "heads": 2, "short_conv": 4},
    {"type": "swiglu", "d_ff": 96},
    {"type": "retention", "heads": 2},
    {"type": "swiglu", "d_ff": 96},
    {"type": "mega_s6", "chunk": 8, "z_width": 32},
    {"type": "swiglu", "d_ff": 96},
    {"type": "swiglu", "d_ff": 128},
    {"type": "swiglu", "d_ff": 96}]})";

struct Law {
  Init::Kind kind;
  double scale = 0;
};
using Laws = std::map<std::string, Law>;

Law uniform(double bound) {
  return {Init::Kind::uniform, bound};
}
Law normal(double deviation) {
  return {Init::Kind::normal, deviation};
}
const Law kZeros{Init::Kind::zeros}, kOnes{Init::Kind::ones};
const Law kLogSteps{Init::Kind::log_steps}, kTimeStep{Init::Kind::time_step};

double glorot(double inputs, double outputs) {
  return std::exp2(-2.5) * std::sqrt(6 / (inputs + outputs));
}

/// What neither scheme changes.
Laws common_laws() {
  Laws laws{{"norm.weight", kOnes}};
  for (int layer = 0; layer < 12; ++layer)
    laws["layers." + std::to_string(layer) + ".norm.weight"] = kOnes;
  for (const auto& [at, rank] : {std::pair("layers.0.", 4.0), std::pair("layers.8.", 2.0)}) {
    const std::string scope = at;
    laws[scope + "conv.weight"] = laws[scope + "conv.bias"] = uniform(0.5);
    laws[scope + "dt_proj.weight"] = uniform(1 / std::sqrt(rank));
    laws[scope + "dt_proj.bias"] = kTimeStep;
    laws[scope + "a_log"] = kLogSteps;
    laws[scope + "d"] = kOnes;
  }
  laws["layers.2.conv.weight"] = laws["layers.4.conv.weight"] = uniform(0.5);
  laws["layers.2.qkv.bias"] = laws["layers.4.gate_up.bias"] = kZeros;
  laws["layers.4.head_norm.weight"] = laws["layers.6.head_norm.weight"] = kOnes;
  for (const char* name : {"v_proj.bias", "m_proj.bias", "h_proj.bias", "beta"})
    laws[std::string("layers.8.") + name] = kZeros;
  for (const char* name : {"gamma", "position_bias"})
    laws[std::string("layers.8.") + name] = normal(0.02);
  return laws;
}

/// Uniform weights, what joins the residual stream smaller.
Laws mamba_laws() {
  Laws laws = common_laws();
  const double smaller = 1 / std::sqrt(kResiduals), d = 1 / std::sqrt(kD);
  laws["embedding.weight"] = normal(0.02);
  laws["head.weight"] = uniform(d);
  laws["layers.0.in_proj.weight"] = uniform(d);
  laws["layers.0.x_proj.weight"] = uniform(1 / std::sqrt(kInner));
  laws["layers.0.out_proj.weight"] = uniform(smaller / std::sqrt(kInner));
  laws["layers.2.qkv.weight"] = uniform(d);
  laws["layers.2.out.weight"] = uniform(smaller * d);
  laws["layers.4.qk.weight"] = uniform(glorot(kD, kD / 2));
  laws["layers.4.vg.weight"] = uniform(glorot(kD, kD));
  laws["layers.4.gate_down.weight"] = uniform(glorot(kD, 16));
  laws["layers.4.gate_up.weight"] = uniform(glorot(16, kD / 2));
  laws["layers.4.out.weight"] = uniform(smaller * glorot(kD, kD));
  laws["layers.6.qk.weight"] = uniform(glorot(kD, kD));
  laws["layers.6.vg.weight"] = uniform(glorot(kD, 2 * kD));
  laws["layers.6.out.weight"] = uniform(smaller * glorot(2 * kD, kD));
  for (const char* name : {"v_proj", "m_proj", "h_proj"})
    laws[std::string("layers.8.") + name + ".weight"] = normal(0.02);
  laws["layers.8.x_proj.weight"] = uniform(d);
  for (const int layer : {1, 3, 5, 7, 9, 10, 11}) {
    const std::string at = "layers." + std::to_string(layer);
    laws[at + ".gate_up.weight"] = uniform(d);
    laws[at + ".down.weight"] = uniform(smaller / std::sqrt(layer == 10 ? kInner : kFf));
  }
  return laws;
}

/// Normal weights, whatever the layer.
Laws neox_laws() {
  Laws laws = common_laws();
  for (const char* name : {"embedding",         "head",
                           "layers.0.in_proj",  "layers.0.x_proj",
                           "layers.2.qkv",      "layers.4.qk",
                           "layers.4.vg",       "layers.4.gate_down",
                           "layers.4.gate_up",  "layers.6.qk",
                           "layers.6.vg",       "layers.8.v_proj",
                           "layers.8.m_proj",   "layers.8.h_proj",
                           "layers.8.x_proj",   "layers.1.gate_up",
                           "layers.3.gate_up",  "layers.5.gate_up",
                           "layers.7.gate_up",  "layers.9.gate_up",
                           "layers.10.gate_up", "layers.11.gate_up"})
    laws[std::string(name) + ".weight"] = normal(std::sqrt(2 / (5 * kD)));
  for (const char* name : {"layers.0.out_proj", "layers.2.out", "layers.4.out", "layers.6.out",
                           "layers.1.down", "layers.3.down", "layers.5.down", "layers.7.down",
                           "layers.9.down", "layers.10.down", "layers.11.down"})
    laws[std::string(name) + ".weight"] = normal(1 / (std::sqrt(kD) * kBlocks));
  return laws;
}

/// Five deviations of what is estimated from n values: a chance of one in two million each.
double bound(double deviation, double n) {
  return 5 * deviation / std::sqrt(n);
}

void expect_law(const std::string& name, const Host& values, const Law& law) {
  SCOPED_TRACE(name);
  const auto n = static_cast<double>(values.values.size());
  double sum = 0, squares = 0, largest = 0, logs = 0;
  for (const double x : values.values) {
    sum += x;
    squares += x * x;
    largest = std::max(largest, std::abs(x));
    logs += std::log(std::log1p(std::exp(x)));
  }
  const double s = law.scale;
  switch (law.kind) {
    case Init::Kind::zeros: EXPECT_EQ(largest, 0); break;
    case Init::Kind::ones:
      for (const double x : values.values) ASSERT_EQ(x, 1);
      break;
    case Init::Kind::uniform:
      EXPECT_LE(largest, s);
      EXPECT_NEAR(sum / n, 0, bound(s / std::sqrt(3.0), n));
      EXPECT_NEAR(squares / n, s * s / 3, bound(s * s * std::sqrt(4.0 / 45), n));
      break;
    case Init::Kind::normal:
      EXPECT_GT(largest, 1.8 * s) << "of a uniform distribution";
      EXPECT_NEAR(sum / n, 0, bound(s, n));
      EXPECT_NEAR(squares / n, s * s, bound(s * s * std::sqrt(2.0), n));
      break;
    case Init::Kind::log_steps:
      for (Index r = 0; r < values.rows; ++r)
        for (Index c = 0; c < values.cols; ++c)
          ASSERT_DOUBLE_EQ(values(r, c), std::log(static_cast<double>(c + 1)));
      break;
    case Init::Kind::time_step: {
      const double low = std::log(1e-3), high = std::log(1e-1);
      for (const double x : values.values) {
        const double step = std::log(std::log1p(std::exp(x)));
        ASSERT_TRUE(step > low - 1e-9 && step < high + 1e-9) << step;
      }
      EXPECT_NEAR(logs / n, (low + high) / 2, bound((high - low) / std::sqrt(12.0), n));
      break;
    }
  }
}

void expect_laws(const char* scheme, Laws laws) {
  Json document = parse_json(kModel, "test");
  document["init"] = scheme;
  Stream stream(2);
  Model model(model_config(document, "test"), stream, DType::f64);
  model.allocate(false);
  initialise(model, 3407);
  for (const Parameter& p : model.parameters()) {
    ASSERT_TRUE(laws.contains(p.name)) << p.name;
    expect_law(p.name, host(p.value), laws.at(p.name));
  }
}

TEST(Initialise, SchemeMambaDrawsUniformWeights) {
  expect_laws("mamba", mamba_laws());
}

TEST(Initialise, SchemeNeoxDrawsNormalWeights) {
  expect_laws("neox", neox_laws());
}

}  // namespace
}  // namespace samba::test
