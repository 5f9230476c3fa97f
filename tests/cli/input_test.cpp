#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "cli/program.h"
#include "core/error.h"
#include "model/bytes.h"
#include "model/torch_archive.h"
#include "support/shared.h"

namespace samba::test {
namespace {

namespace fs = std::filesystem;

/// A document with one of its keys replaced.
std::string changed(const std::string& json, const Json& changes) {
  Json document = parse_json(json, "test");
  document.update(changes);
  return document.dump();
}

TEST(Configuration, UnknownKeysAreNamedWithTheirPlace) {
  const Workplace place;
  const auto refuse = [&](const Json& config, const std::vector<std::string>& parts) {
    place.write("bad.json", config.dump());
    place.refuse(1, {"info", "bad.json"}, parts);
  };
  refuse(mini({{"d_modle", 3}}), {"bad.json: unknown key \"d_modle\"", "d_model"});
  Json config = mini();
  config["layers"][2]["windw"] = 4;
  refuse(config, {"bad.json: layers[2]: unknown key \"windw\"", "window"});
  config["layers"][2]["windw\nx"] = 4;
  config["layers"][2].erase("windw");
  refuse(config, {"bad.json: layers[2]: unknown key \"windw?x\""});
  place.write("bad.json", mini({{"train", {{"stepps", 3}}}}).dump());
  place.refuse(1, {"train", "bad.json", "--data", "data", "--out", "run"},
               {"bad.json: train: unknown key \"stepps\"", "steps"});
}

TEST(Configuration, LayersThatCannotBeAreNamedWithFileAndPlace) {
  const Workplace place;
  const auto refuse = [&](std::size_t layer, const Json& changes, const std::string& message) {
    Json config = mini();
    config["layers"][layer].update(changes);
    place.write("bad.json", config.dump());
    place.refuse(1, {"info", "bad.json"}, {text_of("bad.json: layers[", layer, "]: ", message)});
  };
  refuse(2, {{"window", 0}},
         "window: expected 1 to 16777216, found 0; without the key attention is full");
  refuse(2, {{"window", -1}},
         "window: expected 1 to 16777216, found -1; without the key attention is full");
  refuse(2, {{"window", 1e30}}, "window: expected a whole number, found 1e+30");
  refuse(2, {{"window", Index{1} << 62}}, "window: expected 1 to");
  refuse(2, {{"heads", 5}}, "heads: expected a divisor of d_model = 32, found 5");
  refuse(2, {{"heads", 0}}, "heads: expected 1 to");
  refuse(2, {{"kv_heads", 3}}, "kv_heads: expected a divisor of heads = 2, found 3");
  refuse(2, {{"heads", 32}}, "head_width: expected an even number");
  refuse(2, {{"heads", Index{1} << 24}, {"head_width", 2}}, "heads * head_width: expected 1 to");
  refuse(0, {{"d_state", Index{1} << 60}}, "d_state: expected 1 to");
  refuse(0, {{"d_conv", 0}}, "d_conv: expected 1 to");
  refuse(0, {{"expand", Index{1} << 24}}, "expand * d_model: expected 1 to");
  refuse(0, {{"dt_rank", -2}}, "dt_rank: expected 1 to");
  refuse(1, {{"d_ff", -4}}, "d_ff: expected 1 to");
  refuse(1, {{"d_ff", "64"}}, "d_ff: expected a whole number, found \"64\"");
  refuse(1, {{"type", "mlp"}},
         "unknown type \"mlp\"; expected one of attention, gla, mamba, mega_s6,");
}

TEST(Configuration, WhatIsNoConfigurationIsNamed) {
  const Workplace place;
  const auto refuse = [&](const std::string& bytes, const std::vector<std::string>& parts) {
    place.write("bad.json", bytes);
    place.refuse(1, {"info", "bad.json"}, parts);
  };
  const std::string whole = mini().dump(1);
  refuse("", {"bad.json: not JSON at line 1"});
  refuse(whole.substr(0, whole.size() / 2), {"bad.json: not JSON at line"});
  refuse(whole + "}", {"bad.json: not JSON at line"});
  refuse("[1, 2]", {"bad.json: expected an object"});
  refuse("null", {"bad.json: expected an object"});
  refuse("\xff\xfe{\0}", {"bad.json: not JSON"});
  refuse("{\"layers\": [], \"layers\": []}", {"bad.json: key \"layers\" stands twice"});
  refuse(std::string(100'000, '['), {"bad.json: nested deeper than 64"});
  refuse("{\"layers\": [], \"d_model\": 1e999}", {"bad.json"});
  refuse(changed(whole, {{"vocab", 0}}), {"bad.json: vocab: expected 1 to"});
  refuse(changed(whole, {{"d_model", -8}}), {"bad.json: d_model: expected 1 to"});
  refuse(changed(whole, {{"context", 3.5}}), {"bad.json: context: expected a whole number"});
  refuse(changed(whole, {{"vocab", Index{1} << 24}, {"d_model", Index{1} << 24}}), {"bad.json: "});
  refuse("{\"model_type\": \"gpt2\"}", {"bad.json", "gpt2", "llama, mistral, mamba"});
  refuse(
      "{\"layers\": [{\"repeat\": 1000000, \"layers\": [{\"repeat\": 1000000, \"layers\": "
      "[{\"type\": \"mamba\"}]}]}], \"d_model\": 8, \"vocab\": 8}",
      {"bad.json: layers", "expected at most"});
  place.refuse(1, {"info", "missing.json"}, {"missing.json: no such preset", "info --list"});
  fs::create_directory(place / "empty");
  place.refuse(1, {"info", "empty"}, {"empty: expected a model folder", "config.json"});
}

TEST(Weights, DamagedOnesAreNamed) {
  const Prepared place;
  const std::string folder = "run/step-00000002/",
                    weights = place.read(folder + "model.safetensors");
  const auto refuse = [&](const std::string& bytes, const std::vector<std::string>& parts) {
    place.write(folder + "model.safetensors", bytes);
    std::vector<std::string> all = parts;
    all.emplace_back("run/step-00000002/model.safetensors: ");
    place.refuse(1, {"generate", "run", "the", "--tokens", "1"}, all);
  };
  refuse("", {});
  refuse(weights.substr(0, 5), {});
  refuse(weights.substr(0, 300), {});
  refuse(weights.substr(0, weights.size() - 4), {});
  refuse(weights + "more", {});
  refuse(std::string("\xff\xff\xff\xff\xff\xff\xff\x7f", 8) + weights.substr(8), {});
  std::string renamed = weights;
  renamed.replace(renamed.find("layers.0.a_log"), 14, "layers.9.a_log");
  refuse(renamed, {"layers.9.a_log", "its config.json describes another"});
  fs::remove(place / (folder + "model.safetensors"));
  place.refuse(1, {"generate", "run", "the"}, {"run/step-00000002: found no weights"});
  fs::create_directory(place / (folder + "model.safetensors"));
  place.refuse(1, {"generate", "run", "the"}, {"model.safetensors: cannot read: Is a directory"});
}

TEST(Weights, ThoseOfAnotherModelAreNamed) {
  const Prepared place;
  place.write("wide.json", mini({{"d_model", 48}}).dump());
  place.succeed({"train", "wide.json", "--data", "data", "--out", "wide", "--quiet"});
  fs::copy_file(place / "wide/step-00000002/model.safetensors",
                place / "run/step-00000002/model.safetensors",
                fs::copy_options::overwrite_existing);
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"generate", "run", "the"},
        {"train", "mini.json", "--data", "data", "--out", "run", "--resume", "--steps", "4"},
        {"bench", "run"}})
    place.refuse(1, words, {"run/step-00000002/model.safetensors", "describes another model"});
}

TEST(Weights, HostileTorchFilesAreParsedAsData) {
  const Prepared place(Prepared::Until::tokenizer);
  place.write("model/config.json", mini().dump());
  fs::copy_file(place / "tokenizer.model", place / "model/tokenizer.model");
  const std::string name = "model/iter-000001-ckpt.pth";
  const auto refuse = [&](const std::string& bytes) {
    place.write(name, bytes);
    place.refuse(1, {"generate", "model", "the"}, {name + ": "});
    EXPECT_FALSE(fs::exists(place / "owned"));
  };
  using namespace torch;
  const std::string call = global("os", "system") + tuple({text("touch owned")}) + "R";
  const std::string one = storage("FloatStorage", "0", 4);
  const std::string data(16, '\0');
  refuse(save(call, ""));
  refuse(save(dict({{"w", call}}), ""));
  refuse(save(global("builtins", "eval") + tuple({text("open('owned','w')")}) + "R", ""));
  refuse(
      save("i"
           "os\nsystem\n",
           ""));
  refuse(save(dict({{"w", tensor(one, 0, {1 << 20, 1 << 20}, {1 << 20, 1})}}), data));
  refuse(save(dict({{"w", tensor(one, 1'000'000, {4}, {1})}}), data));
  refuse(save(dict({{"w", tensor(storage("FloatStorage", "0", 1'000'000), 0, {4}, {1})}}), data));
  refuse(
      save(dict({{"w", tensor(one, 0, {4}, {1})}}), data));  // sound, but no tensor of this model
  refuse(save(std::string(1'000'000, '('), ""));
  const std::string sound = save(dict({{"w", tensor(one, 0, {4}, {1})}}), data);
  refuse(sound.substr(0, sound.size() / 2));
  refuse("");
  refuse("PK\x05\x06");
  refuse(std::string(5000, 'x'));
}

TEST(Tokenizer, DamagedOnesAreNamed) {
  const Prepared place(Prepared::Until::tokenizer);
  const std::string whole = place.read("tokenizer.model");
  place.write("huge.model", "");
  fs::resize_file(place / "huge.model", std::uintmax_t{1} << 32);
  place.write("empty.model", "");
  place.write("cut.model", whole.substr(0, whole.size() / 2));
  place.write("text.model", "This is no tokenizer at all.\n");
  for (const std::string name :
       {"huge.model", "empty.model", "cut.model", "text.model", "none.model"}) {
    place.refuse(1, {"tokenizer", "encode", name, "the"}, {name + ": "});
    place.refuse(1, {"tokenizer", "decode", name, "5"}, {name + ": "});
    place.refuse(1, {"prepare", "text.jsonl", "--tokenizer", name, "--out", "data"}, {name + ": "});
  }
}

TEST(Tokenizer, IdsOutOfRangeAndWhatIsNoneAreNamed) {
  const Prepared place(Prepared::Until::tokenizer);
  place.refuse(1, {"tokenizer", "decode", "tokenizer.model", "320"}, {"id 320", "0 to 319"});
  place.refuse(1, {"tokenizer", "decode", "tokenizer.model", "5,-1"}, {"id -1", "0 to 319"});
  place.refuse(1, {"tokenizer", "decode", "tokenizer.model", "99999999999"}, {"99999999999"});
  place.refuse(1, {"tokenizer", "decode", "tokenizer.model"}, {"whole numbers", "five"},
               {.input = "3 five 4"});
}

TEST(Tokenizer, TrainingRefusesWhatItCannotUse) {
  const Workplace place;
  place.write("empty.txt", "");
  place.write("short.txt", "Too little text for so many pieces.");
  place.write("latin.txt", "caf\xe9");
  const auto refuse = [&](const std::string& text, const std::string& vocab,
                          const std::string& part) {
    place.refuse(1, {"tokenizer", "train", text, "--vocab", vocab, "--out", "t.model"}, {part});
  };
  refuse("none.txt", "320", "none.txt: no such file or folder");
  refuse("empty.txt", "320", "empty.txt");
  refuse("short.txt", "32000", "short.txt");
  refuse("short.txt", "0", "vocab: expected 1 to 1000000, found 0");
  refuse("short.txt", "10", "vocab");
  refuse("latin.txt", "320", "latin.txt: found text that is not UTF-8 at byte 3");
  place.refuse(2, {"tokenizer", "train", "short.txt"}, {"--out"});
  place.refuse(2, {"tokenizer", "train", "short.txt", "--out", "t.json"}, {"--out FILE.model"});
}

TEST(Text, ThatIsNotUtf8IsNamedWithItsPlace) {
  const Prepared place;
  place.write("latin.txt", "A caf\xe9 here");
  place.write("latin.jsonl", "{\"text\": \"fine\"}\n{\"text\": \"caf\xe9\"}\n");
  place.refuse(1, {"prepare", "latin.txt", "--tokenizer", "tokenizer.model", "--out", "new"},
               {"latin.txt: found text that is not UTF-8 at byte 5"});
  place.refuse(1, {"prepare", "latin.jsonl", "--tokenizer", "tokenizer.model", "--out", "new/deep"},
               {"latin.jsonl:2: ", "not UTF-8"});
  place.refuse(1, {"generate", "run", "--file", "latin.txt"},
               {"latin.txt: ", "not UTF-8 at byte 5"});
  place.refuse(1, {"generate", "run"}, {"standard input: ", "byte 1"}, {.input = "x\xff"});
  place.refuse(1, {"generate", "run", "caf\xe9"}, {"prompt: ", "byte 3"});
  place.refuse(1, {"tokenizer", "encode", "tokenizer.model", "caf\xe9"}, {"text: ", "byte 3"});
  place.refuse(1, {"tokenizer", "encode", "tokenizer.model"}, {"standard input: ", "byte 0"},
               {.input = "\x80"});
}

TEST(Text, ThatCannotBePackedIsNamed) {
  const Prepared place(Prepared::Until::data);
  const auto refuse = [&](std::vector<std::string> words, const std::vector<std::string>& parts) {
    words.insert(words.begin(), "prepare");
    words.insert(words.end(), {"--tokenizer", "tokenizer.model"});
    place.refuse(1, words, parts);
  };
  place.write("wrong.jsonl", "{\"text\": \"fine\"}\n{\"text\": 5}\n");
  place.write("cut.jsonl", "{\"text\": \"fine\"}\n{\"text\": \"fi");
  place.write("none.jsonl", "{\"txt\": \"fine\"}\n");
  place.write("bad.jsonl.zst", "This is not compressed.");
  place.write("blank.jsonl", "\n\n");
  fs::create_directory(place / "nothing");
  refuse({"wrong.jsonl", "--out", "new"}, {"wrong.jsonl:2: field \"text\": found a number"});
  refuse({"cut.jsonl", "--out", "new"}, {"cut.jsonl:2: not JSON"});
  refuse({"none.jsonl", "--out", "new"}, {"none.jsonl:1: found no field \"text\""});
  refuse({"bad.jsonl.zst", "--out", "new"}, {"bad.jsonl.zst: "});
  refuse({"blank.jsonl", "--out", "new"}, {"blank.jsonl: found no documents"});
  refuse({"nothing", "--out", "new"}, {"nothing: found no files"});
  refuse({"missing", "--out", "new"}, {"missing: no such file or folder"});
  refuse({"text.jsonl", "--out", "data"}, {"data/train: exists"});
  refuse({"text.jsonl", "--out", "data", "--split", "other", "--validation", "0.1"},
         {"data/validation: exists"});
  refuse({"text.jsonl", "--out", "mini.json"}, {"mini.json"});
  refuse({"text.jsonl", "--out", "new", "--validation", "1.5"}, {"validation: found 1.5"});
  refuse({"text.jsonl", "--out", "new", "--chunk", "0"}, {"chunk: found 0"});
  refuse({"text.jsonl", "--out", "new", "--processes", "0"}, {"processes", "found 0"});
  refuse({"text.jsonl", "--out", "new", "--split", "a/b"}, {"split", "a/b"});
}

TEST(Data, DamagedPackedFilesAreNamed) {
  const Prepared place(Prepared::Until::data);
  const std::string meta = place.read("data/train/meta.json"),
                    name = parse_json(meta, "meta").at("files")[0].at("name"),
                    file = "data/train/" + name, whole = place.read(file);
  const auto refuse = [&](const std::vector<std::string>& parts) {
    place.refuse(1, {"train", "mini.json", "--data", "data", "--out", "run", "--quiet"}, parts);
  };
  const auto refuse_bytes = [&](const std::string& bytes) {
    place.write(file, bytes);
    refuse({file + ": "});
  };
  refuse_bytes("");
  refuse_bytes(whole.substr(0, 20));
  refuse_bytes(whole.substr(0, whole.size() - 2));
  refuse_bytes(whole + "xx");
  refuse_bytes("X" + whole.substr(1));
  std::string lying = whole;
  lying.replace(16, 8, "\xff\xff\xff\xff\xff\xff\xff\x7f", 8);
  refuse_bytes(lying);
  place.write(file, whole);
  for (const Json& changes :
       {Json{{"version", 9}}, Json{{"files", Json::array()}}, Json{{"files", 3}},
        Json{{"vocabulary", "many"}}, Json{{"dtype", "f64"}}}) {
    place.write("data/train/meta.json", changed(meta, changes));
    refuse({"data/train"});
  }
  place.write("data/train/meta.json", meta.substr(0, meta.size() / 2));
  refuse({"data/train/meta.json: not JSON"});
  place.write("data/train/meta.json", meta);
  fs::remove(place / file);
  refuse({file + ": cannot open: No such file"});
}

TEST(Data, IdsOutOfRangeAreNamedWithFileAndPlace) {
  const Prepared place(Prepared::Until::data);
  const std::string meta = place.read("data/train/meta.json"),
                    name = parse_json(meta, "meta").at("files")[0].at("name"),
                    file = "data/train/" + name;
  std::string bytes = place.read(file);
  for (std::size_t at = 24; at + 1 < bytes.size(); at += 2)
    bytes.replace(at, 2, "\x41\x01");  // 321
  place.write(file, bytes);
  const Ended ended =
      place.run({"train", "mini.json", "--data", "data", "--out", "run", "--quiet"});
  EXPECT_EQ(ended.code, 1);
  EXPECT_NE(ended.err.find(file + ": token "), std::string::npos) << ended.err;
  EXPECT_NE(ended.err.find("found id 321; expected 0 to 319"), std::string::npos) << ended.err;
  EXPECT_FALSE(fs::exists(place / "run/last.json"));
}

TEST(Data, OfAnotherTokenizerIsRefused) {
  const Prepared place;
  place.write("other.jsonl", documents(150, 7));
  place.succeed({"tokenizer", "train", "other.jsonl", "--vocab", "300", "--out", "other.model"});
  place.succeed({"prepare", "other.jsonl", "--tokenizer", "other.model", "--out", "other",
                 "--validation", "0.2"});
  place.refuse(1, {"train", "run", "--data", "other", "--out", "new", "--steps", "1"},
               {"other/train: packed with the tokenizer "});
  place.refuse(1, {"train", "mini.json", "--data", "data", "--data", "other", "--out", "new"},
               {"other/train: packed with the tokenizer "});
  place.refuse(1, {"eval", "perplexity", "run", "--data", "other"},
               {"other/validation: packed with the tokenizer "});
  place.refuse(
      1, {"train", "mini.json", "--data", "other", "--out", "run", "--resume", "--steps", "4"},
      {"other/train: packed with the tokenizer "});
  place.write("small.json", mini({{"vocab", 299}}).dump());
  place.refuse(1, {"train", "small.json", "--data", "other", "--out", "new"},
               {"other/train: its tokenizer has 300 pieces", "299"});
}

TEST(Data, ThatIsNotThereOrTooShortIsNamed) {
  const Prepared place;
  place.refuse(1, {"train", "mini.json", "--data", "none", "--out", "new"},
               {"none: found no meta.json"});
  place.refuse(2, {"train", "mini.json", "--out", "new"}, {"--data"});
  place.refuse(2, {"train", "mini.json", "--data", "data"}, {"--out"});
  place.refuse(1, {"train", "mini.json", "--data", "data:heavy", "--out", "new"},
               {"weight", "heavy"});
  place.refuse(1, {"train", "mini.json", "--data", "data", "--out", "new", "--length", "1000000"},
               {"data/train: the longest file has", "1000001"});
  place.refuse(
      1,
      {"train", "mini.json", "--data", "data", "--out", "new", "--validate-lengths", "16,900000"},
      {"data/validation: the longest file has", "900001"});
  place.refuse(1, {"eval", "perplexity", "run", "--data", "data", "--lengths", "5000000"},
               {"data/validation: the longest file has"});
  place.refuse(1,
               {"eval", "perplexity", "run", "--data", "data", "--lengths", "9223372036854775807"},
               {"lengths: expected 1 to"});
  place.refuse(1, {"eval", "perplexity", "run", "--data", "data", "--lengths", "0"},
               {"lengths: expected 1 to"});
}

TEST(Train, RefusesWhatNoRunCanHave) {
  const Prepared place(Prepared::Until::data);
  const auto refuse = [&](const std::string& option, const std::string& value,
                          const std::string& key) {
    place.refuse(1, {"train", "mini.json", "--data", "data", "--out", "new", option, value},
                 {key, value});
  };
  refuse("--steps", "0", "steps: expected");
  refuse("--batch", "0", "batch: expected");
  refuse("--micro-batch", "3", "micro_batch: expected");
  refuse("--length", "-5", "length: expected");
  refuse("--lr", "-1", "lr: expected");
  refuse("--warmup", "2", "warmup: expected");
  refuse("--schedule", "linear", "schedule: expected");
  refuse("--order", "random", "order: expected");
  refuse("--keep", "0", "keep: expected");
  refuse("--validate-sequences", "0", "validate");
  place.refuse(1,
               {"train", "mini.json", "--data", "data", "--out", "new", "--batch", "1048576",
                "--length", "400"},
               {"of memory are needed", "are free", "--micro-batch", "needs"});
}

TEST(Train, ARunIsNeverWrittenOver) {
  const Prepared place;
  place.refuse(1, {"train", "mini.json", "--data", "data", "--out", "run"},
               {"run: holds a run already", "--resume"});
  place.refuse(1, {"train", "mini.json", "--data", "data", "--out", "mini.json"}, {"mini.json"});
}

// Steps of rate 0 leave the masters as they began.
TEST(Train, WeightsBeginUnroundedInBf16Too) {
  const Prepared place;
  for (const std::string model : {"mini.json", "run"}) {
    const auto first_weights = [&](const std::string& dtype) {
      const std::string out = dtype + " of " + model;
      place.succeed({"train", model, "--data", "data", "--out", out, "--steps", "1", "--lr", "0",
                     "--dtype", dtype, "--quiet"});
      return place.read(out + "/step-00000001/model.safetensors");
    };
    EXPECT_TRUE(first_weights("bf16") == first_weights("f32")) << model;
  }
}

TEST(Train, DamagedCheckpointsAreNamed) {
  const Prepared place;
  const std::vector<std::string> resume = {"train", "mini.json", "--data",  "data", "--out",
                                           "run",   "--resume",  "--steps", "4",    "--quiet"};
  const auto refuse = [&](const std::string& name, const std::string& bytes) {
    const std::string whole = place.read(name);
    place.write(name, bytes);
    place.refuse(1, resume, {name});
    place.write(name, whole);
  };
  const std::string last = "run/last.json", folder = "run/step-00000002/",
                    whole_last = place.read(last);
  refuse(last, "");
  refuse(last, "{\"last\": 3}");
  place.write(last, "{\"last\": \"step-00000007\"}");
  place.refuse(1, resume, {"run/step-00000007/config.json: cannot open"});
  place.write(last, whole_last);
  refuse(folder + "trainer.json", "{\"step\": -1}");
  refuse(folder + "trainer.json", "{}");
  refuse(folder + "config.json", "{}");
  refuse(folder + "optimizer.safetensors", "");
  const std::string moments = place.read(folder + "optimizer.safetensors");
  refuse(folder + "optimizer.safetensors", moments.substr(0, moments.size() - 1));
  refuse(folder + "tokenizer.model", "no tokenizer");
  refuse("run/log.jsonl", "no event\n");
}

TEST(Generate, RefusesWhatCannotBeSampled) {
  const Prepared place;
  const auto refuse = [&](const std::string& option, const std::string& value,
                          const std::string& part) {
    place.refuse(1, {"generate", "run", "the", option, value}, {part});
  };
  refuse("--tokens", "-1", "tokens: expected 0 to");
  refuse("--tokens", "9223372036854775807", "tokens: expected 0 to");
  refuse("--chunk", "0", "chunk: expected");
  refuse("--temperature", "-0.5", "temperature: expected 0 or more, found -0.5");
  refuse("--top-k", "-2", "top-k: expected");
  refuse("--top-p", "0", "top-p: expected");
  refuse("--top-p", "1.1", "top-p: expected");
  place.refuse(1, {"generate", "run", "--file", "none.txt"}, {"none.txt: cannot open"});
  place.refuse(1, {"generate", "run", "--file", "data"}, {"data: cannot read: Is a directory"});
  place.refuse(1, {"generate", "tiny", "the"},
               {"tiny: a preset has no weights", "sambalm train tiny"});
  fs::remove(place / "run/step-00000002/tokenizer.model");
  place.refuse(1, {"generate", "run", "the"}, {"run/step-00000002: found no tokenizer"});
}

TEST(Generate, FullAttentionSaysWhatItsStateWouldNeed) {
  const Prepared place(Prepared::Until::data);
  Json config = mini();
  config["layers"][2].erase("window");
  place.write("full.json", config.dump());
  place.succeed({"train", "full.json", "--data", "data", "--out", "run", "--quiet"});
  EXPECT_EQ(parse_json(place.read("run/step-00000002/config.json"), "c")
                .at("layers")[2]
                .contains("window"),
            false);
  place.refuse(1, {"generate", "run", "the", "--tokens", "1000000000"},
               {"run/step-00000002/config.json: tokens of prompt and output: expected 1 to"});
  place.succeed({"generate", "run", "the", "--tokens", "40"});
}

TEST(Verify, RefusesExpectationsThatCannotBe) {
  const Workplace place;
  const std::string model = test_file("goldens/lit_gpt/samba"),
                    whole = read_bytes(model + "/expected.safetensors");
  const auto refuse = [&](const std::string& bytes, const std::string& part) {
    place.write("bad.safetensors", bytes);
    place.refuse(1, {"verify", model, "bad.safetensors"}, {"bad.safetensors", part});
  };
  refuse("", "");
  refuse(whole.substr(0, whole.size() / 2), "");
  refuse(read_bytes(model + "/model.safetensors"), "tokens");
  place.refuse(1, {"verify", model, "none.safetensors"}, {"none.safetensors: cannot open"});
  place.refuse(1, {"verify", model, model + "/expected.safetensors", "--mode", "sideways"},
               {"mode: expected parallel, chunked or recurrent", "sideways"});
  place.refuse(1, {"verify", test_file("goldens/hf/hf_mamba"), model + "/expected.safetensors"},
               {""});
  // The first id, far outside of the vocabulary, wherever the file has its tokens.
  const std::size_t header =
      8 + static_cast<std::size_t>(*reinterpret_cast<const std::uint64_t*>(whole.data()));
  const Json tensors = parse_json(whole.substr(8, header - 8), "header");
  for (const std::string id : {"\xff\xff\xff\x7f", "\xff\xff\xff\xff"}) {
    std::string bytes = whole;
    const std::size_t at = header + tensors.at("tokens").at("data_offsets")[0].get<std::size_t>();
    bytes.replace(at, 8, id + std::string(4, id[3] == '\x7f' ? '\0' : '\xff'));
    refuse(bytes, "tokens");
  }
}

}  // namespace
}  // namespace samba::test
