#pragma once

#include <string>
#include <vector>

namespace samba {

// One file each: cli/tokenizer.cpp and so on.
int run_tokenizer(const std::vector<std::string>& words);
int run_prepare(const std::vector<std::string>& words);
int run_train(const std::vector<std::string>& words);
int run_generate(const std::vector<std::string>& words);
int run_eval(const std::vector<std::string>& words);
int run_bench(const std::vector<std::string>& words);
int run_info(const std::vector<std::string>& words);
int run_verify(const std::vector<std::string>& words);
int run_convert(const std::vector<std::string>& words);

}  // namespace samba
