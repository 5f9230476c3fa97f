#include "model/pickle.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "core/error.h"
#include "model/tensors.h"

namespace samba {
namespace {

constexpr std::size_t kLongestPickle = std::size_t{64} << 20;
constexpr std::size_t kMostValues = std::size_t{1} << 20;  // some 60,000 tensors
constexpr std::size_t kMostDimensions = 32;

enum class Op : std::uint8_t {
  proto = 0x80,
  stop = '.',
  mark = '(',
  none = 'N',
  new_true = 0x88,
  new_false = 0x89,
  int32 = 'J',
  uint8 = 'K',
  uint16 = 'M',
  long1 = 0x8a,
  float64 = 'G',
  unicode = 'X',
  empty_tuple = ')',
  tuple = 't',
  tuple1 = 0x85,
  tuple2 = 0x86,
  tuple3 = 0x87,
  empty_list = ']',
  append = 'a',
  appends = 'e',
  empty_dict = '}',
  set_item = 's',
  set_items = 'u',
  put = 'q',
  long_put = 'r',
  get = 'h',
  long_get = 'j',
  global = 'c',
  persistent_id = 'Q',
  reduce = 'R',
  build = 'b',
};

/// What pickles call the opcodes that could run code; others are shown as numbers only.
const char* name_of_refused(std::uint8_t op) {
  switch (op) {
    case 'i': return " (INST)";
    case 'o': return " (OBJ)";
    case 'P': return " (PERSID)";
    case 0x81: return " (NEWOBJ)";
    case 0x82:
    case 0x83:
    case 0x84: return " (EXT)";
    case 0x92: return " (NEWOBJ_EX)";
    case 0x93: return " (STACK_GLOBAL)";
    default: return "";
  }
}

enum class Kind : std::uint8_t {
  missing,  // nobody has written this place of the memo
  none,
  boolean,
  integer,  // index: the value
  real,
  text,   // index: the first byte in the pickle; count: bytes
  list,   // elements are not kept
  tuple,  // index: the first element; count: elements
  dict,   // index: the dict
  ordered_dict,
  make_ordered_dict,  // the class OrderedDict
  make_tensor,        // the function _rebuild_tensor_v2
  storage_type,       // index: the StoredType
  storage,            // index: the storage
  tensor,             // index: the tensor
};

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::missing: return "nothing";
    case Kind::none: return "None";
    case Kind::boolean: return "a bool";
    case Kind::integer: return "an int";
    case Kind::real: return "a float";
    case Kind::text: return "a str";
    case Kind::list: return "a list";
    case Kind::tuple: return "a tuple";
    case Kind::dict: return "a dict";
    case Kind::ordered_dict: return "an OrderedDict";
    case Kind::make_ordered_dict: return "the class OrderedDict";
    case Kind::make_tensor: return "the function _rebuild_tensor_v2";
    case Kind::storage_type: return "a storage class";
    case Kind::storage: return "a storage";
    case Kind::tensor: return "a tensor";
  }
  return "?";
}

struct Value {
  Kind kind = Kind::missing;
  std::uint32_t count = 0;
  Index index = 0;
};

struct Global {
  std::string_view module, name;
  Value value;
};

constexpr Value storage_type(StoredType type) {
  return {Kind::storage_type, 0, static_cast<Index>(type)};
}

constexpr Global kGlobals[] = {
    {"collections", "OrderedDict", {Kind::make_ordered_dict}},
    {"torch._utils", "_rebuild_tensor_v2", {Kind::make_tensor}},
    {"torch", "DoubleStorage", storage_type(StoredType::f64)},
    {"torch", "FloatStorage", storage_type(StoredType::f32)},
    {"torch", "HalfStorage", storage_type(StoredType::f16)},
    {"torch", "BFloat16Storage", storage_type(StoredType::bf16)},
    {"torch", "LongStorage", storage_type(StoredType::i64)},
    {"torch", "IntStorage", storage_type(StoredType::i32)},
    {"torch", "ShortStorage", storage_type(StoredType::i16)},
    {"torch", "CharStorage", storage_type(StoredType::i8)},
    {"torch", "ByteStorage", storage_type(StoredType::u8)},
    {"torch", "BoolStorage", storage_type(StoredType::boolean)},
};

struct Storage {
  Value key;  // text
  StoredType type;
  Index count;
};

struct Tensor {
  Index storage, offset;
  Value shape, strides;  // tuples of integers
};

struct Item {
  Index dict;
  Value key, value;
};

/// Runs a pickle. Containers refer to their contents by index into one table for each kind, so
/// building, sharing, cycles and nesting cost a few bytes for each opcode and no recursion.
class Machine {
 public:
  Machine(std::span<const std::byte> pickle, const std::string& path)
      : pickle_(pickle), path_(path) {}

  /// Returns the pickled value.
  Value run();

  /// The value of a text key in a dict, nothing where it is missing.
  std::optional<Value> find(Value dict, std::string_view key) const;
  std::vector<PickledTensor> tensors(Value dict) const;

  template <class... Found>
  [[noreturn]] void refuse(const char* expected, const Found&... found) const {
    fail(path_, ": pickle, byte ", op_at_, ": found ", found..., "; expected ", expected);
  }

 private:
  std::span<const std::byte> pickle_;
  const std::string& path_;
  std::size_t at_ = 0;     // the next byte
  std::size_t op_at_ = 0;  // where the opcode that runs stands
  std::vector<Value> stack_;
  std::vector<std::size_t> marks_;  // heights of the stack
  std::vector<Value> memo_;
  std::vector<Value> elements_;      // of all tuples
  std::vector<Item> items_;          // of all dicts
  std::vector<bool> only_metadata_;  // for each dict: no key but "_metadata"
  std::vector<Storage> storages_;
  std::vector<Tensor> tensors_;

  std::span<const std::byte> take(std::size_t count);
  template <class T>
  T number();
  Index long_number();
  Value text();
  std::string_view line();

  void push(Value value);
  void push_new(Kind dict_kind);
  Value pop();
  Value pop(Kind kind, const char* expected);
  /// The place of the first of the topmost `count` values; they must lie above the last mark.
  std::size_t last(std::size_t count) const;
  /// The value under that place; it must lie above the last mark.
  Value below(std::size_t place) const;
  void push_mark();
  /// The place of the first value above the last mark.
  std::size_t pop_mark();

  void step(std::uint8_t op);
  void make_tuple(std::size_t first);
  void append(std::size_t first);
  void set_items(std::size_t first);
  void put(std::size_t place);
  void get(std::size_t place);
  void push_global();
  void make_storage();
  void reduce();
  void make_tensor(Value arguments);
  void build();

  const Value& element(Value tuple, Index i) const {
    return elements_[static_cast<std::size_t>(tuple.index + i)];
  }
  bool holds_sizes(Value tuple) const;
  std::vector<Index> sizes(Value tuple) const;
  std::string_view view(Value text) const;
};

std::span<const std::byte> Machine::take(std::size_t count) {
  if (count > pickle_.size() - at_) refuse("a whole pickle", "its end");
  at_ += count;
  return pickle_.subspan(at_ - count, count);
}

template <class T>
T Machine::number() {
  T value;
  std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
  return value;
}

Index Machine::long_number() {
  const auto bytes = take(number<std::uint8_t>());
  if (bytes.size() > sizeof(Index)) refuse("one of 64 bits", "a long of ", bytes.size(), " bytes");
  Index value = 0;
  std::memcpy(&value, bytes.data(), bytes.size());
  const int unused = static_cast<int>(8 * (sizeof(Index) - bytes.size()));
  // Shifting up and down again repeats the sign.
  return bytes.empty() ? 0
                       : static_cast<Index>(static_cast<std::uint64_t>(value) << unused) >> unused;
}

Value Machine::text() {
  const auto bytes = take(number<std::uint32_t>());
  return {Kind::text, static_cast<std::uint32_t>(bytes.size()),
          static_cast<Index>(at_ - bytes.size())};
}

std::string_view Machine::line() {
  const std::string_view rest(reinterpret_cast<const char*>(pickle_.data()) + at_,
                              pickle_.size() - at_);
  const std::size_t end = rest.find('\n');
  if (end == std::string_view::npos) refuse("the name of a global", "the pickle's end");
  at_ += end + 1;
  return rest.substr(0, end);
}

void Machine::push(Value value) {
  if (stack_.size() + elements_.size() + items_.size() + storages_.size() + tensors_.size() >=
      kMostValues)
    refuse("a checkpoint", "more than ", kMostValues, " values");
  stack_.push_back(value);
}

void Machine::push_new(Kind dict_kind) {
  push({dict_kind, 0, static_cast<Index>(only_metadata_.size())});
  only_metadata_.push_back(true);
}

Value Machine::below(std::size_t place) const {
  if (place <= (marks_.empty() ? 0 : marks_.back())) refuse("a container", "nothing to add to");
  return stack_[place - 1];
}

std::size_t Machine::last(std::size_t count) const {
  const std::size_t floor = marks_.empty() ? 0 : marks_.back();
  if (stack_.size() - floor < count) refuse("values to work on", "too few of them");
  return stack_.size() - count;
}

Value Machine::pop() {
  const Value value = stack_[last(1)];
  stack_.pop_back();
  return value;
}

Value Machine::pop(Kind kind, const char* expected) {
  const Value value = pop();
  if (value.kind != kind) refuse(expected, name_of(value.kind));
  return value;
}

void Machine::push_mark() {
  if (marks_.size() == kMostValues) refuse("a checkpoint", "more than ", kMostValues, " marks");
  marks_.push_back(stack_.size());
}

std::size_t Machine::pop_mark() {
  if (marks_.empty()) refuse("one", "no mark on the stack");
  const std::size_t first = marks_.back();
  marks_.pop_back();
  return first;
}

Value Machine::run() {
  while (true) {
    op_at_ = at_;
    const auto op = number<std::uint8_t>();
    if (Op{op} == Op::stop) break;
    step(op);
  }
  const Value value = pop();
  if (!stack_.empty() || !marks_.empty()) refuse("one", "more than one value at the end");
  if (at_ != pickle_.size()) refuse("nothing", "bytes after the end of the pickle");
  return value;
}

void Machine::step(std::uint8_t op) {
  switch (Op{op}) {
    case Op::proto:
      if (const auto protocol = number<std::uint8_t>(); protocol != 2)
        refuse("protocol 2", "protocol ", static_cast<int>(protocol));
      return;
    case Op::mark: return push_mark();
    case Op::none: return push({Kind::none});
    case Op::new_true:
    case Op::new_false: return push({Kind::boolean});
    case Op::int32: return push({Kind::integer, 0, number<std::int32_t>()});
    case Op::uint8: return push({Kind::integer, 0, number<std::uint8_t>()});
    case Op::uint16: return push({Kind::integer, 0, number<std::uint16_t>()});
    case Op::long1: return push({Kind::integer, 0, long_number()});
    case Op::float64: return take(sizeof(double)), push({Kind::real});
    case Op::unicode: return push(text());
    case Op::empty_tuple: return push({Kind::tuple});
    case Op::tuple: return make_tuple(pop_mark());
    case Op::tuple1: return make_tuple(last(1));
    case Op::tuple2: return make_tuple(last(2));
    case Op::tuple3: return make_tuple(last(3));
    case Op::empty_list: return push({Kind::list});
    case Op::append: return append(last(1));
    case Op::appends: return append(pop_mark());
    case Op::empty_dict: return push_new(Kind::dict);
    case Op::set_item: return set_items(last(2));
    case Op::set_items: return set_items(pop_mark());
    case Op::put: return put(number<std::uint8_t>());
    case Op::long_put: return put(number<std::uint32_t>());
    case Op::get: return get(number<std::uint8_t>());
    case Op::long_get: return get(number<std::uint32_t>());
    case Op::global: return push_global();
    case Op::persistent_id: return make_storage();
    case Op::reduce: return reduce();
    case Op::build: return build();
    case Op::stop: break;
  }
  refuse("those of a checkpoint of tensors", "opcode ", static_cast<int>(op), name_of_refused(op));
}

void Machine::make_tuple(std::size_t first) {
  const Value tuple{Kind::tuple, static_cast<std::uint32_t>(stack_.size() - first),
                    static_cast<Index>(elements_.size())};
  elements_.insert(elements_.end(), stack_.begin() + static_cast<std::ptrdiff_t>(first),
                   stack_.end());
  stack_.resize(first);
  push(tuple);
}

void Machine::append(std::size_t first) {
  if (const Value list = below(first); list.kind != Kind::list)
    refuse("a list to append to", name_of(list.kind));
  stack_.resize(first);
}

void Machine::set_items(std::size_t first) {
  const Value dict = below(first);
  if (dict.kind != Kind::dict && dict.kind != Kind::ordered_dict)
    refuse("a dict to set items of", name_of(dict.kind));
  if ((stack_.size() - first) % 2 != 0) refuse("a value for each key", "a key without one");
  for (std::size_t i = first; i < stack_.size(); i += 2) {
    const Value key = stack_[i];
    items_.push_back({dict.index, key, stack_[i + 1]});
    if (key.kind != Kind::text || view(key) != "_metadata")
      only_metadata_[static_cast<std::size_t>(dict.index)] = false;
  }
  stack_.resize(first);
}

void Machine::put(std::size_t place) {
  // Picklers count from 0 and need two bytes at least for each.
  if (place >= std::min(pickle_.size(), kMostValues))
    refuse("one below the pickle's length", "memo place ", place);
  if (place >= memo_.size()) memo_.resize(place + 1);
  memo_[place] = stack_[last(1)];
}

void Machine::get(std::size_t place) {
  if (place >= memo_.size() || memo_[place].kind == Kind::missing)
    refuse("one that was written before", "memo place ", place);
  push(memo_[place]);
}

void Machine::push_global() {
  const std::string_view module = line(), name = line();
  for (const Global& global : kGlobals)
    if (global.module == module && global.name == name) return push(global.value);
  refuse("only what tensors are made of; a checkpoint is data, and no code of it is run", "global ",
         in_quotes(module), " ", in_quotes(name));
}

void Machine::make_storage() {
  const char* expected = "('storage', class, key, location, count)";
  const Value id = pop(Kind::tuple, expected);
  if (id.count != 5) refuse(expected, "a tuple of ", id.count);
  const Value tag = element(id, 0), type = element(id, 1), key = element(id, 2),
              count = element(id, 4);
  if (tag.kind != Kind::text || view(tag) != "storage" || type.kind != Kind::storage_type ||
      key.kind != Kind::text || element(id, 3).kind != Kind::text || count.kind != Kind::integer ||
      count.index < 0)
    refuse(expected, "another persistent id");
  push({Kind::storage, 0, static_cast<Index>(storages_.size())});
  storages_.push_back({key, static_cast<StoredType>(type.index), count.index});
}

void Machine::reduce() {
  const Value arguments = pop(Kind::tuple, "a tuple of arguments");
  const Value callee = pop();
  if (callee.kind == Kind::make_tensor) return make_tensor(arguments);
  if (callee.kind != Kind::make_ordered_dict)
    refuse("OrderedDict or _rebuild_tensor_v2", "a call of ", name_of(callee.kind));
  if (arguments.count != 0) refuse("none", arguments.count, " arguments of OrderedDict");
  push_new(Kind::ordered_dict);
}

void Machine::make_tensor(Value arguments) {
  const char* expected = "(storage, offset, size, stride, requires_grad, OrderedDict())";
  if (arguments.count != 6) refuse(expected, arguments.count, " arguments");
  const Value storage = element(arguments, 0), offset = element(arguments, 1),
              shape = element(arguments, 2), strides = element(arguments, 3);
  if (storage.kind != Kind::storage || offset.kind != Kind::integer ||
      element(arguments, 4).kind != Kind::boolean ||
      element(arguments, 5).kind != Kind::ordered_dict)
    refuse(expected, "other arguments of _rebuild_tensor_v2");
  if (offset.index < 0 || !holds_sizes(shape) || !holds_sizes(strides) ||
      shape.count != strides.count)
    refuse("an offset, sizes and as many strides, none of them negative", "others");
  push({Kind::tensor, 0, static_cast<Index>(tensors_.size())});
  tensors_.push_back({storage.index, offset.index, shape, strides});
}

void Machine::build() {
  const Value state = pop();
  const Value target = stack_[last(1)];
  if (target.kind != Kind::ordered_dict || state.kind != Kind::dict ||
      !only_metadata_[static_cast<std::size_t>(state.index)])
    refuse("it to set the _metadata of an OrderedDict", "opcode BUILD on ", name_of(target.kind));
}

bool Machine::holds_sizes(Value tuple) const {
  if (tuple.kind != Kind::tuple || tuple.count > kMostDimensions) return false;
  for (Index i = 0; i < tuple.count; ++i)
    if (element(tuple, i).kind != Kind::integer || element(tuple, i).index < 0) return false;
  return true;
}

std::vector<Index> Machine::sizes(Value tuple) const {
  std::vector<Index> sizes(tuple.count);
  for (Index i = 0; i < tuple.count; ++i)
    sizes[static_cast<std::size_t>(i)] = element(tuple, i).index;
  return sizes;
}

std::string_view Machine::view(Value text) const {
  return {reinterpret_cast<const char*>(pickle_.data()) + text.index, text.count};
}

std::optional<Value> Machine::find(Value dict, std::string_view key) const {
  std::optional<Value> found;
  for (const Item& item : items_)
    if (item.dict == dict.index && item.key.kind == Kind::text && view(item.key) == key)
      found = item.value;
  return found;
}

std::vector<PickledTensor> Machine::tensors(Value dict) const {
  std::vector<PickledTensor> all;
  for (const Item& item : items_) {
    if (item.dict != dict.index || item.key.kind != Kind::text || item.value.kind != Kind::tensor)
      continue;
    const Tensor& tensor = tensors_[static_cast<std::size_t>(item.value.index)];
    const Storage& storage = storages_[static_cast<std::size_t>(tensor.storage)];
    all.push_back({view(item.key), view(storage.key), storage.type, storage.count, tensor.offset,
                   sizes(tensor.shape), sizes(tensor.strides)});
  }
  return all;
}

bool is_dict(Value value) {
  return value.kind == Kind::dict || value.kind == Kind::ordered_dict;
}

}  // namespace

std::vector<PickledTensor> read_pickled_tensors(std::span<const std::byte> pickle,
                                                const std::string& path) {
  if (pickle.size() > kLongestPickle)
    fail(path, ": pickle: found ", pickle.size(), " bytes; expected ", kLongestPickle, " at most");
  Machine machine(pickle, path);
  Value dict = machine.run();
  if (!is_dict(dict)) fail(path, ": found ", name_of(dict.kind), "; expected a dict of tensors");
  if (const std::optional<Value> model = machine.find(dict, "model")) {
    if (!is_dict(*model))
      fail(path, ": \"model\": found ", name_of(model->kind), "; expected a dict of tensors");
    dict = *model;
  }
  std::vector<PickledTensor> tensors = machine.tensors(dict);
  if (tensors.empty()) fail(path, ": found no tensors; expected those of a model");
  return tensors;
}

}  // namespace samba
