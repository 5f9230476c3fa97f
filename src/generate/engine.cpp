#include "generate/engine.h"

#include <algorithm>
#include <span>

#include "core/error.h"
#include "core/fields.h"
#include "kernels/argmax.h"
#include "kernels/run.h"

namespace samba {

Engine::Engine(Model& model, const Options& options) : model_(model), options_(options) {
  if (options.slots < 1) fail("engine: slots: expected at least 1, found ", options.slots);
  if (options.tokens_per_pass < 1)
    fail("engine: tokens_per_pass: expected at least 1, found ", options.tokens_per_pass);
  if (options.vocabulary < 0 || options.vocabulary > model.config().vocab)
    fail("engine: vocabulary: expected at most the model's ", model.config().vocab, ", found ",
         options.vocabulary);
  // The state of full attention is allocated for all of it.
  if (model.has_growing_state())
    expect_size(model.config().place, "tokens of prompt and output", options.context);
  if (options_.vocabulary == 0)
    options_.vocabulary = static_cast<std::int32_t>(model.config().vocab);
  states_ = model.make_states(options.slots, options.context);
  slots_.resize(static_cast<std::size_t>(options.slots));
}

void Engine::submit(Request request) {
  if (request.prompt.empty()) fail("prompt: expected at least one token, found none");
  for (const std::int32_t id : request.prompt)
    if (id < 0 || id >= model_.config().vocab)
      fail("prompt: token id ", id, " is outside the model's vocabulary of ",
           model_.config().vocab);
  const Index length = static_cast<Index>(request.prompt.size()) + request.max_tokens;
  if (model_.has_growing_state() && length > options_.context)
    fail("context: the prompt's ", request.prompt.size(), " tokens and ", request.max_tokens,
         " new ones need ", length, "; full attention's state was made for ", options_.context);
  check(request.sampling);
  waiting_.push_back(std::move(request));
}

void Engine::run() {
  while (step()) {
  }
}

bool Engine::step() {
  admit();
  pack();
  if (spans_.empty()) return false;
  pass();
  deliver();
  return true;
}

void Engine::admit() {
  for (auto& slot : slots_) {
    if (slot || waiting_.empty()) continue;
    slot.emplace().request = std::move(waiting_.front());
    waiting_.pop_front();
  }
}

/// One token of every request that generates, then prompts in chunks up to the budget. On a GPU
/// they take turns, and each prompt by itself: products of many rows are a library's there, which
/// may add in another order for another number of rows, and an answer must not depend on its
/// company.
void Engine::pack() {
  const bool apart = model_.stream().cuda() != nullptr;
  const auto generates = [](const auto& slot) { return slot && slot->last >= 0; };
  const auto reads = [](const auto& slot) { return slot && slot->last < 0; };
  const bool turn_of_prompt =
      apart && !read_last_ && std::any_of(slots_.begin(), slots_.end(), reads);
  read_last_ = turn_of_prompt;
  spans_.clear();
  tokens_.clear();
  rows_.clear();
  const auto add = [&](std::size_t slot, const std::int32_t* ids, Index count, bool last) {
    Running& r = *slots_[slot];
    const Index first = static_cast<Index>(tokens_.size());
    tokens_.insert(tokens_.end(), ids, ids + count);
    spans_.push_back({first, count, r.position, static_cast<Index>(slot)});
    rows_.push_back(last ? first + count - 1 : -1);
    r.taken = count;
  };
  for (std::size_t i = 0; i < slots_.size() && !turn_of_prompt; ++i)
    if (generates(slots_[i])) add(i, &slots_[i]->last, 1, true);
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    if (!reads(slots_[i])) continue;
    if (apart && !spans_.empty()) break;
    const Index budget = options_.tokens_per_pass - static_cast<Index>(tokens_.size());
    if (budget < 1) break;
    const Running& r = *slots_[i];
    const Index left = static_cast<Index>(r.request.prompt.size()) - r.position;
    const Index count = std::min(left, budget);
    add(i, r.request.prompt.data() + r.position, count, count == left);
  }
}

void Engine::pass() {
  const Index n = static_cast<Index>(tokens_.size()), count = static_cast<Index>(spans_.size());
  const View tokens{reinterpret_cast<std::byte*>(tokens_.data()), n, 1, 1, DType::i32};
  const bool single =
      n == count && std::all_of(rows_.begin(), rows_.end(), [](Index row) { return row >= 0; });
  chosen_.assign(rows_.size(), -1);
  if (single && model_.stream().records() && model_.repeats())
    repeat(tokens);
  else
    read(tokens);
}

void Engine::read(ConstView tokens) {
  Stream& stream = model_.stream();
  const Index d = model_.config().d_model;
  Pass pass{stream, batch_of(spans_), &states_, false};
  Matrix x(stream, model_.dtype(), tokens.rows, d);
  model_.forward(pass, upload(stream, tokens), x);

  const Index wanted =
      std::count_if(rows_.begin(), rows_.end(), [](Index row) { return row >= 0; });
  if (wanted == 0) return;
  const Matrix last(stream, model_.dtype(), wanted, d), likeliest(stream, DType::i32, wanted, 1);
  const Matrix logits(stream, exact_of(model_.dtype()), wanted, model_.config().vocab);
  Index next = 0;
  for (const Index row : rows_)
    if (row >= 0) copy(stream, last.view().block(next++, 1), x.view().block(row, 1));
  model_.head(pass, last, logits);
  samba::run(stream,
             op::Argmax{.y = likeliest, .x = logits.view().columns(0, options_.vocabulary)});
  choose(logits, download(stream, likeliest));
}

void Engine::repeat(ConstView tokens) {
  Stream& stream = model_.stream();
  Repeated& repeated = repeated_[tokens.rows];
  const bool first = repeated.ids.empty();
  if (first) {
    repeated.ids = Matrix(stream.common_pool(), DType::i32, tokens.rows, 1);
    repeated.logits = Matrix(stream, exact_of(model_.dtype()), tokens.rows, model_.config().vocab);
  }
  const auto work = [&] {
    Pass pass{stream, batch_of(spans_), &states_, false};
    const Matrix x(stream, model_.dtype(), tokens.rows, model_.config().d_model);
    model_.forward(pass, repeated.ids, x);
    model_.head(pass, x, repeated.logits);
    samba::run(stream, op::Argmax{.y = repeated.ids,
                                  .x = repeated.logits.view().columns(0, options_.vocabulary)});
  };
  // Both sides reach them, so nothing is copied.
  copy(repeated.ids, tokens);
  if (first) {
    work();
  } else {
    if (repeated.recording == nullptr)
      repeated.recording = std::make_unique<Recording>(stream, work);
    // Its kernels find the sequences' slots and positions where the recording uploads them.
    const auto spans = std::as_bytes(std::span<const Span>(spans_));
    std::copy(spans.begin(), spans.end(), repeated.recording->uploaded().begin());
    repeated.recording->run();
  }
  stream.wait();
  choose(repeated.logits, repeated.ids);
}

void Engine::choose(ConstView logits, ConstView likeliest) {
  const auto count = static_cast<Index>(rows_.size());
  std::vector<Index> row_of(rows_.size(), -1);  // of the logits, where one is drawn
  Index row = 0, drawn = 0;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    if (rows_[i] < 0) continue;
    if (slots_[static_cast<std::size_t>(spans_[i].slot)]->request.sampling.temperature == 0)
      chosen_[i] = *likeliest.row<std::int32_t>(row);
    else
      row_of[i] = row, ++drawn;
    ++row;
  }
  if (drawn == 0) return;
  Stream& stream = model_.stream();
  const Matrix values(stream.host(), DType::f32, row, options_.vocabulary);
  copy(stream, values, logits.block(0, row).columns(0, options_.vocabulary));
  // A vocabulary is long, so sequences draw side by side.
#pragma omp parallel for if (drawn > 1) num_threads(stream.threads())
  for (Index at = 0; at < count; ++at) {
    const auto i = static_cast<std::size_t>(at);
    if (row_of[i] < 0) continue;
    const Running& r = *slots_[static_cast<std::size_t>(spans_[i].slot)];
    chosen_[i] = sample({values.row<float>(row_of[i]), static_cast<std::size_t>(values.cols())},
                        r.request.sampling, r.position + spans_[i].length);
  }
}

void Engine::deliver() {
  for (std::size_t i = 0; i < spans_.size(); ++i) {
    auto& slot = slots_[static_cast<std::size_t>(spans_[i].slot)];
    slot->position += slot->taken;
    if (rows_[i] < 0) continue;
    const std::int32_t id = chosen_[i];
    const std::vector<std::int32_t>& ends = slot->request.ends;
    bool ended =
        slot->request.max_tokens < 1 || std::find(ends.begin(), ends.end(), id) != ends.end();
    if (!ended) {
      slot->last = id;
      ended = !slot->request.on_token(id) || ++slot->generated >= slot->request.max_tokens;
    }
    if (ended) slot.reset();
  }
}

}  // namespace samba
