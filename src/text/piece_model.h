#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace samba {

enum class PieceType : std::uint8_t { normal = 1, unknown, control, user_defined, unused, byte };

struct Piece {
  std::string text;
  PieceType type = PieceType::normal;
};

/// What a SentencePiece `.model` file says (protocol buffer ModelProto), as far as decoding and the
/// Encoder need it.
struct PieceModel {
  std::vector<Piece> pieces;     ///< by id
  std::uint64_t model_type = 1;  ///< 1 unigram, 2 BPE, 3 word, 4 character
  bool byte_fallback = false;    ///< unknown characters become byte pieces
  bool add_dummy_prefix = true;  ///< a space is put before the text
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;  ///< a space becomes U+2581
  bool whitespace_as_suffix = false;
  bool normalizes = false;                   ///< has rules that rewrite the text
  std::string unknown_surface = " \u2047 ";  ///< what the unknown piece decodes to
};

/// Reads and checks a model before SentencePiece sees it: every length, the number of pieces (at
/// most 2^20), their sizes (at most 4096 bytes), types and scores, and the tables of normalisation
/// rules, which SentencePiece would follow anywhere. Throws an Error that begins with `name`.
PieceModel parse_piece_model(std::string_view bytes, const std::string& name);

}  // namespace samba
