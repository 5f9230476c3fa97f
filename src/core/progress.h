#pragma once

#include <string>
#include <string_view>

#include "core/human.h"
#include "core/terminal.h"

namespace samba {

/// Shows long work on standard error: one live line on a terminal, drawn at most ten times a second
/// and never wider than the terminal; elsewhere a plain line every ten seconds. Work that ends
/// within two seconds shows nothing but, when asked for, its finishing line. One thread at a time
/// may call.
class Progress {
 public:
  struct Options {
    std::string label;           ///< what is being done: "train"
    std::string unit;            ///< what is counted, in the plural: "tokens"
    double total = 0;            ///< units in all; 0: not known, so neither share nor time left
    double done = 0;             ///< units done before, e.g. by the run that this one resumes
    bool quiet = false;          ///< show nothing at all
    bool always_finish = false;  ///< show the finishing line of short work too
  };

  explicit Progress(Options options, Terminal terminal = Terminal::standard_error());
  /// Without finish(): the last line stays, and what is printed next starts on a line of its own.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// The units in all, once they are known.
  void set_total(double total) { options_.total = total; }
  /// `done` units of the total are done; `extra` is shown behind the numbers, e.g. "loss 3.412".
  /// Cheap enough for every unit.
  void update(double done, std::string_view extra = {});

  /// A line of its own that stays, above the live one: "step 200: validation loss 3.104".
  void say(std::string_view line);

  /// Replaces the live line by what was done, in what time, at what mean rate, and the last extra.
  void finish();

 private:
  /// A moment and the units done by then.
  struct Mark {
    double seconds, done;
  };

  std::string live_line() const;
  std::string plain_line() const;
  std::string finishing_line() const;
  std::string counts() const;
  double rate() const;          ///< units per second over the last quarter to half minute
  double seconds_left() const;  ///< negative: cannot be known
  void draw();

  Options options_;
  Terminal terminal_;
  Mark start_;
  Mark older_;  ///< the rate is measured from here; recent_ takes its place in time
  Mark recent_;
  Mark now_;
  double last_shown_;
  bool on_screen_ = false;  ///< a live line is drawn and not yet left
  bool shown_ = false;
  bool finished_ = false;
  std::string extra_;
};

}  // namespace samba
