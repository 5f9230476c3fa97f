#include "text/chat_template.h"

#include "support/target.h"

using namespace samba;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::vector<Message> messages = {
      {"system", "Be brief."}, {"user", "Hi"}, {"assistant", " Hello. "}, {"user", "Bye"}};
  fuzz::attempt([&] {
    const ChatTemplate source(fuzz::text_of(data, size), "chat_template.jinja", "<s>", "</s>");
    source.format(messages, true);
  });
  return 0;
}
