#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "generate/sampler.h"
#include "model/model.h"

namespace samba {

/// Something to be continued.
struct Request {
  std::vector<std::int32_t> prompt;  ///< at least one id
  Index max_tokens = 0;              ///< new tokens at most
  Sampling sampling;
  std::vector<std::int32_t> ends;  ///< ids that end the text; they are not delivered
  /// Called with each new id; false ends the request.
  std::function<bool(std::int32_t id)> on_token;
};

/// Runs many requests through one model. Each running request owns one slot of state, whose size
/// does not grow with its length, so a request is admitted when a slot is free and never evicted.
class Engine {
 public:
  struct Options {
    Index slots = 1;              ///< requests that may run at once
    Index tokens_per_pass = 512;  ///< prompt tokens and new tokens together
    Index context = 0;            ///< longest sequence, where full attention's state needs one
    std::int32_t vocabulary = 0;  ///< ids that may be generated; 0: the model's
  };

  /// The model should be packed. Throws an Error for options that cannot be, and when a growing
  /// state is given no context.
  Engine(Model&, const Options&);

  /// Throws an Error for an empty prompt, an id outside the model, or a sequence that would outgrow
  /// the context.
  void submit(Request);
  /// One pass over everything that is running; false when there is nothing to do.
  bool step();
  /// Steps until every request has ended.
  void run();

 private:
  struct Running {
    Request request;
    Index position = 0;  ///< tokens that the state has seen
    Index generated = 0;
    std::int32_t last = -1;  ///< the newest id, not yet in the state
    Index taken = 0;         ///< tokens of this pass
  };
  /// A pass over single tokens that a GPU repeats without being told each op.
  struct Repeated {
    Matrix ids;     ///< [spans, 1] i32 in common memory: what is read, then what is likeliest
    Matrix logits;  ///< [spans, V]
    std::unique_ptr<Recording> recording;  ///< made when it runs for the second time
  };
  void admit();
  void pack();
  void pass();
  /// Both choose the next ids from the logits of the pass' rows that need them.
  void read(ConstView tokens);
  void repeat(ConstView tokens);
  void choose(ConstView logits, ConstView likeliest);
  void deliver();

  Model& model_;
  Options options_;
  States states_;
  std::map<Index, Repeated> repeated_;  ///< by the number of spans
  std::deque<Request> waiting_;
  std::vector<std::optional<Running>> slots_;
  bool read_last_ = false;  ///< the last pass read a prompt: on a GPU it is the others' turn
  // Of the pass under way.
  std::vector<Span> spans_;
  std::vector<std::int32_t> tokens_;
  std::vector<Index>
      rows_;  ///< row of each span's last token, where its logits are needed; else -1
  std::vector<std::int32_t> chosen_;
};

}  // namespace samba
