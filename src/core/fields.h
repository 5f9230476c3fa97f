#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"
#include "core/json.h"

// A configuration is a struct that names its members once:
//
//   struct Config {
//     Index d_state = 16;
//     void fields(auto& f) { f("d_state", d_state, "state size S of a channel"); }
//   };
//
// From that one list come reading and writing JSON (here) and command-line options with their help
// (cli/options.h). Members are bool, Index, double, std::string, or a vector of the last three; in
// JSON also std::optional<Index>, which an absent key leaves empty.

namespace samba {

/// The largest size that a configuration may name: products of two then fit an Index many times.
inline constexpr Index kLargestSize = Index{1} << 24;

/// Throws an Error that begins with `place` unless value is 1 to kLargestSize.
void expect_size(const std::string& place, const char* key, Index value);

/// Reads members from a JSON object. A member whose key is absent keeps its value.
class JsonFields {
 public:
  /// place: where the object stands, for errors: "config.json: layers[2]".
  JsonFields(const Json& object, std::string place) : object_(object), place_(std::move(place)) {
    if (!object.is_object()) fail(place_, ": expected an object, found ", object.dump());
  }

  template <class T>
  void operator()(const char* name, T& member, const char* /*help*/) {
    names_.emplace_back(name);
    if (object_.contains(name)) read(object_.at(name), name, member);
  }

  /// Accepts a key that somebody else reads.
  void ignore(const char* name) { names_.emplace_back(name); }

  /// Throws an Error for the first key that was not asked for.
  void finish() const;

 private:
  void read(const Json& value, const char* name, bool& member) const;
  void read(const Json& value, const char* name, Index& member) const;
  void read(const Json& value, const char* name, std::optional<Index>& member) const;
  void read(const Json& value, const char* name, double& member) const;
  void read(const Json& value, const char* name, std::string& member) const;
  template <class T>
  void read(const Json& value, const char* name, std::vector<T>& member) const {
    if (!value.is_array()) wrong(value, name, "a list");
    member.assign(value.size(), T{});
    for (std::size_t i = 0; i < value.size(); ++i) read(value[i], name, member[i]);
  }
  [[noreturn]] void wrong(const Json& value, const char* name, const char* expected) const;

  const Json& object_;
  std::string place_;
  std::vector<std::string> names_;
};

/// Fills `config` from a JSON object; every key must be one of its fields or of `others`.
template <class Config>
void read_fields(Config& config, const Json& object, const std::string& place,
                 const std::vector<const char*>& others = {}) {
  JsonFields f(object, place);
  config.fields(f);
  for (const char* name : others) f.ignore(name);
  f.finish();
}

/// The members of `config` as a JSON object, in their order; empty ones are left out.
template <class Config>
Json write_fields(const Config& config) {
  Json object = Json::object();
  auto f = [&]<class T>(const char* name, T& member, const char* /*help*/) {
    if constexpr (!std::is_same_v<T, std::optional<Index>>)
      object[name] = member;
    else if (member)
      object[name] = *member;
  };
  const_cast<Config&>(config).fields(f);  // a list of fields only names them; f does not write
  return object;
}

}  // namespace samba
