#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "core/files.h"
#include "core/rng.h"
#include "model/bytes.h"
#include "model/temporary_folder.h"
#include "support/small_model.h"
#include "text/packed.h"
#include "train/trainer.h"

namespace samba::test {

/// Writes ids below 64 as a folder of one packed file; the end mark is id 2.
inline std::string write_packed(const std::string& folder, const std::vector<std::int32_t>& ids) {
  make_folder(folder);
  PackedMeta meta;
  meta.split = "train";
  meta.tokenizer_hash = "h";
  meta.vocabulary = 64;
  meta.eos = 2;
  meta.type = PackedType::u16;
  meta.chunk = meta.tokens = static_cast<Index>(ids.size());
  PackedWriter writer(folder, "x", meta.chunk, meta.type);
  writer.write(ids);
  writer.finish();
  meta.files = writer.files();
  write_packed_meta(folder, meta);
  return folder;
}

/// Windows of `length` ids, each a random word of `period` ids from 3 to 10 over and over: what
/// follows its first appearance can be copied.
inline std::vector<std::int32_t> repeated_words(Index windows, Index length, Index period,
                                                std::uint64_t seed) {
  const Rng rng{seed, 0};
  std::vector<std::int32_t> ids;
  for (Index w = 0; w < windows; ++w)
    for (Index i = 0; i < length; ++i)
      ids.push_back(3 + static_cast<std::int32_t>(
                            rng.below(8, static_cast<std::uint64_t>(w * period + i % period))));
  return ids;
}

/// A model, its data and its trainer. Two of the same arguments compute the same.
struct TinyRun {
  /// The small Samba with a vocabulary of 64 and another width.
  static ModelConfig model_config(Index d_model = 24) {
    ModelConfig config = small_samba();
    config.vocab = 64;
    config.d_model = d_model;
    return config;
  }

  TinyRun(const std::string& data_folder, TrainConfig train, DType dtype = DType::f32,
          std::uint64_t seed = 1, Stream on = Stream(2), const ModelConfig& config = model_config())
      : stream(std::move(on)), model(config, stream, dtype) {
    complete(train, config);
    model.allocate(true);
    initialise(model, seed);
    DataOptions options;
    options.sources = {{data_folder, 1}};
    options.length = train.length + 1;
    options.seed = 17;
    data = std::make_unique<TokenStream>(options);
    trainer = std::make_unique<Trainer>(model, *data, train, 2);
  }

  /// The mean loss of the last of so many steps.
  double steps(Index count) {
    double loss = 0;
    for (Index i = 0; i < count; ++i) loss = trainer->step().loss;
    return loss;
  }
  std::vector<Host> weights() const {
    std::vector<Host> all;
    for (const Optimizer::Slot& slot : trainer->optimizer().slots())
      all.push_back(host(slot.weights()));
    return all;
  }

  Stream stream;
  Model model;
  std::unique_ptr<TokenStream> data;
  std::unique_ptr<Trainer> trainer;
};

inline void expect_same(const std::vector<Host>& actual, const std::vector<Host>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    SCOPED_TRACE(i);
    expect_same(actual[i], expected[i]);
  }
}

}  // namespace samba::test
