#include <filesystem>
#include <fstream>
#include <iostream>
#include <set>

#include "core/json.h"
#include "layers/registry.h"
#include "model/tensors.h"
#include "model/torch_archive.h"

// Writes the files that fuzzing begins with: FOLDER/TARGET/NAME, from the tests' data and small
// ones of every form.

namespace samba::fuzz {
namespace {

namespace fs = std::filesystem;
namespace torch = samba::test::torch;

class Seeds {
 public:
  Seeds(const fs::path& folder, const std::string& target) : folder_(folder / target) {
    fs::create_directories(folder_);
  }
  void add(const std::string& bytes) {
    test::write_bytes((folder_ / std::to_string(count_++)).string(), bytes);
  }

 private:
  fs::path folder_;
  int count_ = 0;
};

std::string file_of_source(const std::string& name) {
  return std::string(SAMBA_SOURCE_DIR) + "/" + name;
}

std::string data(const std::string& name) {
  return test::read_bytes(file_of_source("tests/data/" + name));
}

void write_safetensors(Seeds seeds) {
  for (const StoredType type : {StoredType::u8, StoredType::bf16, StoredType::f32, StoredType::f64,
                                StoredType::i64, StoredType::f8_e4m3}) {
    Json header = {{"__metadata__", {{"format", "pt"}}}};
    std::size_t end = 0;
    const auto add = [&](const char* name, const std::vector<Index>& shape) {
      const auto bytes = static_cast<std::size_t>(count_of(shape).value() * size_of(type));
      header[name] = {
          {"dtype", name_of(type)}, {"shape", shape}, {"data_offsets", {end, end + bytes}}};
      end += bytes;
    };
    add("a.weight", {3, 2});
    add("empty", {0, 3});
    add("row", {6});
    add("taps", {2, 1, 3});
    add("scalar", {});
    const std::string text = header.dump();
    seeds.add(test::bytes_of(std::uint64_t{text.size()}) + text + std::string(end, '\1'));
  }
  seeds.add(R"({"metadata": {"total_size": 96}, "weight_map": {"a": "0", "b.weight": "1"}})");
}

void write_pth(Seeds seeds) {
  seeds.add(data("pth/checkpoint.pth"));
  const std::string floats = torch::storage("FloatStorage", "0", 6);
  const std::string bytes(24, '\1');
  const std::string whole = torch::tensor(floats, 0, {2, 3}, {3, 1});
  seeds.add(torch::save(torch::dict({{"a", whole}}), bytes));
  seeds.add(torch::save(
      torch::dict({{"model", torch::dict({{"t", torch::tensor(floats, 0, {3, 2}, {1, 3})},
                                          {"s", torch::tensor(floats, 5, {}, {})}})}}),
      bytes));
  seeds.add(torch::zip({{"x/data.pkl", "\x80\x02" + torch::dict({{"a", whole}}) + "."},
                        {"x/byteorder", "little"},
                        {"x/data/0", bytes}},
                       true));
}

/// What a merge, "a b" or ["a", "b"], makes.
std::string joined(const Json& merge) {
  if (merge.is_array()) return merge[0].get<std::string>() + merge[1].get<std::string>();
  std::string token = merge;
  return token.erase(token.find(' '), 1);
}

/// A tokenizer.json with its first merges and their tokens only: small inputs are faster.
Json shortened(Json document, std::size_t merges) {
  Json& model = document.at("model");
  Json first = Json::array();
  std::set<std::string> kept, dropped;
  for (const Json& merge : model.at("merges")) {
    if (first.size() < merges) {
      first.push_back(merge);
      kept.insert(joined(merge));
    } else {
      dropped.insert(joined(merge));
    }
  }
  Json tokens = Json::object();
  for (const auto& [token, id] : model.at("vocab").items())
    if (kept.contains(token) || !dropped.contains(token)) tokens[token] = id;
  model["merges"] = std::move(first);
  model["vocab"] = std::move(tokens);
  return document;
}

void write_tokenizers(Seeds seeds) {
  std::ifstream variants(file_of_source("tests/data/tokenizer/variants.jsonl"));
  for (std::string line; std::getline(variants, line);) {
    if (!line.starts_with("{\"base\"")) continue;
    const Json variant = parse_json(line, "variants.jsonl");
    Json document =
        read_json(file_of_source("tests/data/tokenizer/" + variant.at("base").get<std::string>()));
    document.merge_patch(variant.at("patch"));
    seeds.add(document.dump());
    const std::string small = shortened(document, 12).dump();
    seeds.add(small);
    seeds.add(small + '\0' +
              R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": true})");
  }
}

void write_sentencepiece(Seeds seeds) {
  const std::string model = data("tokenizer/small.model");
  seeds.add(model);
  // Pieces stand first, one field each; what describes the model stands behind them.
  std::vector<std::string> fields;
  for (std::size_t at = 0; at < model.size();) {
    std::size_t begin = at++, size = 0;
    for (unsigned shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(model.at(at++));
      size |= static_cast<std::size_t>(byte & 0x7f) << shift;
      if (byte < 0x80) break;
    }
    at += size;
    fields.push_back(model.substr(begin, at - begin));
  }
  for (const std::size_t pieces : {std::size_t{4}, std::size_t{280}}) {
    std::string small;
    for (std::size_t i = 0; i < fields.size(); ++i)
      if (i < pieces || fields[i][0] != fields[0][0]) small += fields[i];
    seeds.add(small);
  }
}

void write_configs(Seeds seeds) {
  for (const auto& entry : fs::recursive_directory_iterator(file_of_source("tests/data/goldens")))
    if (entry.path().filename() == "config.json")
      seeds.add(test::read_bytes(entry.path().string()));
  for (const auto& entry : fs::directory_iterator(file_of_source("configs")))
    if (entry.path().extension() == ".json") seeds.add(test::read_bytes(entry.path().string()));
  for (const LayerType& type : layer_types())
    seeds.add(Json{{"vocab", 11},
                   {"d_model", 8},
                   {"tied", false},
                   {"layers", {{{"repeat", 2}, {"layers", type.examples}}}}}
                  .dump());
}

void write_chat_templates(Seeds seeds) {
  seeds.add(
      "{# Turns between marks #}\n"
      "{% for message in messages %}\n"
      "    {% if message.role in ['system', 'user', 'assistant'] %}\n"
      "<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n"
      "    {% endif %}\n{% endfor %}\n"
      "{% if add_generation_prompt %}\n<|im_start|>assistant\n{% endif %}\n");
  seeds.add(
      "{%- set ns = namespace(system='') -%}{% for message in messages[1:] %}"
      "{%- if message.role == 'system' %}{%- set ns.system = message.content ~ '\\n' %}"
      "{%- elif (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
      "{{ raise_exception('no') }}"
      "{%- else %}{{- ns.system + message.content.strip() + eos_token }}{% endif %}{% endfor %}");
  seeds.add(
      "{% set n = -3 * 2 - 1 %}{% set x = 'a,b' %}{{ x.split(',')[-1] | upper }}"
      "{{ bos_token if n < 0 and not tools is defined else 'none' }}{{ messages | length }}"
      "{% for part in x.split(',') %}{{ part.lstrip('a') ~ loop.last }}{% endfor %}"
      "{{ x.startswith('a') or messages is string }}{{ [1, n][0:1] | first }}");
}

}  // namespace
}  // namespace samba::fuzz

int main(int count, char** words) {
  using namespace samba::fuzz;
  if (count != 2) {
    std::cerr << "usage: fuzz_seeds FOLDER\n";
    return 1;
  }
  const fs::path folder = words[1];
  write_safetensors({folder, "safetensors"});
  write_pth({folder, "pth"});
  write_tokenizers({folder, "hf_tokenizer"});
  write_sentencepiece({folder, "sentencepiece"});
  write_configs({folder, "config"});
  write_chat_templates({folder, "chat_template"});
}
