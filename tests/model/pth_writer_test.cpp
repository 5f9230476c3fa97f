#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/files.h"
#include "model/bytes.h"
#include "model/pth.h"
#include "model/temporary_folder.h"
#include "model/tensor_writer.h"
#include "model/zip.h"
#include "support/shared.h"

namespace samba::test {
namespace {

using testing::HasSubstr;

/// A writer of all tensors of a file, which must outlive it.
TensorWriter writer_of(const TensorFile& file) {
  TensorWriter writer;
  for (const TensorInfo& tensor : file.tensors())
    writer.add(
        tensor.name, tensor.type, tensor.shape,
        [&file, &tensor](const TensorWriter::Put& put) { file.each_piece(tensor.name, put); });
  return writer;
}

TEST(PthWriter, WritesWhatItsReaderReadFromTorch) {
  const TemporaryFolder folder;
  const TensorFile torch = open_pth(test_file("pth/checkpoint.pth"));
  for (const char* key : {"", "model"}) {
    writer_of(torch).write_pth(folder / "again.pth", key);
    const TensorFile again = open_pth(folder / "again.pth");
    EXPECT_EQ(again.names(), torch.names());
    for (const TensorInfo& tensor : torch.tensors()) {
      SCOPED_TRACE(tensor.name);
      EXPECT_EQ(again.at(tensor.name).type, tensor.type);
      EXPECT_EQ(again.at(tensor.name).shape, tensor.shape);
      EXPECT_TRUE(again.at(tensor.name).row_major());
      EXPECT_EQ(bytes_of(again, tensor.name), bytes_of(torch, tensor.name));
    }
  }
}

TEST(PthWriter, ArchivesAsOthersExpect) {
  const TemporaryFolder folder;
  const TensorFile torch = open_pth(test_file("pth/checkpoint.pth"));
  writer_of(torch).write_pth(folder / "pytorch_model.bin");
  const std::string bytes = read_bytes(folder / "pytorch_model.bin");
  const std::vector<ZipEntry> files =
      read_stored_zip(std::as_bytes(std::span(bytes)), "pytorch_model.bin");
  ASSERT_EQ(files.size(), torch.tensors().size() + 3);
  EXPECT_EQ(files[0].name, "pytorch_model/data.pkl");
  EXPECT_EQ(files[1].name, "pytorch_model/byteorder");
  EXPECT_EQ(files[2].name, "pytorch_model/data/0");
  EXPECT_EQ(files.back().name, "pytorch_model/version");
  for (const ZipEntry& file : files)
    EXPECT_EQ((file.bytes.data() - std::as_bytes(std::span(bytes)).data()) % 64, 0) << file.name;
  // CRC-32 of "3\n", in the file's own header and in the directory.
  const std::string crc = bytes_of(std::uint32_t{0x55679ed1});
  const std::size_t first = bytes.find(crc), second = bytes.find(crc, first + 1);
  ASSERT_NE(second, std::string::npos);
  EXPECT_EQ(bytes.substr(first - 14, 4), "PK\3\4");
  EXPECT_EQ(bytes.substr(second - 16, 4), "PK\1\2");
}

TEST(PthWriter, RefusesWhatTorchLacks) {
  const TemporaryFolder folder;
  TensorWriter writer;
  writer.add("w", StoredType::u64, {1}, [](const TensorWriter::Put&) {});
  EXPECT_THAT(error_of([&] { writer.write_pth(folder / "x"); }),
              HasSubstr("tensor \"w\": torch has no storage of U64"));
  TensorWriter twice;
  for (int i = 0; i < 2; ++i) twice.add("w", StoredType::u8, {0}, [](const TensorWriter::Put&) {});
  EXPECT_THAT(error_of([&] { twice.write_pth(folder / "x"); }), HasSubstr("twice"));
  EXPECT_FALSE(exists(folder / "x"));
}

}  // namespace
}  // namespace samba::test
