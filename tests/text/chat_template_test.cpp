#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <chrono>

#include "core/files.h"
#include "core/json.h"
#include "model/temporary_folder.h"
#include "support/shared.h"

namespace samba::test {
namespace {

using Conversation = std::vector<Message>;

const Conversation kQuestion = {{"user", "Hi"}};
const Conversation kTurns = {
    {"system", "Be brief."}, {"user", "Hi"}, {"assistant", " Hello. "}, {"user", "Bye"}};

std::string format(const std::string& source, const Conversation& messages, bool generation,
                   const std::string& bos = "<s>", const std::string& eos = "</s>") {
  return ChatTemplate(source, "t.jinja", bos, eos).format(messages, generation);
}

std::string refusal(const std::string& source, const Conversation& messages = kQuestion) {
  return error_of([&] { format(source, messages, true); });
}

// The same form, written in one line, with indentation, and with the signs that take white space.

const std::vector<std::string> kChatMl = {
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "}}{% endif %}",
    "{%- for message in messages -%}\n"
    "  {{- '<|im_start|>' ~ message.role ~ \"\\n\" -}}\n"
    "  {{- message.content -}}\n"
    "  {{- '<|im_end|>\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "  {{- '<|im_start|>assistant\\n' -}}\n"
    "{%- endif -%}\n",
    "{# Turns between marks #}\n"
    "{% for message in messages %}\n"
    "    {% if message.role in ['system', 'user', 'assistant'] %}\n"
    "<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n"
    "    {% endif %}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}\n"
    "<|im_start|>assistant\n"
    "{% endif %}\n"};

TEST(ChatTemplate, WritesChatMl) {
  for (const std::string& source : kChatMl) {
    EXPECT_EQ(format(source, kTurns, true),
              "<|im_start|>system\nBe brief.<|im_end|>\n"
              "<|im_start|>user\nHi<|im_end|>\n"
              "<|im_start|>assistant\n Hello. <|im_end|>\n"
              "<|im_start|>user\nBye<|im_end|>\n"
              "<|im_start|>assistant\n")
        << source;
    EXPECT_EQ(format(source, kQuestion, false), "<|im_start|>user\nHi<|im_end|>\n") << source;
  }
}

TEST(ChatTemplate, WritesChatMlWithItsOwnSystemMessage) {
  const std::string source =
      "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
      "{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}"
      "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
      "{% if not loop.last or message.role == 'user' %}{{ '<|im_end|>\\n' }}{% endif %}{% endfor %}"
      "{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}"
      "{{ '<|im_start|>assistant\\n' }}{% endif %}";
  EXPECT_EQ(format(source, kQuestion, true),
            "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\n");
  EXPECT_EQ(format(source, {{"user", "Hi"}, {"assistant", "He"}}, true),
            "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\nHe");
}

const std::vector<std::string> kLlama2 = {
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set system = messages[0]['content'] %}{% else %}{% set rest = messages %}"
    "{% set system = false %}{% endif %}{% for message in rest %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant/user/assistant') }}{% endif %}"
    "{% if loop.index0 == 0 and system != false %}"
    "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "{%- set ns = namespace(system='') %}\n"
    "{%- for message in messages %}\n"
    "    {%- if message.role == 'system' %}\n"
    "        {%- set ns.system = '<<SYS>>\\n' ~ message.content ~ '\\n<</SYS>>\\n\\n' %}\n"
    "    {%- elif message.role == 'user' %}\n"
    "        {{- bos_token ~ '[INST] ' ~ ns.system ~ message.content | trim ~ ' [/INST]' }}\n"
    "        {%- set ns.system = '' %}\n"
    "    {%- else %}\n"
    "        {{- ' ' ~ message.content | trim ~ ' ' ~ eos_token }}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"};

TEST(ChatTemplate, WritesLlama2) {
  for (const std::string& source : kLlama2) {
    EXPECT_EQ(format(source, kTurns, true),
              "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello. </s>"
              "<s>[INST] Bye [/INST]")
        << source;
    EXPECT_EQ(format(source, kQuestion, false), "<s>[INST] Hi [/INST]") << source;
  }
  EXPECT_EQ(
      refusal(kLlama2[0], {{"assistant", "Hi"}}),
      "t.jinja: line 1: the template says: roles must alternate user/assistant/user/assistant");
}

const std::vector<std::string> kLlama3 = {
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ "
    "message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}",
    "{{- bos_token }}\n"
    "{%- if tools is defined and tools is not none %}\n"
    "    {{- tools | tojson(indent=4) }}\n"
    "{%- endif %}\n"
    "{%- for message in messages %}\n"
    "    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in "
    "message) "
    "%}\n"
    "        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}\n"
    "        {{- message['content'] | trim + '<|eot_id|>' }}\n"
    "    {%- endif %}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n"
    "{%- endif %}"};

TEST(ChatTemplate, WritesLlama3) {
  for (const std::string& source : kLlama3) {
    EXPECT_EQ(format(source, kTurns, true, "<|begin_of_text|>"),
              "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
              "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
              "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>"
              "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
              "<|start_header_id|>assistant<|end_header_id|>\n\n")
        << source;
    EXPECT_EQ(format(source, kQuestion, false, "<B>"),
              "<B><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>")
        << source;
  }
}

const std::vector<std::string> kMistral = {
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate!') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles!') }}{% endif %}{% endfor %}",
    "{{ bos_token }}\n"
    "{%- for message in messages -%}\n"
    "  {%- if message.role == \"user\" -%} [INST] {{ message.content }} [/INST]\n"
    "  {%- elif message.role == \"assistant\" -%} {{ message.content }}{{ eos_token }}\n"
    "  {%- else -%} {{ raise_exception(\"Only user and assistant roles!\") }}\n"
    "  {%- endif -%}\n"
    "{%- endfor -%}\n"};

TEST(ChatTemplate, WritesMistral) {
  const Conversation turns = {{"user", "Hi"}, {"assistant", "Hello."}, {"user", "Bye"}};
  for (const std::string& source : kMistral) {
    EXPECT_EQ(format(source, turns, true), "<s>[INST] Hi [/INST]Hello.</s>[INST] Bye [/INST]")
        << source;
    EXPECT_NE(refusal(source, kTurns).find("the template says: "), std::string::npos);
  }
}

const std::vector<std::string> kZephyr = {
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
    "{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
    "{% endfor %}",
    "{% for message in messages -%}\n"
    "<|{{ message.role }}|>\n"
    "{{ message.content }}{{ eos_token }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}\n"
    "<|assistant|>\n"
    "{% endif %}\n"};

TEST(ChatTemplate, WritesZephyr) {
  for (const std::string& source : kZephyr) {
    EXPECT_EQ(format(source, kTurns, true),
              "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\n Hello. </s>\n"
              "<|user|>\nBye</s>\n<|assistant|>\n")
        << source;
    EXPECT_EQ(format(source, kQuestion, false), "<|user|>\nHi</s>\n") << source;
  }
}

TEST(ChatTemplate, WritesPhi3) {
  const std::string source =
      "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
      "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}"
      "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
      "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}";
  EXPECT_EQ(format(source, kTurns, true),
            "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n Hello. <|end|>\n"
            "<|user|>\nBye<|end|>\n<|assistant|>\n");
  EXPECT_EQ(format(source, {{"system", ""}, {"user", "Hi"}}, false), "<|user|>\nHi<|end|>\n</s>");
}

/// Templates, and what Jinja makes of them for kQuestion.
const std::vector<std::pair<std::string, std::string>> kComputed = {
    {"{{ 1 + 2 * 3 - 4 % 3 }} {{ -1 }} {{ true }} {{ none }}[{{ nothing }}]", "6 -1 True None[]"},
    {"{{ 'a' ~ 1 ~ 'b' 'c' }}", "a1bc"},
    {"{{ 'yes' if 1 < 2 and 2 <= 2 else broken() }}", "yes"},
    {"{{ broken() if not 1 == 1 else 'a' if false else 'b' }}", "b"},
    {"{{ 'x' if false }}.", "."},
    {"{{ not true or false and broken() or 'last' }}", "last"},
    {"{{ 'b' in 'abc' }} {{ 'b' not in ['a'] }} {{ 'role' in messages[0] }}", "True True True"},
    {"{{ x is defined }} {{ messages is defined and messages is not none }}", "False True"},
    {"{{ 'a' is string }} {{ messages is iterable }} {{ messages[0] is mapping }}",
     "True True True"},
    {"{{ messages|length }} {{ messages[1:]|length }} {{ messages[-1].role }}", "1 0 user"},
    {"{{ (messages[0]['content'] + ' ') | trim | upper }}", "HI"},
    {"{{ 'a</t>b'.split('</t>')[-1].lstrip('b') }}|{{ ' x '.strip() }}", "|x"},
    {"{{ 'abc'.startswith('ab') and 'abc'.endswith('bc') }}", "True"},
    {"{{ \"it's\\n\" }}{{ 'a\\'b\\\\' }}", "it's\na'b\\"},
    {"a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"},
    {"a\n  {%+ if true +%}\nb{% endif %}", "a\n  \nb"},
    {"a {#- a comment with {{ braces }} and 'a quote -#} b", "ab"},
    {"{{ '{% if %}' }}{ {a} }", "{% if %}{ {a} }"},
    {"{% set x = 1 %}{% for m in messages %}{% set x = 2 %}{% endfor %}{{ x }}", "1"},
    {"{% set n = namespace(x=1) %}{% for m in messages %}{% set n.x = n.x + 1 %}{% endfor %}"
     "{{ n.x }}",
     "2"},
    {"{% for m in [1, 2] %}{{ loop.index }}{{ loop.first }}{{ loop.last }} {% endfor %}",
     "1TrueFalse 2FalseTrue "},
    {"{% macro never(x) %}{{ x | tojson }}{% endmacro %}{% generation %}a{% endgeneration %}", "a"},
    {"{% if false %}{{ x | tojson }}{% elif 0 %}{% else %}last{% endif %}\n", "last"},
};

TEST(Jinja, ComputesAsJinjaDoes) {
  for (const auto& [source, expected] : kComputed)
    EXPECT_EQ(format(source, kQuestion, true), expected) << source;
}

TEST(Jinja, SaysWhatItDoesNotUnderstand) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"\n\n{{ messages | tojson }}",
       "t.jinja: line 3: found the filter \"tojson\"; expected trim"},
      {"{{ strftime_now('%d') }}", "found the function \"strftime_now\"; expected namespace"},
      {"{{ messages.pop() }}", "found the method \"pop\"; expected strip"},
      {"{{ 1 is odd }}", "found the test \"odd\"; expected defined"},
      {"{% include 'x' %}", "found the statement \"include\"; expected if"},
      {"{% for a, b in messages %}{% endfor %}", "expected for NAME in LIST"},
      {"{% for a in 3 %}{% endfor %}", "found no list to loop over"},
      {"{% if true %}a", "found the end of the template; expected {% endif %}"},
      {"{% endif %}", "found the statement \"endif\""},
      {"{% set x %}a{% endset %}", "expected set NAME = VALUE"},
      {"a\n{{ 'x", "line 2: found {{ without }}; expected both"},
      {"{{ 1 + 'a' }}", "found \"+\" of other values; expected two numbers or two texts"},
      {"{{ 1 < 'a' }}", "found \"<\" of other values"},
      {"{{ 5 % 0 }}", "found \"%\" of other values"},
      {"{{ 9223372036854775807 + 1 }}", "found \"+\" of other values"},
      {"{{ 99999999999999999999 }}", "expected a whole number of 64 bits"},
      {"{{ x.y }}", "found a member of what is not defined"},
      {"{{ messages }}", "found a list or map as output"},
      {"{{ 1 == 1 == 1 }}", "found \"==\"; expected the end of an expression"},
      {"{{ 1 2 }}", "found \"2\"; expected the end of an expression"},
      {"{{ (1 }}", "found the end of an expression"},
      {"{{ }}", "found the end of an expression"},
      {"{{ " + std::string(100, '(') + " }}", "nested deeper than 64"},
      {"{{ raise_exception('no\n' + bos_token) }}", "the template says: no <s>"},
  };
  for (const auto& [source, expected] : cases) {
    const std::string error = refusal(source);
    EXPECT_TRUE(error.starts_with("t.jinja: ")) << error;
    EXPECT_NE(error.find(expected), error.npos) << error << "\n  expected " << expected;
  }
  std::string deep;
  for (int i = 0; i < 100; ++i) deep += "{% if true %}";
  EXPECT_NE(refusal(deep).find("nested deeper than 64"), std::string::npos);
  EXPECT_NE(refusal("{{ messages[0].content }}", {{"tool", "x"}})
                .find("message 1: found the role \"tool\"; expected system, user or assistant"),
            std::string::npos);
}

TEST(Jinja, ComputesAtTheEndsOfTheNumbers) {
  const std::string least = "{% set n = -9223372036854775807 - 1 %}";
  EXPECT_EQ(format(least + "{{ n }} {{ 1 % 9223372036854775807 }} {{ -1 % 9223372036854775807 }}",
                   kQuestion, true),
            "-9223372036854775808 1 9223372036854775806");
  EXPECT_NE(refusal(least + "{{ -n }}").find("found \"-\" before another value"),
            std::string::npos);
}

TEST(Jinja, NestsWithoutRepeatingItsWork) {
  const std::string left(60, '('), right(60, ')');
  EXPECT_EQ(format("{{ " + left + "'a' if true else 'b'" + right + " }}", kQuestion, true), "a");
  const std::string signs(100'000, '-');
  EXPECT_NE(refusal("{{ " + signs + "1 }}").find("nested deeper than 64"), std::string::npos);
}

TEST(Jinja, FreesANamespaceThatHoldsItself) {
  EXPECT_EQ(
      format("{% set n = namespace(a=1) %}{% set n.a = [n] %}{% set n.b = n %}x", kQuestion, true),
      "x");
}

TEST(Jinja, RefusesWorkThatNoConversationAsksFor) {
  const auto repeated = [](int count, const std::string& statement) {
    std::string all;
    for (int i = 0; i < count; ++i) all += statement;
    return all;
  };
  const std::string begin = "{% set n = namespace(x='xxxxxxxxxxxxxxxx', y=[]) %}";
  const std::string loop = "{% for m in messages %}", end = "{% endfor %}";
  const std::string million = begin + repeated(16, "{% set n.x = n.x ~ n.x %}");
  const std::pair<std::string, const char*> cases[] = {
      {begin + repeated(60, "{% set n.x = n.x + n.x %}"), "more text or work"},
      {million + repeated(100, "{% set x = n.x ~ 'y' %}"), "more text or work"},
      {million + "{{ [" + repeated(20, "n.x, ") + "] }}", "more text or work"},
      {million + "{{ n.x.split('x') | length }}", "more text or work"},
      {million + "{{ n.x ~ 'y' in n.x ~ n.x }}", "more text or work"},
      {million + "{{ n.x.strip(n.x) }}", "more text or work"},
      {repeated(60, loop) + repeated(60, end), "more text or work"},
      {begin + repeated(10, loop) + "{% set n.y = [n.y] %}" + repeated(10, end),
       "lists or maps nested deeper"},
      {begin + repeated(10, loop) + "{% set n.y = namespace(y=n.y) %}" + repeated(10, end),
       "lists or maps nested deeper"},
  };
  for (const auto& [source, expected] : cases)
    EXPECT_NE(refusal(source, kTurns).find(expected), std::string::npos)
        << source.substr(0, 200) << "\n  " << refusal(source, kTurns);
}

TEST(Jinja, HasWorkForLongConversations) {
  Conversation many;
  for (int i = 0; i < 20'000; ++i) many.push_back({i % 2 == 0 ? "user" : "assistant", "Hi"});
  EXPECT_GT(format(kLlama2[1], many, true).size(), many.size());
  const std::string book(5'000'000, 'x');
  EXPECT_GT(format(kLlama2[0], {{"system", book}, {"user", book}}, true).size(), 2 * book.size());
}

TEST(ChatTemplate, IsFoundBesideATokenizer) {
  const TemporaryFolder folder;
  write_text(folder / "tokenizer.json", read_text(test_file("tokenizer/characters.json")));
  const auto found = [&] { return find_chat_template(Tokenizer(folder / "")); };
  EXPECT_FALSE(found().has_value());
  const std::string path = folder / "tokenizer_config.json";
  write_json(path, {{"eos_token", "</s>"}});
  EXPECT_FALSE(found().has_value());
  write_json(path, {{"chat_template", "{{ bos_token }}one{{ eos_token }}"}});
  EXPECT_EQ(found()->format(kQuestion, true), "<s>one</s>");
  write_json(
      path,
      {{"chat_template",
        {{{"name", "rag"}, {"template", "no"}}, {{"name", "default"}, {"template", "two"}}}}});
  EXPECT_EQ(found()->format(kQuestion, true), "two");
  write_json(path, {{"chat_template", {{{"name", "rag"}, {"template", "no"}}}}});
  EXPECT_NE(error_of(found).find("chat_template: found no template of the name \"default\""),
            std::string::npos);
  write_json(path, {{"chat_template", 3}});
  EXPECT_NE(error_of(found).find("chat_template: found a number; expected a string"),
            std::string::npos);
  write_json(path, {{"chat_template", "{{ 1"}});
  EXPECT_TRUE(error_of(found).starts_with(path + ": chat_template: line 1: found {{ without"));
  write_json(path, {{"chat_template", "config"}});
  write_text(folder / "chat_template.jinja", "file\n");
  EXPECT_EQ(found()->format(kQuestion, true), "file");
}

}  // namespace
}  // namespace samba::test
