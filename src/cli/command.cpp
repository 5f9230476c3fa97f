#include "cli/command.h"

#include <charconv>
#include <filesystem>
#include <iostream>

#include "cli/commands.h"
#include "cli/interrupt.h"
#include "core/error.h"
#include "core/json.h"

namespace samba {
namespace {

constexpr Command kCommands[] = {
    {"tokenizer", "train a tokenizer; text to ids and back", run_tokenizer},
    {"prepare", "text, JSONL and .jsonl.zst to packed token files", run_prepare},
    {"train", "pre-train, continue or fine-tune a model", run_train},
    {"generate", "continue a prompt, streamed", run_generate},
    {"eval", "measure a model: perplexity by context length", run_eval},
    {"bench", "a model's speed as a share of what the machine can do", run_bench},
    {"convert", "write a model folder in another layout", run_convert},
    {"info", "what a model or preset is: layers, parameters, state, operations", run_info},
    {"verify", "compare this program's numbers with stored ones", run_verify},
};

void print_help() {
  std::cout << "sambalm " SAMBA_VERSION
               ": hybrid language models with unlimited context\n\n"
               "sambalm COMMAND [ARGUMENTS] [--options]\n\n";
  for (const Command& command : kCommands) {
    std::string name = command.name;
    name.resize(12, ' ');
    std::cout << "  " << name << command.help << '\n';
  }
  std::cout << "\nsambalm COMMAND --help says more; sambalm --version prints the version.\n";
}

int dispatch(const std::vector<std::string>& words) {
  if (words.empty() || words[0] == "help" || words[0] == "--help" || words[0] == "-h") {
    if (words.size() > 1 && words[0] == "help") return dispatch({words[1], "--help"});
    print_help();
    return words.empty() ? 2 : 0;
  }
  if (words[0] == "--version") {
    std::cout << "sambalm " SAMBA_VERSION "\n";
    return 0;
  }
  std::vector<std::string> known{"help", "--help", "--version"};
  for (const Command& command : kCommands) {
    if (words[0] == command.name) return command.run({words.begin() + 1, words.end()});
    known.emplace_back(command.name);
  }
  const std::string near = nearest(words[0], known);
  throw UsageError("unknown command " + words[0] +
                   (near.empty() ? "; sambalm help lists them" : "; the nearest is " + near));
}

/// One line, whatever bytes a file's or a key's name holds.
int complain(std::string message, int code) {
  for (char& c : message)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  std::cerr << "sambalm: " << message << '\n';
  return code;
}

/// The N of cuda:N.
int gpu_number(const std::string& device) {
  if (device == "cuda") return 0;
  int number = 0;
  const char* begin = device.data() + std::string("cuda:").size();
  const char* end = device.data() + device.size();
  if (device.rfind("cuda:", 0) != 0 || begin == end ||
      std::from_chars(begin, end, number).ptr != end)
    fail("device: expected cpu, cuda or cuda:N, found \"", device, "\"");
  return number;
}

}  // namespace

Stream Common::stream() const {
  if (threads < 0 || threads > 4096) fail("threads: expected 0 to 4096, found ", threads);
  const CpuStream host(static_cast<int>(threads), tier.empty() ? best_tier() : tier_of(tier));
  if (device == "cpu") return Stream(host);
  return Stream(host, gpu_number(device));
}

DType Common::element_type() const {
  for (const DType type : {DType::f32, DType::bf16, DType::f64})
    if (dtype == name_of(type)) return type;
  fail("dtype: expected f32, bf16 or f64, found \"", dtype, "\"");
}

void Common::write_result(const Json& result) const {
  if (json.empty()) return;
  if (json == "-")
    std::cout << result.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
  else
    write_json(json, result);
}

bool parse_fields(const OptionFields& fields, std::vector<std::string>& words, const char* usage,
                  std::size_t least, std::size_t most) {
  for (const std::string& word : words) {
    if (word == "--") break;
    if (word == "--help" || word == "-h") {
      std::cout << usage << "\n\n" << fields.help();
      return false;
    }
  }
  words = fields.parse(words);
  const std::string first(usage, std::string(usage).find('\n'));
  if (words.size() < least) throw UsageError("expected more arguments: " + first);
  if (words.size() > most)
    throw UsageError("unexpected argument \"" + words[most] + "\": " + first);
  return true;
}

int run_program(const std::vector<std::string>& words) {
  try {
    leave_on_interrupt();
    const int code = dispatch(words);
    std::cout.flush();
    if (!std::cout) fail("standard output: cannot write");
    return code;
  } catch (const UsageError& error) {
    return complain(error.what(), 2);
  } catch (const Interrupted&) {
    return 130;
  } catch (const std::bad_alloc&) {
    return complain("memory: the machine has no more", 1);
  } catch (const std::filesystem::filesystem_error& error) {
    return complain(error.path1().string() + ": " + error.code().message(), 1);
  } catch (const std::exception& error) {
    return complain(error.what(), 1);
  }
}

}  // namespace samba
