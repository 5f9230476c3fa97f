#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <iostream>
#include <iterator>

#include "cli/command.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/self_extend.h"
#include "core/error.h"
#include "core/files.h"
#include "core/human.h"
#include "core/utf8.h"
#include "generate/engine.h"
#include "generate/stop_text.h"
#include "model/folder.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace samba {
namespace {

struct Options {
  Common common;
  std::string prompt;
  std::string file;
  Index tokens = 256;
  double temperature = 0.8;
  Index top_k = 0;
  double top_p = 1;
  std::vector<std::string> stop;
  bool ignore_end = false;
  std::string self_extend;
  bool chat = false;
  Index chunk = 512;

  void fields(auto& f) {
    f("prompt", prompt, "text to continue");
    f("file", file, "file with the text to continue; -: standard input");
    f("tokens", tokens, "new tokens at most");
    f("temperature", temperature, "0: always the likeliest token");
    f("top_k", top_k, "only the k likeliest tokens; 0: all");
    f("top_p", top_p, "only the likeliest tokens that make up this probability");
    f("stop", stop, "text that ends the output and is not shown; may be repeated");
    f("chat", chat, "the prompt is a user's message; only the answer is shown");
    f("ignore_end", ignore_end, "go on behind the end-of-text token");
    f("chunk", chunk, "tokens of the prompt that are read at a time");
    f("self_extend", self_extend, kSelfExtendHelp);
    common.fields(f);
  }
};

constexpr const char* kUsage =
    "sambalm generate MODEL [PROMPT]\n\n"
    "Continues a prompt and streams the text. The prompt is an argument, --prompt, --file or what\n"
    "standard input holds. Memory and time per token do not grow with the length. With --chat the\n"
    "prompt is a message, written as the chat template beside the model's tokenizer says.";

constexpr Index kMostTokens = Index{1} << 40;
constexpr Index kInterval = 10'000;  // tokens between two entries of "intervals"

std::string read_prompt(const Options& options, const std::vector<std::string>& words) {
  const int given = (words.size() > 1) + !options.prompt.empty() + !options.file.empty();
  if (given > 1) throw UsageError("expected one prompt: an argument, --prompt or --file");
  std::string place = "prompt", prompt;
  if (given == 0 || options.file == "-") {
    if (given == 0 && isatty(STDIN_FILENO))
      throw UsageError("expected a prompt: an argument, --prompt, --file or standard input");
    place = "standard input";
    prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  } else if (!options.file.empty()) {
    place = options.file;
    prompt = read_text(options.file);
  } else {
    prompt = words.size() > 1 ? words[1] : options.prompt;
  }
  if (const std::size_t bad = first_invalid_utf8(prompt); bad != std::string::npos)
    fail(place, ": found text that is not UTF-8 at byte ", bad);
  return prompt;
}

/// Bytes of memory that the process occupies now.
Index resident_bytes() {
  std::ifstream file("/proc/self/statm");
  Index total = 0, resident = 0;
  file >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// What happened when: for the line at the end and for --json.
struct Timing {
  double start = now(), first = 0, last = 0;
  Index tokens = 0;
  Json intervals = Json::array();
  double interval_start = 0;

  void token() {
    last = now();
    if (++tokens == 1) first = interval_start = last;
    if (tokens % kInterval != 0) return;
    const Index count = tokens == kInterval ? kInterval - 1 : kInterval;
    intervals.push_back(
        {{"tokens", tokens},
         {"tokens_per_second", static_cast<double>(count) / (last - interval_start)},
         {"resident_bytes", resident_bytes()}});
    interval_start = last;
  }
  double decode_rate() const {
    return tokens > 1 ? static_cast<double>(tokens - 1) / (last - first) : 0;
  }
};

/// The ids of a conversation that waits for the answer to a message.
std::vector<std::int32_t> question(const Tokenizer& tokenizer, const std::string& message) {
  const auto chat = find_chat_template(tokenizer);
  if (!chat)
    fail(tokenizer.name(),
         ": found no chat template; expected chat_template.jinja, or "
         "chat_template in tokenizer_config.json");
  const std::vector<Message> messages = {{"user", message}};
  std::vector<std::int32_t> ids = tokenizer.encode_marked(chat->format(messages, true));
  if (ids.empty()) fail(tokenizer.name(), ": its chat template makes an empty prompt");
  return ids;
}

/// What a request needs of the options.
Request request_for(const Options& options, const Tokenizer& tokenizer, const std::string& prompt) {
  Request request;
  request.prompt = options.chat ? question(tokenizer, prompt) : tokenizer.prompt(prompt);
  request.max_tokens = options.tokens;
  request.sampling = {options.temperature, options.top_k, options.top_p,
                      static_cast<std::uint64_t>(options.common.seed)};
  if (!options.ignore_end && tokenizer.eos() >= 0) request.ends.push_back(tokenizer.eos());
  return request;
}

/// Runs the request and streams its text; returns the whole of it.
std::string stream_text(Engine& engine, Request request, const Options& options,
                        const Tokenizer& tokenizer, const std::string& prompt, Timing& timing) {
  StreamingDecoder decoder(tokenizer);
  StopText stop(options.stop);
  const bool visible = options.common.json != "-";
  std::string text;
  const auto show = [&](const std::string& piece) {
    if (piece.empty()) return;
    text += piece;
    if (visible && !(std::cout << piece << std::flush)) fail("standard output: cannot write");
  };
  // The first new token continues the prompt's last one, with a space where its piece has one.
  for (const std::int32_t id : request.prompt) decoder.push(id);
  request.on_token = [&](std::int32_t id) {
    timing.token();
    show(stop.push(decoder.push(id)));
    return !stop.stopped() && !interrupted();
  };
  engine.submit(std::move(request));
  if (visible && !options.chat) std::cout << prompt << std::flush;
  while (engine.step() && !interrupted()) {
  }
  if (!stop.stopped()) show(stop.push(decoder.flush()));
  show(stop.flush());
  if (visible) std::cout << '\n';
  return text;
}

}  // namespace

int run_generate(const std::vector<std::string>& all) {
  Options options;
  std::vector<std::string> words = all;
  if (!parse(options, words, kUsage, 1, 2)) return 0;
  if (options.tokens < 0 || options.tokens > kMostTokens)
    fail("tokens: expected 0 to ", kMostTokens, ", found ", options.tokens);
  if (options.chunk < 1) fail("chunk: expected at least 1, found ", options.chunk);
  const std::string prompt = read_prompt(options, words);

  ModelSource source = open_model(words[0]);
  apply_self_extend(source, options.self_extend);
  if (source.folder.empty())
    fail(words[0], ": a preset has no weights; train it first: sambalm train ", words[0]);
  const Tokenizer tokenizer(source.folder);
  Request request = request_for(options, tokenizer, prompt);
  Stream stream = options.common.stream();
  const auto model = load_model(source, stream, options.common.element_type(), false);
  model->pack();

  watch_interrupts();
  const Index prompt_tokens = static_cast<Index>(request.prompt.size());
  Engine engine(*model, {.slots = 1,
                         .tokens_per_pass = options.chunk,
                         .context = prompt_tokens + options.tokens,
                         .vocabulary = static_cast<std::int32_t>(
                             std::min<Index>(tokenizer.vocabulary(), model->config().vocab))});
  Timing timing;
  const std::string text =
      stream_text(engine, std::move(request), options, tokenizer, prompt, timing);
  const double prefill = timing.first - timing.start;
  if (!options.common.quiet && timing.tokens > 0)
    std::cerr << prompt_tokens << " prompt tokens in " << human_seconds(prefill) << ", "
              << timing.tokens << " new ones, " << human_count(timing.decode_rate())
              << " tokens/s\n";
  options.common.write_result({{"prompt", prompt},
                               {"text", text},
                               {"prompt_tokens", prompt_tokens},
                               {"tokens", timing.tokens},
                               {"prefill_seconds", prefill},
                               {"tokens_per_second", timing.decode_rate()},
                               {"intervals", timing.intervals}});
  return interrupted() ? 130 : 0;
}

}  // namespace samba
