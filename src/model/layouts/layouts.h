#pragma once

#include <string>

#include "model/layout.h"

// Each published configuration: a function that reads it, as layout_of() promises, and one that
// writes it for a model of ours. What a writer is given may be a model that its layout cannot
// express; published_config() compares what it wrote with the model.

namespace samba {

/// microsoft/Samba, lit_gpt/config.py and model.py.
Layout lit_gpt_layout(const Json& config, const std::string& place);
Json lit_gpt_config(const ModelConfig&);

/// Hugging Face LlamaForCausalLM and MistralForCausalLM; kind "llama" or "mistral".
Layout llama_layout(const Json& config, const std::string& place, const std::string& kind);
Json llama_config(const ModelConfig&, const std::string& kind);
/// Hugging Face MambaForCausalLM.
Layout mamba_layout(const Json& config, const std::string& place);
Json mamba_config(const ModelConfig&);
/// The original folders of state-spaces/mamba.
Layout state_spaces_layout(const Json& config, const std::string& place);
Json state_spaces_config(const ModelConfig&);

/// flash-linear-attention, SambaForCausalLM.
Layout fla_samba_layout(const Json& config, const std::string& place);
Json fla_samba_config(const ModelConfig&);
/// flash-linear-attention, GLAForCausalLM and RetNetForCausalLM; kind "gla" or "retnet".
Layout fla_linear_attention_layout(const Json& config, const std::string& place,
                                   const std::string& kind);
Json fla_linear_attention_config(const ModelConfig&, const std::string& kind);

}  // namespace samba
